//! Answers of upstreams, bad ones and their good twins: what a device hears of each, and whether the connection may
//! serve another request.

use std::time::Duration;

use crate::hostile::{Step, ok};
use crate::upstreams_answer_badly::Heard;

/// All of them.
pub(crate) fn bad_answers() -> Vec<Case> {
    let mut answers = invalid_answers();
    answers.extend(broken_answers());
    answers.extend(whole_answers());
    answers
}

/// Whether the upstream's connection may serve another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Kept,
    Closed,
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) method: &'static str,
    pub(crate) steps: Vec<Step>,
    pub(crate) heard: Heard,
    pub(crate) after: After,
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

pub(crate) fn invalid() -> Heard {
    Heard::Refused(502, "upstream-invalid".into())
}

pub(crate) fn unreachable() -> Heard {
    Heard::Refused(502, "upstream-unreachable".into())
}

pub(crate) fn answer(status: u16, body: &str) -> Heard {
    Heard::Answer(status, body.into())
}

pub(crate) const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";

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
        // The HTTP implementation would take the second answer for the trailers of the first.
        (
            "line-feed-after-last-chunk",
            vec![chunked(&format!(
                "5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\n\n{POISON}"
            ))],
        ),
        (
            "line-feed-after-trailer",
            vec![chunked("4\r\nsome\r\n0\r\na: b\n\r\n")],
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
