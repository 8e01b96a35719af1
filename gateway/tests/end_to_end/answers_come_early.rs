//! An upstream may answer before it has the whole request, and close: what it said arrives, although what was still being sent to
//! it makes its end a reset.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bad_answers::answer;
use crate::client::{Client, config, handshake, http2};
use crate::hand_made_http2::block;
use crate::hostile::{Hostile, Step, ok, routes};
use crate::raw_http2::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, frame};
use crate::rig::Rig;
use crate::upstreams_answer_badly::{Heard, ask};

const ROUNDS: usize = 30;

async fn rig() -> (Rig, Hostile) {
    let rig = Rig::start().await;
    let hostile = Hostile::start().await;
    hostile.script("/early", &[Step::Send(ok("early")), Step::Close]);
    hostile.script(
        "/early-with-length",
        &[Step::Send(ok("early")), Step::Close],
    );
    let endless = Step::Send(b"HTTP/1.1 200 OK\r\n\r\nearly".to_vec());
    hostile.script("/endless", &[endless, Step::Close]);
    hostile.script("/silent", &[Step::Close]);
    let address = hostile.address.clone();
    rig.gateway.publish(routes(address, rig.upstream.address));
    (rig, hostile)
}

#[tokio::test]
async fn over_http1() {
    let (mut rig, _hostile) = rig().await;
    let device = rig.device("a", 1).await;
    for (path, expected) in [
        ("/early", "HTTP/1.1 200 OK"),
        ("/silent", "HTTP/1.1 502 Bad Gateway"),
    ] {
        for _ in 0..ROUNDS {
            let config = config(&rig, Some(&device), "http/1.1");
            let tls = handshake(&rig, config, "api.test").await.expect("TLS");
            let (mut from, mut to) = tokio::io::split(tls);
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
            let sending = tokio::spawn(async move {
                to.write_all(head.as_bytes()).await?;
                for _ in 0..1_000 {
                    to.write_all(&chunk).await?;
                }
                to.flush().await
            });
            let mut heard = Vec::new();
            let end: &[u8] = if path == "/early" { b"early" } else { b"}" };
            while !heard.ends_with(end) {
                let read = from.read_buf(&mut heard).await.expect("more");
                assert_ne!(read, 0, "{:?}", String::from_utf8_lossy(&heard));
            }
            let heard = String::from_utf8_lossy(&heard).into_owned();
            assert!(heard.starts_with(expected), "{heard}");
            sending.abort();
        }
    }
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(ask(&mut client, "GET", "/a").await, answer(200, "/a"));
    // Nobody knows where this one ends.
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("POST /endless HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        .await;
    let heard = crate::upstreams_answer_badly::hear(&mut client, "POST").await;
    assert!(heard == answer(200, "early") || heard == Heard::Broken);
}

#[tokio::test]
async fn over_http2() {
    let (mut rig, _hostile) = rig().await;
    let device = rig.device("a", 1).await;
    for _ in 0..ROUNDS {
        let (mut sender, _driver) = http2(&rig, &device).await;
        // With a length, of which this upstream waits for nothing more.
        let body = Full::new(Bytes::from(vec![b'x'; 4 << 20]));
        let request = Request::post("https://api.test/early-with-length");
        let request = request.body(body).expect("a request");
        let asked = sender.send_request(request).await;
        let asked = asked.expect("an answer");
        assert_eq!(asked.status(), 200);
        let body = asked.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "early");
    }
    // In frames: the whole answer, and then word that the rest of the request is not wanted.
    let tls = handshake(&rig, config(&rig, Some(&device), "h2"), "api.test");
    let mut raw = Raw::start(tls.await.expect("a handshake"), &[]).await;
    let head = block(&[
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "api.test"),
        (":path", "/early"),
    ]);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &head))
        .await
        .expect("sent");
    raw.send(&frame(DATA, 0, 1, b"x")).await.expect("sent");
    assert_eq!(raw.until(HEADERS).await.expect("a head").flags, END_HEADERS);
    let body = raw.until(DATA).await.expect("a body");
    assert_eq!(body.payload, b"early");
    if body.flags & END_STREAM == 0 {
        assert_eq!(raw.until(DATA).await.expect("the end").flags, END_STREAM);
    }
    const NO_ERROR: [u8; 4] = [0; 4];
    assert_eq!(
        raw.until(RST_STREAM).await.expect("a reset").payload,
        NO_ERROR
    );
}
