//! Which certificates an anchor vouched for already: their chain's signature need not be verified again.
//!
//! Kept is only what holds at any time: that an anchor itself issued a leaf. Validity, usages, status and the proof
//! of possession are looked at in every handshake. A cache belongs to one policy and ends with it, so that
//! none outlives a change of what is believed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;

/// The certificates that a client presented, all of them and in their order, by SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChainKey([u8; 32]);

/// Who issued a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Issuer {
    /// One of our own anchors.
    Ours,
    /// The anchor of another CA, at this position.
    Foreign(usize),
}

/// Bounded; what was not asked for lately goes first.
pub(super) struct ChainCache {
    shards: [Mutex<Generations>; SHARDS],
    /// How many a generation of one shard holds.
    room: usize,
}

/// The newer ones are those that were put in, or asked for, since the older ones became older.
#[derive(Default)]
struct Generations {
    newer: HashMap<ChainKey, Issuer>,
    older: HashMap<ChainKey, Issuer>,
}

impl ChainKey {
    pub(super) fn of(leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        for certificate in std::iter::once(leaf).chain(others) {
            hash.update(&(certificate.len() as u64).to_be_bytes());
            hash.update(certificate);
        }
        let mut key = [0; 32];
        key.copy_from_slice(hash.finish().as_ref());
        Self(key)
    }
}

impl ChainCache {
    pub(super) fn new() -> Self {
        Self::with_room(ROOM)
    }

    fn with_room(room: usize) -> Self {
        Self {
            shards: Default::default(),
            room,
        }
    }

    /// Who issued the leaf, if that was proven under this policy.
    pub(super) fn issuer(&self, key: &ChainKey) -> Option<Issuer> {
        let mut shard = self.shard(key);
        if let Some(issuer) = shard.newer.get(key) {
            return Some(*issuer);
        }
        let issuer = shard.older.remove(key)?;
        shard.keep(*key, issuer, self.room);
        Some(issuer)
    }

    /// Remembers who issued the leaf, which has just been proven.
    pub(super) fn keep(&self, key: ChainKey, issuer: Issuer) {
        self.shard(&key).keep(key, issuer, self.room);
    }

    fn shard(&self, key: &ChainKey) -> std::sync::MutexGuard<'_, Generations> {
        let shard = &self.shards[usize::from(key.0[0]) % SHARDS];
        // Whoever panicked with it left maps that are whole.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn keep(&mut self, key: ChainKey, issuer: Issuer, room: usize) {
        if self.newer.len() >= room {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, issuer);
    }
}

impl std::fmt::Debug for ChainCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChainCache")
    }
}

const SHARDS: usize = 16;
/// Both generations of all shards together remember 524,288 devices, in some 50 MB.
const ROOM: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ChainKey {
        ChainKey::of(&CertificateDer::from(text.as_bytes()), &[])
    }

    #[test]
    fn every_certificate_and_its_place_counts() {
        let der = |text: &'static str| CertificateDer::from(text.as_bytes());
        let keys = [
            ChainKey::of(&der("ab"), &[]),
            ChainKey::of(&der("a"), &[der("b")]),
            ChainKey::of(&der("b"), &[der("a")]),
            ChainKey::of(&der("a"), &[der("b"), der("")]),
            ChainKey::of(&der("a"), &[]),
        ];
        for (position, key) in keys.iter().enumerate() {
            assert!(!keys[..position].contains(key), "{position}");
        }
    }

    #[test]
    fn it_is_bounded_and_remembers_who_came_lately() {
        let cache = ChainCache::with_room(100);
        let regular = key("regular");
        cache.keep(regular, Issuer::Foreign(3));
        for number in 0..100_000 {
            cache.keep(key(&number.to_string()), Issuer::Ours);
            if number % 500 == 0 {
                assert_eq!(cache.issuer(&regular), Some(Issuer::Foreign(3)), "{number}");
            }
        }
        assert_eq!(cache.issuer(&key("0")), None);
        assert_eq!(cache.issuer(&key("99999")), Some(Issuer::Ours));
        let kept = |shard: &Mutex<Generations>| {
            let shard = shard.lock().expect("nobody panicked");
            shard.newer.len() + shard.older.len()
        };
        let kept: usize = cache.shards.iter().map(kept).sum();
        assert!(kept <= 2 * 100 * SHARDS, "{kept}");
    }
}
