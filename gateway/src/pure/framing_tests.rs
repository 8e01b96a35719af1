use super::*;

/// How many bytes are clean, and the violation after them; the same however the bytes are cut.
fn judge(input: &[u8]) -> (usize, Option<Violation>) {
    judge_cut(input, &[input.len()])
}

/// Feeds `input` in pieces that end at `cuts`, as the IO wrapper does.
fn judge_cut(input: &[u8], cuts: &[usize]) -> (usize, Option<Violation>) {
    let mut watcher = Watcher::new();
    let mut clean = 0;
    for cut in cuts {
        if *cut == clean {
            continue;
        }
        let verdict = watcher.inspect(&input[clean..*cut], false);
        clean += verdict.clean;
        match verdict.rest {
            Rest::Nothing => assert_eq!(clean, *cut),
            Rest::IncompleteHead => assert!(clean < *cut),
            Rest::Violation(violation) => return (clean, Some(violation)),
        }
    }
    (clean, None)
}

fn check(input: &str, clean: usize, violation: Option<Violation>) {
    check_bytes(input.as_bytes(), clean, violation);
}

fn check_bytes(input: &[u8], clean: usize, violation: Option<Violation>) {
    let whole = judge(input);
    assert_eq!(
        whole,
        (clean, violation),
        "{:?}",
        String::from_utf8_lossy(input)
    );
    for first in 0..=input.len() {
        let (cut_clean, cut_violation) = judge_cut(input, &[first, input.len()]);
        assert_eq!(cut_violation, violation, "cut at {first}");
        // Of a body, the bytes before the violation have passed already when they came alone.
        assert!(cut_clean >= clean || violation.is_none(), "cut at {first}");
    }
    let bytewise: Vec<usize> = (1..=input.len()).collect();
    assert_eq!(judge_cut(input, &bytewise).1, violation);
}

fn refused(input: &str, violation: Violation) {
    check(input, 0, Some(violation));
    // The same as the second request of a connection: the first one passes.
    let first = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    check(&format!("{first}{input}"), first.len(), Some(violation));
    let first =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    check(&format!("{first}{input}"), first.len(), Some(violation));
}

fn passes(input: &str) {
    check(input, input.len(), None);
    let twice = format!("{input}{input}");
    check(&twice, twice.len(), None);
}

fn with(lines: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

#[test]
fn requests_that_pass() {
    passes("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    passes("GET /a?b HTTP/1.0\r\nhost:a\r\n\r\n");
    passes("OPTIONS * HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n");
    passes("GET https://a/b HTTP/1.1\r\nHost: a\r\n\r\n");
    passes(&format!("{}hello", with("Content-Length: 5\r\n")));
    passes(&with("Content-Length: 0\r\n"));
    passes(&format!(
        "{}hello",
        with("content-length:  5 \r\nExpect: 100-Continue\r\n")
    ));
    passes(&with("Upgrade: h2c\r\nConnection: upgrade\r\n"));
    let chunked = with("Transfer-Encoding: Chunked\r\n");
    passes(&format!("{chunked}0\r\n\r\n"));
    passes(&format!("{chunked}5\r\nhello\r\n0\r\n\r\n"));
    passes(&format!(
        "{chunked}00005;a=b\r\nhello\r\nA\r\n0123456789\r\n0;x\r\nDigest: x\r\nB:\r\n\r\n"
    ));
    passes(&format!("{chunked}1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(255)));
    passes(&format!("{chunked}2\r\n\r\n\r\n0\r\n\r\n"));
}

#[test]
fn lengths() {
    for value in [
        "",
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 5",
        "5 5",
        "5;",
        "five",
        "5.0",
        "18446744073709551616",
        "99999999999999999999999",
        "\u{665}",
    ] {
        refused(
            &with(&format!("Content-Length: {value}\r\n")),
            Violation::ContentLength,
        );
    }
    refused(
        &with("Content-Length: 5\r\nContent-Length: 5\r\n"),
        Violation::ContentLength,
    );
    refused(
        &with("Content-Length: 5\r\nContent-Length: 6\r\n"),
        Violation::ContentLength,
    );
    for value in [
        "",
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        ",chunked",
        "chunked,",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "chunked x",
        "x chunked",
        "\u{b}chunked",
    ] {
        let lines = with(&format!("Transfer-Encoding: {value}\r\n"));
        let violation = if value.starts_with('\u{b}') {
            Violation::Malformed
        } else {
            Violation::TransferEncoding
        };
        refused(&lines, violation);
    }
    let te = "Transfer-Encoding: chunked\r\n";
    refused(&with(&format!("{te}{te}")), Violation::TransferEncoding);
    refused(
        &with(&format!("{te}Content-Length: 5\r\n")),
        Violation::TwoLengths,
    );
    refused(
        &with(&format!("Content-Length: 0\r\n{te}")),
        Violation::TwoLengths,
    );
    refused(
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        Violation::TransferEncoding,
    );
}

#[test]
fn lines() {
    refused(
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Violation::EmptyLine,
    );
    refused(
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Violation::BareLineFeed,
    );
    refused("GET / HTTP/1.1\nHost: a\r\n\r\n", Violation::BareLineFeed);
    refused("GET / HTTP/1.1\r\nHost: a\n\r\n", Violation::BareLineFeed);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\n", Violation::BareLineFeed);
    refused(
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        Violation::BareCarriageReturn,
    );
    refused(
        "GET / HTTP/1.1\r\nA: b\rc\r\nHost: a\r\n\r\n",
        Violation::BareCarriageReturn,
    );
    refused(
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        Violation::BareCarriageReturn,
    );
    refused("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Nul);
    refused("GET / HTTP/1.1\r\nA: \0\r\nHost: a\r\n\r\n", Violation::Nul);
    refused(
        "GET / HTTP/1.1\r\nA: b\r\n c\r\nHost: a\r\n\r\n",
        Violation::FoldedLine,
    );
    refused(
        "GET / HTTP/1.1\r\n\tA: b\r\nHost: a\r\n\r\n",
        Violation::FoldedLine,
    );
}

#[test]
fn heads() {
    refused("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Violation::Malformed);
    refused(
        "GET / HTTP/1.1\r\n: a\r\nHost: a\r\n\r\n",
        Violation::Malformed,
    );
    refused(
        "GET / HTTP/1.1\r\nA\r\nHost: a\r\n\r\n",
        Violation::Malformed,
    );
    refused(
        "GET / HTTP/1.1\r\nA@b: c\r\nHost: a\r\n\r\n",
        Violation::Malformed,
    );
    refused("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Violation::Malformed);
    refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Violation::Malformed);
    refused("PRI * HTTP/2.0\r\n\r\n", Violation::Malformed);
    refused("GET /\r\nHost: a\r\n\r\n", Violation::Malformed);
    refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Malformed);
    refused(" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Malformed);
    refused("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Malformed);
    refused("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target);
    refused("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target);
    refused("GET / HTTP/1.1\r\n\r\n", Violation::NoHost);
    refused("GET / HTTP/1.0\r\n\r\n", Violation::NoHost);
    refused(
        "GET / HTTP/1.1\r\nHost: a\r\nHOST: a\r\n\r\n",
        Violation::SeveralHosts,
    );
    refused(&with("Expect: 200-ok\r\n"), Violation::Expect);
    refused(
        &with("Expect: 100-continue\r\nExpect: 100-continue\r\n"),
        Violation::Expect,
    );
    refused(&with(&"A: b\r\n".repeat(100)), Violation::TooManyFields);
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n",
        "x".repeat(MAX_HEAD)
    );
    assert_eq!(judge(long.as_bytes()), (0, Some(Violation::HeadTooLong)));
    let pieces: Vec<usize> = (1..long.len()).step_by(1000).chain([long.len()]).collect();
    assert_eq!(
        judge_cut(long.as_bytes(), &pieces).1,
        Some(Violation::HeadTooLong)
    );
}

/// What the watcher lets pass, the HTTP implementation takes.
#[test]
fn targets() {
    for byte in 0x21..0x7f_u8 {
        for before in [
            "/",
            "/?",
            "/a?b=",
            "",
            "a",
            "https://a/",
            "https://a?",
            "https://a",
        ] {
            let target = format!("{before}{}", char::from(byte));
            let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let is_target = byte != b'#' && target.parse::<http::Uri>().is_ok();
            let expected = (!is_target).then_some(Violation::Target);
            assert_eq!(judge(request.as_bytes()).1, expected, "{target}");
        }
    }
}

fn chunks(body: &[u8], violation: Violation) {
    let head = with("Transfer-Encoding: chunked\r\n");
    let input = [head.as_bytes(), body].concat();
    let bytewise: Vec<usize> = (1..=input.len()).collect();
    let (clean, found) = judge(&input);
    assert_eq!(
        found,
        Some(violation),
        "{:?}",
        String::from_utf8_lossy(body)
    );
    assert_eq!(judge_cut(&input, &bytewise), (clean, found));
    for cut in 0..input.len() {
        assert_eq!(judge_cut(&input, &[cut, input.len()]), (clean, found));
    }
}

#[test]
fn chunked_bodies() {
    for size in [
        "",
        "0x5",
        "+5",
        "-5",
        " 5",
        "g",
        "5 ",
        "5\t",
        "ffffffffffffffff",
    ] {
        chunks(
            format!("{size}\r\nhello\r\n0\r\n\r\n").as_bytes(),
            Violation::ChunkSize,
        );
    }
    chunks(b"5\nhello\r\n0\r\n\r\n", Violation::ChunkSize);
    chunks(b";a\r\n", Violation::ChunkSize);
    chunks(b"5\rhello", Violation::BareCarriageReturn);
    chunks(b"5;a\nhello\r\n", Violation::ChunkExtension);
    chunks(b"5;a\rb\r\nhello\r\n", Violation::BareCarriageReturn);
    chunks(b"5;\0\r\nhello\r\n", Violation::ChunkExtension);
    chunks(
        format!("5;{}\r\n", "e".repeat(256)).as_bytes(),
        Violation::ChunkExtension,
    );
    chunks(b"5\r\nhello!\r\n0\r\n\r\n", Violation::ChunkEnd);
    chunks(b"5\r\nhello0\r\n\r\n", Violation::ChunkEnd);
    chunks(b"5\r\nhello\n0\r\n\r\n", Violation::ChunkEnd);
    chunks(b"5\r\nhello\r0\r\n\r\n", Violation::ChunkEnd);
    chunks(b"0\r\nA: b\n\r\n", Violation::BareLineFeed);
    chunks(b"0\r\nA: b\rc\r\n\r\n", Violation::BareCarriageReturn);
    chunks(b"0\r\nA: \0\r\n\r\n", Violation::Nul);
    chunks(b"0\r\n A: b\r\n\r\n", Violation::FoldedLine);
    chunks(b"0\r\nA: b\r\n c\r\n\r\n", Violation::FoldedLine);
    chunks(b"0\r\n\rX", Violation::BareCarriageReturn);
    for trailer in [
        "A",
        ": b",
        "A : b",
        "A b: c",
        "A@b: c",
        "A\u{e4}: b",
        "A: \u{1}",
        "A: \u{7f}",
    ] {
        chunks(
            format!("0\r\n{trailer}\r\n\r\n").as_bytes(),
            Violation::Trailer,
        );
    }
}

#[test]
fn trailers_are_bounded() {
    let head = with("Transfer-Encoding: chunked\r\n");
    let input = format!("{head}0\r\n{}", "A: b\r\n".repeat(MAX_HEAD / 5 + 1));
    assert_eq!(judge(input.as_bytes()).1, Some(Violation::TrailersTooLong));
}

const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";

#[test]
fn nothing_follows_an_undecided_upgrade() {
    check(UPGRADE, UPGRADE.len(), None);
    let input = format!("{UPGRADE}x");
    check(&input, UPGRADE.len(), Some(Violation::EarlyBytes));
    let body = UPGRADE.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx");
    check(&body, 0, Some(Violation::UpgradeWithBody));
}

#[test]
fn an_accepted_upgrade_is_a_tunnel() {
    let mut watcher = Watcher::new();
    let verdict = watcher.inspect(UPGRADE.as_bytes(), false);
    assert_eq!(
        (verdict.clean, verdict.rest),
        (UPGRADE.len(), Rest::Nothing)
    );
    let verdict = watcher.inspect(b"\0\n\r", true);
    assert_eq!((verdict.clean, verdict.rest), (3, Rest::Nothing));
}

proptest::proptest! {
    /// Whatever arrives, and however it is cut, the verdict is the same.
    #[test]
    fn cuts_change_nothing(
        parts in proptest::collection::vec(proptest::sample::select(FRAGMENTS), 0..12),
        cuts in proptest::collection::vec(0_usize..400, 0..8),
    ) {
        let input = parts.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < input.len()).collect();
        cuts.sort_unstable();
        cuts.push(input.len());
        let whole = judge(&input);
        let cut = judge_cut(&input, &cuts);
        proptest::prop_assert_eq!(cut, whole);
    }
}

const FRAGMENTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\n",
    b"Content-Length: 3\r\n\r\nabc",
    b"Transfer-Encoding: chunked\r\n\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nA: b\r\n\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"X: y\r\n",
    b" ",
    b"\0",
];
