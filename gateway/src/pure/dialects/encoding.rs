//! Encodings that several dialects share.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The textual encoding of a certificate (RFC 7468, section 5), with lines of 64 characters.
pub(super) fn pem(certificate: &[u8]) -> String {
    let encoded = STANDARD.encode(certificate);
    let mut text = String::with_capacity(encoded.len() + encoded.len() / 64 + 64);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    for (position, character) in encoded.chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

/// Percent-encoding (RFC 3986, section 2.1) of everything but unreserved characters and those of `safe`.
pub(super) fn percent(text: &str, safe: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if unreserved || safe.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes everything");
        }
    }
    encoded
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn upper_hex(bytes: &[u8]) -> String {
    hex(bytes).to_ascii_uppercase()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_64_characters() {
        for length in [0, 1, 47, 48, 49, 96, 500] {
            let text = pem(&vec![7; length]);
            let lines: Vec<_> = text.lines().collect();
            let body = &lines[1..lines.len() - 1];
            assert_eq!(body.concat(), STANDARD.encode(vec![7; length]));
            assert!(body.iter().rev().skip(1).all(|line| line.len() == 64));
            assert!(body.iter().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(percent("aZ09-._~", b""), "aZ09-._~");
        assert_eq!(percent("a b+/=\n\"é", b""), "a%20b%2B%2F%3D%0A%22%C3%A9");
        assert_eq!(percent("+/= %", b"+/="), "+/=%20%25");
    }
}
