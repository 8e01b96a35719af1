//! gRPC in frames: what passes as it was, and refusals that are heads alone.

use gateway::{Code, Limits, Outcome};
use tokio::io::AsyncWriteExt as _;

use crate::authority::Identity;
use crate::client::{config, handshake};
use crate::hand_made_http2::{Act, HandMade, block, data, head};
use crate::hostile::routes;
use crate::raw_http2::{DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, Raw, frame};
use crate::rig::Rig;

async fn raw(rig: &Rig, device: &Identity) -> Raw {
    let tls = handshake(rig, config(rig, Some(device), "h2"), "api.test");
    Raw::start(tls.await.expect("a handshake"), &[]).await
}

/// The head of a call.
fn call(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "api.test"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let block = block(&[&fields[..], more].concat());
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Names and values of a head, as far as they stand in it as they are.
fn text(frame: &Frame) -> String {
    String::from_utf8_lossy(&frame.payload).into_owned()
}

#[tokio::test]
async fn a_status_that_came_alone_leaves_alone() {
    let mut rig = Rig::start().await;
    let server = HandMade::start(100).await;
    let address = format!("h2c://{}", server.address);
    let address = address.parse().expect("an upstream");
    rig.gateway.publish(routes(address, rig.upstream.address));
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device).await;
    let status = [
        ("content-type", "application/grpc"),
        ("grpc-status", "5"),
        ("x-device-id", "forged"),
    ];
    server.script([Act::Frames(vec![head(END_STREAM, &status)])]);
    raw.send(&call(1, "/s/M", &[])).await.expect("sent");
    let answer = raw.until(HEADERS).await.expect("an answer");
    assert_eq!(answer.flags & END_STREAM, END_STREAM, "{answer:?}");
    // Behind messages it comes as trailers.
    let last = (
        HEADERS,
        END_HEADERS | END_STREAM,
        block(&[("grpc-status", "0"), ("x-device-id", "forged")]),
    );
    let message = "\0\0\0\0\x01x";
    server.script([Act::Frames(vec![head(0, &[]), data(0, message), last])]);
    raw.send(&call(3, "/s/M", &[])).await.expect("sent");
    assert_eq!(raw.until(HEADERS).await.expect("a head").flags, END_HEADERS);
    let came = raw.until(DATA).await.expect("a message");
    assert_eq!((came.payload, came.flags), (message.into(), 0));
    let trailers = raw.until(HEADERS).await.expect("trailers");
    assert_eq!(trailers.flags, END_HEADERS | END_STREAM);
}

#[tokio::test]
async fn every_refusal_of_a_call_is_a_head_alone() {
    let mut rig = Rig::start_with(Limits {
        max_requests_per_device: 2,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let many = vec![("a", "b"); 110];
    let spelled = [("x_device_id", "b")];
    let other = [("host", "other.test")];
    let mut raw = raw(&rig, &device).await;
    let mut stream = 1;
    for (path, more, code) in [
        ("/garbage", &[][..], Code::UpstreamInvalid),
        ("/", &many, Code::HeadTooLarge),
        ("/", &spelled, Code::IdentityHeaderSpelling),
        ("/", &other, Code::HostRefused),
    ] {
        let mut bytes = call(stream, path, more);
        bytes.extend(frame(DATA, END_STREAM, stream, b"\0\0\0\0\0"));
        raw.send(&bytes).await.expect("sent");
        let refusal = raw.until(HEADERS).await.expect("a refusal");
        assert_eq!(refusal.stream, stream);
        assert_eq!(refusal.flags & END_STREAM, END_STREAM, "{refusal:?}");
        // :status 200, which is indexed.
        assert!(refusal.payload.contains(&0x88), "{}", text(&refusal));
        assert_eq!(rig.next_outcome().await, Outcome::Refused(code));
        stream += 2;
    }
    // One that the device has too many of, too.
    for _ in 0..3 {
        raw.send(&call(stream, "/hang", &[])).await.expect("sent");
        stream += 2;
    }
    let refusal = raw.until(HEADERS).await.expect("a refusal");
    assert_eq!(refusal.flags & END_STREAM, END_STREAM, "{refusal:?}");
    let expected = Outcome::Refused(Code::TooManyRequests);
    assert_eq!(rig.next_outcome().await, expected);
    // A call that is canceled ends at the upstream.
    while rig.upstream.open() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let cancel = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    for back in [4, 6] {
        raw.send(&cancel(stream - back)).await.expect("sent");
    }
    rig.upstream.wait_for_open(0).await;
    raw.tls.shutdown().await.expect("shut down");
}
