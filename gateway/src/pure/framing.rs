//! The watcher: follows HTTP/1.1 requests byte by byte, and knows where each one ends.
//!
//! It stands in front of the HTTP implementation, which forgives more than two servers in a row can afford
//! (RFC 9112, section 11.2). Whatever it lets pass has exactly one reading; the verdict on a stream of bytes
//! does not depend on how the bytes were cut into reads.

use std::mem::MaybeUninit;

use memchr::memchr3;

use super::chunked::Chunked;
use super::request_head::is_websocket;

/// Follows the requests of one connection.
#[derive(Debug)]
pub(crate) struct Watcher(State);

/// What was found in bytes that continue those that were clean before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How many of the bytes, from the first, may be read on.
    pub(crate) clean: usize,
    /// What the bytes after them are.
    pub(crate) rest: Rest,
}

/// What follows the clean bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing.
    Nothing,
    /// The beginning of a request's head, which nobody may read until it is whole. To be inspected again
    /// together with what follows it.
    IncompleteHead,
    /// Something that breaks a rule. What follows it is not looked at.
    Violation(Violation),
}

impl Watcher {
    pub(crate) fn new() -> Self {
        Self(State::Head { scanned: 0 })
    }

    /// Whether the bytes seen end inside a request's body.
    pub(crate) fn is_in_body(&self) -> bool {
        matches!(self.0, State::Fixed { .. } | State::Chunked(_))
    }

    /// Whether the bytes seen end before a request or in its head.
    pub(crate) fn is_in_head(&self) -> bool {
        matches!(self.0, State::Head { .. })
    }

    /// Judges the next bytes of the connection. It `is_tunnel` once its request for an upgrade was accepted;
    /// a connection whose request for an upgrade was declined is closed after the answer.
    pub(crate) fn inspect(&mut self, bytes: &[u8], is_tunnel: bool) -> Verdict {
        let mut clean = 0;
        loop {
            let rest = &bytes[clean..];
            if rest.is_empty() {
                return Verdict {
                    clean,
                    rest: Rest::Nothing,
                };
            }
            match self.0.step(rest, is_tunnel) {
                Ok(Step { used: 0 }) => {
                    return Verdict {
                        clean,
                        rest: Rest::IncompleteHead,
                    };
                }
                Ok(Step { used }) => clean += used,
                Err(violation) => {
                    return Verdict {
                        clean,
                        rest: Rest::Violation(violation),
                    };
                }
            }
        }
    }
}

/// The rule that a request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// An empty line stands before the request.
    #[error("an empty line stands before the request")]
    EmptyLine,
    /// A line ends without carriage return.
    #[error("a line ends with a line feed alone")]
    BareLineFeed,
    /// A carriage return stands inside a line.
    #[error("a carriage return stands inside a line")]
    BareCarriageReturn,
    /// A NUL byte.
    #[error("a NUL byte stands in the request's head")]
    Nul,
    /// A line starts with white space (RFC 9112, section 5.2).
    #[error("a header continues on another line")]
    FoldedLine,
    /// The head is longer than 16 KiB.
    #[error("the request's head is longer than 16 KiB")]
    HeadTooLong,
    /// More than 100 headers.
    #[error("the request has more than 100 headers")]
    TooManyFields,
    /// The head did not arrive in time.
    #[error("the request's head did not arrive within the time allowed")]
    HeadTimeout,
    /// Not a request line and header lines.
    #[error("it is not an HTTP/1.1 request")]
    Malformed,
    /// The target has characters that must be percent-encoded.
    #[error("the request's target has characters that must be percent-encoded")]
    Target,
    /// No Host.
    #[error("there is no Host header")]
    NoHost,
    /// More than one Host.
    #[error("there is more than one Host header")]
    SeveralHosts,
    /// Content-Length is not one plain number.
    #[error("Content-Length is not one plain number")]
    ContentLength,
    /// Transfer-Encoding is not one `chunked`, or stands in HTTP/1.0.
    #[error("Transfer-Encoding is not exactly one `chunked` in an HTTP/1.1 request")]
    TransferEncoding,
    /// Both Content-Length and Transfer-Encoding.
    #[error("there is a Content-Length beside a Transfer-Encoding")]
    TwoLengths,
    /// Expect is not `100-continue`.
    #[error("Expect is not exactly one `100-continue`")]
    Expect,
    /// A chunk's size is not a hexadecimal number that fits.
    #[error("a chunk's size is not a hexadecimal number")]
    ChunkSize,
    /// A chunk's extension is too long or has control characters.
    #[error("a chunk's extension is longer than 256 bytes or has control characters")]
    ChunkExtension,
    /// A chunk is longer than its size.
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    /// A trailer is not a name, a colon and a value.
    #[error("a trailer is not a name, a colon and a value")]
    Trailer,
    /// The trailers are longer than 16 KiB.
    #[error("the trailers are longer than 16 KiB")]
    TrailersTooLong,
    /// A request for an upgrade has a body.
    #[error("a request for an upgrade has a body")]
    UpgradeWithBody,
    /// Bytes follow a request for an upgrade before its answer.
    #[error("bytes follow a request for an upgrade before it was answered")]
    EarlyBytes,
}

#[derive(Debug)]
enum State {
    /// Before or in a head, of which `scanned` bytes keep the rules of lines.
    Head { scanned: usize },
    /// In a body of known length.
    Fixed { left: u64 },
    /// In a chunked body.
    Chunked(Chunked),
    /// After a request for an upgrade.
    Upgrade,
    /// In a tunnel.
    Tunnel,
}

/// How many bytes a step has found clean; none if the head is incomplete.
struct Step {
    used: usize,
}

impl State {
    /// Judges some of `bytes`, which are not empty.
    fn step(&mut self, bytes: &[u8], is_tunnel: bool) -> Result<Step, Violation> {
        match self {
            Self::Head { scanned } => match scan_lines(bytes, scanned)? {
                None => Ok(Step { used: 0 }),
                Some(length) => {
                    *self = check_head(&bytes[..length])?;
                    Ok(Step { used: length })
                }
            },
            Self::Fixed { left } => {
                let used = at_most(bytes.len(), *left);
                *left -= used as u64;
                if *left == 0 {
                    *self = Self::Head { scanned: 0 };
                }
                Ok(Step { used })
            }
            Self::Chunked(chunked) => {
                let (used, next) = chunked.step(bytes)?;
                *self = next.map_or(Self::Head { scanned: 0 }, Self::Chunked);
                Ok(Step { used })
            }
            Self::Upgrade if is_tunnel => {
                *self = Self::Tunnel;
                Ok(Step { used: bytes.len() })
            }
            Self::Upgrade => Err(Violation::EarlyBytes),
            Self::Tunnel => Ok(Step { used: bytes.len() }),
        }
    }
}

/// Checks the line ends of a head, going on at `scanned`; the head's length once it is whole.
fn scan_lines(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, Violation> {
    let head = &bytes[..bytes.len().min(MAX_HEAD)];
    // What follows the last byte that was seen says whether that one may stand where it stands.
    let mut from = scanned.saturating_sub(1);
    while let Some(at) = memchr3(0, b'\r', b'\n', &head[from..]).map(|found| from + found) {
        let before = at.checked_sub(1).map(|at| head[at]);
        match (before, head[at], head.get(at + 1)) {
            (_, 0, _) | (_, b'\r', Some(0)) => return Err(Violation::Nul),
            (_, b'\r', Some(b'\n') | None) => {}
            (_, b'\r', Some(_)) => return Err(Violation::BareCarriageReturn),
            (Some(b'\r'), _, _) if at == 1 => return Err(Violation::EmptyLine),
            (Some(b'\r'), _, _) if head[..at].ends_with(b"\r\n\r") => {
                *scanned = 0;
                return Ok(Some(at + 1));
            }
            (Some(b'\r'), _, Some(b' ' | b'\t')) => return Err(Violation::FoldedLine),
            (Some(b'\r'), _, _) => {}
            (_, _, _) => return Err(Violation::BareLineFeed),
        }
        from = at + 1;
    }
    if head.len() == MAX_HEAD {
        return Err(Violation::HeadTooLong);
    }
    *scanned = head.len();
    Ok(None)
}

/// Reads a whole head, whose line ends are checked; what must follow it.
fn check_head(head: &[u8]) -> Result<State, Violation> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => {
            return Err(Violation::Malformed);
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Violation::TooManyFields),
        Err(
            httparse::Error::HeaderName
            | httparse::Error::HeaderValue
            | httparse::Error::NewLine
            | httparse::Error::Status
            | httparse::Error::Token
            | httparse::Error::Version,
        ) => return Err(Violation::Malformed),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Violation::Malformed);
    };
    if !is_target(target) {
        return Err(Violation::Target);
    }
    let mut length = None;
    let mut chunked = false;
    let mut hosts = 0;
    let mut expects = 0;
    for field in &*request.headers {
        let name = field.name;
        if name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(Violation::ContentLength);
            }
            length = Some(parse_length(field.value).ok_or(Violation::ContentLength)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || version == 0 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::TransferEncoding);
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case("expect") {
            expects += 1;
            if expects > 1 || !field.value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Violation::Expect);
            }
        }
    }
    match hosts {
        0 => return Err(Violation::NoHost),
        1 => {}
        _ => return Err(Violation::SeveralHosts),
    }
    let body = match (length, chunked) {
        (Some(_), true) => return Err(Violation::TwoLengths),
        (None | Some(0), false) => State::Head { scanned: 0 },
        (Some(left), false) => State::Fixed { left },
        (None, true) => State::Chunked(Chunked::START),
    };
    let fields = request
        .headers
        .iter()
        .map(|field| (field.name, field.value));
    if version == 1 && is_websocket(method, fields) {
        return if matches!(body, State::Head { .. }) {
            Ok(State::Upgrade)
        } else {
            Err(Violation::UpgradeWithBody)
        };
    }
    Ok(body)
}

/// Whether nobody behind the watcher will find fault with a target. The HTTP implementation refuses what it
/// cannot parse without a word to anybody but the peer.
fn is_target(target: &str) -> bool {
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return false;
    }
    if !target.starts_with('/') {
        return target.parse::<http::Uri>().is_ok();
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    !path.contains(['<', '>', '`']) && !query.contains(['<', '>', '"'])
}

/// Digits only: no sign, no list, no white space inside, nothing that overflows.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

pub(super) fn at_most(available: usize, left: u64) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// The longest head, and the longest trailers.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// Headers of one request.
pub(crate) const MAX_FIELDS: usize = 100;

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
