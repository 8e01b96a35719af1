//! The watcher in a chunked body: it ends where a second decoder says, however the bytes arrive, and every chunk
//! has the size that `httparse` reads.
#![no_main]

use gateway::fuzzing::{Behind, Http1Watcher};
use keybound_fuzz::http1::{Chunks, chunks};
use keybound_fuzz::random::Random;
use keybound_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(first_inputs), |body: &[u8]| {
    let reference = chunks(body);
    let mut random = Random::of(body);
    let mut cuts: Vec<usize> = (0..3).map(|_| random.below(body.len() + 1)).collect();
    cuts.push(body.len());
    cuts.sort_unstable();
    check(body, &reference, &[body.len()]);
    check(body, &reference, &cuts);
    let bytewise: Vec<usize> = (1..=body.len()).collect();
    check(body, &reference, &bytewise);
    if let Chunks::Whole { length, size_lines, data } = reference {
        let mut sum = 0;
        let framing: usize = size_lines.iter().map(|line| line.len() + 2).sum();
        for line in size_lines {
            let size = httparse::parse_chunk_size(&body[line.clone()]);
            let Ok(httparse::Status::Complete((used, size))) = size else {
                panic!("{size:?}");
            };
            assert_eq!(used, line.len());
            sum += size;
        }
        assert_eq!(sum, data);
        assert!(framing as u64 + data <= length as u64 + 2);
    }
});

/// Feeds a head and the body in pieces that end at `cuts`.
fn check(body: &[u8], reference: &Chunks, cuts: &[usize]) {
    let mut watcher = Http1Watcher::new();
    assert_eq!(watcher.inspect(HEAD, false), (HEAD.len(), Behind::Nothing));
    // Whatever follows the body is another request's, and not looked at here.
    let end = match reference {
        Chunks::Whole { length, .. } => *length,
        Chunks::Unfinished | Chunks::Broken { .. } => body.len(),
    };
    let mut at = 0;
    for cut in cuts
        .iter()
        .map(|cut| (*cut).min(end))
        .filter(|cut| *cut > 0)
    {
        if cut == at {
            continue;
        }
        assert!(watcher.is_in_body(), "ended at {at}, {reference:?}");
        let (clean, behind) = watcher.inspect(&body[at..cut], false);
        at += clean;
        match (behind, reference) {
            (Behind::Nothing, _) => assert_eq!(at, cut),
            (Behind::Violation(_), Chunks::Broken { at: broken }) => {
                assert_eq!(at, *broken);
                return;
            }
            (Behind::Violation(_) | Behind::IncompleteHead, _) => {
                panic!("{behind:?} at {at}, {reference:?}")
            }
        }
    }
    match reference {
        Chunks::Whole { .. } => assert!(!watcher.is_in_body()),
        Chunks::Unfinished => assert!(watcher.is_in_body()),
        Chunks::Broken { at } => panic!("the byte at {at} was let through"),
    }
}

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fn first_inputs() -> Vec<Vec<u8>> {
    [
        "0\r\n\r\n".to_owned(),
        "5\r\nhello\r\n0\r\n\r\n".into(),
        "00005;a=\"b\"\r\nhello\r\nA\r\n0123456789\r\n0;x\r\nDigest: x\r\nB:\r\n\r\n".into(),
        "2\r\n\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n".into(),
        "fffffffffffffff\r\nx".into(),
        format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(255)),
        format!("0\r\nA: {}\r\n\r\n", "b".repeat(16_380)),
        "1 \r\nx\r\n0\r\n\r\n".into(),
        "0x1\r\nx\r\n0\r\n\r\n".into(),
    ]
    .map(String::into_bytes)
    .to_vec()
}
