//! Whatever an upstream answers: the device hears one answer or a refusal, a broken body looks broken, nothing of
//! it reaches the next request, and nobody else notices.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;

use crate::authority::Identity;
use crate::client::{Client, http2};
use crate::hostile::{Hostile, Step, ok, routes};
use crate::rig::Rig;

/// What the device hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An answer of the upstream's: its status and its whole body.
    Answer(u16, String),
    /// A refusal of the gateway's: its status and its code.
    Refused(u16, String),
    /// An answer that is visibly not whole, or a connection that ended without one.
    Broken,
}

/// Whether the upstream's connection may serve another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Kept,
    Closed,
}

struct Case {
    name: &'static str,
    method: &'static str,
    steps: Vec<Step>,
    heard: Heard,
    after: After,
}

fn case(name: &'static str, steps: Vec<Step>, heard: Heard, after: After) -> Case {
    Case {
        name,
        method: "GET",
        steps,
        heard,
        after,
    }
}

fn sends(bytes: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![Step::Send(bytes.into())]
}

fn head_and(lines: &str, body: &str) -> Vec<Step> {
    sends(format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}"))
}

fn invalid() -> Heard {
    Heard::Refused(502, "upstream-invalid".into())
}

fn unreachable() -> Heard {
    Heard::Refused(502, "upstream-unreachable".into())
}

fn answer(status: u16, body: &str) -> Heard {
    Heard::Answer(status, body.into())
}

const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";

/// What is not one answer.
fn invalid_answers() -> Vec<Case> {
    let answers: Vec<(&'static str, Vec<Step>)> = vec![
        ("garbage", sends("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        ("tls", sends(*b"\x15\x03\x03\x00\x02\x02\x28")),
        (
            "http2",
            sends(*b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0\0\x05\0\xff\xff\xff"),
        ),
        (
            "no-head",
            vec![Step::Send(b"<html>hello</html>".to_vec()), Step::Close],
        ),
        (
            "length-and-chunked",
            head_and(
                "content-length: 5\r\ntransfer-encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        (
            "chunked-and-length",
            head_and(
                "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
                "0\r\n\r\n",
            ),
        ),
        (
            "equal-lengths",
            head_and("content-length: 2\r\ncontent-length: 2\r\n", "ok"),
        ),
        (
            "different-lengths",
            head_and("content-length: 2\r\ncontent-length: 3\r\n", "ok!"),
        ),
        (
            "list-of-lengths",
            head_and("content-length: 2, 2\r\n", "ok"),
        ),
        ("length-with-sign", head_and("content-length: +2\r\n", "ok")),
        ("negative-length", head_and("content-length: -1\r\n", "ok")),
        (
            "hexadecimal-length",
            head_and("content-length: 0x2\r\n", "ok"),
        ),
        ("two-numbers", head_and("content-length: 2 2\r\n", "ok")),
        ("empty-length", head_and("content-length:\r\n", "ok")),
        (
            "endless-length",
            head_and("content-length: 18446744073709551618\r\n", "ok"),
        ),
        (
            "gzip-chunked",
            head_and("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ),
        (
            "twice-chunked",
            head_and("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        ),
        (
            "two-encodings",
            head_and(
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        (
            "identity-encoding",
            vec![
                Step::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nok".to_vec()),
                Step::Close,
            ],
        ),
        (
            "chunked-with-parameter",
            head_and("transfer-encoding: chunked;a=b\r\n", "0\r\n\r\n"),
        ),
        (
            "unknown-encoding",
            vec![
                Step::Send(
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n".to_vec(),
                ),
                Step::Close,
            ],
        ),
        (
            "chunked-in-1.0",
            sends("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "line-feed-after-status",
            sends("HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "line-feed-in-headers",
            sends("HTTP/1.1 200 OK\r\na: b\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "line-feeds-at-the-end",
            sends("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\nok"),
        ),
        (
            "only-line-feeds",
            sends("HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
        ),
        (
            "carriage-return-in-value",
            head_and("a: b\rc: d\r\ncontent-length: 2\r\n", "ok"),
        ),
        (
            "carriage-return-in-status",
            sends("HTTP/1.1 200 O\rK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "nul-in-value",
            head_and("a: b\0c\r\ncontent-length: 2\r\n", "ok"),
        ),
        (
            "nul-in-name",
            head_and("a\0: b\r\ncontent-length: 2\r\n", "ok"),
        ),
        (
            "escape-in-value",
            head_and("a: \x1b[2J\r\ncontent-length: 2\r\n", "ok"),
        ),
        (
            "folded",
            head_and("a: b\r\n c\r\ncontent-length: 2\r\n", "ok"),
        ),
        (
            "folded-by-tab",
            head_and("a: b\r\n\tc\r\ncontent-length: 2\r\n", "ok"),
        ),
        ("folded-length", head_and("content-length:\r\n 2\r\n", "ok")),
        (
            "folded-at-once",
            head_and(" a: b\r\ncontent-length: 2\r\n", "ok"),
        ),
        (
            "space-before-colon",
            head_and("content-length : 2\r\n", "ok"),
        ),
        ("no-colon", head_and("content-length 2\r\n", "ok")),
        ("no-name", head_and(": a\r\ncontent-length: 2\r\n", "ok")),
        (
            "empty-line-before",
            sends("\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "megabyte-of-headers",
            sends(format!(
                "HTTP/1.1 200 OK\r\na: {}\r\ncontent-length: 2\r\n\r\nok",
                "x".repeat(1 << 20)
            )),
        ),
        (
            "ten-thousand-headers",
            sends(format!(
                "HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\nok",
                "a: b\r\n".repeat(10_000)
            )),
        ),
        (
            "endless-head",
            vec![
                Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
                Step::Flood(b"a: b\r\n".repeat(500)),
            ],
        ),
        (
            "endless-status",
            vec![
                Step::Send(b"HTTP/1.1 200 ".to_vec()),
                Step::Flood(vec![b'x'; 1_000]),
            ],
        ),
        (
            "endless-interims",
            vec![Step::Flood(
                b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100),
            )],
        ),
        ("slow-interims", {
            let interim = Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec());
            vec![vec![interim, Step::Pause(Duration::from_millis(1))]; 50].concat()
        }),
        (
            "garbage-after-interim",
            sends("HTTP/1.1 100 Continue\r\n\r\nhello\r\n\r\n"),
        ),
        (
            "line-feeds-after-interim",
            sends("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
        ),
        (
            "unasked-upgrade",
            sends(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            ),
        ),
        (
            "unasked-http2",
            sends(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            ),
        ),
        (
            "negative-status",
            sends("HTTP/1.1 -1 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "short-status",
            sends("HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "long-status",
            sends("HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "low-status",
            sends("HTTP/1.1 099 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "no-status",
            sends("HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "version-2",
            sends("HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "version-1.2",
            sends("HTTP/1.2 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "small-letters",
            sends("http/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "tab-before-status",
            sends("HTTP/1.1\t200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "two-spaces",
            sends("HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        (
            "no-content-with-length",
            sends("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        (
            "no-content-in-chunks",
            sends("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
    ];
    answers
        .into_iter()
        .map(|(name, steps)| case(name, steps, invalid(), After::Closed))
        .collect()
}

/// Answers that end, or never begin.
fn broken_answers() -> Vec<Case> {
    let send = |text: &str| Step::Send(text.as_bytes().to_vec());
    let chunked = |chunks: &str| {
        send(&format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
        ))
    };
    let some = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nsome";
    let unanswered = [
        ("reset-before-head", vec![Step::Reset]),
        ("close-before-head", vec![Step::Close]),
        (
            "reset-in-head",
            vec![send("HTTP/1.1 200 OK\r\nconten"), Step::Reset],
        ),
        (
            "close-in-head",
            vec![send("HTTP/1.1 200 OK\r\nconten"), Step::Close],
        ),
        ("close-in-status", vec![send("HTT"), Step::Close]),
        (
            "close-before-last-line-feed",
            vec![
                send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r"),
                Step::Close,
            ],
        ),
        (
            "close-after-interim",
            vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Step::Close],
        ),
    ];
    let half = [
        ("reset-in-body", vec![send(some), Step::Reset]),
        ("close-in-body", vec![send(some), Step::Close]),
        ("reset-in-chunk", vec![chunked("a\r\nsome"), Step::Reset]),
        ("close-in-chunk", vec![chunked("a\r\nsome"), Step::Close]),
        (
            "close-between-chunks",
            vec![chunked("4\r\nsome\r\n"), Step::Close],
        ),
        (
            "close-in-last-chunk",
            vec![chunked("4\r\nsome\r\n0\r\n"), Step::Close],
        ),
        (
            "close-in-trailers",
            vec![chunked("4\r\nsome\r\n0\r\na: b\r\n"), Step::Close],
        ),
        ("no-chunk-size", vec![chunked("hello\r\n")]),
        (
            "chunk-size-with-sign",
            vec![chunked("-4\r\nsome\r\n0\r\n\r\n")],
        ),
        (
            "chunk-size-with-prefix",
            vec![chunked("0x4\r\nsome\r\n0\r\n\r\n")],
        ),
        (
            "endless-chunk-size",
            vec![chunked("fffffffffffffffff\r\nsome")],
        ),
        ("empty-chunk-size", vec![chunked("\r\nsome\r\n0\r\n\r\n")]),
        (
            "chunk-longer-than-said",
            vec![chunked("2\r\nsome\r\n0\r\n\r\n")],
        ),
        (
            "line-feed-after-chunk-size",
            vec![chunked("4\nsome\r\n0\r\n\r\n")],
        ),
        (
            "line-feed-after-chunk",
            vec![chunked("4\r\nsome\n0\r\n\r\n")],
        ),
        (
            "carriage-return-in-chunk-size",
            vec![chunked("4\r\r\nsome\r\n0\r\n\r\n")],
        ),
        (
            "line-feed-in-extension",
            vec![chunked("4;a\nb\r\nsome\r\n0\r\n\r\n")],
        ),
        (
            "megabyte-of-extension",
            vec![chunked(&format!(
                "4;{}\r\nsome\r\n0\r\n\r\n",
                "x".repeat(1 << 20)
            ))],
        ),
        (
            "megabyte-of-trailers",
            vec![chunked(&format!(
                "4\r\nsome\r\n0\r\n{}\r\n",
                "a: b\r\n".repeat(200_000)
            ))],
        ),
        (
            "reset-without-length",
            vec![send("HTTP/1.1 200 OK\r\n\r\nsome"), Step::Reset],
        ),
    ];
    let unanswered =
        unanswered.map(|(name, steps)| case(name, steps, unreachable(), After::Closed));
    let half = half.map(|(name, steps)| case(name, steps, Heard::Broken, After::Closed));
    unanswered.into_iter().chain(half).collect()
}

/// Answers that pass; with more than an answer, or without its end, the connection does not serve again.
fn whole_answers() -> Vec<Case> {
    let of = |method, case: Case| Case { method, ..case };
    let then_close = |text: &str| vec![Step::Send(text.as_bytes().to_vec()), Step::Close];
    vec![
        case(
            "two-answers",
            head_and("content-length: 2\r\n", &format!("ok{POISON}")),
            answer(200, "ok"),
            After::Closed,
        ),
        case(
            "two-answers-in-two-parts",
            vec![Step::Send(ok("ok")), Step::Send(POISON.into())],
            answer(200, "ok"),
            After::Closed,
        ),
        case(
            "poison-after-chunks",
            head_and(
                "transfer-encoding: chunked\r\n",
                &format!("2\r\nok\r\n0\r\n\r\n{POISON}"),
            ),
            answer(200, "ok"),
            After::Closed,
        ),
        case(
            "longer-than-said",
            head_and("content-length: 2\r\n", "okay"),
            answer(200, "ok"),
            After::Closed,
        ),
        case(
            "empty-lines-after",
            head_and("content-length: 2\r\n", "ok\r\n\r\n"),
            answer(200, "ok"),
            After::Closed,
        ),
        of(
            "HEAD",
            case(
                "body-of-head",
                head_and("content-length: 2\r\n", "ok"),
                answer(200, ""),
                After::Closed,
            ),
        ),
        of(
            "HEAD",
            case(
                "poison-after-head",
                head_and("content-length: 2\r\n", POISON),
                answer(200, ""),
                After::Closed,
            ),
        ),
        case(
            "body-of-304",
            sends("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok"),
            answer(304, ""),
            After::Closed,
        ),
        case(
            "chunks-of-304",
            sends("HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            answer(304, ""),
            After::Closed,
        ),
        case(
            "body-of-204",
            sends("HTTP/1.1 204 No Content\r\n\r\nok"),
            answer(204, ""),
            After::Closed,
        ),
        case(
            "without-length",
            then_close("HTTP/1.1 200 OK\r\n\r\nok"),
            answer(200, "ok"),
            After::Closed,
        ),
        case(
            "version-1.0",
            then_close("HTTP/1.0 200 OK\r\n\r\nok"),
            answer(200, "ok"),
            After::Closed,
        ),
        case(
            "version-1.0-with-length",
            sends("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            answer(200, "ok"),
            After::Closed,
        ),
        case(
            "announced-close",
            head_and("connection: close\r\ncontent-length: 2\r\n", "ok"),
            answer(200, "ok"),
            After::Closed,
        ),
        case(
            "close-wins",
            head_and(
                "connection: close\r\nconnection: keep-alive\r\ncontent-length: 2\r\n",
                "ok",
            ),
            answer(200, "ok"),
            After::Closed,
        ),
        // The positive twins.
        case("length", sends(ok("ok")), answer(200, "ok"), After::Kept),
        case(
            "status-alone",
            sends("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"),
            answer(200, "ok"),
            After::Kept,
        ),
        case(
            "chunks",
            head_and(
                "transfer-encoding: Chunked\r\n",
                "1\r\no\r\n1;a=b\r\nk\r\n0\r\n\r\n",
            ),
            answer(200, "ok"),
            After::Kept,
        ),
        case(
            "byte-by-byte",
            ok("ok")
                .into_iter()
                .flat_map(|byte| {
                    [
                        Step::Send(vec![byte]),
                        Step::Pause(Duration::from_millis(1)),
                    ]
                })
                .collect(),
            answer(200, "ok"),
            After::Kept,
        ),
        case(
            "interims",
            sends(
                [
                    "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(16),
                    String::from_utf8_lossy(&ok("ok")).into_owned(),
                ]
                .concat(),
            ),
            answer(200, "ok"),
            After::Kept,
        ),
        case(
            "no-content",
            sends("HTTP/1.1 204 No Content\r\n\r\n"),
            answer(204, ""),
            After::Kept,
        ),
        case(
            "no-content-of-length-0",
            sends("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
            answer(204, ""),
            After::Kept,
        ),
        case(
            "not-modified",
            sends("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n"),
            answer(304, ""),
            After::Kept,
        ),
        of(
            "HEAD",
            case(
                "head",
                head_and("content-length: 2\r\n", ""),
                answer(200, ""),
                After::Kept,
            ),
        ),
        case(
            "kept-version-1.0",
            sends("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok"),
            answer(200, "ok"),
            After::Kept,
        ),
        case(
            "server-error",
            sends("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"),
            answer(503, "no"),
            After::Kept,
        ),
    ]
}

async fn hostile_rig() -> (Rig, Hostile, Identity) {
    let mut rig = Rig::start().await;
    let hostile = Hostile::start().await;
    rig.gateway
        .publish(routes(hostile.address, rig.upstream.address));
    let device = rig.device("a", 1).await;
    (rig, hostile, device)
}

/// Reads an answer to the last byte that belongs to it.
pub(crate) async fn hear(client: &mut Client, method: &str) -> Heard {
    let Ok(head) = client.until(b"\r\n\r\n").await else {
        return Heard::Broken;
    };
    let head = head.to_ascii_lowercase();
    let status: u16 = head[9..12].parse().expect("a status");
    let bodiless = method == "HEAD" || matches!(status, 204 | 304);
    let body = if bodiless {
        Some(String::new())
    } else if head.contains("\r\ntransfer-encoding: chunked\r\n") {
        chunks(client).await
    } else {
        let length = head.split("\r\ncontent-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        client.exactly(length.unwrap_or(0)).await
    };
    judge(status, &head, body)
}

/// A chunked body without trailers.
async fn chunks(client: &mut Client) -> Option<String> {
    let mut body = String::new();
    loop {
        let size = client.until(b"\r\n").await.ok()?;
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        let chunk = client.exactly(size + 2).await?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(&chunk[..chunk.len() - 2]);
    }
}

fn judge(status: u16, head: &str, body: Option<String>) -> Heard {
    let Some(body) = body else {
        return Heard::Broken;
    };
    // RFC 9209 tells the gateway's refusals from the upstream's.
    if !head.contains("proxy-status") {
        return Heard::Answer(status, body);
    }
    assert!(head.contains("application/problem+json"), "{head}");
    let problem: identity::Problem =
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {head}{body}"));
    assert_eq!(problem.status, status);
    assert!(
        head.contains(&format!("details=\\\"{}\\\"", problem.code))
            || head.contains(&format!("details=\"{}\"", problem.code)),
        "{head}"
    );
    Heard::Refused(status, problem.code)
}

async fn ask(client: &mut Client, method: &str, path: &str) -> Heard {
    client
        .send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: api.test\r\n\r\n"
        ))
        .await;
    hear(client, method).await
}

async fn ask_http2(sender: &mut SendRequest<Full<Bytes>>, method: &str, path: &str) -> Heard {
    sender.ready().await.expect("the connection goes on");
    let request = Request::builder()
        .method(method)
        .uri(format!("https://api.test{path}"))
        .body(Full::default())
        .expect("a request");
    let Ok(response) = sender.send_request(request).await else {
        return Heard::Broken;
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await.ok();
    let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    judge(head.status.as_u16(), &format!("{:?}", head.headers), body)
}

/// The connection that a request without answer was sent over, and the one that served the next request.
fn check_connections(hostile: &Hostile, case: &Case, path: &str, clean: &str) {
    let (hit, next) = (hostile.seen(path), hostile.seen(clean));
    // The one thing that is sent again: what nobody began to answer, over a connection that may have been stale.
    let repeated = matches!(case.name, "reset-before-head" | "close-before-head");
    assert_eq!(
        hit.len(),
        if repeated { 2 } else { 1 },
        "{}: {hit:?}",
        case.name
    );
    assert_eq!(next.len(), 1, "{}: {next:?}", case.name);
    let kept = hit.contains(&next[0]);
    assert_eq!(
        kept,
        case.after == After::Kept,
        "{}: {hit:?}, then {next:?}",
        case.name
    );
}

#[tokio::test]
async fn over_http1_each_answer_is_one_answer_or_none() {
    let (rig, hostile, device) = hostile_rig().await;
    let mut client = Client::connect(&rig, &device).await;
    let cases: Vec<_> = [invalid_answers(), broken_answers(), whole_answers()].concat_all();
    let (mut refused, started) = (0, Instant::now());
    for case in &cases {
        let (path, clean) = (format!("/{}", case.name), format!("/clean/{}", case.name));
        hostile.script(&path, &case.steps);
        // Over a connection that was used before, so that a request that is harmless may be sent again.
        assert_eq!(ask(&mut client, "GET", "/warm").await, answer(200, "/warm"));
        let heard = ask(&mut client, case.method, &path).await;
        assert_eq!(heard, case.heard, "{}", case.name);
        if heard == Heard::Broken {
            // Nothing after a body without end could be told from it.
            assert!(client.ends().await, "{}", case.name);
            client = Client::connect(&rig, &device).await;
        }
        refused += usize::from(heard == invalid());
        let heard = ask(&mut client, "GET", &clean).await;
        assert_eq!(heard, answer(200, &clean), "after {}", case.name);
        check_connections(&hostile, case, &path, &clean);
    }
    assert!(refused >= 40 && started.elapsed() < Duration::from_secs(60));
    assert_eq!(
        rig.metric("refusals_total{code=\"upstream-invalid\"}"),
        refused.to_string()
    );
    println!(
        "figure: hostile answers of an upstream, each told from the next: {}",
        cases.len()
    );
}

#[tokio::test]
async fn over_http2_only_the_stream_of_a_bad_answer_ends() {
    let (rig, hostile, device) = hostile_rig().await;
    let (mut sender, connection) = http2(&rig, &device).await;
    for case in [invalid_answers(), broken_answers(), whole_answers()].concat_all() {
        let (path, clean) = (format!("/{}", case.name), format!("/clean/{}", case.name));
        hostile.script(&path, &case.steps);
        assert_eq!(
            ask_http2(&mut sender, "GET", "/warm").await,
            answer(200, "/warm")
        );
        let heard = ask_http2(&mut sender, case.method, &path).await;
        assert_eq!(heard, case.heard, "{}", case.name);
        let heard = ask_http2(&mut sender, "GET", &clean).await;
        assert_eq!(heard, answer(200, &clean), "after {}", case.name);
        check_connections(&hostile, &case, &path, &clean);
    }
    assert!(!connection.is_finished());
}

#[tokio::test]
async fn a_request_with_effects_is_sent_once_whatever_is_answered() {
    let (rig, hostile, device) = hostile_rig().await;
    let mut client = Client::connect(&rig, &device).await;
    for case in [invalid_answers(), broken_answers(), whole_answers()].concat_all() {
        let path = format!("/{}", case.name);
        hostile.script(&path, &case.steps);
        for body in ["", "body"] {
            let asked = hostile.seen(&path).len();
            assert_eq!(ask(&mut client, "GET", "/warm").await, answer(200, "/warm"));
            client
                .send(&format!(
                    "POST {path} HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ))
                .await;
            let heard = hear(&mut client, "POST").await;
            if case.method == "GET" {
                assert_eq!(heard, case.heard, "{} with {body:?}", case.name);
            }
            assert_eq!(hostile.seen(&path).len(), asked + 1, "{}", case.name);
            client = Client::connect(&rig, &device).await;
        }
    }
}

#[tokio::test]
async fn what_hangs_is_given_up_in_time_and_delays_nobody_else() {
    let (rig, hostile, device) = hostile_rig().await;
    let send = |text: &str| Step::Send(text.as_bytes().to_vec());
    let hangs = [
        ("silence", vec![Step::Hang]),
        ("half-status", vec![send("HTTP/1.1 2"), Step::Hang]),
        (
            "half-head",
            vec![send("HTTP/1.1 200 OK\r\na: b\r\n"), Step::Hang],
        ),
        (
            "interim",
            vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Step::Hang],
        ),
        (
            "half-head-after-interim",
            vec![send("HTTP/1.1 100 Continue\r\n\r\nHTTP"), Step::Hang],
        ),
        // Bytes that trickle do not make an answer.
        (
            "trickle",
            vec![
                vec![
                    send("HTTP/1.1 100 Continue\r\n\r\n"),
                    Step::Pause(Duration::from_millis(300)),
                ];
                15
            ]
            .concat(),
        ),
    ];
    let (rig, hostile, device) = (&rig, &hostile, &device);
    let hanging = hangs.iter().map(|(name, steps)| async move {
        let path = format!("/{name}");
        hostile.script(&path, steps);
        let mut client = Client::connect(rig, device).await;
        assert_eq!(ask(&mut client, "GET", "/warm").await, answer(200, "/warm"));
        let started = Instant::now();
        let heard = ask(&mut client, "GET", &path).await;
        assert_eq!(
            heard,
            Heard::Refused(504, "upstream-timeout".into()),
            "{name}"
        );
        assert!(started.elapsed() < Duration::from_secs(4), "{name}");
        let clean = format!("/clean/{name}");
        assert_eq!(ask(&mut client, "GET", &clean).await, answer(200, &clean));
        assert_eq!(hostile.seen(&path).len(), 1, "{name}");
        assert_ne!(hostile.seen(&path), hostile.seen(&clean), "{name}");
    });
    let mut other = Client::connect(rig, device).await;
    let others = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let started = Instant::now();
            assert_eq!(ask(&mut other, "GET", "/other/a").await, answer(200, "ok"));
            slowest = slowest.max(started.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        slowest
    };
    let (_, slowest) = tokio::join!(join_all(hanging), others);
    assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    println!(
        "figure: slowest request to another route while six upstream answers hang: {slowest:?}"
    );
}

#[tokio::test]
async fn a_body_that_hangs_holds_its_own_stream_only() {
    let (rig, hostile, device) = hostile_rig().await;
    let some = Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nsome".to_vec());
    hostile.script("/half", &[some, Step::Hang]);
    let (mut sender, _connection) = http2(&rig, &device).await;
    let request = || {
        Request::get("https://api.test/half")
            .body(Full::<Bytes>::default())
            .expect("a request")
    };
    let mut half = Vec::new();
    for _ in 0..20 {
        sender.ready().await.expect("ready");
        half.push(sender.send_request(request()).await.expect("a head"));
    }
    for _ in 0..20 {
        let heard = ask_http2(&mut sender, "GET", "/clean").await;
        assert_eq!(heard, answer(200, "/clean"));
    }
    // Given up by the device, the upstream's connection is, too, and never serves again.
    drop(half);
    assert_eq!(
        ask_http2(&mut sender, "GET", "/after").await,
        answer(200, "/after")
    );
    let after = hostile.seen("/after");
    assert!(!hostile.seen("/half").contains(&after[0]));
}

#[tokio::test]
async fn a_late_second_answer_is_not_taken_for_the_next_one() {
    let (rig, hostile, device) = hostile_rig().await;
    let mut client = Client::connect(&rig, &device).await;
    for round in 0..count(60, 2_000) {
        let (path, clean) = (format!("/{round}"), format!("/clean/{round}"));
        let late = Step::Pause(Duration::from_micros(50 * (round as u64 % 10)));
        hostile.script(
            &path,
            &[
                Step::Send(ok("ok")),
                late,
                Step::Send(POISON.into()),
                Step::Send(Vec::new()),
            ],
        );
        assert_eq!(ask(&mut client, "GET", &path).await, answer(200, "ok"));
        // It has left the upstream by now.
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert_eq!(
            ask(&mut client, "GET", &clean).await,
            answer(200, &clean),
            "round {round}"
        );
    }
}

#[tokio::test]
async fn what_an_upstream_says_of_identity_stays_with_it() {
    let (rig, hostile, device) = hostile_rig().await;
    let mut client = Client::connect(&rig, &device).await;
    let echo = "HTTP/1.1 200 OK\r\nx-device-id: a\r\nX_Device-Id: b\r\nclient-cert: :AA==:\r\nx-forwarded-client-cert: By=x\r\n\
        x-ssl-client-verify: SUCCESS\r\nx-request-id: theirs\r\nproxy-status: keybound; error=http_request_denied; details=\"revoked\"\r\n\
        keep-alive: timeout=5\r\nupgrade: h2c\r\nconnection: x-secret, content-length\r\nx-secret: 1\r\nx-public: 1\r\ncontent-length: 2\r\n\r\nok";
    hostile.script("/echo", &[Step::Send(echo.into())]);
    client
        .send("GET /echo HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    let heard = client.answer().await.expect("an answer");
    assert_eq!((heard.status(), heard.body.as_str()), (200, "ok"));
    let names: Vec<_> = heard
        .head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    for name in &names {
        assert!(
            ["x-public", "content-length", "x-request-id", "date"].contains(name),
            "{name} in {}",
            heard.head
        );
    }
    assert!(
        names.contains(&"x-public") && !heard.head.contains("theirs"),
        "{}",
        heard.head
    );
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_and_the_last_one() {
    let (rig, hostile, device) = hostile_rig().await;
    let upgrades = [
        (
            "/200",
            String::from_utf8_lossy(&ok("no")).into_owned(),
            answer(200, "no"),
        ),
        (
            "/426",
            "HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nno"
                .into(),
            answer(426, "no"),
        ),
        (
            "/h2c",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
                .into(),
            invalid(),
        ),
        (
            "/none",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n".into(),
            invalid(),
        ),
        ("/garbage", "RFB 003.008\n".into(), invalid()),
    ];
    for (path, text, expected) in upgrades {
        hostile.script(path, &[Step::Send(text.into())]);
        let mut client = Client::connect(&rig, &device).await;
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
        client
            .send(&format!(
                "GET {path} HTTP/1.1\r\nHost: api.test\r\n{upgrade}\r\n"
            ))
            .await;
        assert_eq!(hear(&mut client, "GET").await, expected, "{path}");
        assert!(client.ends().await, "{path}");
    }
}

#[tokio::test]
async fn an_upstream_that_comes_and_goes_is_refused_or_answers() {
    let (rig, _, device) = hostile_rig().await;
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    rig.gateway.publish(routes(address, rig.upstream.address));
    // Ten times a second it is there, and gone with all its connections.
    let flap = tokio::spawn(async move {
        for _ in 0..20 {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("set");
            if socket.bind(address).is_ok()
                && let Ok(listener) = socket.listen(64)
            {
                let mut serving = tokio::task::JoinSet::new();
                let until = tokio::time::Instant::now() + Duration::from_millis(50);
                while let Ok(Ok((mut tcp, _))) =
                    tokio::time::timeout_at(until, listener.accept()).await
                {
                    serving.spawn(async move {
                        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                        let mut buffer = [0; 4096];
                        while tcp.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                            if tcp.write_all(&ok("there")).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut client = Client::connect(&rig, &device).await;
    let mut other = Client::connect(&rig, &device).await;
    let (mut there, mut gone) = (0, 0);
    while !flap.is_finished() {
        let started = Instant::now();
        match ask(&mut client, "GET", "/a").await {
            Heard::Answer(200, body) if body == "there" => there += 1,
            heard => {
                assert_eq!(heard, unreachable());
                gone += 1;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(3));
        assert_eq!(ask(&mut other, "GET", "/other/a").await, answer(200, "ok"));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(there > 10 && gone > 10, "{there} and {gone}");
    println!(
        "figure: requests while an upstream flaps at 10 Hz: {there} answered, {gone} refused, none lost"
    );
}

/// How much of something to try: `tests/run` or `tests/run --long`.
pub(crate) fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("KEYBOUND_LONG").is_some() {
        long
    } else {
        short
    }
}

trait ConcatAll<T> {
    fn concat_all(self) -> Vec<T>;
}

impl<T, const N: usize> ConcatAll<T> for [Vec<T>; N] {
    fn concat_all(self) -> Vec<T> {
        self.into_iter().flatten().collect()
    }
}
