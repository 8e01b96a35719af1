//! Request paths: what the upstream might see in one, beside its bytes.
//!
//! The path is routed and forwarded byte for byte. Servers behind the gateway decode, merge and strip, each
//! in its own way; a path that could become another one there is refused here.

use std::borrow::Cow;

/// The path as the most eager of servers would read it: percent-decoded, without path parameters
/// (`;...`), slashes merged. Borrowed if that changes nothing.
///
/// Errors: what no honest client needs, and what no reading agrees on.
pub(crate) fn most_eager_reading(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if !path.starts_with('/') {
        return Err(PathFault::NotAbsolute);
    }
    if !path.bytes().all(|b| (0x21..0x7f).contains(&b)) {
        return Err(PathFault::Character);
    }
    if path.bytes().any(|b| matches!(b, b'\\' | b'#')) {
        return Err(PathFault::Character);
    }
    let plain = !path.bytes().any(|b| matches!(b, b'%' | b';')) && !path.contains("//");
    let reading = if plain {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(read(path)?)
    };
    if reading
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
    {
        return Err(PathFault::DotSegment);
    }
    Ok(reading)
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It does not start with `/`.
    #[error("the path does not start with /")]
    NotAbsolute,
    /// A space, a control character, `\`, `#` or a byte outside ASCII.
    #[error("the path has a character that must be percent-encoded")]
    Character,
    /// `%` without two hexadecimal digits.
    #[error("the path has a % without two hexadecimal digits")]
    Escape,
    /// An encoded slash, backslash or control character, or a character in more bytes than it needs.
    #[error("the path has an encoded slash, backslash, control character or overlong character")]
    Encoded,
    /// A segment that is `.` or `..` in some reading.
    #[error("the path has a . or .. segment")]
    DotSegment,
    /// Decoded, it would belong to another route.
    #[error("the path belongs to another route when it is decoded")]
    Ambiguous,
}

fn read(path: &str) -> Result<String, PathFault> {
    let mut reading = String::with_capacity(path.len());
    for segment in path.split('/').skip(1) {
        let decoded = decode(segment)?;
        let name = decoded.split(';').next().unwrap_or_default();
        if !name.is_empty() {
            reading.push('/');
            reading.push_str(name);
        }
    }
    if path.ends_with('/') || reading.is_empty() {
        reading.push('/');
    }
    Ok(reading)
}

fn decode(segment: &str) -> Result<String, PathFault> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err(PathFault::Escape);
        };
        let byte = (high * 16 + low) as u8;
        if matches!(byte, b'/' | b'\\' | 0x7f) || byte < 0x20 {
            return Err(PathFault::Encoded);
        }
        decoded.push(byte);
    }
    if decoded.windows(2).any(is_overlong) {
        return Err(PathFault::Encoded);
    }
    // Routes are ASCII, so other characters only have to stay different from ASCII ones.
    Ok(String::from_utf8_lossy(&decoded).into_owned())
}

/// Whether two bytes begin a character in more bytes than it needs, which careless decoders take for an
/// ASCII one (RFC 3629, section 10).
fn is_overlong(pair: &[u8]) -> bool {
    matches!(
        pair,
        [0xc0 | 0xc1, 0x80..=0xbf]
            | [0xe0, 0x80..=0x9f]
            | [0xf0, 0x80..=0x8f]
            | [0xf8, 0x80..=0x87]
            | [0xfc, 0x80..=0x83]
    )
}

/// Checks a query, which is forwarded as it is: HTTP/2 lets characters pass that HTTP/1.1 has no place for.
pub(crate) fn check_query(query: &str) -> Result<(), PathFault> {
    if query.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        Ok(())
    } else {
        Err(PathFault::Character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<&str, PathFault>) {
        let reading = most_eager_reading(path);
        assert_eq!(
            reading.as_deref(),
            expected.as_ref().map(|text| *text),
            "{path:?}"
        );
    }

    #[test]
    fn readings() {
        check("/", Ok("/"));
        check("/v1/a.b/...", Ok("/v1/a.b/..."));
        check("/%76%31/x", Ok("/v1/x"));
        check("//v1///x", Ok("/v1/x"));
        check("//", Ok("/"));
        check("/v1/x//", Ok("/v1/x/"));
        check("/v1;a=b/x;c", Ok("/v1/x"));
        check("/v1%3Ba/x", Ok("/v1/x"));
        check("/%e4%bd%a0", Ok("/你"));
        check("/%252e%252e", Ok("/%2e%2e"));
        check(
            "/%e0%a4%a1%f0%90%80%80%c3%a4",
            Ok("/\u{921}\u{10000}\u{e4}"),
        );
        check("/%c3%28%ff", Ok("/\u{fffd}(\u{fffd}"));
    }

    #[test]
    fn refused() {
        check("", Err(PathFault::NotAbsolute));
        check("*", Err(PathFault::NotAbsolute));
        check("v1", Err(PathFault::NotAbsolute));
        for path in [
            "/.",
            "/..",
            "/v1/../x",
            "/%2e%2E/x",
            "/.%2e",
            "/..;a/x",
            "/a//..",
        ] {
            check(path, Err(PathFault::DotSegment));
        }
        for path in [
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%00",
            "/a%0d%0ab",
            "/%7f",
            "/%c1%a1",
            "/%C0%AE",
            "/%e0%81%a1",
            "/%f0%80%80%af",
            "/%f8%80%80%80%ae",
        ] {
            check(path, Err(PathFault::Encoded));
        }
        for path in ["/%", "/%2", "/%zz", "/%+1"] {
            check(path, Err(PathFault::Escape));
        }
        assert_eq!(check_query("a=%20?/"), Ok(()));
        for query in ["a b", "\u{e4}", "\u{7f}", "a#b"] {
            assert_eq!(check_query(query), Err(PathFault::Character), "{query}");
        }
        for path in ["/a b", "/a\\b", "/a#b", "/a\u{e4}", "/a\0", "/a\r\n"] {
            check(path, Err(PathFault::Character));
        }
    }
}
