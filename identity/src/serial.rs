//! Registry indexes and the serials that hide them.
//!
//! A serial is one AES-128 block: the index and 8 random bytes, encrypted under the CA's serial key.
//! Whoever holds the key gets the index back in one block operation; to anyone else the serial is noise,
//! so it tells neither how many devices exist nor which were made together.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey,
};
use serde::{Deserialize, Serialize};

use crate::fingerprint::{HexError, parse_hex, write_hex};

/// The registry's primary key of a certificate. Never used twice; 0 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Index(pub u64);

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A certificate's serial number: 16 bytes whose top bit is 0, so that DER adds no leading zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial([u8; 16]);

impl Serial {
    /// Reads the content octets of a DER INTEGER, that DER stripped of leading zero octets.
    ///
    /// `None` if it is negative or longer than 16 bytes, as a serial of ours never is.
    pub fn from_der_content(content: &[u8]) -> Option<Self> {
        let significant = match content {
            [0, rest @ ..] => rest,
            [first, ..] if *first >= 0x80 => return None,
            _ => content,
        };
        let start = 16_usize.checked_sub(significant.len())?;
        let mut bytes = [0; 16];
        bytes[start..].copy_from_slice(significant);
        Some(Self(bytes))
    }

    /// The 16 bytes, big-endian.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl FromStr for Serial {
    type Err = HexError;

    /// Takes what people copy from other tools too: upper case, and colons between bytes.
    fn from_str(text: &str) -> Result<Self, HexError> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        parse_hex(&format!("{digits:0>32}")).map(Self)
    }
}

impl TryFrom<String> for Serial {
    type Error = HexError;
    fn try_from(text: String) -> Result<Self, HexError> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

/// The AES-128 key that turns indexes into serials and back. Held by the CA and its gateways.
pub struct SerialKey {
    encrypting: EncryptingKey,
    decrypting: DecryptingKey,
}

impl SerialKey {
    /// Takes the 16 key bytes.
    pub fn new(key: &[u8; 16]) -> Self {
        let unbound =
            || UnboundCipherKey::new(&AES_128, key).expect("AES-128 takes any key of 16 bytes");
        Self {
            encrypting: EncryptingKey::ecb(unbound()).expect("AES-128 has an ECB mode"),
            decrypting: DecryptingKey::ecb(unbound()).expect("AES-128 has an ECB mode"),
        }
    }

    /// The serial of `index` with this `random`; `None` if its top bit would be 1: draw again.
    pub fn seal(&self, index: Index, random: [u8; 8]) -> Option<Serial> {
        let mut block = [0; 16];
        block[..8].copy_from_slice(&index.0.to_be_bytes());
        block[8..].copy_from_slice(&random);
        self.encrypting
            .encrypt(&mut block)
            .expect("one whole block needs no padding");
        (block[0] < 0x80).then_some(Serial(block))
    }

    /// The index that `serial` hides. A serial that was not sealed by this key yields a meaningless one.
    pub fn open(&self, serial: &Serial) -> Index {
        let mut block = serial.0;
        self.decrypting
            .decrypt(&mut block, DecryptionContext::None)
            .expect("one whole block needs no padding");
        let mut index = [0; 8];
        index.copy_from_slice(&block[..8]);
        Index(u64::from_be_bytes(index))
    }
}

impl fmt::Debug for SerialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SerialKey")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sealing_is_undone_by_opening_even_when_der_strips_zeros(
            key: [u8; 16], index: u64, random: [u8; 8]
        ) {
            let key = SerialKey::new(&key);
            if let Some(serial) = key.seal(Index(index), random) {
                let first = serial.0.iter().position(|b| *b != 0).unwrap_or(15);
                let mut content = serial.0[first..].to_vec();
                if content[0] >= 0x80 {
                    content.insert(0, 0);
                }
                let read = Serial::from_der_content(&content).expect("fits");
                prop_assert_eq!(read, serial);
                prop_assert_eq!(key.open(&read), Index(index));
            }
        }
    }

    #[test]
    fn serials_that_are_not_ours() {
        assert_eq!(Serial::from_der_content(&[0x80]), None);
        assert_eq!(Serial::from_der_content(&[1; 17]), None);
        assert_eq!(
            Serial::from_der_content(&[1]).map(|s| s.to_string()),
            Some("00000000000000000000000000000001".into())
        );
    }

    #[test]
    fn text_of_other_tools() {
        let serial: Serial = "0A:ff".parse().expect("hex");
        assert_eq!(serial.to_string(), "00000000000000000000000000000aff");
        assert_eq!("xyz".parse::<Serial>(), Err(HexError { bytes: 16 }));
    }
}
