//! The enrollment code: all that a device needs to enroll, in one word to copy.
//!
//! `kb1~<server>~<device id>~<token>~<root>`, where the server is `host:port` of the enrollment
//! listener ([`ServerAddress`]), the token is 32 hex digits and the root is the SHA-256 of the root certificate in unpadded
//! base64url. No part can contain `~`, and no shell treats it specially inside a word.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::fingerprint::{Fingerprint, HexError, parse_hex, write_hex};
use crate::name::{DeviceId, NameError};
use crate::server_address::{AddressError, ServerAddress};

/// A one-time enrollment token: 128 random bits. It prints itself only when asked to by `expose`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 16]);

impl Token {
    /// Takes 16 bytes from a cryptographic random source.
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// The token's text, which is the secret.
    pub fn expose(&self) -> String {
        struct Hex<'a>(&'a [u8]);
        impl fmt::Display for Hex<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, self.0)
            }
        }
        Hex(&self.0).to_string()
    }

    /// What the registry stores and looks up in the token's place.
    pub fn hash(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl FromStr for Token {
    type Err = HexError;
    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(Self)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What `keybound token new` prints and `keybound-device enroll` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrollmentCode {
    /// The enrollment listener.
    pub server: ServerAddress,
    /// The device that the token is for.
    pub device: DeviceId,
    /// The one-time token.
    pub token: Token,
    /// SHA-256 of the root certificate's DER.
    pub root: Fingerprint,
}

impl EnrollmentCode {
    /// The code's text, which contains the secret.
    pub fn expose(&self) -> String {
        format!(
            "{PREFIX}~{}~{}~{}~{}",
            self.server,
            self.device,
            self.token.expose(),
            URL_SAFE_NO_PAD.encode(self.root.0)
        )
    }
}

impl FromStr for EnrollmentCode {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let parts: Vec<&str> = text.trim().split('~').collect();
        let [prefix, server, device, token, root] = parts[..] else {
            return Err(CodeError::Shape);
        };
        if prefix != PREFIX {
            return Err(CodeError::Version);
        }
        let address: ServerAddress = server.parse().map_err(CodeError::Server)?;
        // Of an IPv6 address only the usual spelling: a code prints as itself.
        if !address.to_string().eq_ignore_ascii_case(server) {
            return Err(CodeError::Server(AddressError::Host));
        }
        let mut fingerprint = [0; 32];
        let length = URL_SAFE_NO_PAD.decode_slice(root, &mut fingerprint);
        if length != Ok(32) {
            return Err(CodeError::Root);
        }
        Ok(Self {
            server: address,
            device: DeviceId::parse(device).map_err(CodeError::Device)?,
            token: token.parse().map_err(|HexError { .. }| CodeError::Token)?,
            root: Fingerprint(fingerprint),
        })
    }
}

/// Why a text is no enrollment code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It does not have five parts.
    #[error("it does not have the five parts kb1~server~device~token~root; was it copied whole?")]
    Shape,
    /// The first part is not `kb1`.
    #[error("it starts with another version than kb1; update keybound-device")]
    Version,
    /// The second part is not `host:port`.
    #[error("its server is refused: {0}")]
    Server(AddressError),
    /// The third part is no device id.
    #[error("its device id is refused: {0}")]
    Device(NameError),
    /// The fourth part is no token.
    #[error("its token is not 32 hexadecimal digits; was it copied whole?")]
    Token,
    /// The fifth part is no root fingerprint.
    #[error("its root fingerprint is not 43 characters of base64url; was it copied whole?")]
    Root,
}

const PREFIX: &str = "kb1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_the_same_text() {
        let code = EnrollmentCode {
            server: "[::1]:8444".parse().expect("legal"),
            device: DeviceId::parse("thermostat-7").expect("legal"),
            token: Token::new([0xab; 16]),
            root: Fingerprint::of(b"root"),
        };
        let text = code.expose();
        assert_eq!(text.parse(), Ok(code.clone()));
        assert!(!format!("{code:?}").contains("abab"));
        for (damaged, error) in [
            (&text[..text.len() - 1], CodeError::Root),
            ("kb1~a:1~b", CodeError::Shape),
            (&text.replace("kb1", "kb2"), CodeError::Version),
            (
                &text.replace(":8444", ""),
                CodeError::Server(AddressError::Port),
            ),
            (
                &text.replace(":8444", ":+8444"),
                CodeError::Server(AddressError::Port),
            ),
            (
                &text.replace("[::1]", "[0::1]"),
                CodeError::Server(AddressError::Host),
            ),
            (
                &text.replace("[::1]", &format!("a.{}", "[".repeat(900))),
                CodeError::Server(AddressError::Host),
            ),
            (&text.replace("abab", "ab"), CodeError::Token),
            (
                &text.replace("thermostat-7", ""),
                CodeError::Device(NameError::Empty),
            ),
        ] {
            assert_eq!(damaged.parse::<EnrollmentCode>(), Err(error), "{damaged}");
        }
    }
}
