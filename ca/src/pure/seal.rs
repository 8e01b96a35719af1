//! The seal: proof that the table of certificates is as the server left it, by one pass over its rows.
//!
//! The journal proves more, but at a million devices following it takes longer than devices want to wait. So every
//! row of the table is put through a keyed hash, the results are added up, and with every commit a tag over the
//! sum and the journal's end is written down. A change of a row adds and subtracts one term. The sum itself is
//! kept nowhere, and the key is not in the database: whoever can write to the file alone cannot make a tag.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use identity::{Class, Fingerprint, Index, Status, Timestamp};

use super::journal::Head;

/// What a seal is made with.
#[derive(Clone)]
pub(crate) struct SealKey {
    rows: [u8; 32],
    tag: hmac::Key,
    witness: hmac::Key,
}

/// What of a certificate's row decides whether it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) index: Index,
    pub(crate) certificate: Fingerprint,
    pub(crate) tbs: Fingerprint,
    pub(crate) not_after: Timestamp,
    pub(crate) status: Status,
    pub(crate) class: Class,
    /// Whether it is a device's; gateways' own certificates are no device's.
    pub(crate) of_device: bool,
}

/// The terms of any number of rows, added up; the order does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum([u64; 4]);

impl SealKey {
    /// The seal's key of a CA with this secret.
    pub(crate) fn derive(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |label: &[u8]| {
            let mut key = [0; 32];
            key.copy_from_slice(hmac::sign(&secret, label).as_ref());
            key
        };
        Self {
            rows: derived(b"keybound registry seal: rows"),
            tag: hmac::Key::new(hmac::HMAC_SHA256, &derived(b"keybound registry seal: tag")),
            witness: hmac::Key::new(hmac::HMAC_SHA256, &derived(b"keybound registry witness")),
        }
    }

    /// What is written down beside the journal's end.
    pub(crate) fn tag(&self, sum: &Sum, head: &Head) -> [u8; 32] {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.tag, &tagged(sum, head)).as_ref());
        tag
    }

    /// Whether `tag` is the one of this sum and this end.
    pub(crate) fn verify(&self, sum: &Sum, head: &Head, tag: &[u8]) -> bool {
        verify_slices_are_equal(&self.tag(sum, head), tag).is_ok()
    }

    /// What stands beside the journal's end in the witness, which is in no database.
    pub(crate) fn witness_tag(&self, seq: u64, hash: &Fingerprint) -> [u8; 32] {
        let mut input = [0; 40];
        input[..8].copy_from_slice(&seq.to_be_bytes());
        input[8..].copy_from_slice(&hash.0);
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.witness, &input).as_ref());
        tag
    }

    /// A row's term. Every input has the same length, so that a hash over key and input is a keyed hash.
    fn term(&self, row: &Row) -> [u64; 4] {
        let mut input = [0; 32 + 8 + 32 + 32 + 8 + 1 + 2 + 1];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            input[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.rows);
        put(&row.index.0.to_be_bytes());
        put(&row.certificate.0);
        put(&row.tbs.0);
        put(&row.not_after.0.to_be_bytes());
        put(&[row.status.code()]);
        put(&row.class.0.to_be_bytes());
        put(&[u8::from(row.of_device)]);
        lanes(&input)
    }

    /// The term of a class's definition. No row's input has this length, so none has this hash.
    fn class_term(&self, class: Class, members: &str) -> [u64; 4] {
        let mut input = [0; 32 + 2 + 32];
        input[..32].copy_from_slice(&self.rows);
        input[32..34].copy_from_slice(&class.0.to_be_bytes());
        input[34..].copy_from_slice(&Fingerprint::of(members.as_bytes()).0);
        lanes(&input)
    }
}

fn lanes(input: &[u8]) -> [u64; 4] {
    let hash = digest(&SHA256, input);
    let mut term = [0; 4];
    for (lane, bytes) in term.iter_mut().zip(hash.as_ref().chunks_exact(8)) {
        let mut word = [0; 8];
        word.copy_from_slice(bytes);
        *lane = u64::from_be_bytes(word);
    }
    term
}

impl Sum {
    /// With one row more.
    pub(crate) fn add(&mut self, key: &SealKey, row: &Row) {
        for (lane, term) in self.0.iter_mut().zip(key.term(row)) {
            *lane = lane.wrapping_add(term);
        }
    }

    /// With the definition of a class: what its certificates' groups are.
    pub(crate) fn add_class(&mut self, key: &SealKey, class: Class, members: &str) {
        for (lane, term) in self.0.iter_mut().zip(key.class_term(class, members)) {
            *lane = lane.wrapping_add(term);
        }
    }

    /// With one row less.
    pub(crate) fn remove(&mut self, key: &SealKey, row: &Row) {
        for (lane, term) in self.0.iter_mut().zip(key.term(row)) {
            *lane = lane.wrapping_sub(term);
        }
    }

    /// With the rows of another part of the table.
    pub(crate) fn join(&mut self, other: &Self) {
        for (lane, term) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(term);
        }
    }
}

fn tagged(sum: &Sum, head: &Head) -> [u8; 32 + 8 + 32] {
    let mut input = [0; 72];
    for (place, lane) in input.chunks_exact_mut(8).zip(sum.0) {
        place.copy_from_slice(&lane.to_be_bytes());
    }
    input[32..40].copy_from_slice(&head.seq.to_be_bytes());
    input[40..].copy_from_slice(&head.hash.0);
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u64) -> Row {
        Row {
            index: Index(index),
            certificate: Fingerprint([1; 32]),
            tbs: Fingerprint([2; 32]),
            not_after: Timestamp(3),
            status: Status::Active,
            class: Class(4),
            of_device: true,
        }
    }

    fn sum(key: &SealKey, rows: &[Row]) -> Sum {
        let mut sum = Sum::default();
        for row in rows {
            sum.add(key, row);
        }
        sum
    }

    #[test]
    fn rows_come_and_go_in_any_order() {
        let key = SealKey::derive(b"secret");
        let whole = sum(&key, &[row(1), row(2), row(3)]);
        assert_eq!(whole, sum(&key, &[row(3), row(1), row(2)]));
        let mut less = whole;
        less.remove(&key, &row(2));
        assert_eq!(less, sum(&key, &[row(1), row(3)]));
        let mut joined = sum(&key, &[row(1)]);
        joined.join(&sum(&key, &[row(3)]));
        assert_eq!(less, joined);
    }

    #[test]
    fn every_field_counts() {
        let key = SealKey::derive(b"secret");
        let alterations: [fn(&mut Row); 7] = [
            |row| row.index.0 += 1,
            |row| row.certificate.0[31] ^= 1,
            |row| row.tbs.0[31] ^= 1,
            |row| row.not_after.0 += 1,
            |row| row.status = Status::Retired,
            |row| row.class.0 += 1,
            |row| row.of_device = false,
        ];
        for alter in alterations {
            let mut altered = row(1);
            alter(&mut altered);
            assert_ne!(sum(&key, &[row(1)]), sum(&key, &[altered]), "{altered:?}");
        }
        assert_ne!(
            sum(&key, &[row(1)]),
            sum(&SealKey::derive(b"other"), &[row(1)])
        );
    }

    #[test]
    fn what_a_class_stands_for_counts() {
        let key = SealKey::derive(b"secret");
        let with = |class, members| {
            let mut sum = sum(&key, &[row(1)]);
            sum.add_class(&key, Class(class), members);
            sum
        };
        assert_eq!(with(4, "blue"), with(4, "blue"));
        assert_ne!(with(4, "blue"), sum(&key, &[row(1)]));
        assert_ne!(with(4, "blue"), with(4, "blue,green"));
        assert_ne!(with(4, "blue"), with(5, "blue"));
    }

    #[test]
    fn a_tag_belongs_to_one_sum_one_end_and_one_key() {
        let key = SealKey::derive(b"secret");
        let whole = sum(&key, &[row(1)]);
        let head = Head::START;
        let tag = key.tag(&whole, &head);
        assert!(key.verify(&whole, &head, &tag));
        assert!(!key.verify(&Sum::default(), &head, &tag));
        assert!(!key.verify(&whole, &Head { seq: 1, ..head }, &tag));
        assert!(!SealKey::derive(b"other").verify(&whole, &head, &tag));
        assert!(!key.verify(&whole, &head, &tag[..31]));
    }
}
