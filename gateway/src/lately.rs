//! Which devices were reported as seen a moment ago. A fleet that comes back makes a connection for each device, and
//! the registry would write each of them down again.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use identity::{Index, Timestamp};

/// Forgetful: one device may take another's place, which is then reported once more.
#[derive(Debug)]
pub(crate) struct Lately {
    marks: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Lately {
    pub(crate) fn new() -> Self {
        Self {
            marks: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Notes that a certificate was used from an address. False if that was noted in the same minute.
    pub(crate) fn note(&self, index: Index, address: IpAddr, now: Timestamp) -> bool {
        let place = self.hasher.hash_one(index.0) as usize % PLACES;
        // 0 is nobody's.
        let mark = self.hasher.hash_one((index.0, address, now.0 / MINUTE)) | 1;
        self.marks[place].swap(mark, Ordering::Relaxed) != mark
    }

    /// Takes a note back that came to nothing.
    pub(crate) fn forget(&self, index: Index) {
        let place = self.hasher.hash_one(index.0) as usize % PLACES;
        self.marks[place].store(0, Ordering::Relaxed);
    }
}

const PLACES: usize = 1 << 16;
const MINUTE: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_minute_and_address() {
        let lately = Lately::new();
        let note = |index, address: [u8; 4], now| {
            lately.note(Index(index), address.into(), Timestamp(now))
        };
        assert!(note(7, [10, 0, 0, 1], 60));
        assert!(!note(7, [10, 0, 0, 1], 119));
        assert!(note(7, [10, 0, 0, 1], 120));
        assert!(note(7, [10, 0, 0, 2], 120));
        lately.forget(Index(7));
        assert!(note(7, [10, 0, 0, 2], 120));
        assert!(note(8, [10, 0, 0, 2], 120));
    }
}
