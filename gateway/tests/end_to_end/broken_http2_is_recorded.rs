//! Who breaks HTTP/2 loses the connection, and an operator can find out why; who merely goes away leaves no trace.

use std::time::Duration;

use gateway::{Code, Outcome};
use identity::DeviceName;

use crate::authority::Identity;
use crate::client::{config, handshake};
use crate::hand_made_http2::{Act, HandMade, block, data, head as answer_head};
use crate::hostile::routes;
use crate::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, GET, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    PING, RST_STREAM, Raw, SETTINGS, frame, get, head, window_update,
};
use crate::rig::Rig;

const SOON: Duration = Duration::from_secs(5);

async fn raw(rig: &Rig, device: &Identity) -> Raw {
    let tls = handshake(rig, config(rig, Some(device), "h2"), "api.test");
    Raw::start(tls.await.expect("a handshake"), &[]).await
}

#[tokio::test]
async fn under_the_name_of_its_device() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let whole = END_STREAM | END_HEADERS;
    let get_head = head(GET, "api.test", "/");
    let large_window = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &[0xff; 4]].concat();
    for (what, bytes) in [
        ("PING of 7 bytes", frame(PING, 0, 0, &[7; 7])),
        ("PING on a stream", frame(PING, 0, 1, &[7; 8])),
        ("half a setting", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a window too large", frame(SETTINGS, 0, 0, &large_window)),
        ("a window that overflows", window_update(0, 0x7fff_ffff)),
        ("a window that does not grow", window_update(0, 0)),
        ("DATA before HEADERS", frame(DATA, END_STREAM, 1, b"x")),
        (
            "RST_STREAM before HEADERS",
            frame(RST_STREAM, 0, 1, &[0; 4]),
        ),
        (
            "a stream of the server's",
            frame(HEADERS, whole, 2, &get_head),
        ),
        ("HEADERS on stream 0", frame(HEADERS, whole, 0, &get_head)),
        ("no HPACK", frame(HEADERS, whole, 1, &[0xff; 20])),
        (
            "CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &get_head),
        ),
        ("a frame too large", frame(DATA, 0, 1, &[0; 20_000])),
    ] {
        let mut raw = raw(&rig, &device).await;
        raw.send(&bytes).await.expect("sent");
        let ending = raw.ending(SOON).await;
        assert!(matches!(ending, Ending::Goaway(1..)), "{what}: {ending:?}");
        let record = rig.next_record().await;
        let expected = Outcome::Refused(Code::MalformedRequest);
        assert_eq!(record.outcome, expected, "{what}");
        assert_eq!(record.device, "a".parse::<DeviceName>().ok(), "{what}");
    }
    assert_eq!(rig.upstream.take(), "");
    // Neither the end of a connection nor a goodbye with an error code is a rule that was broken.
    drop(raw(&rig, &device).await);
    let mut leaving = raw(&rig, &device).await;
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 1]);
    leaving.send(&goaway).await.expect("sent");
    leaving.ending(SOON).await;
    let mut asking = raw(&rig, &device).await;
    asking.send(&get("api.test", "/", 1)).await.expect("sent");
    assert_eq!(asking.until(DATA).await.expect("an answer").payload, b"ok");
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    assert!(rig.records.try_recv().is_err());
}

/// The HTTP/2 implementation resets these before anybody else hears of them, or of their end.
#[tokio::test]
async fn a_stream_too() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device).await;
    let mut stream = 1;
    let with = |name, value| [head(GET, "api.test", "/"), block(&[(name, value)])].concat();
    for (what, fields) in [
        ("a status in a request", with(":status", "200")),
        ("a header of a connection", with("connection", "close")),
        (
            "another protocol's length",
            with("transfer-encoding", "chunked"),
        ),
        ("a length that is none", with("content-length", "x")),
    ] {
        let whole = END_STREAM | END_HEADERS;
        raw.send(&frame(HEADERS, whole, stream, &fields))
            .await
            .expect("sent");
        let reset = raw.until(RST_STREAM).await.expect(what);
        assert_eq!(
            (reset.stream, &reset.payload[..]),
            (stream, &[0, 0, 0, 1][..]),
            "{what}"
        );
        let record = rig.next_record().await;
        let expected = Outcome::Refused(Code::MalformedRequest);
        assert_eq!(record.outcome, expected, "{what}");
        assert_eq!(record.device, "a".parse::<DeviceName>().ok(), "{what}");
        stream += 2;
    }
    assert_eq!(
        rig.metric("refusals_total{code=\"malformed-request\"}"),
        "4"
    );
    // More at a time than the settings allow.
    for _ in 0..101 {
        raw.send(&get("api.test", "/hang", stream))
            .await
            .expect("sent");
        stream += 2;
    }
    let reset = raw.until(RST_STREAM).await.expect("a reset");
    assert_eq!(reset.stream, stream - 2);
    let expected = Outcome::Refused(Code::TooManyRequests);
    assert_eq!(rig.next_outcome().await, expected);
    for _ in 0..500 {
        if rig.upstream.connections() == 100 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} reached the upstream", rig.upstream.connections());
}

/// What an upstream did wrong is neither told the device as its own fault, nor recorded as that.
#[tokio::test]
async fn but_not_for_what_the_upstream_did() {
    let mut rig = Rig::start().await;
    let server = HandMade::start(100).await;
    let address = format!("h2c://{}", server.address);
    let address = address.parse().expect("an upstream");
    rig.gateway.publish(routes(address, rig.upstream.address));
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device).await;
    for (number, code) in [1_u32, 3, 7].into_iter().enumerate() {
        let reset = (RST_STREAM, 0, code.to_be_bytes().to_vec());
        let some = data(0, "some");
        server.script([Act::Frames(vec![answer_head(0, &[]), some, reset])]);
        let stream = 2 * u32::try_from(number).expect("small") + 1;
        raw.send(&get("api.test", "/", stream)).await.expect("sent");
        let reset = raw.until(RST_STREAM).await.expect("a reset");
        assert_eq!(
            (reset.stream, &reset.payload[..]),
            (stream, &[0, 0, 0, 2][..])
        );
        assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    }
    assert!(rig.records.try_recv().is_err());
}
