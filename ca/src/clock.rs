//! The one place of this crate that asks what time it is.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::Timestamp;

/// Now: by the system's clock, or by the time that has passed since that clock was latest, whichever is later.
///
/// So nothing that has expired is valid again because the clock was set back. A clock that was ahead and is right
/// again is believed from the next start on: until then nobody can tell which of the two it is.
pub fn now() -> Timestamp {
    Timestamp(since_1970().as_secs())
}

/// How far the system's clock is behind [`now`]: zero, unless it was set back.
pub fn set_back_by() -> Duration {
    now().since(Timestamp(by_the_wall().as_secs()))
}

fn since_1970() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    static HIGH_WATER: HighWater = HighWater::new();
    // The wall before the time that has passed: whatever happens in between, what is kept is not too late.
    let wall = by_the_wall();
    HIGH_WATER.read(wall, START.elapsed())
}

/// Since 1970. A clock before that reads as 1970.
fn by_the_wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The latest that the system's clock was ever seen to be, as the time at which the process first asked.
///
/// Whatever it is set to then, time goes on from there at least. It may have started behind and been set right: what
/// has expired since must not be valid again if it falls back to where it started.
#[derive(Debug)]
struct HighWater(AtomicI64);

impl HighWater {
    const fn new() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }

    /// Now, if the system's clock says `wall` and at least this much time has passed since the process first asked.
    fn read(&self, wall: Duration, elapsed: Duration) -> Duration {
        let (wall, elapsed) = (nanoseconds(wall), nanoseconds(elapsed));
        let seen = wall.saturating_sub(elapsed);
        let mut start = self.0.load(Ordering::Relaxed);
        // Readers on many threads share this line of memory for as long as nobody writes to it.
        if seen > start {
            start = start
                .max(seen)
                .max(self.0.fetch_max(seen, Ordering::Relaxed));
        }
        let now = start.saturating_add(elapsed);
        Duration::from_nanos(u64::try_from(now).unwrap_or_default())
    }
}

/// A clock beyond the year 2262 reads as that year.
fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said at each reading of the wall and of the time since the first.
    fn told(readings: &[(u64, u64)]) -> Vec<u64> {
        let high_water = HighWater::new();
        let read = |(wall, elapsed): &(u64, u64)| {
            let [wall, elapsed] = [wall, elapsed].map(|time| Duration::from_secs(*time));
            high_water.read(wall, elapsed).as_secs()
        };
        readings.iter().map(read).collect()
    }

    #[test]
    fn a_clock_that_starts_behind_is_set_right_and_falls_back() {
        let readings = [(100, 0), (110, 10), (5_000, 20), (130, 30), (0, 40)];
        assert_eq!(told(&readings), [100, 110, 5_000, 5_010, 5_020]);
    }

    #[test]
    fn a_clock_that_is_ahead_is_believed_and_then_overtaken() {
        let readings = [(100, 0), (900, 10), (120, 20), (920, 40), (930, 40)];
        assert_eq!(told(&readings), [100, 900, 910, 930, 930]);
    }

    #[test]
    fn a_clock_that_says_nonsense() {
        let latest = i64::MAX as u64 / 1_000_000_000;
        assert_eq!(told(&[(0, 5), (u64::MAX, 6), (7, 7)]), [0, latest, latest]);
    }
}
