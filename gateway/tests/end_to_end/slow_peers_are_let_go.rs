//! A device that sends its body too slowly, or does not take its answer, loses it, and its upstream is free
//! again. Whoever only waits for the upstream may wait.

use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::{Code, Limits, Outcome, UpstreamTimeouts};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::authority::Identity;
use crate::client::{Client, config, handshake, http2};
use crate::raw_http2::{
    DATA, END_HEADERS, Ending, HEADERS, INITIAL_WINDOW_SIZE, POST, RST_STREAM, Raw, frame, get,
    head, window_update,
};
use crate::rig::Rig;

const PATIENCE: Duration = Duration::from_millis(600);
/// Far more than it takes on a busy machine, and far less than the upstream's own deadline.
const SOON: Duration = Duration::from_secs(6);

async fn rig() -> Rig {
    Rig::start_with(Limits {
        patience: PATIENCE,
        upstream: UpstreamTimeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(20),
        },
        ..Limits::default()
    })
    .await
}

async fn raw(rig: &Rig, device: &Identity, settings: &[(u16, u32)]) -> Raw {
    let tls = handshake(rig, config(rig, Some(device), "h2"), "api.test");
    Raw::start(tls.await.expect("a handshake"), settings).await
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://api.test{path}"))
        .body(Full::default())
        .expect("a request")
}

/// Waits until what the connections asked of the upstream has ended there.
async fn upstream_is_free(rig: &Rig) {
    rig.upstream.wait_for_open(0).await;
}

#[tokio::test]
async fn a_body_that_drips_is_refused() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    let client = Client::connect(&rig, &device).await;
    let (mut reading, mut writing) = tokio::io::split(client.tls);
    let started = Instant::now();
    let dripping = async {
        writing
            .write_all(b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\n")
            .await
            .expect("sent");
        while writing.write_all(b"x").await.is_ok() && writing.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut answer = String::new();
    tokio::select! {
        _ = reading.read_to_string(&mut answer) => {}
        () = dripping => {}
        () = tokio::time::sleep(SOON) => panic!("it is still served"),
    }
    assert!(started.elapsed() >= PATIENCE);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::RequestTimeout)
    );
    upstream_is_free(&rig).await;
}

#[tokio::test]
async fn a_body_that_drips_over_http2_is_refused() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device, &[]).await;
    let block = head(POST, "api.test", "/");
    raw.send(&frame(HEADERS, END_HEADERS, 1, &block))
        .await
        .expect("sent");
    let started = Instant::now();
    let mut dripping = tokio::time::interval(Duration::from_millis(50));
    let answer = loop {
        assert!(started.elapsed() < SOON, "it is still served");
        tokio::select! {
            answer = raw.until(HEADERS) => break answer.expect("an answer"),
            _ = dripping.tick() => {}
        }
        raw.send(&frame(DATA, 0, 1, b"x")).await.expect("sent");
    };
    assert!(started.elapsed() >= PATIENCE);
    assert_eq!(answer.stream, 1);
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::RequestTimeout)
    );
    upstream_is_free(&rig).await;
    // The connection still serves.
    raw.send(&get("api.test", "/", 3)).await.expect("sent");
    assert_eq!(raw.until(HEADERS).await.expect("an answer").stream, 3);
}

#[tokio::test]
async fn a_body_that_drips_after_the_answer_began_ends_both() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("POST /early HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\nx")
        .await;
    client.until(b"\r\n\r\n").await.expect("a head");
    let read = tokio::time::timeout(SOON, client.until(b"never"));
    assert!(read.await.expect("the end").is_err());
    upstream_is_free(&rig).await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_ends() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("GET /large HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::AnswerNotRead)
    );
    upstream_is_free(&rig).await;
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_stalled_stream_ends_and_its_connection_goes_on() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let stalled = sender
        .send_request(request("/large"))
        .await
        .expect("an answer");
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::AnswerNotRead)
    );
    upstream_is_free(&rig).await;
    let answer = sender.send_request(request("/")).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(stalled.into_body().collect().await.is_err());
}

#[tokio::test]
async fn closed_windows_hold_no_upstream() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    // No window for any stream, and one that is opened byte by byte.
    for drips in [false, true] {
        let mut raw = raw(&rig, &device, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        for number in 0..20 {
            raw.send(&get("api.test", "/large", 2 * number + 1))
                .await
                .expect("sent");
        }
        let (started, mut reset) = (Instant::now(), 0);
        let mut tick = tokio::time::interval(PATIENCE / 4);
        while reset < 20 {
            assert!(started.elapsed() < SOON, "{reset} streams were reset");
            tokio::select! {
                frame = raw.until(RST_STREAM) => {
                    frame.expect("a frame");
                    reset += 1;
                }
                _ = tick.tick(), if drips => {
                    for number in 0..20 {
                        raw.send(&window_update(2 * number + 1, 1)).await.expect("sent");
                    }
                }
            }
        }
        assert!(started.elapsed() >= PATIENCE);
        upstream_is_free(&rig).await;
    }
}

#[tokio::test]
async fn what_is_left_of_an_answer_ends_with_its_connection() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    // The answer's second byte has no room, and nothing else is left to do for it.
    let mut raw = raw(&rig, &device, &[(INITIAL_WINDOW_SIZE, 1)]).await;
    raw.send(&get("api.test", "/", 1)).await.expect("sent");
    let started = Instant::now();
    let ending = raw.ending(SOON).await;
    assert!(
        matches!(ending, Ending::Goaway(_) | Ending::Closed),
        "{ending:?}"
    );
    assert!(started.elapsed() >= PATIENCE);
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::AnswerNotRead)
    );
}

#[tokio::test]
async fn who_waits_for_the_upstream_may_wait() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    // Five times the patience, before the answer and within it.
    let mut client = Client::connect(&rig, &device).await;
    let mut patient = Client::connect(&rig, &device).await;
    let mut socket = Client::connect(&rig, &device).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    assert_eq!(socket.get("/ws", upgrade).await.status(), 101);
    let (mut sender, _driver) = http2(&rig, &device).await;
    let mut second = sender.clone();
    let late = async {
        assert_eq!(client.get("/late", "").await.status(), 200);
    };
    let pauses = async {
        assert_eq!(patient.get("/pauses", "").await.body, "beginend");
    };
    let late2 = async {
        let answer = sender.send_request(request("/late")).await;
        assert_eq!(answer.expect("an answer").status(), 200);
    };
    let pauses2 = async {
        let answer = second
            .send_request(request("/pauses"))
            .await
            .expect("an answer");
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "beginend");
    };
    tokio::join!(late, pauses, late2, pauses2);
    socket.send("still there").await;
    socket.until(b"still there").await.expect("an echo");
}

#[tokio::test]
async fn slow_but_steady_is_fast_enough() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    // 2 KiB in each half of the patience, for three times the patience.
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 16384\r\n\r\n")
        .await;
    for _ in 0..8 {
        tokio::time::sleep(PATIENCE / 3).await;
        client.send(&"x".repeat(2048)).await;
    }
    assert_eq!(client.answer().await.expect("an answer").status(), 200);

    let mut raw = raw(&rig, &device, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    raw.send(&get("api.test", "/large", 1)).await.expect("sent");
    for _ in 0..8 {
        tokio::time::sleep(PATIENCE / 3).await;
        raw.send(&window_update(1, 2048)).await.expect("sent");
        let data = raw.until(DATA).await.expect("more");
        assert!(!data.payload.is_empty());
    }
}
