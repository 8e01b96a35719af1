//! The watcher in front of HTTP/1.1: its verdict does not depend on how the bytes arrive, a second reader agrees on
//! every request's beginning and end, and what it lets through `httparse` reads in the same way.
#![no_main]

use gateway::fuzzing::{Behind, Http1Watcher};
use keybound_fuzz::http1::{self, End, Reading};
use keybound_fuzz::random::Random;
use keybound_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(first_inputs), |stream: &[u8]| {
    for is_tunnel in [false, true] {
        check(stream, is_tunnel);
    }
});

fn check(stream: &[u8], is_tunnel: bool) {
    let (clean, violation, in_body) = judge(stream, &[stream.len()], is_tunnel);
    let reading = http1::read(stream, is_tunnel, |target| {
        http::Uri::try_from(target).is_ok()
    });
    assert_eq!(
        violation.is_some(),
        reading.end == End::Broken,
        "{violation:?}, {reading:?}"
    );
    assert_eq!(clean, reading.clean, "{violation:?}, {reading:?}");
    if violation.is_none() {
        assert_eq!(in_body, reading.end == End::InBody, "{reading:?}");
    }
    let bytewise: Vec<usize> = (1..=stream.len()).collect();
    check_cut(stream, &bytewise, is_tunnel, clean, violation);
    let mut random = Random::of(stream);
    for pieces in 2..5 {
        let mut cuts: Vec<usize> = (1..pieces)
            .map(|_| random.below(stream.len() + 1))
            .collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        check_cut(stream, &cuts, is_tunnel, clean, violation);
    }
    agree_with_httparse(stream, reading);
}

fn check_cut(stream: &[u8], cuts: &[usize], is_tunnel: bool, clean: usize, violation: Option<u8>) {
    let (cut_clean, cut_violation, _) = judge(stream, cuts, is_tunnel);
    assert_eq!(cut_violation, violation, "cut at {cuts:?}");
    assert_eq!(cut_clean, clean, "cut at {cuts:?}");
}

/// Feeds `stream` in pieces that end at `cuts`, as the IO wrapper does: how many bytes are clean, the violation
/// after them, and whether they end in a body.
fn judge(stream: &[u8], cuts: &[usize], is_tunnel: bool) -> (usize, Option<u8>, bool) {
    let mut watcher = Http1Watcher::new();
    let mut clean = 0;
    for cut in cuts {
        if *cut == clean {
            continue;
        }
        let (more, behind) = watcher.inspect(&stream[clean..*cut], is_tunnel);
        clean += more;
        match behind {
            Behind::Nothing => assert_eq!(clean, *cut),
            Behind::IncompleteHead => assert!(clean < *cut),
            Behind::Violation(violation) => return (clean, Some(violation), watcher.is_in_body()),
        }
    }
    (clean, None, watcher.is_in_body())
}

/// The first request's head, if it was let through.
fn agree_with_httparse(stream: &[u8], reading: Reading) {
    let mut fields = [httparse::EMPTY_HEADER; 101];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(length)) = request.parse(stream) else {
        assert_eq!(
            reading.requests, 0,
            "let through, and httparse does not read it"
        );
        return;
    };
    if length > reading.clean {
        return;
    }
    let head = http1::head(&stream[..length]).expect("the second reader let it through");
    assert_eq!(request.method.map(str::as_bytes), Some(head.method));
    assert_eq!(request.path.map(str::as_bytes), Some(head.target));
    assert_eq!(request.version, Some(head.minor));
    let theirs = request
        .headers
        .iter()
        .map(|field| (field.name.as_bytes(), field.value));
    assert!(theirs.eq(head.fields.iter().copied()));
    let count = |name: &str| {
        let fields = request.headers.iter();
        fields
            .filter(|field| field.name.eq_ignore_ascii_case(name))
            .count()
    };
    assert_eq!(count("host"), 1);
    assert!(count("content-length") + count("transfer-encoding") <= 1);
    assert!(count("expect") <= 1);
}

fn first_inputs() -> Vec<Vec<u8>> {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    [
        get.to_owned(),
        format!("{get}{get}"),
        "GET http://a.example/b?c=d HTTP/1.0\r\nhost:a.example\r\nExpect: 100-continue\r\n\r\n".into(),
        "POST /a HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\nhello".into(),
        "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n".into(),
        "GET /c HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nabc".into(),
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(),
        "GET / HTTP/1.1\nHost: a\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n".into(),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99)),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(16_384 - 34)),
    ]
    .map(String::into_bytes)
    .to_vec()
}
