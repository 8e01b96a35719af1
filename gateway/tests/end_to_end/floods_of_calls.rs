//! gRPC calls that are taken back, have metadata without end, declare more than they send, or name somebody in their
//! trailers: they cost their own connection, and nobody else's time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::{Code, Limits, Outcome, UpstreamTimeouts};
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::authority::Identity;
use crate::client::{Client, config, handshake, http2};
use crate::echo::{Event, assert_identified};
use crate::forged_identity::{disguised, names};
use crate::frames::{self, Frames};
use crate::hand_made_http2::{Act, HandMade, block, data, head};
use crate::hostile::routes;
use crate::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, HEADERS, INITIAL_WINDOW_SIZE, RST_STREAM,
    Raw, frame,
};
use crate::rig::Rig;
use crate::session::{DEVICE, Lane};

const SOON: Duration = Duration::from_secs(20);
const FIELDS: [(&str, &str); 6] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "api.test"),
    (":path", "/hang"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
];

async fn raw(rig: &Rig, device: &Identity, settings: &[(u16, u32)]) -> Raw {
    let tls = handshake(rig, config(rig, Some(device), "h2"), "api.test");
    Raw::start(tls.await.expect("a handshake"), settings).await
}

/// The head of a call that nobody answers.
fn call(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&FIELDS))
}

/// What comes of a flood, while another device's requests are answered.
async fn beside<T>(rig: &Rig, other: &Identity, flood: impl Future<Output = T>) -> T {
    let served = async {
        for _ in 0..20 {
            let started = Instant::now();
            let mut client = Client::connect(rig, other).await;
            assert_eq!(client.get("/", "").await.status(), 200);
            let took = started.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
    };
    tokio::join!(flood, served).0
}

/// Waits until no call is under way at the upstream; each worker keeps a connection for the other device.
async fn calls_are_over(rig: &Rig) {
    rig.upstream.wait_for_open(2).await;
}

/// Waits for a record of this; those of the calls themselves may come before it.
async fn recorded(rig: &mut Rig, code: Code) {
    while rig.next_outcome().await != Outcome::Refused(code) {}
}

#[tokio::test]
async fn ten_thousand_that_are_taken_back() {
    let mut rig = Rig::start().await;
    let (device, other) = (rig.device("a", 1).await, rig.device("b", 2).await);
    let message = frame(DATA, 0, 1, b"\0\0\0\0\x01x");
    for (what, between) in [("at once", vec![]), ("after a message", message)] {
        let raw = raw(&rig, &device, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        let mut bytes = Vec::new();
        for number in 0..10_000_u32 {
            let stream = 2 * number + 1;
            bytes.extend(call(stream));
            let mut between = between.clone();
            if !between.is_empty() {
                between[5..9].copy_from_slice(&stream.to_be_bytes());
            }
            bytes.extend(between);
            bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        let before = rig.upstream.connections();
        let ending = beside(&rig, &other, raw.flood(bytes, 1, SOON)).await;
        let ended = matches!(ending, Ending::Goaway(_) | Ending::Closed);
        assert!(ended, "{what}: {ending:?}");
        recorded(&mut rig, Code::TooManyFrames).await;
        calls_are_over(&rig).await;
        // However many were let through, they are few; twenty requests were the other device's.
        let reached = rig.upstream.connections() - before;
        assert!(reached <= 520, "{what}: {reached}");
    }
}

#[tokio::test]
async fn metadata_without_end() {
    let mut rig = Rig::start().await;
    let (device, other) = (rig.device("a", 1).await, rig.device("b", 2).await);
    let some = b"\x00\x01a\x01b";
    for (what, begin) in [
        ("before the message", frame(HEADERS, 0, 1, &block(&FIELDS))),
        (
            "behind it",
            [call(1), frame(HEADERS, END_STREAM, 1, some)].concat(),
        ),
    ] {
        let mut raw = raw(&rig, &device, &[]).await;
        raw.send(&begin).await.expect("sent");
        let flood = raw.flood(frame(CONTINUATION, 0, 1, some), 100_000, SOON);
        let ending = beside(&rig, &other, flood).await;
        let ended = matches!(ending, Ending::Goaway(_) | Ending::Closed);
        assert!(ended, "{what}: {ending:?}");
        recorded(&mut rig, Code::TooManyFrames).await;
        calls_are_over(&rig).await;
    }
}

#[tokio::test]
async fn a_message_that_is_declared_and_not_sent() {
    let mut rig = Rig::start_with(Limits {
        patience: Duration::from_millis(300),
        upstream: UpstreamTimeouts {
            first_byte: Duration::from_secs(20),
            ..UpstreamTimeouts::default()
        },
        ..Limits::default()
    })
    .await;
    let (device, other) = (rig.device("a", 1).await, rig.device("b", 2).await);
    let mut raw = raw(&rig, &device, &[]).await;
    for stream in [1, 3, 5] {
        // Four gigabytes, of which five bytes come.
        let declared = frame(DATA, 0, stream, b"\0\xff\xff\xff\xffhello");
        raw.send(&[call(stream), declared].concat())
            .await
            .expect("sent");
    }
    let refusals = async {
        for _ in 0..3 {
            let refusal = raw.until(HEADERS).await.expect("a refusal");
            assert_eq!(refusal.flags & END_STREAM, END_STREAM, "{refusal:?}");
        }
    };
    let refusals = tokio::time::timeout(SOON, refusals);
    beside(&rig, &other, refusals).await.expect("in time");
    for _ in 0..3 {
        recorded(&mut rig, Code::RequestTimeout).await;
    }
    calls_are_over(&rig).await;
}

#[tokio::test]
async fn names_in_trailers_are_nobodys() {
    let lane = Lane::start_http2().await;
    let mut frames = Frames::connect(&lane).await;
    let mut fields = FIELDS;
    fields[3].1 = "/cert";
    let mut spellings = 0;
    for name in names() {
        let outcome = frames
            .ask(&fields, Some("\0\0\0\0\x01x"), &[(&name, "admin")])
            .await;
        assert!(matches!(outcome, frames::Outcome::Answer(_)), "{outcome:?}");
        let mut whole = 0;
        for event in lane.echo.take() {
            match event {
                Event::Request(message) => {
                    assert_identified(&message, DEVICE, &lane.device, &name);
                    whole += 1;
                }
                Event::Partial => {}
                Event::Malformed(why, bytes) => {
                    panic!("{why}: {} with {name}", String::from_utf8_lossy(&bytes));
                }
            }
        }
        assert_eq!(whole, 1, "{name}");
        let is_lower = |other: &String| *other == other.to_ascii_lowercase();
        // HTTP/2 has no upper case.
        for other in disguised(&name).into_iter().filter(is_lower) {
            let outcome = frames
                .ask(&fields, Some("\0\0\0\0\x01x"), &[(&other, "admin")])
                .await;
            // A refusal of a call is a head alone.
            assert_eq!(outcome, frames::Outcome::Answer(String::new()), "{other}");
            for event in lane.echo.take() {
                assert!(
                    !matches!(event, Event::Request(_)),
                    "{event:?} with {other}"
                );
            }
            spellings += 1;
        }
    }
    println!(
        "figure: spellings of identity names in a call's trailers that are refused: {spellings}"
    );
    lane.assert_sound();
}

#[tokio::test]
async fn nor_in_an_upstreams() {
    let mut rig = Rig::start().await;
    let server = HandMade::start(100).await;
    let address = format!("h2c://{}", server.address);
    let address = address.parse().expect("an upstream");
    rig.gateway.publish(routes(address, rig.upstream.address));
    let device = rig.device("a", 1).await;
    let (mut sender, driver) = http2(&rig, &device).await;
    for name in names() {
        let trailers = block(&[("grpc-status", "0"), (&name, "forged"), ("kept", "sound")]);
        let last = (HEADERS, END_HEADERS | END_STREAM, trailers);
        let message = data(0, "\0\0\0\0\x01x");
        server.script([Act::Frames(vec![head(0, &[]), message, last])]);
        let request = Request::post("https://api.test/s/M")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::<Bytes>::default())
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let whole = answer.into_body().collect().await.expect("all of it");
        let trailers = whole.trailers().expect("trailers");
        assert_eq!(trailers["kept"], "sound");
        assert!(trailers.values().all(|value| value != "forged"), "{name}");
    }
    driver.abort();
}
