//! A second reader of HTTP/1.1 requests, from RFC 9112's grammar with the watcher's limits. It reads a whole
//! stream of bytes at once, several times over, and tells where it ends or breaks.

/// What a stream of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// How many requests are whole.
    pub requests: usize,
    /// How many bytes, from the first, may be let through.
    pub clean: usize,
    /// How it ends.
    pub end: End,
}

/// How a stream of bytes ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Between two requests.
    Between,
    /// Inside a head.
    InHead,
    /// Inside a body.
    InBody,
    /// Right after a request for a WebSocket, or in the tunnel after it.
    Tunnel,
    /// In something that breaks a rule.
    Broken,
}

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The target.
    pub target: &'a [u8],
    /// The minor version.
    pub minor: u8,
    /// Names and values without white space around them.
    pub fields: Vec<(&'a [u8], &'a [u8])>,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The next request.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// A tunnel, if it is granted.
    Tunnel,
}

/// Reads `stream`; `is_tunnel` says whether a request for a WebSocket is granted, `is_uri` whether the HTTP library
/// takes a target.
pub fn read(stream: &[u8], is_tunnel: bool, is_uri: fn(&[u8]) -> bool) -> Reading {
    let mut clean = 0;
    let mut requests = 0;
    let reading = |requests, clean, end| Reading {
        requests,
        clean,
        end,
    };
    loop {
        let rest = &stream[clean..];
        if rest.is_empty() {
            return reading(requests, clean, End::Between);
        }
        let length = match head_length(rest) {
            Ok(Some(length)) => length,
            Ok(None) => return reading(requests, clean, End::InHead),
            Err(Broken) => return reading(requests, clean, End::Broken),
        };
        let Ok(body) = head(&rest[..length]).and_then(|head| {
            if is_uri(head.target) {
                body(&head)
            } else {
                Err(Broken)
            }
        }) else {
            return reading(requests, clean, End::Broken);
        };
        clean += length;
        let rest = &stream[clean..];
        match body {
            Body::None => {}
            Body::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= rest.len() => clean += length,
                Ok(_) | Err(_) => return reading(requests, stream.len(), End::InBody),
            },
            Body::Chunked => match chunks(rest) {
                Chunks::Whole { length, .. } => clean += length,
                Chunks::Unfinished => return reading(requests, stream.len(), End::InBody),
                Chunks::Broken { at } => return reading(requests, clean + at, End::Broken),
            },
            Body::Tunnel if rest.is_empty() || is_tunnel => {
                return reading(requests + 1, stream.len(), End::Tunnel);
            }
            Body::Tunnel => return reading(requests + 1, clean, End::Broken),
        }
        requests += 1;
    }
}

/// It is no request that has one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// How long the head at the start of `bytes` is: up to the first empty line, if no line is wrong before.
fn head_length(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let end = find(bytes, b"\r\n\r\n").map(|at| at + 4);
    let seen = &bytes[..end.unwrap_or(bytes.len())];
    let lone_line_feed =
        (0..seen.len()).any(|at| seen[at] == b'\n' && (at == 0 || seen[at - 1] != b'\r'));
    let lone_return = (0..seen.len())
        .any(|at| seen[at] == b'\r' && seen.get(at + 1).is_some_and(|b| *b != b'\n'));
    let folded = find(seen, b"\n ").or(find(seen, b"\n\t")).is_some();
    if seen.contains(&0)
        || lone_line_feed
        || lone_return
        || folded
        || seen.starts_with(b"\r\n")
        || seen.len() >= MAX_HEAD && end.is_none_or(|end| end > MAX_HEAD)
    {
        return Err(Broken);
    }
    Ok(end)
}

/// Reads a whole head (RFC 9112, sections 3 and 5).
pub fn head(bytes: &[u8]) -> Result<Head<'_>, Broken> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(at) = find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    let [request_line, fields @ .., last] = lines.as_slice() else {
        return Err(Broken);
    };
    if !rest.is_empty() || !last.is_empty() || fields.len() > MAX_FIELDS {
        return Err(Broken);
    }
    let parts: Vec<&[u8]> = request_line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(Broken);
    };
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => return Err(Broken),
    };
    let visible = |byte: &u8| matches!(byte, 0x21..=0x7e) && *byte != b'#';
    if !is_token(method) || target.is_empty() || !target.iter().all(visible) {
        return Err(Broken);
    }
    let fields = fields
        .iter()
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').ok_or(Broken)?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            if !is_token(name) || !value.iter().all(|byte| is_value(*byte)) {
                return Err(Broken);
            }
            Ok((name, trim(value)))
        })
        .collect::<Result<_, _>>()?;
    Ok(Head {
        method,
        target,
        minor,
        fields,
    })
}

/// What follows a head, by the rules that leave one reading (RFC 9112, section 6.3).
pub fn body(head: &Head<'_>) -> Result<Body, Broken> {
    let values = |name: &[u8]| -> Vec<&[u8]> {
        let of = head.fields.iter();
        of.filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
            .collect()
    };
    if values(b"host").len() != 1 {
        return Err(Broken);
    }
    match values(b"expect")[..] {
        [] => {}
        [value] if value.eq_ignore_ascii_case(b"100-continue") => {}
        [..] => return Err(Broken),
    }
    let body = match (
        &values(b"content-length")[..],
        &values(b"transfer-encoding")[..],
    ) {
        ([], []) => Body::None,
        ([length], []) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(length).map_err(|_| Broken)?;
            // A length beyond 19 digits is refused even where leading zeros make it small.
            match text.parse::<u64>() {
                Ok(0) if digits && text.len() <= 19 => Body::None,
                Ok(length) if digits && text.len() <= 19 => Body::Length(length),
                Ok(_) | Err(_) => return Err(Broken),
            }
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && head.minor == 1 => {
            Body::Chunked
        }
        (_, _) => return Err(Broken),
    };
    let lists = |name: &[u8], token: &[u8]| {
        values(name).iter().any(|value| {
            value
                .split(|byte| *byte == b',')
                .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
        })
    };
    let upgrades = lists(b"upgrade", b"websocket");
    let connection = lists(b"connection", b"upgrade");
    if head.method == b"GET" && head.minor == 1 && upgrades && connection {
        return match body {
            Body::None => Ok(Body::Tunnel),
            Body::Length(_) | Body::Chunked | Body::Tunnel => Err(Broken),
        };
    }
    Ok(body)
}

/// What a chunked body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// It ends after `length` bytes.
    Whole {
        /// Its length with all framing.
        length: usize,
        /// The lines that tell the sizes of chunks, with their ends.
        size_lines: Vec<std::ops::Range<usize>>,
        /// How much data it has.
        data: u64,
    },
    /// More must follow.
    Unfinished,
    /// The byte at `at` breaks a rule.
    Broken {
        /// The position of the first byte that no continuation could make right.
        at: usize,
    },
}

/// Reads a chunked body (RFC 9112, section 7.1).
pub fn chunks(bytes: &[u8]) -> Chunks {
    let mut at = 0;
    let mut data = 0_u64;
    let mut size_lines = Vec::new();
    loop {
        let start = at;
        let digits = bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        at += digits.min(15);
        match bytes.get(at) {
            None => return Chunks::Unfinished,
            Some(b'\r' | b';') if (1..=15).contains(&digits) => {}
            Some(_) => return Chunks::Broken { at },
        }
        let size = bytes[start..at]
            .iter()
            .filter_map(|byte| char::from(*byte).to_digit(16))
            .fold(0, |size: u64, digit| size * 16 + u64::from(digit));
        let extension = bytes[at..]
            .iter()
            .take(256)
            .take_while(|byte| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..))
            .count();
        at += extension;
        match line_end(bytes, at) {
            Ok(end) => at = end,
            Err(end) => return end,
        }
        size_lines.push(start..at);
        if size == 0 {
            break;
        }
        data += size;
        match usize::try_from(size)
            .ok()
            .and_then(|size| at.checked_add(size))
        {
            Some(end) if end <= bytes.len() => at = end,
            Some(_) | None => return Chunks::Unfinished,
        }
        match line_end(bytes, at) {
            Ok(end) => at = end,
            Err(end) => return end,
        }
    }
    let trailers = at;
    loop {
        match bytes.get(at) {
            None => return Chunks::Unfinished,
            Some(b' ' | b'\t') => return Chunks::Broken { at },
            Some(b'\r') => {
                return match line_end(bytes, at) {
                    Ok(length) => Chunks::Whole {
                        length,
                        size_lines,
                        data,
                    },
                    Err(end) => end,
                };
            }
            Some(_) => {}
        }
        let start = at;
        let name = bytes[at..]
            .iter()
            .take_while(|byte| is_token(&[**byte]))
            .count();
        at += name;
        if name > 0 && bytes.get(at) == Some(&b':') {
            let value = bytes[at..]
                .iter()
                .take_while(|byte| is_value(**byte))
                .count();
            at += value;
        }
        // No byte of a line, but its line feed, may stand behind the limit.
        let limit = start.max(trailers + MAX_HEAD - 4);
        if limit <= at && limit < bytes.len() {
            return Chunks::Broken { at: limit };
        }
        if at < bytes.len() && (bytes[at] != b'\r' || !bytes[start..at].contains(&b':')) {
            return Chunks::Broken { at };
        }
        match line_end(bytes, at) {
            Ok(end) => at = end,
            Err(end) => return end,
        }
    }
}

/// After the CRLF at `at`.
fn line_end(bytes: &[u8], at: usize) -> Result<usize, Chunks> {
    for (offset, wanted) in [(0, b'\r'), (1, b'\n')] {
        match bytes.get(at + offset) {
            None => return Err(Chunks::Unfinished),
            Some(byte) if *byte == wanted => {}
            Some(_) => return Err(Chunks::Broken { at: at + offset }),
        }
    }
    Ok(at + 2)
}

fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams() {
        let check = |stream: &str, requests, clean, end| {
            let expected = Reading {
                requests,
                clean,
                end,
            };
            assert_eq!(
                read(stream.as_bytes(), false, |_| true),
                expected,
                "{stream:?}"
            );
        };
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let length = get.len();
        check("", 0, 0, End::Between);
        check(get, 1, length, End::Between);
        check(&format!("{get}G"), 1, length, End::InHead);
        check(&format!("{get}\n"), 1, length, End::Broken);
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let whole = format!("{chunked}1;a\r\nx\r\n0\r\nA: b\r\n\r\n{get}");
        check(&whole, 2, whole.len(), End::Between);
        check(
            &format!("{chunked}1\r\n"),
            0,
            chunked.len() + 3,
            End::InBody,
        );
        check(&format!("{chunked}x"), 0, chunked.len(), End::Broken);
        let both = chunked.replace("Host", "Content-Length: 0\r\nHost");
        check(&both, 0, 0, End::Broken);
        let tunnel = get.replace("Host", "Upgrade: websocket\r\nConnection: upgrade\r\nHost");
        check(&tunnel, 1, tunnel.len(), End::Tunnel);
        check(&format!("{tunnel}x"), 1, tunnel.len(), End::Broken);
    }
}
