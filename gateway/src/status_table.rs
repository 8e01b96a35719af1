//! The status table: what the registry says of every certificate, one memory load away.
//!
//! One word and one class per registry index, in segments that are allocated when first written. Readers
//! take no lock. What was never written, or lies beyond the bound, is unknown, which is refused.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use identity::Index;
use identity::feed::StatusChange;
use identity::status::{Class, FingerprintKey, KeyedFingerprint, Status, StatusWord};

/// Statuses by registry index, and how old they are.
pub(crate) struct StatusTable {
    key: FingerprintKey,
    segments: Box<[OnceLock<Segment>]>,
    created: Instant,
    /// Milliseconds from `created` to the last word from the registry, plus one; 0 before the first.
    heard: AtomicU64,
    /// In milliseconds.
    max_staleness: AtomicU64,
}

struct Segment {
    words: Box<[AtomicU64]>,
    classes: Box<[AtomicU16]>,
}

/// A change of an index that the table has no room for; the certificate stays unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("registry index {index} lies beyond the status table's {CAPACITY} entries")]
pub(crate) struct BeyondBound {
    /// The index.
    pub(crate) index: Index,
}

impl StatusTable {
    /// An empty table, which lets nobody pass. `key` is drawn by each gateway for itself.
    pub(crate) fn new(key: FingerprintKey, max_staleness: Duration) -> Self {
        Self {
            key,
            segments: (0..SEGMENTS).map(|_| OnceLock::new()).collect(),
            created: Instant::now(),
            heard: AtomicU64::new(0),
            max_staleness: AtomicU64::new(milliseconds(max_staleness)),
        }
    }

    /// The key of the fingerprints in the table.
    pub(crate) fn fingerprint_key(&self) -> &FingerprintKey {
        &self.key
    }

    /// Puts a change in force.
    pub(crate) fn set(&self, change: &StatusChange) -> Result<(), BeyondBound> {
        let beyond = BeyondBound {
            index: change.index,
        };
        let (segment, entry) = locate(change.index).ok_or(beyond)?;
        let segment = self.segments[segment].get_or_init(Segment::new);
        let word = StatusWord::new(change.status, self.key.of(&change.certificate));
        segment.classes[entry].store(change.class.0, Ordering::Release);
        segment.words[entry].store(word.0, Ordering::Release);
        Ok(())
    }

    /// The status of the certificate with this index and this fingerprint.
    ///
    /// Whoever needs to see every change up to a certain one must have synchronised with its writer, as
    /// entering the connection index does.
    pub(crate) fn status(&self, index: Index, fingerprint: KeyedFingerprint) -> Status {
        self.load(index, |segment, entry| {
            StatusWord(segment.words[entry].load(Ordering::Acquire)).status_of(fingerprint)
        })
        .unwrap_or(Status::Unknown)
    }

    /// The class behind an index.
    pub(crate) fn class(&self, index: Index) -> Class {
        self.load(index, |segment, entry| {
            Class(segment.classes[entry].load(Ordering::Acquire))
        })
        .unwrap_or_default()
    }

    /// Notes that the registry was heard from, and that all it said until `at` is in the table.
    pub(crate) fn heartbeat(&self, at: Instant) {
        let since = at.saturating_duration_since(self.created).as_millis();
        let heard = u64::try_from(since).unwrap_or(u64::MAX - 1) + 1;
        self.heard.fetch_max(heard, Ordering::AcqRel);
    }

    /// How long ago the registry was heard from; `None` if it never was.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Acquire).checked_sub(1)?;
        let since = now.saturating_duration_since(self.created);
        Some(since.saturating_sub(Duration::from_millis(heard)))
    }

    /// Whether the table is recent enough to let anybody pass.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        let most = Duration::from_millis(self.max_staleness.load(Ordering::Relaxed));
        self.age(now).is_some_and(|age| age <= most)
    }

    /// Says anew how old the table may be for anybody to pass.
    pub(crate) fn set_max_staleness(&self, max_staleness: Duration) {
        let most = milliseconds(max_staleness);
        self.max_staleness.store(most, Ordering::Relaxed);
    }

    fn load<T>(&self, index: Index, read: impl FnOnce(&Segment, usize) -> T) -> Option<T> {
        let (segment, entry) = locate(index)?;
        self.segments[segment]
            .get()
            .map(|segment| read(segment, entry))
    }
}

impl Segment {
    fn new() -> Self {
        Self {
            words: (0..SEGMENT_LENGTH).map(|_| AtomicU64::new(0)).collect(),
            classes: (0..SEGMENT_LENGTH).map(|_| AtomicU16::new(0)).collect(),
        }
    }
}

impl fmt::Debug for StatusTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusTable")
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn locate(index: Index) -> Option<(usize, usize)> {
    let index = usize::try_from(index.0).ok()?;
    let segment = index / SEGMENT_LENGTH;
    (segment < SEGMENTS).then_some((segment, index % SEGMENT_LENGTH))
}

const SEGMENT_LENGTH: usize = 65_536;
/// Room for a billion certificates; the empty directory takes less than a megabyte.
const SEGMENTS: usize = 16_384;
const CAPACITY: usize = SEGMENTS * SEGMENT_LENGTH;

#[cfg(test)]
mod tests {
    use identity::Fingerprint;

    use super::*;

    fn change(index: u64, status: Status) -> StatusChange {
        StatusChange {
            seq: 1,
            index: Index(index),
            certificate: Fingerprint::of(b"ours"),
            tbs: Fingerprint::of(b"tbs"),
            status,
            class: Class(7),
        }
    }

    fn table() -> StatusTable {
        StatusTable::new(FingerprintKey::new(&[1; 32]), Duration::from_secs(60))
    }

    #[test]
    fn what_was_set_and_nothing_else() {
        let table = table();
        let ours = table.key.of(&Fingerprint::of(b"ours"));
        let other = table.key.of(&Fingerprint::of(b"other"));
        for index in [0, 65_535, 65_536, CAPACITY as u64 - 1] {
            assert_eq!(table.status(Index(index), ours), Status::Unknown);
            assert_eq!(table.set(&change(index, Status::Active)), Ok(()));
            assert_eq!(table.status(Index(index), ours), Status::Active);
            assert_eq!(table.status(Index(index), other), Status::Unknown);
            assert_eq!(table.class(Index(index)), Class(7));
            assert_eq!(table.set(&change(index, Status::Revoked)), Ok(()));
            assert_eq!(table.status(Index(index), ours), Status::Revoked);
        }
        assert_eq!(table.status(Index(1), ours), Status::Unknown);
    }

    #[test]
    fn beyond_the_bound_is_unknown() {
        let table = table();
        let ours = table.key.of(&Fingerprint::of(b"ours"));
        for index in [CAPACITY as u64, u64::MAX] {
            assert_eq!(
                table.set(&change(index, Status::Active)),
                Err(BeyondBound {
                    index: Index(index)
                })
            );
            assert_eq!(table.status(Index(index), ours), Status::Unknown);
            assert_eq!(table.class(Index(index)), Class(0));
        }
    }

    #[test]
    fn freshness_needs_a_recent_heartbeat() {
        let table = table();
        let start = table.created;
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(table.age(at(0)), None);
        assert!(!table.is_fresh(at(0)));
        table.heartbeat(at(10));
        assert!(table.is_fresh(at(10)));
        assert!(table.is_fresh(at(70)));
        assert!(!table.is_fresh(at(71)));
        // An older word that arrives later makes nothing older.
        table.heartbeat(at(5));
        assert_eq!(table.age(at(20)), Some(Duration::from_secs(10)));
    }
}
