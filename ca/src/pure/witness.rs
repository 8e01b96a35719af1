//! The witness: one line, kept beside the registry, that says how far its journal had got.
//!
//! SQLite takes a log with a damaged end for one that ends there, and a log that is gone for none: the journal that is
//! left is whole, only older. The line says what was there, and only who has the CA's secret can write one.
//!
//! `keybound-witness 1 <seq, 20 digits> <hash> <tag>` and a line feed; hash and tag are 64 hexadecimal digits. Every
//! line has the same length, so that one write over the last one leaves nothing of it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use identity::Fingerprint;

use super::seal::SealKey;

/// A journal entry that was durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) seq: u64,
    pub(crate) hash: Fingerprint,
}

impl Witness {
    /// The line that says it, which is [`LENGTH`] bytes long.
    pub(crate) fn line(&self, key: &SealKey) -> String {
        let Self { seq, hash } = self;
        let tag = Fingerprint(key.witness_tag(*seq, hash));
        format!("{PREFIX} {seq:020} {hash} {tag}\n")
    }

    /// What a line says, if it was written with this key.
    pub(crate) fn parse(line: &[u8], key: &SealKey) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let mut words = text.strip_prefix(PREFIX)?.strip_prefix(' ')?.split(' ');
        let witness = Self {
            seq: words.next()?.parse().ok()?,
            hash: words.next()?.parse().ok()?,
        };
        // One spelling, and the tag with it.
        verify_slices_are_equal(witness.line(key).as_bytes(), line)
            .ok()
            .map(|()| witness)
    }
}

const PREFIX: &str = "keybound-witness 1";

/// Of a line.
pub(crate) const LENGTH: usize = PREFIX.len() + 1 + 20 + 1 + 64 + 1 + 64 + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_one_thing_and_whoever_has_no_key_cannot_write_it() {
        let key = SealKey::derive(b"secret");
        for seq in [0, 1, u64::MAX] {
            let witness = Witness {
                seq,
                hash: Fingerprint([0xab; 32]),
            };
            let line = witness.line(&key).into_bytes();
            assert_eq!(line.len(), LENGTH);
            assert_eq!(Witness::parse(&line, &key), Some(witness));
            assert_eq!(
                Witness::parse(&line, &SealKey::derive(b"another secret")),
                None
            );
            for position in 0..line.len() {
                assert_eq!(Witness::parse(&line[..position], &key), None);
                let mut altered = line.clone();
                altered[position] ^= 1;
                assert_eq!(Witness::parse(&altered, &key), None, "{position}");
            }
            let longer = [line.as_slice(), b"\n"].concat();
            assert_eq!(Witness::parse(&longer, &key), None);
            assert_eq!(Witness::parse(&line.to_ascii_uppercase(), &key), None);
        }
        assert_eq!(Witness::parse(b"", &key), None);
    }
}
