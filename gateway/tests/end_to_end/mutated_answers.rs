//! Answers that were changed at random: what the device hears is what a strict reader reads in them, or a refusal, or
//! an answer that is visibly not whole; and nothing of them reaches the next request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::client::Client;
use crate::hostile::{Hostile, Step, ok, routes};
use crate::rig::Rig;
use crate::upstreams_answer_badly::{Heard, count, hear};

/// A small generator (xorshift), so that a seed tells the whole story.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

const ANSWERS: [&[u8]; 7] = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: text/plain\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntrailer: sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nsum: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nold",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end",
];

const SPECIALS: [&[u8]; 20] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"1",
    b"9",
    b"f",
    b"-",
    b"+",
    b"\r\n\r\n",
    b"\xff",
    b"\x0b",
    b"\r\n ",
    b"chunked",
];

const LINES: [&[u8]; 10] = [
    b"content-length: 5\r\n",
    b"content-length: 2\r\n",
    b"content-length: 0\r\n",
    b"transfer-encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"connection: close\r\n",
    b"connection: keep-alive\r\n",
    b"content-length : 5\r\n",
    b"x: y\n",
    b"HTTP/1.1 200 OK\r\n",
];

const POISON: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";

fn mutate(random: &mut Random) -> Vec<u8> {
    let mut bytes = random.of(&ANSWERS).to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => {
                bytes.remove(at);
            }
            2 | 3 => {
                bytes.splice(at..at, random.of(&SPECIALS).iter().copied());
            }
            4 => {
                // Where a line begins.
                let starts: Vec<_> = (0..bytes.len())
                    .filter(|at| *at > 0 && bytes[at - 1] == b'\n')
                    .collect();
                if let Some(at) = starts.get(random.below(starts.len())) {
                    bytes.splice(at..at, random.of(&LINES).iter().copied());
                }
            }
            5 => {
                let end = at + random.below(bytes.len() - at + 1);
                let slice = bytes[at..end].to_vec();
                bytes.splice(at..at, slice);
            }
            6 => bytes.truncate(at),
            _ => bytes.extend_from_slice(POISON),
        }
        if bytes.is_empty() {
            bytes.push(b'H');
        }
    }
    bytes
}

/// What a strict reader makes of an answer to GET whose connection ends after it (RFC 9112).
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Whole(u16, String),
    /// A sound head, and a body that is not whole or breaks its grammar.
    Broken,
    Nonsense,
}

fn strict(bytes: &[u8]) -> Read {
    let mut rest = bytes;
    for _ in 0..=16 {
        let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Read::Nonsense;
        };
        let Some((version, status, fields)) = head(&rest[..end]) else {
            return Read::Nonsense;
        };
        rest = &rest[end + 4..];
        match status {
            101 => return Read::Nonsense,
            100..=199 => continue,
            _ => return body(version, status, &fields, rest),
        }
    }
    Read::Nonsense
}

type Fields = Vec<(String, Vec<u8>)>;

fn head(bytes: &[u8]) -> Option<(u8, u16, Fields)> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    if !lines.iter().all(|line| line.iter().all(text)) {
        return None;
    }
    let (first, lines) = lines.split_first()?;
    let version = match first.strip_prefix(b"HTTP/1.")?.split_first()? {
        (b'0', _) => 0,
        (b'1', _) => 1,
        _ => return None,
    };
    let status = first.get(8..)?.strip_prefix(b" ")?;
    let (digits, reason) = status.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !(reason.is_empty() || reason[0] == b' ') {
        return None;
    }
    let status: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().all(token) {
            return None;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        fields.push((name, value[1..].trim_ascii().to_vec()));
    }
    (status >= 100).then_some((version, status, fields))
}

fn body(version: u8, status: u16, fields: &Fields, rest: &[u8]) -> Read {
    let all = |wanted: &str| -> Vec<&[u8]> {
        let found = fields.iter().filter(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_slice()).collect()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (lengths, encodings) = (all("content-length"), all("transfer-encoding"));
    if lengths.len() + encodings.len() > 1 {
        return Read::Nonsense;
    }
    if let Some(encoding) = encodings.first()
        && (version == 0 || !encoding.eq_ignore_ascii_case(b"chunked"))
    {
        return Read::Nonsense;
    }
    let length = match lengths.first() {
        None => None,
        Some(digits) => match std::str::from_utf8(digits).ok().map(str::parse::<u64>) {
            Some(Ok(length)) if digits[0] != b'+' => Some(length),
            _ => return Read::Nonsense,
        },
    };
    if status == 204 && (encodings.len() == 1 || length.is_some_and(|length| length > 0)) {
        return Read::Nonsense;
    }
    if matches!(status, 204 | 304) {
        return Read::Whole(status, String::new());
    }
    if encodings.len() == 1 {
        return match chunked(rest) {
            Some(body) => Read::Whole(status, text(&body)),
            None => Read::Broken,
        };
    }
    match length {
        None => Read::Whole(status, text(rest)),
        Some(length) if length <= rest.len() as u64 => {
            Read::Whole(status, text(&rest[..length as usize]))
        }
        Some(_) => Read::Broken,
    }
}

fn chunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let line = |rest: &mut &[u8]| -> Option<Vec<u8>> {
        let at = rest.windows(2).position(|window| window == b"\r\n")?;
        let line = rest[..at].to_vec();
        *rest = &rest[at + 2..];
        (!line.contains(&b'\r') && !line.contains(&b'\n')).then_some(line)
    };
    let mut body = Vec::new();
    loop {
        let size = line(&mut rest)?;
        let digits = size
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let extension = size[digits..].trim_ascii_start();
        if digits == 0 || digits > 16 || !(extension.is_empty() || extension[0] == b';') {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(&size[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).ok()?;
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let trailer = line(&mut rest)?;
        if trailer.is_empty() {
            return Some(body);
        }
        head(&[b"HTTP/1.1 200 OK\r\n".as_slice(), &trailer].concat())?;
    }
}

#[tokio::test]
async fn changed_answers_are_read_strictly_or_not_at_all() {
    let mut rig = Rig::start().await;
    let hostile = Hostile::start().await;
    rig.gateway
        .publish(routes(hostile.address.clone(), rig.upstream.address));
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let seed = std::env::var("KEYBOUND_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(0x4b65_7962_6f75_6e64);
    let mut random = Random(seed);
    let (mut whole, mut refused, mut broken) = (0, 0, 0);
    let rounds = count(300, 5_000);
    for round in 0..rounds {
        // A long run takes longer than the registry may be silent.
        rig.gateway.heartbeat(Instant::now());
        let bytes = mutate(&mut random);
        let told = format!(
            "seed {seed}, round {round}: {:?}",
            String::from_utf8_lossy(&bytes)
        );
        let (path, clean) = (format!("/{round}"), format!("/clean/{round}"));
        let cut = random.below(bytes.len());
        let mut steps = vec![Step::Send(bytes[..cut].to_vec())];
        if random.below(2) == 0 {
            steps.push(Step::Pause(Duration::from_millis(1)));
        }
        steps.push(Step::Send(bytes[cut..].to_vec()));
        // What is whole may also be followed by silence, or by another answer.
        let read = strict(&bytes);
        let delimited =
            matches!(read, Read::Whole(..)) && strict(&[&bytes, b"x".as_slice()].concat()) == read;
        match random.below(3) {
            0 if delimited => {}
            1 if delimited => steps.push(Step::Send(POISON.to_vec())),
            _ => {}
        }
        let written = Arc::new(Notify::new());
        steps.push(Step::Tell(Arc::clone(&written)));
        if !delimited || random.below(3) == 0 {
            steps.push(Step::Close);
        }
        hostile.script(&path, &steps);
        client
            .send(&format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n"))
            .await;
        let heard = hear(&mut client, "GET").await;
        match (&heard, &read) {
            (Heard::Answer(status, body), Read::Whole(read, text)) => {
                assert_eq!((status, body), (read, text), "{told}");
                // What leaves the upstream after the next request was sent, nobody can tell from its answer. If the
                // gateway hung up meanwhile, there is nothing to wait for.
                let _ = tokio::time::timeout(Duration::from_secs(1), written.notified()).await;
                whole += 1;
            }
            (Heard::Answer(..), Read::Broken | Read::Nonsense) => panic!("{heard:?} of {told}"),
            (Heard::Refused(502, _), _) => refused += 1,
            (Heard::Refused(..), _) => panic!("{heard:?} of {told}"),
            (Heard::Broken, _) => {
                assert!(client.ends().await, "{told}");
                client = Client::connect(&rig, &device).await;
                broken += 1;
            }
        }
        client
            .send(&format!("GET {clean} HTTP/1.1\r\nHost: api.test\r\n\r\n"))
            .await;
        let heard = hear(&mut client, "GET").await;
        assert_eq!(heard, Heard::Answer(200, clean), "after {told}");
    }
    assert!(
        whole > rounds / 20 && refused > rounds / 20 && broken > 0,
        "{whole}, {refused}, {broken}"
    );
    crate::random::figure(
        "changed upstream answers",
        format_args!(
            "{whole} read as a strict reader reads them, {refused} refused, {broken} visibly cut short"
        ),
    );
}

#[test]
fn the_strict_reader_reads() {
    assert_eq!(strict(ANSWERS[0]), Read::Whole(200, "hello".into()));
    assert_eq!(strict(ANSWERS[1]), Read::Whole(200, "helloyou".into()));
    assert_eq!(strict(ANSWERS[3]), Read::Whole(404, "no".into()));
    assert_eq!(strict(b"HTTP/1.1 200 OK\n\r\n"), Read::Nonsense);
    assert_eq!(strict(&ok("a")[..38]), Read::Broken);
}
