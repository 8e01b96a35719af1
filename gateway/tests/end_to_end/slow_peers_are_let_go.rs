//! A device that sends its body too slowly, or does not take its answer, loses it, and its upstream is free
//! again. Whoever only waits for the upstream may wait.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::{Code, Limits, Outcome, UpstreamTimeouts};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};

use crate::authority::Identity;
use crate::client::{Client, config, handshake, http2};
use crate::raw_http2::{
    DATA, END_HEADERS, END_STREAM, Ending, HEADERS, INITIAL_WINDOW_SIZE, POST, RST_STREAM, Raw,
    frame, get, head, window_update,
};
use crate::rig::Rig;

const PATIENCE: Duration = Duration::from_millis(600);
/// For what takes several patiences.
const SHORT: Duration = Duration::from_millis(250);
/// A peer is let go after as long if it may just be slow.
const LONG: Duration = Duration::from_millis(2500);
/// Far more than it takes on a busy machine, and far less than the upstream's own deadline.
const SOON: Duration = Duration::from_secs(8);

async fn rig() -> Rig {
    rig_with(PATIENCE).await
}

async fn rig_with(patience: Duration) -> Rig {
    Rig::start_with(Limits {
        patience,
        upstream: UpstreamTimeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(20),
            ..UpstreamTimeouts::default()
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

/// The same, and before that, until something was asked of it.
async fn upstream_is_busy_then_free(rig: &Rig) {
    let started = Instant::now();
    while rig.upstream.open() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while rig.upstream.open() > 0 {
        assert!(started.elapsed() < SOON, "the upstream is held");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
async fn a_conversation_in_which_nobody_speaks_ends() {
    let mut rig = rig_with(SHORT).await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("POST /early HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\nx")
        .await;
    let started = Instant::now();
    client.until(b"\r\n\r\n").await.expect("a head");
    let read = tokio::time::timeout(SOON, client.until(b"never"));
    assert!(read.await.expect("the end").is_err());
    assert!(started.elapsed() >= LONG);
    upstream_is_free(&rig).await;
}

#[tokio::test]
async fn a_conversation_goes_on_if_one_side_speaks() {
    let mut rig = rig_with(SHORT).await;
    let device = rig.device("a", 1).await;
    // The upstream, over both versions of HTTP, and the device.
    let mut listening = Client::connect(&rig, &device).await;
    let mut listening2 = raw(&rig, &device, &[]).await;
    let mut speaking = Client::connect(&rig, &device).await;
    let http1 = async {
        let post = "POST /talks HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\n";
        listening.send(post).await;
        let body = listening.answer().await.expect("an answer").body;
        assert_eq!(body, "xxxxxxxxxx");
    };
    let http2 = async {
        let block = head(POST, "api.test", "/talks");
        listening2
            .send(&frame(HEADERS, END_HEADERS, 1, &block))
            .await
            .expect("sent");
        let mut said = 0;
        while said < 10 {
            said += listening2.until(DATA).await.expect("more").payload.len();
        }
    };
    let drips = async {
        let post = "POST /early HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\n";
        speaking.send(post).await;
        speaking.until(b"\r\n\r\n").await.expect("a head");
        for _ in 0..8 {
            tokio::time::sleep(2 * SHORT).await;
            speaking.send("x").await;
        }
        let end = tokio::time::timeout(SHORT, speaking.until(b"never")).await;
        assert!(end.is_err(), "{end:?}");
    };
    tokio::join!(http1, http2, drips);
}

#[tokio::test]
async fn a_body_that_drips_after_the_answer_ended_is_given_up() {
    let mut rig = rig_with(SHORT).await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("POST /done HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\nx")
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    let dripping = async {
        loop {
            // Its connection may end with it.
            let _ = client.tls.write_all(b"x").await;
            let _ = client.tls.flush().await;
            tokio::time::sleep(SHORT / 5).await;
        }
    };
    tokio::select! {
        () = upstream_is_free(&rig) => {}
        () = dripping => {}
    }
}

#[tokio::test]
async fn an_upstream_that_stops_reading_is_given_up() {
    let mut rig = Rig::start_with(Limits {
        patience: SHORT,
        max_requests_per_device: 1,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let mut uploading = Client::connect(&rig, &device).await;
    let mut client = Client::connect(&rig, &device).await;
    uploading
        .send("POST /deaf HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000000\r\n\r\n")
        .await;
    assert_eq!(uploading.answer().await.expect("an answer").status(), 200);
    let sending = async {
        while uploading.tls.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let freed = async {
        let started = Instant::now();
        assert_eq!(client.get("/", "").await.status(), 429);
        while client.get("/", "").await.status() != 200 {
            assert!(started.elapsed() < SOON, "the upload still counts");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(started.elapsed() >= LONG / 2);
    };
    tokio::select! {
        () = freed => {}
        () = sending => {}
    }
}

#[tokio::test]
async fn an_upload_counts_until_it_has_ended() {
    let mut rig = Rig::start_with(Limits {
        max_requests_per_device: 2,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let mut uploads = raw(&rig, &device, &[]).await;
    let block = head(POST, "api.test", "/done");
    for stream in [1, 3] {
        uploads
            .send(&frame(HEADERS, END_HEADERS, stream, &block))
            .await
            .expect("sent");
        // The whole answer.
        while uploads.until(DATA).await.expect("an answer").flags & END_STREAM == 0 {}
    }
    assert_eq!(client.get("/", "").await.status(), 429);
    for stream in [1, 3] {
        let end = frame(DATA, END_STREAM, stream, b"end");
        uploads.send(&end).await.expect("sent");
    }
    let started = Instant::now();
    while client.get("/", "").await.status() != 200 {
        assert!(started.elapsed() < SOON, "the uploads still count");
    }
}

#[tokio::test]
async fn who_leaves_after_a_refused_request_is_noticed() {
    let mut rig = rig().await;
    let device = rig.device("a", 1).await;
    let refused = "GET / HTTP/1.1\r\nHost : api.test\r\n\r\n";
    for reset in [true, false] {
        let mut client = Client::connect(&rig, &device).await;
        let served = rig.upstream.connections();
        client
            .send(&format!(
                "GET /hang HTTP/1.1\r\nHost: api.test\r\n\r\n{refused}"
            ))
            .await;
        while rig.upstream.connections() == served {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // What comes after the refused one is of no interest.
        client.send(&"x".repeat(10_000)).await;
        if reset {
            let socket = socket2::SockRef::from(client.tls.get_ref().0);
            socket.set_linger(Some(Duration::ZERO)).expect("set");
        }
        drop(client);
        upstream_is_free(&rig).await;
    }
    // Who stays gets both answers, in order.
    let mut client = Client::connect(&rig, &device).await;
    client
        .send(&format!(
            "GET /late HTTP/1.1\r\nHost: api.test\r\n\r\n{refused}"
        ))
        .await;
    assert_eq!(client.answer().await.expect("the first").status(), 200);
    assert_eq!(client.answer().await.expect("the second").status(), 400);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_ends() {
    let mut rig = rig_with(SHORT).await;
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
async fn a_link_may_be_slow_and_not_dead() {
    let mut rig = rig_with(SHORT).await;
    let device = rig.device("a", 1).await;
    let gateway = rig.address;
    let enough = Duration::from_secs(5);

    // With a patience of 30 seconds this were some 500 bytes in a second.
    rig.address = throttled(gateway, 64 * 1024).await;
    let mut client = Client::connect(&rig, &device).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let http1 = async {
        client
            .send("GET /large HTTP/1.1\r\nHost: api.test\r\n\r\n")
            .await;
        let started = Instant::now();
        while started.elapsed() < enough {
            client.exactly(1024).await.expect("more");
        }
    };
    let http2 = async {
        let answer = sender.send_request(request("/large")).await;
        let mut body = answer.expect("an answer").into_body();
        let started = Instant::now();
        while started.elapsed() < enough {
            body.frame().await.expect("more").expect("a frame");
        }
    };
    tokio::join!(http1, http2);
    drop((client, sender));
    upstream_is_free(&rig).await;

    // For 80 or 17 bytes in a second it does not wait.
    for rate in [10 * 1024, 2 * 1024] {
        rig.address = throttled(gateway, rate).await;
        let mut client = Client::connect(&rig, &device).await;
        client
            .send("GET /large HTTP/1.1\r\nHost: api.test\r\n\r\n")
            .await;
        // What was sent is still on its way when the gateway ends it.
        upstream_is_busy_then_free(&rig).await;
    }
}

#[tokio::test]
async fn many_answers_share_a_slow_link() {
    let mut rig = rig_with(SHORT).await;
    let device = rig.device("a", 1).await;
    rig.address = throttled(rig.address, 400 * 1024).await;
    let (sender, _driver) = http2(&rig, &device).await;
    let started = Instant::now();
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut sender = sender.clone();
        answers.spawn(async move {
            let answer = sender.send_request(request("/sized")).await;
            let body = answer.expect("an answer").into_body().collect().await;
            body.expect("a body").to_bytes().len()
        });
    }
    let lengths = answers.join_all().await;
    assert_eq!(lengths, [32 * 1024; 50]);
    assert!(started.elapsed() > LONG, "{:?}", started.elapsed());
}

/// A link to the gateway on which so many bytes a second come from there, and hardly any wait.
async fn throttled(gateway: SocketAddr, rate: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut device, _)) = listener.accept().await {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(4096).expect("set");
            // Segments as on a real link: a window opens by as much at a time.
            socket2::SockRef::from(&socket)
                .set_tcp_mss(536)
                .expect("set");
            let mut gateway = socket.connect(gateway).await.expect("connected");
            tokio::spawn(async move {
                let (mut from_device, mut to_device) = device.split();
                let (mut from_gateway, mut to_gateway) = gateway.split();
                let slowly = async {
                    let mut buffer = vec![0; rate / 20];
                    // A handshake is no matter of this test.
                    let mut free = 8 * 1024;
                    loop {
                        let length = from_gateway.read(&mut buffer).await?;
                        if length == 0 {
                            return std::io::Result::Ok(());
                        }
                        to_device.write_all(&buffer[..length]).await?;
                        if free > 0 {
                            free = usize::saturating_sub(free, length);
                            continue;
                        }
                        let pause = length as f64 / rate as f64;
                        tokio::time::sleep(Duration::from_secs_f64(pause)).await;
                    }
                };
                let onwards = async {
                    tokio::io::copy(&mut from_device, &mut to_gateway).await?;
                    std::future::pending::<std::io::Result<()>>().await
                };
                // Either end ends both.
                let _ = tokio::try_join!(slowly, onwards);
            });
        }
    });
    address
}

#[tokio::test]
async fn a_stalled_stream_ends_and_its_connection_goes_on() {
    let mut rig = rig_with(SHORT).await;
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
    let mut rig = rig_with(SHORT).await;
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
        let mut tick = tokio::time::interval(SHORT);
        while reset < 20 {
            tokio::select! {
                frame = raw.until(RST_STREAM) => {
                    frame.expect("a frame");
                    reset += 1;
                }
                _ = tick.tick() => {
                    assert!(started.elapsed() < SOON, "{reset} streams were reset");
                    for number in if drips { 0..20 } else { 0..0 } {
                        raw.send(&window_update(2 * number + 1, 1)).await.expect("sent");
                    }
                }
            }
        }
        assert!(started.elapsed() >= LONG);
        upstream_is_free(&rig).await;
    }
}

#[tokio::test]
async fn what_is_left_of_an_answer_ends_with_its_connection() {
    let mut rig = rig_with(SHORT).await;
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
    assert!(started.elapsed() >= LONG);
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
