//! Key and answer of a WebSocket's handshake (RFC 6455, section 4), which HTTP/1.1 has and HTTP/2 goes without
//! (RFC 8441, section 5).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};

/// A key, and how a server answers that has understood what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    key: HeaderValue,
    answer: HeaderValue,
}

impl Challenge {
    /// Of 16 random bytes.
    pub(crate) fn new(random: [u8; 16]) -> Self {
        Self::of(legal(STANDARD.encode(random)))
    }

    /// The one of a request; `None` if it has not exactly one, of 16 bytes in Base64.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let key = only(headers.get_all(SEC_WEBSOCKET_KEY).iter())?;
        let bytes = STANDARD.decode(key.as_bytes()).ok()?;
        (bytes.len() == 16).then(|| Self::of(key.clone()))
    }

    fn of(key: HeaderValue) -> Self {
        let text = [key.as_bytes(), GUID].concat();
        let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
        Self {
            key,
            answer: legal(STANDARD.encode(sum)),
        }
    }

    pub(crate) fn key(&self) -> &HeaderValue {
        &self.key
    }

    pub(crate) fn answer(&self) -> &HeaderValue {
        &self.answer
    }

    /// Whether an answer has the one that belongs to the key: then it is no answer to another question.
    pub(crate) fn is_met(&self, headers: &HeaderMap) -> bool {
        only(headers.get_all(SEC_WEBSOCKET_ACCEPT).iter()) == Some(&self.answer)
    }
}

fn only<'a>(mut values: impl Iterator<Item = &'a HeaderValue>) -> Option<&'a HeaderValue> {
    values.next().filter(|_| values.next().is_none())
}

fn legal(base64: String) -> HeaderValue {
    HeaderValue::try_from(base64).expect("Base64 has only legal characters")
}

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, values: &[&str]) -> HeaderMap {
        let value = |value: &&str| HeaderValue::from_str(value).expect("a value");
        let pairs = values.iter().map(|text| (name.clone(), value(text)));
        pairs.collect()
    }

    #[test]
    fn the_example_of_the_standard() {
        let asked = headers(SEC_WEBSOCKET_KEY, &["dGhlIHNhbXBsZSBub25jZQ=="]);
        let challenge = Challenge::read(&asked).expect("a key");
        assert_eq!(challenge, Challenge::new(*b"the sample nonce"));
        assert_eq!(challenge.answer(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let check = |answers: &[&str], expected| {
            let answered = headers(SEC_WEBSOCKET_ACCEPT, answers);
            assert_eq!(challenge.is_met(&answered), expected, "{answers:?}");
        };
        let right = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        check(&[right], true);
        check(&[right, right], false);
        check(&["S3pPLMBiTxaQ9kYGzzhZRbK+xOo="], false);
        check(&[""], false);
        check(&[], false);
    }

    #[test]
    fn what_is_no_key() {
        let check = |keys: &[&str]| {
            let asked = headers(SEC_WEBSOCKET_KEY, keys);
            assert_eq!(Challenge::read(&asked), None, "{keys:?}");
        };
        check(&[]);
        check(&[""]);
        check(&["dGhlIHNhbXBsZSBub25jZQ"]);
        check(&["dGhlIHNhbXBsZSBub25j"]);
        check(&["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="]);
    }
}
