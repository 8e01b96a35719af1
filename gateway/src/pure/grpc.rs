//! What a gRPC client reads instead of a status and a body (gRPC over HTTP2, "Responses").

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};

/// Whether a request is a gRPC call. gRPC-Web, which browsers speak and somebody behind the gateway translates, is not.
/// Nor is anything but a POST one: of a CONNECT, a 200 would open a tunnel.
pub(crate) fn is_call(version: Version, method: &Method, headers: &HeaderMap) -> bool {
    version == Version::HTTP_2
        && method == Method::POST
        && headers.get(CONTENT_TYPE).is_some_and(|media_type| {
            let rest = media_type.as_bytes().strip_prefix(MEDIA_TYPE.as_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

/// The `grpc-status` of a refusal: what clients make of its HTTP status when there is none ("HTTP to gRPC Status Code
/// Mapping"), so that a call ends the same way whether it is the gateway or somebody before it who refuses.
pub(crate) fn status(refusal: StatusCode) -> u16 {
    match refusal.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// A text as a `grpc-message`: what is not printable ASCII, and `%`, is percent-encoded.
pub(crate) fn message(text: &str) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(byte);
        } else {
            let digit = |half: u8| DIGITS[usize::from(half & 15)];
            encoded.extend([b'%', digit(byte >> 4), digit(byte)]);
        }
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(encoded))
        .expect("printable ASCII is legal in a header")
}

pub(crate) const MEDIA_TYPE: &str = "application/grpc";

const UNKNOWN: u16 = 2;
const PERMISSION_DENIED: u16 = 7;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let check = |version, media_type: &str, expected| {
            let mut headers = HeaderMap::new();
            let media_type = HeaderValue::from_str(media_type).expect("a value");
            headers.insert(CONTENT_TYPE, media_type);
            assert_eq!(is_call(version, &Method::POST, &headers), expected);
            for other in [Method::CONNECT, Method::GET, Method::HEAD, Method::PUT] {
                assert!(!is_call(version, &other, &headers), "{other}");
            }
        };
        check(Version::HTTP_2, "application/grpc", true);
        check(Version::HTTP_2, "application/grpc+proto", true);
        check(Version::HTTP_2, "application/grpc;x=y", true);
        check(Version::HTTP_2, "application/grpc-web", false);
        check(Version::HTTP_2, "application/grp", false);
        check(Version::HTTP_11, "application/grpc", false);
        assert!(!is_call(Version::HTTP_2, &Method::POST, &HeaderMap::new()));
    }

    #[test]
    fn messages() {
        let check = |text, expected: &str| assert_eq!(message(text), expected);
        check("revoked: Why? Ask.", "revoked: Why? Ask.");
        check("100 %\r\n", "100 %25%0D%0A");
        check("\u{e4}", "%C3%A4");
    }

    #[test]
    fn statuses() {
        let check = |refusal: u16, expected| {
            let refusal = StatusCode::from_u16(refusal).expect("a status");
            assert_eq!(status(refusal), expected);
        };
        check(400, 13);
        check(401, 16);
        check(403, 7);
        check(404, 12);
        check(429, 14);
        check(502, 14);
        check(503, 14);
        check(504, 14);
        check(413, 2);
        check(500, 2);
    }
}
