//! Upstreams over HTTP/2: what they answer is held to the same rules, one stream ends without the others, and only
//! what was certainly not processed is sent again.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::Status;
use tokio::net::TcpListener;

use crate::authority::{Authority, Identity};
use crate::bad_answers::{answer, invalid, unreachable};
use crate::client::{Client, http2};
use crate::hand_made_http2::{Act, HandMade, block, data, head, interim, ok, reset};
use crate::hostile::routes;
use crate::raw_http2::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS};
use crate::rig::Rig;
use crate::upstreams_answer_badly::{Heard, ask, hear};

async fn rig(max_streams: u32) -> (Rig, HandMade, Identity) {
    let mut rig = Rig::start().await;
    let server = HandMade::start(max_streams).await;
    let address = format!("h2c://{}", server.address);
    let address = address.parse().expect("an upstream");
    rig.gateway.publish(routes(address, rig.upstream.address));
    let device = rig.device("a", 1).await;
    (rig, server, device)
}

async fn post(client: &mut Client, body: &str) -> Heard {
    let length = body.len();
    client
        .send(&format!(
            "POST /a HTTP/1.1\r\nHost: api.test\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    hear(client, "POST").await
}

#[tokio::test]
async fn each_answer_is_one_answer_or_none() {
    let (rig, server, device) = rig(100).await;
    let frames = Act::Frames;
    let good = answer(200, "ok");
    let many = |count: usize| {
        let field = [("a", "b")].repeat(count);
        frames(vec![head(0, &field), data(END_STREAM, "ok")])
    };
    let interims = |count: usize| {
        let mut answer = vec![interim(); count];
        answer.extend([head(0, &[]), data(END_STREAM, "ok")]);
        frames(answer)
    };
    let large = {
        let fields = [("a", "x".repeat(100).leak() as &str)].repeat(1_000);
        let block = [vec![0x88], block(&fields)].concat();
        let mut parts = block.chunks(16_000).peekable();
        let mut answer = vec![(HEADERS, 0, parts.next().expect("some").to_vec())];
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            answer.push((CONTINUATION, flags, part.to_vec()));
        }
        answer.push(data(END_STREAM, "ok"));
        frames(answer)
    };
    let with =
        |fields: &[(&str, &str)], body: &str| frames(vec![head(0, fields), data(END_STREAM, body)]);
    let cases: Vec<(&str, Act, Heard)> = vec![
        ("plain", ok(), good.clone()),
        (
            "head-alone",
            frames(vec![head(END_STREAM, &[])]),
            answer(200, ""),
        ),
        (
            "length",
            with(&[("content-length", "2")], "ok"),
            good.clone(),
        ),
        (
            "two-lengths",
            with(&[("content-length", "2"), ("content-length", "2")], "ok"),
            invalid(),
        ),
        (
            "other-lengths",
            with(&[("content-length", "2"), ("content-length", "3")], "ok"),
            invalid(),
        ),
        ("sign", with(&[("content-length", "+2")], "ok"), invalid()),
        (
            "too-long",
            with(&[("content-length", "1")], "ok"),
            Heard::Broken,
        ),
        (
            "too-short",
            with(&[("content-length", "3")], "ok"),
            Heard::Broken,
        ),
        (
            "chunked",
            with(&[("transfer-encoding", "chunked")], "ok"),
            invalid(),
        ),
        (
            "connection",
            with(&[("connection", "close")], "ok"),
            invalid(),
        ),
        ("capitals", with(&[("Server", "x")], "ok"), invalid()),
        (
            "line-end",
            with(&[("server", "x\r\ny: z")], "ok"),
            invalid(),
        ),
        (
            "no-status",
            frames(vec![(
                HEADERS,
                END_HEADERS | END_STREAM,
                block(&[("a", "b")]),
            )]),
            invalid(),
        ),
        (
            "two-statuses",
            frames(vec![(HEADERS, END_HEADERS | END_STREAM, vec![0x88, 0x89])]),
            invalid(),
        ),
        (
            "bad-hpack",
            frames(vec![(HEADERS, END_HEADERS | END_STREAM, vec![0xff, 0xff])]),
            invalid(),
        ),
        ("data-first", frames(vec![data(0, "ok")]), invalid()),
        (
            "switching",
            frames(vec![(
                HEADERS,
                END_HEADERS | END_STREAM,
                b"\x08\x03101".to_vec(),
            )]),
            invalid(),
        ),
        ("100-fields", many(100), good.clone()),
        ("101-fields", many(101), invalid()),
        ("100-KiB-of-head", large, invalid()),
        ("16-interims", interims(16), good.clone()),
        ("17-interims", interims(17), invalid()),
        ("interims-alone", frames(vec![interim(); 1_000]), invalid()),
        (
            "not-http2",
            Act::Last(vec![(b'H', b'T', b"HTTP/1.1 200 OK\r\n".to_vec())]),
            unreachable(),
        ),
        ("close", Act::Last(vec![]), unreachable()),
        (
            "close-in-body",
            Act::Last(vec![head(0, &[]), data(0, "o")]),
            Heard::Broken,
        ),
        ("reset", reset(2), unreachable()),
    ];
    for (name, act, expected) in cases {
        let mut client = Client::connect(&rig, &device).await;
        server.script([act]);
        assert_eq!(post(&mut client, "").await, expected, "{name}");
        // What has effects was sent once; and whatever it was, the next request has an answer of its own.
        assert_eq!(server.seen().len(), 1, "{name}");
        let mut client = Client::connect(&rig, &device).await;
        assert_eq!(ask(&mut client, "GET", "/").await, good, "after {name}");
    }
}

#[tokio::test]
async fn identity_names_in_answers_stay_with_the_upstream() {
    let (rig, server, device) = rig(100).await;
    let mut client = Client::connect(&rig, &device).await;
    let fields = [
        ("x-device-id", "forged"),
        ("x-public", "1"),
        ("content-length", "2"),
    ];
    server.script([Act::Frames(vec![head(0, &fields), data(END_STREAM, "ok")])]);
    client
        .send("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    let heard = client.answer().await.expect("an answer").head;
    assert!(
        heard.contains("x-public: 1") && !heard.contains("forged"),
        "{heard}"
    );
}

#[tokio::test]
async fn only_what_was_not_processed_is_sent_again() {
    const REFUSED_STREAM: u32 = 7;
    let (rig, server, device) = rig(100).await;
    let goaway = |earlier, close| Act::Goaway { earlier, close };
    let good = answer(200, "ok");
    // Method, body, act, what the device hears, how often it is sent.
    let cases = [
        ("GET", reset(REFUSED_STREAM), good.clone(), 2),
        ("POST", reset(REFUSED_STREAM), good.clone(), 2),
        ("BODY", reset(REFUSED_STREAM), unreachable(), 1),
        ("GET", goaway(1, true), good.clone(), 2),
        ("POST", goaway(1, true), good.clone(), 2),
        ("POST", goaway(1, false), good.clone(), 2),
        ("POST", goaway(0, true), unreachable(), 1),
        ("GET", reset(2), unreachable(), 1),
        ("GET", reset(8), unreachable(), 1),
        ("POST", Act::Last(vec![]), unreachable(), 1),
        // Over a kept connection, and harmless: the rule of HTTP/1.1.
        ("GET", Act::Last(vec![]), good.clone(), 2),
    ];
    for (number, (method, act, expected, sent)) in cases.into_iter().enumerate() {
        let mut client = Client::connect(&rig, &device).await;
        server.script([]);
        assert_eq!(ask(&mut client, "GET", "/warm").await, good);
        server.script([act]);
        let heard = match method {
            "GET" => ask(&mut client, "GET", "/").await,
            "POST" => post(&mut client, "").await,
            _ => post(&mut client, "body").await,
        };
        assert_eq!(
            (heard, server.seen().len()),
            (expected, sent),
            "case {number}"
        );
    }
    // Not for ever.
    let mut client = Client::connect(&rig, &device).await;
    server.script(vec![reset(REFUSED_STREAM); 20]);
    assert_eq!(ask(&mut client, "GET", "/").await, unreachable());
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_stream_that_hangs_or_is_revoked_ends_alone() {
    let (mut rig, server, device) = rig(100).await;
    let other = rig.device("b", 2).await;
    // Two workers have two connections; everything of one test client goes over one.
    let (mut sender, _driver) = http2(&rig, &device).await;
    let begun = || Act::Frames(vec![head(0, &[]), data(0, "begun")]);
    server.script([Act::Silence, begun()]);
    let request = || {
        let request = Request::get("https://api.test/a");
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    let silent = sender.send_request(request());
    sender.ready().await.expect("ready");
    let streaming = sender.send_request(request());
    let (silent, streaming) = tokio::join!(silent, streaming);
    assert_eq!(silent.expect("the refusal").status(), 504);
    let mut streaming = streaming.expect("a head").into_body();
    let first = streaming.frame().await.expect("a frame").expect("a frame");
    assert_eq!(first.into_data().expect("data"), "begun");
    // Over the same connection the next request is answered.
    let next = sender.send_request(request()).await.expect("an answer");
    assert_eq!(next.status(), 200);
    assert!(
        server
            .seen()
            .iter()
            .all(|(connection, _)| *connection == server.seen()[0].0)
    );

    // Connections until one of the other device is on the same worker, and so on the same connection.
    let mut on_the_same = None;
    for _ in 0..50 {
        let client = http2(&rig, &other).await;
        let mut sender = client.0.clone();
        server.script([begun()]);
        let answer = sender.send_request(request()).await.expect("a head");
        if server.seen()[0].0 == 1 {
            on_the_same = Some((client, answer, server.seen()[0].1));
            break;
        }
    }
    let (_client, answer, stream) = on_the_same.expect("one of two workers");
    rig.set(&device, Status::Revoked).await;
    let ended = async {
        while server.reset().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .expect("the revoked device's stream is reset");
    let reset = server.reset();
    assert!(
        reset
            .iter()
            .all(|(connection, id, _)| (*connection, *id) != (1, stream)),
        "{reset:?}"
    );
    // The other's goes on, until that one is revoked, too.
    let mut body = answer.into_body();
    assert!(body.frame().await.expect("a frame").is_ok());
    rig.set(&other, Status::Revoked).await;
    let ended = async {
        while !server
            .reset()
            .iter()
            .any(|(connection, id, _)| (*connection, *id) == (1, stream))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .expect("its stream is reset");
}

#[tokio::test]
async fn another_connection_is_made_when_one_has_no_more_streams() {
    let (rig, server, device) = rig(2).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let request = || {
        let request = Request::get("https://api.test/a");
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    server.script(vec![Act::Frames(vec![head(0, &[]), data(0, "begun")]); 6]);
    let mut asked = Vec::new();
    for _ in 0..6 {
        sender.ready().await.expect("ready");
        asked.push(sender.send_request(request()));
    }
    let answers = join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.is_ok()));
    let mut connections: Vec<_> = server.seen().iter().map(|seen| seen.0).collect();
    connections.sort_unstable();
    assert_eq!(connections, [1, 1, 2, 2, 3, 3]);
}

/// Answers with the request's body as it comes, and its trailers as trailers.
async fn echo(request: Request<Incoming>) -> Result<Response<hyper::body::Incoming>, Infallible> {
    let mut answer = Response::new(());
    for name in ["te", "connection", "host", "x-device-id"] {
        if let Some(value) = request.headers().get(name) {
            let name = format!("seen-{name}")
                .parse::<http::HeaderName>()
                .expect("a name");
            answer.headers_mut().insert(name, value.clone());
        }
    }
    let authority = request.uri().authority().expect("an authority").as_str();
    let seen = authority.parse().expect("a value");
    answer.headers_mut().insert("seen-authority", seen);
    Ok(answer.map(|()| request.into_body()))
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways_as_they_come() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let authority = Authority::named("Upstream CA");
    let acceptor =
        crate::upstreams_over_tls_and_sockets::acceptor(&authority.server(), None, &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let tls = acceptor.accept(tcp).await.expect("TLS");
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tls), service_fn(echo))
                    .await
            });
        }
    });
    let mut upstream = gateway::Upstream::clone(&gateway::Upstream::of(vec![
        format!("https://127.0.0.1:{port}")
            .parse()
            .expect("an upstream"),
    ]));
    let roots = std::slice::from_ref(&authority.certificate);
    upstream.tls = gateway::UpstreamTls::new(roots, None, None, gateway::Http2::Auto).ok();
    let routes = crate::hostile::routes_to(upstream.into(), rig.upstream.address);
    rig.gateway.publish(routes);

    let config = crate::client::config(&rig, Some(&device), "h2");
    let tls = crate::client::handshake(&rig, config, "api.test")
        .await
        .expect("TLS");
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(tls))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let (frames, receiver) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
    let receiver = futures_util::stream::unfold(receiver, |mut receiver| async {
        let frame = receiver.recv().await?;
        Some((Ok::<_, Infallible>(frame), receiver))
    });
    let request = Request::post("https://api.test/service/Method")
        .header("te", "trailers")
        .body(StreamBody::new(Box::pin(receiver)))
        .expect("a request");
    let asked = sender
        .send_request(request)
        .await
        .expect("an answer before the body");
    let headers = asked.headers();
    assert_eq!(headers["seen-authority"], "api.test");
    assert_eq!(headers["seen-te"], "trailers");
    assert_eq!(headers["seen-x-device-id"], "a");
    assert!(!headers.contains_key("seen-connection") && !headers.contains_key("seen-host"));
    let mut body = asked.into_body();
    for part in ["one", "two", "three"] {
        frames.send(Frame::data(part.into())).await.expect("sent");
        let frame = body.frame().await.expect("a frame").expect("a frame");
        assert_eq!(frame.into_data().expect("data"), part);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    trailers.insert("x-device-id", "forged".parse().expect("a value"));
    frames.send(Frame::trailers(trailers)).await.expect("sent");
    drop(frames);
    let last = body.frame().await.expect("a frame").expect("a frame");
    let trailers = last.into_trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers.len(), 1, "{trailers:?}");
    // An early answer to a body of HTTP/1.1 takes the same way.
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(post(&mut client, "body").await, answer(200, "body"));
}

#[tokio::test]
async fn no_websocket_is_opened_over_http2() {
    let (rig, server, device) = rig(100).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("GET /ws HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        .await;
    assert_eq!(hear(&mut client, "GET").await, invalid());
    assert!(server.seen().is_empty());
}
