//! Requests that some server reads differently than another one: whatever a device sends, the upstream gets
//! whole requests of one meaning, the very ones that were sent, or the device gets a refusal.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use crate::odd_parts::{
    CHUNKED, CHUNKS, ENCODINGS, FIELDS, HOSTS, LENGTHS, LINES, SPECIAL, TOKENS, UPGRADES,
};
use crate::random::{Random, figure, is_long};
use crate::session::Lane;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_has_one_meaning_or_none() {
    let table = table();
    assert!(table.len() >= 300, "{} distinct inputs", table.len());
    figure("distinct odd requests, composed", table.len());
    let mut random = Random::new(0x0dd);
    let mut work: Vec<_> = table.iter().cloned().map(|odd| (odd, vec![])).collect();
    let mutations = if is_long() { 20_000 } else { 1_000 };
    let mut distinct: BTreeSet<Vec<u8>> = table.iter().cloned().collect();
    while distinct.len() < table.len() + mutations {
        let odd = mutate(&table, &mut random);
        let cuts = (0..random.below(3))
            .map(|_| random.below(odd.len() + 40))
            .collect::<BTreeSet<_>>();
        if distinct.insert(odd.clone()) {
            work.push((odd, cuts.into_iter().collect()));
        }
    }
    figure("odd requests sent, with mutations", work.len());
    in_lanes(work, Lane::start).await;
}

/// Every request of the table to an upstream over HTTP/2, where another implementation writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_has_that_meaning_over_http2_too() {
    let table = table().into_iter().map(|odd| (odd, vec![]));
    in_lanes(table.collect(), Lane::start_http2).await;
}

/// Every request of the table once more, a byte at a time or nearly so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_do_not_change_the_meaning() {
    let work = table()
        .into_iter()
        .filter(|odd| odd.len() < 400)
        .enumerate()
        .filter(|(at, _)| at.is_multiple_of(4))
        .map(|(_, odd)| {
            let cuts = (1..odd.len() + 40).collect();
            (odd, cuts)
        })
        .collect();
    in_lanes(work, Lane::start).await;
}

async fn in_lanes<F>(work: Vec<(Vec<u8>, Vec<usize>)>, start: fn() -> F)
where
    F: Future<Output = Lane> + Send + 'static,
{
    const LANES: usize = 4;
    let work = std::sync::Arc::new(work);
    let lanes = (0..LANES).map(|first| {
        let work = std::sync::Arc::clone(&work);
        tokio::spawn(async move {
            let lane = start().await;
            let mut broken = 0;
            for (at, (odd, cuts)) in work.iter().enumerate().skip(first).step_by(LANES) {
                let check = lane.check(odd, (at / LANES).is_multiple_of(2), cuts);
                broken += usize::from(AssertUnwindSafe(check).catch_unwind().await.is_err());
            }
            // What came last has had no other connection after it yet.
            lane.check(b"", true, &[]).await;
            lane.assert_sound();
            broken
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        assert_eq!(
            lane.await.expect("a sound gateway"),
            0,
            "the panics above say which requests"
        );
    }
}

#[tokio::test]
async fn what_is_ordinary_passes() {
    let lane = Lane::start().await;
    for ordinary in [
        head("GET /a?b=c HTTP/1.1", ""),
        head("POST /a HTTP/1.1", "Content-Length: 5\r\n") + "hello",
        head("POST /a HTTP/1.1", "Content-Length: 0\r\n"),
        head("POST /a HTTP/1.1", "Content-Length: 05\r\n") + "hello",
        chunked("5\r\nhello\r\n0\r\n\r\n"),
        chunked("5;a=b\r\nhello\r\n0;c\r\nA: b\r\n\r\n"),
        head(
            "PUT /a HTTP/1.1",
            "Expect: 100-continue\r\nContent-Length: 5\r\n",
        ) + "hello",
        head("GET https://api.test/x?y HTTP/1.1", ""),
        head("GET https://api.test?y HTTP/1.1", ""),
        head("HEAD /a HTTP/1.1", ""),
        head("M-SEARCH /a HTTP/1.1", ""),
        head("GET /a|{b}\"^ HTTP/1.1", ""),
    ] {
        let replies = lane.check(ordinary.as_bytes(), true, &[]).await;
        let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [200, 200, 200], "{ordinary:?}");
    }
    lane.assert_sound();
}

fn head(line: &str, fields: &str) -> String {
    format!("{line}\r\nHost: api.test\r\n{fields}\r\n")
}

fn chunked(body: &str) -> String {
    head("POST /c HTTP/1.1", "Transfer-Encoding: chunked\r\n") + body
}

/// All odd requests, composed from odd parts.
fn table() -> Vec<Vec<u8>> {
    let mut table = BTreeSet::new();
    let mut add = |odd: String| {
        table.insert(odd.into_bytes());
    };
    for line in LINES {
        add(head(line, ""));
        add(head(line, "Content-Length: 3\r\n") + "abc");
    }
    add(head(&format!("{} / HTTP/1.1", "M".repeat(10_240)), ""));
    add(head(&format!("GET /{} HTTP/1.1", "p".repeat(10_240)), ""));
    add(head(&format!("GET /{} HTTP/1.1", "p".repeat(17_000)), ""));
    for version in ["1.1", "1.0"] {
        for length in LENGTHS {
            let line = format!("POST /l HTTP/{version}");
            add(head(&line, &format!("Content-Length:{length}\r\n")) + "hello");
            add(format!(
                "{line}\r\nContent-Length:{length}\r\nHost: api.test\r\n\r\nhello"
            ));
            add(head(
                &line,
                &format!("Content-Length: 5\r\nContent-Length:{length}\r\n"),
            ) + "hello");
            add(head(
                &line,
                &format!("Content-Length:{length}\r\nTransfer-Encoding: chunked\r\n"),
            ) + CHUNKS);
        }
        for encoding in ENCODINGS {
            let line = format!("POST /t HTTP/{version}");
            add(head(&line, &format!("Transfer-Encoding:{encoding}\r\n")) + CHUNKS);
            add(head(
                &line,
                &format!("Transfer-Encoding:{encoding}\r\nContent-Length: 15\r\n"),
            ) + CHUNKS);
            add(head(
                &line,
                &format!("Content-Length: 15\r\nTransfer-Encoding:{encoding}\r\n"),
            ) + CHUNKS);
            add(head(
                &line,
                &format!("Transfer-Encoding: chunked\r\nTransfer-Encoding:{encoding}\r\n"),
            ) + CHUNKS);
        }
    }
    for field in FIELDS {
        add(head("GET /f HTTP/1.1", field));
        add(format!("GET /f HTTP/1.1\r\n{field}Host: api.test\r\n\r\n"));
        add(head("POST /f HTTP/1.1", &format!("{field}Content-Length: 5\r\n")) + "hello");
        add(head(
            "POST /f HTTP/1.1",
            &format!("Transfer-Encoding: chunked\r\n{field}"),
        ) + CHUNKS);
    }
    for host in HOSTS {
        add(format!("GET /h HTTP/1.1\r\n{host}\r\n"));
        add(format!("GET https://api.test/h HTTP/1.1\r\n{host}\r\n"));
    }
    for body in CHUNKED {
        add(chunked(body));
        add(head(
            "GET /c HTTP/1.1",
            "Transfer-Encoding: chunked\r\nTrailer: A\r\n",
        ) + body);
    }
    let drip = |extension: usize, times: usize| {
        format!("1;{}\r\nx\r\n", "e".repeat(extension)).repeat(times) + "0\r\n\r\n"
    };
    add(chunked(&drip(255, 20)));
    add(chunked(&drip(255, 80)));
    add(chunked(&drip(200, 100)));
    add(chunked(&drip(1, 9_000)));
    add(chunked(&drip(16_384, 1)));
    add(chunked(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(99))));
    add(chunked(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(101))));
    add(chunked(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(1_000))));
    add(chunked(&format!("0\r\nA: {}\r\n\r\n", "b".repeat(16_360))));
    add(chunked(&format!("0\r\nA: {}\r\n\r\n", "b".repeat(17_000))));
    add(head("GET /n HTTP/1.1", &"A: b\r\n".repeat(99)));
    add(head("GET /n HTTP/1.1", &"A: b\r\n".repeat(100)));
    for upgrade in UPGRADES {
        add(head("GET /u HTTP/1.1", upgrade));
        add(head("GET /u HTTP/1.1", upgrade) + "GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n");
        add(head(
            "POST /u HTTP/1.1",
            &format!("{upgrade}Content-Length: 5\r\n"),
        ) + "hello");
        add(head("GET /u HTTP/1.0", upgrade));
    }
    let mut table: Vec<Vec<u8>> = table.into_iter().collect();
    for byte in (0..0x20).chain(0x7f..=0xff) {
        let bytes = [byte];
        for (before, after) in [
            (&b"GET /"[..], &b" HTTP/1.1\r\nHost: api.test\r\n\r\n"[..]),
            (b"GET / HTTP/1.1\r\nHost: api.test\r\nA", b": b\r\n\r\n"),
            (b"GET / HTTP/1.1\r\nHost: api.test\r\nA: b", b"c\r\n\r\n"),
            (b"GET / HTTP/1.1\r\nHost: api", b".test\r\n\r\n"),
        ] {
            // Of the bytes above ASCII a few will do.
            if byte < 0x90 || byte % 0x10 == 0 || byte == 0xff {
                table.push([before, &bytes, after].concat());
            }
        }
    }
    table
}

/// One of the table with a few small changes.
fn mutate(table: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut odd = loop {
        let odd = random.one_of(table);
        if odd.len() < 2_000 {
            break odd.clone();
        }
    };
    for _ in 0..=random.below(3) {
        let at = random.below(odd.len() + 1);
        let to = (at + random.below(6)).min(odd.len());
        match random.below(8) {
            0 => {
                odd.drain(at..to);
            }
            1 => {
                let copy = odd[at..to].to_vec();
                odd.splice(at..at, copy);
            }
            2 => odd.insert(at.min(odd.len()), *random.one_of(SPECIAL)),
            3 if at < odd.len() => odd[at] = *random.one_of(SPECIAL),
            4 if at < odd.len() => odd[at] ^= 0x20,
            5 => {
                // A whole line, somewhere else.
                let lines: Vec<&[u8]> = odd.split_inclusive(|byte| *byte == b'\n').collect();
                let line = random.one_of(&lines).to_vec();
                let mut lines: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
                let place = random.below(lines.len() + 1);
                lines.insert(place, line);
                odd = lines.concat();
            }
            6 => {
                let other = random.one_of(table);
                if other.len() < 2_000 {
                    odd.extend_from_slice(other);
                }
            }
            _ => {
                let token = random.one_of(TOKENS);
                odd.splice(at..at, token.bytes());
            }
        }
    }
    odd
}
