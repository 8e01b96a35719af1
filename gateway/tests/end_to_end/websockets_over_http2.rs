//! WebSockets by extended CONNECT (RFC 8441), from devices and to upstreams: a stream becomes a tunnel only if the upstream
//! opened one, and it is held to what holds for every request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gateway::{Code, Limits, Outcome};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::Status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::authority::Identity;
use crate::client::{Client, config, handshake, http2};
use crate::hand_made_http2::block;
use crate::hostile::routes;
use crate::identity_names::{NAMES, Name, judge, preset};
use crate::raw_http2::{
    DATA, END_HEADERS, END_STREAM, Ending, HEADERS, INITIAL_WINDOW_SIZE, RST_STREAM, Raw, frame,
};
use crate::rig::Rig;
use crate::upstreams_answer_badly::hear;

pub(crate) type Sender = SendRequest<Full<Bytes>>;
pub(crate) type Socket = TokioIo<hyper::upgrade::Upgraded>;

fn connect(path: &str) -> Request<Full<Bytes>> {
    let request = Request::connect(format!("https://api.test{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        // It is answered, and goes no further.
        .header("sec-websocket-key", "Zm9yZ2VkIGJ5IGRldmljZQ==")
        .header("x-device-id", "forged")
        .extension(Protocol::from_static("websocket"));
    request.body(Full::default()).expect("a request")
}

pub(crate) async fn open(sender: &mut Sender, path: &str) -> Socket {
    let answer = sender.send_request(connect(path)).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    let accept = &answer.headers()["sec-websocket-accept"];
    assert_eq!(accept, "t5Scnn3teCJziNIS5H0ZCdpc8y0=");
    TokioIo::new(hyper::upgrade::on(answer).await.expect("a tunnel"))
}

pub(crate) async fn echo(socket: &mut Socket, text: &str) {
    socket.write_all(text.as_bytes()).await.expect("sent");
    let mut back = vec![0; text.len()];
    socket.read_exact(&mut back).await.expect("an echo");
    assert_eq!(back, text.as_bytes());
}

/// What comes until the stream ends: all of it, or an error.
async fn rest(mut socket: Socket) -> Result<Vec<u8>, std::io::Error> {
    let mut read = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut read));
    reading.await.expect("an end")?;
    Ok(read)
}

#[tokio::test]
async fn a_stream_becomes_a_tunnel_beside_other_streams() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let mut first = open(&mut sender, "/ws?x=y").await;
    let mut second = open(&mut sender, "/ws").await;
    let seen = rig.upstream.take();
    let handshakes: Vec<_> = seen.split_inclusive("\r\n\r\n").collect();
    assert_eq!(handshakes.len(), 2, "{seen}");
    assert!(handshakes[0].starts_with("GET /ws?x=y HTTP/1.1\r\n"));
    let mut keys = Vec::new();
    for handshake in handshakes {
        for line in [
            "host: api.test",
            "upgrade: websocket",
            "connection: upgrade",
            "sec-websocket-version: 13",
            "sec-websocket-protocol: chat",
            "x-device-id: a",
        ] {
            assert_eq!(
                handshake.matches(&format!("\r\n{line}\r\n")).count(),
                1,
                "{line} in {handshake}"
            );
        }
        assert!(!handshake.contains("forged") && !handshake.contains(":protocol"));
        assert_eq!(handshake.matches("sec-websocket-key: ").count(), 1);
        keys.push(crate::upstream::key_in(handshake));
    }
    // Each has a key of its own, and none the device's.
    assert_ne!(keys[0], keys[1]);
    assert!(keys.iter().all(|key| !key.starts_with("Zm9yZ2")));
    echo(&mut first, "one").await;
    echo(&mut second, "two").await;
    let large = "x".repeat(300_000);
    let (mut from, mut to) = tokio::io::split(first);
    let sending = large.clone();
    let writing = tokio::spawn(async move {
        to.write_all(sending.as_bytes()).await.expect("sent");
        to
    });
    let mut back = vec![0; large.len()];
    from.read_exact(&mut back).await.expect("an echo");
    assert!(back == large.as_bytes());
    let first = from.unsplit(writing.await.expect("no panic"));
    let plain = Request::get("https://api.test/").body(Full::default());
    let plain = sender.send_request(plain.expect("a request")).await;
    assert_eq!(plain.expect("an answer").status(), 200);
    for _ in 0..2 {
        assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    }
    // The device ends one, and the upstream hears it; the other goes on.
    let open = rig.upstream.open();
    let mut first = first;
    first.shutdown().await.expect("shut down");
    assert_eq!(rest(first).await.expect("an end"), b"");
    rig.upstream.wait_for_open(open - 1).await;
    echo(&mut second, "three").await;
}

#[tokio::test]
async fn only_what_the_upstream_opened_is_a_tunnel() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let mut ask = async |request| {
        let answer = sender.send_request(request).await.expect("an answer");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body");
        (
            status.as_u16(),
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        )
    };
    // It passes on what the upstream says to it.
    assert_eq!(ask(connect("/ws-declined")).await, (403, "no".into()));
    for (path, code) in [
        ("/ws-success", "upstream-invalid"),
        ("/ws-wrong", "upstream-invalid"),
        ("/garbage", "upstream-invalid"),
        ("/close", "upstream-unreachable"),
    ] {
        let (status, body) = ask(connect(path)).await;
        assert!(
            status == 502 && body.contains(code),
            "{path}: {status} {body}"
        );
    }
    rig.upstream.take();
    let mut other = connect("/ws");
    other
        .extensions_mut()
        .insert(Protocol::from_static("connect-udp"));
    let (status, body) = ask(other).await;
    assert!(status == 501 && body.contains("method-refused"), "{body}");
    let mut plain = connect("/ws");
    plain.extensions_mut().remove::<Protocol>();
    *plain.uri_mut() = "api.test:443".parse().expect("a target");
    let (status, body) = ask(plain).await;
    assert!(status == 405 && body.contains("method-refused"), "{body}");
    assert_eq!(rig.upstream.take(), "");
    let mut again = connect("/ws");
    *again.uri_mut() = "https://other.test/ws".parse().expect("a target");
    let (status, body) = ask(again).await;
    assert!(status == 421 && body.contains("host-mismatch"), "{body}");
    assert_eq!(rig.upstream.take(), "");
    rig.set(&device, Status::Retired).await;
}

#[tokio::test]
async fn how_one_side_ends_is_how_the_other_hears_it() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let said = open(&mut sender, "/ws-bye").await;
    assert_eq!(rest(said).await.expect("a whole message"), b"bye");
    let mut broken = open(&mut sender, "/ws-reset").await;
    broken.write_all(b"x").await.expect("sent");
    let end = rest(broken).await;
    // hyper reads CANCEL as an end; that it is one is seen below, in frames.
    assert!(end.is_ok_and(|read| read.is_empty()));
    let mut raw = raw(&rig, &device, &[]).await;
    raw.send(&ask(1, "/ws-reset")).await.expect("sent");
    raw.send(&frame(DATA, 0, 1, b"x")).await.expect("sent");
    let reset = raw.until(RST_STREAM).await.expect("a reset");
    assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 8][..]));
    // The device resets: without that, nothing would end here, because nobody says anything.
    raw.send(&ask(3, "/ws")).await.expect("sent");
    assert_eq!(raw.until(HEADERS).await.expect("an answer").stream, 3);
    let open = rig.upstream.open();
    raw.send(&frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]))
        .await
        .expect("sent");
    rig.upstream.wait_for_open(open - 1).await;
    // One that ended its side hears what the upstream still says.
    raw.send(&ask(5, "/ws-bye")).await.expect("sent");
    raw.send(&frame(DATA, END_STREAM, 5, b""))
        .await
        .expect("sent");
    assert_eq!(raw.until(DATA).await.expect("data").payload, b"bye");
    assert_eq!(raw.until(DATA).await.expect("data").flags, END_STREAM);
}

#[tokio::test]
async fn a_revocation_cuts_the_tunnels_of_the_device_and_no_others() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let other = rig.device("b", 2).await;
    let (mut ours, _driver) = http2(&rig, &device).await;
    let (mut theirs, _other_driver) = http2(&rig, &other).await;
    let mut sockets = [open(&mut ours, "/ws").await, open(&mut ours, "/ws").await];
    let mut theirs = open(&mut theirs, "/ws").await;
    for socket in &mut sockets {
        echo(socket, "before").await;
    }
    rig.upstream.take();
    let acknowledgement = rig.set(&device, Status::Revoked).await;
    assert_eq!(acknowledgement.cuts[0].closed, 1);
    for mut socket in sockets {
        let _ = socket.write_all(b"after").await;
        let mut read = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(1), socket.read_to_end(&mut read));
        let _ = end.await.expect("an end within a second");
    }
    rig.upstream.wait_for_open(1).await;
    assert!(!rig.upstream.take().contains("after"));
    echo(&mut theirs, "still").await;
}

async fn raw(rig: &Rig, device: &Identity, settings: &[(u16, u32)]) -> Raw {
    let tls = handshake(rig, config(rig, Some(device), "h2"), "api.test");
    Raw::start(tls.await.expect("a handshake"), settings).await
}

/// An extended CONNECT in frames.
fn ask(stream: u32, path: &str) -> Vec<u8> {
    let head = block(&[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "api.test"),
        (":path", path),
        ("sec-websocket-version", "13"),
    ]);
    frame(HEADERS, END_HEADERS, stream, &head)
}

#[tokio::test]
async fn tunnels_are_requests_under_way() {
    let mut rig = Rig::start_with(Limits {
        max_requests_per_device: 5,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(open(&mut sender, "/ws").await);
    }
    let refused = sender
        .send_request(connect("/ws"))
        .await
        .expect("an answer");
    assert_eq!(refused.status(), 429);
    drop(sockets.pop());
    rig.upstream.wait_for_open(4).await;
    open(&mut sender, "/ws").await;
}

#[tokio::test]
async fn a_worker_counts_tunnels_too() {
    let mut rig = Rig::start_with(Limits {
        max_connections: 3,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(open(&mut sender, "/ws").await);
    }
    let refused = sender
        .send_request(connect("/ws"))
        .await
        .expect("an answer");
    assert_eq!(refused.status(), 503);
}

#[tokio::test]
async fn a_device_that_takes_nothing_loses_the_tunnel_and_not_the_connection() {
    let mut rig = Rig::start_with(Limits {
        patience: Duration::from_millis(50),
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    raw.send(&ask(1, "/ws-large")).await.expect("sent");
    assert_eq!(raw.until(HEADERS).await.expect("an answer").stream, 1);
    let reset = tokio::time::timeout(Duration::from_secs(5), raw.until(RST_STREAM));
    assert_eq!(reset.await.expect("in time").expect("a reset").stream, 1);
    rig.upstream.wait_for_open(0).await;
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::AnswerNotRead)
    );
    raw.send(&ask(3, "/ws")).await.expect("sent");
    assert_eq!(raw.until(HEADERS).await.expect("an answer").stream, 3);
}

#[tokio::test]
async fn what_comes_before_the_answer_goes_nowhere_else() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let smuggled = b"GET /smuggled HTTP/1.1\r\nhost: api.test\r\n\r\n";
    for path in [
        "/ws-declined",
        "/ws-success",
        "/ws-wrong",
        "/ws-silent",
        "/garbage",
    ] {
        let mut raw = raw(&rig, &device, &[]).await;
        raw.send(&[ask(1, path), frame(DATA, 0, 1, smuggled)].concat())
            .await
            .expect("sent");
        assert_eq!(raw.until(HEADERS).await.expect("an answer").stream, 1);
        let mut client = Client::connect(&rig, &device).await;
        assert_eq!(client.get("/", "").await.status(), 200);
        let seen = rig.upstream.take();
        assert!(!seen.contains("smuggled"), "{path}: {seen}");
    }
    // To a tunnel that is opened it belongs, as it came.
    let mut raw = raw(&rig, &device, &[]).await;
    raw.send(&[ask(1, "/ws"), frame(DATA, 0, 1, smuggled)].concat())
        .await
        .expect("sent");
    assert_eq!(raw.until(DATA).await.expect("an echo").payload, smuggled);
}

/// An upstream over HTTP/2 that echoes what comes over a WebSocket.
async fn http2_upstream(takes_websockets: bool) -> SocketAddr {
    async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let mut answer = Response::new(Full::default());
        let protocol = request.extensions().get::<Protocol>();
        let asked = protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
        if !asked || request.uri().path() == "/declined" {
            *answer.status_mut() = StatusCode::FORBIDDEN;
            return Ok(answer);
        }
        let headers = request.headers();
        assert!(!headers.contains_key("upgrade") && !headers.contains_key("connection"));
        assert_eq!(headers["x-device-id"], "a");
        assert_eq!(headers["sec-websocket-version"], "13");
        let chat = http::HeaderValue::from_static("chat");
        answer.headers_mut().insert("sec-websocket-protocol", chat);
        if request.uri().path() == "/created" {
            *answer.status_mut() = StatusCode::CREATED;
            return Ok(answer);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut from, mut to) =
                tokio::io::split(TokioIo::new(upgrade.await.expect("a tunnel")));
            let _ = tokio::io::copy(&mut from, &mut to).await;
            to.shutdown().await
        });
        Ok(answer)
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            if takes_websockets {
                http.enable_connect_protocol();
            }
            tokio::spawn(http.serve_connection(TokioIo::new(tcp), service_fn(answer)));
        }
    });
    address
}

fn upgrade(path: &str, key: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{key}\r\n"
    )
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn an_upstream_over_http2_opens_them_too_if_it_says_so() {
    let mut rig = Rig::start().await;
    let address = format!("h2c://{}", http2_upstream(true).await);
    let address = address.parse().expect("an upstream");
    rig.gateway.publish(routes(address, rig.upstream.address));
    let device = rig.device("a", 1).await;

    let (mut sender, _driver) = http2(&rig, &device).await;
    let mut socket = open(&mut sender, "/").await;
    echo(&mut socket, "one").await;
    socket.shutdown().await.expect("shut down");
    assert_eq!(rest(socket).await.expect("an end"), b"");
    for (path, status) in [("/declined", 403), ("/created", 502)] {
        let answer = sender.send_request(connect(path)).await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
    }

    let mut client = Client::connect(&rig, &device).await;
    client.send(&upgrade("/", KEY)).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.status(), 101);
    for line in [
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-protocol: chat",
    ] {
        assert!(
            answer.head.contains(&format!("\r\n{line}\r\n")),
            "{answer:?}"
        );
    }
    client.send("two").await;
    assert_eq!(client.exactly(3).await.as_deref(), Some("two"));
    let mut plain = Client::connect(&rig, &device).await;
    plain.send(&upgrade("/declined", KEY)).await;
    assert_eq!(plain.answer().await.expect("an answer").status(), 403);
    for key in ["", "Sec-WebSocket-Key: short\r\n", &KEY.repeat(2)] {
        let mut client = Client::connect(&rig, &device).await;
        client.send(&upgrade("/", key)).await;
        let refusal = client.answer().await.expect("an answer").refusal();
        assert_eq!(refusal, (400, "malformed-request".into()), "{key}");
    }
    let acknowledgement = rig.set(&device, Status::Revoked).await;
    assert!(acknowledgement.cuts[0].closed >= 2);
    assert!(client.ends().await);
}

#[tokio::test]
async fn an_upstream_over_http2_that_does_not_take_them_gets_none() {
    let mut rig = Rig::start().await;
    let address = format!("h2c://{}", http2_upstream(false).await);
    let address = address.parse().expect("an upstream");
    rig.gateway.publish(routes(address, rig.upstream.address));
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    client.send(&upgrade("/", KEY)).await;
    let heard = hear(&mut client, "GET").await;
    assert_eq!(heard, crate::bad_answers::invalid());
    let (mut sender, _driver) = http2(&rig, &device).await;
    let answer = sender.send_request(connect("/")).await.expect("an answer");
    assert_eq!(answer.status(), 502);
}

/// The forgeries of `forged_identity`, by the third way in.
#[tokio::test]
async fn nothing_that_a_device_says_of_itself_passes_with_a_connect() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device, &[]).await;
    let names = NAMES.iter().chain(preset::NAMES);
    let names = names.filter(|name| judge(name) == Name::Identity);
    let mut stream = 1;
    let fields = |name: &str| {
        block(&[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "api.test"),
            (":path", "/ws-declined"),
            (name, "forged"),
            (name, ""),
            ("accept", "this"),
            (name, "forged"),
        ])
    };
    for name in names {
        for name in [(*name).to_owned(), name.replace('-', "_")] {
            rig.upstream.take();
            let head = frame(HEADERS, END_HEADERS, stream, &fields(&name));
            raw.send(&head).await.expect("sent");
            assert_eq!(raw.until(HEADERS).await.expect("an answer").stream, stream);
            let seen = rig.upstream.take();
            if judge(&name) == Name::Identity {
                assert!(
                    seen.contains("\r\naccept: this\r\n") && !seen.contains("forged"),
                    "{name}: {seen}"
                );
                assert_eq!(seen.matches("\r\nx-device-id: a\r\n").count(), 1, "{seen}");
            } else {
                assert_eq!(seen, "", "{name}");
            }
            stream += 2;
        }
    }
}

#[tokio::test]
async fn floods_of_tunnels_and_in_tunnels_are_ended() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let begun = ask(1, "/ws");
    for (what, begin, flood, times) in [
        ("empty DATA", &begun[..], frame(DATA, 0, 1, &[]), 100_000),
        (
            "padding alone",
            &begun,
            frame(DATA, 8, 1, &[3, 0, 0, 0]),
            100_000,
        ),
        (
            "rapid reset",
            &[],
            (0..5_000)
                .flat_map(|number| {
                    let stream = 2 * number + 1;
                    let cancel = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                    [ask(stream, "/ws"), cancel].concat()
                })
                .collect(),
            1,
        ),
    ] {
        let mut raw = raw(&rig, &device, &[]).await;
        raw.send(begin).await.expect("sent");
        let ending = raw.flood(flood, times, Duration::from_secs(20)).await;
        assert!(
            matches!(ending, Ending::Goaway(_) | Ending::Closed),
            "{what}: {ending:?}"
        );
        rig.upstream.wait_for_open(0).await;
    }
    // However many were let through, they are few.
    assert!(rig.upstream.connections() <= 502);
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", "").await.status(), 200);
}
