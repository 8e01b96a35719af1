//! The one place of this crate that asks what time it is.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::Timestamp;

/// Now: by the system's clock, or by the time that has passed since the process first asked, whichever is later.
///
/// So nothing that has expired is valid again because the clock was set back. A clock that was ahead and is right
/// again is believed, unless it was ahead from the start; then it is believed from the next start on. A moment of a
/// wrong date must not lock every device out until somebody restarts the server: [`set_back`] tells of it instead.
pub fn now() -> Timestamp {
    let (start, asked) = &*START;
    let wall = by_the_wall();
    remember(wall);
    Timestamp(wall.max(*start + asked.elapsed()).as_secs())
}

/// How far the system's clock is behind where it should be by the furthest that this process has seen it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetBack {
    /// Behind the furthest, and the time that has passed since it was there. Zero, unless the clock was set back.
    pub by: Duration,
    /// How much of that [`now`] has gone back with it: zero, unless the clock had been set forward after the start.
    pub followed: Duration,
}

/// Looks at the clock; whoever looks seldom may miss that it was ahead for a moment.
pub fn set_back() -> SetBack {
    let (start, asked) = &*START;
    let wall = by_the_wall();
    remember(wall);
    let since = asked.elapsed();
    let furthest = Duration::from_millis(FURTHEST.load(Ordering::Relaxed));
    compare(wall, *start + since, furthest + since)
}

/// Where the clock is, where it would be if nobody had set it since the start, and if nobody had set it back.
fn compare(wall: Duration, unset: Duration, furthest: Duration) -> SetBack {
    // The three were not read at exactly the same moment.
    let rounded =
        |length: Duration| Duration::from_secs((length + Duration::from_millis(500)).as_secs());
    SetBack {
        by: rounded(furthest.max(unset).saturating_sub(wall)),
        followed: rounded(furthest.saturating_sub(wall.max(unset))),
    }
}

/// Notes how far the clock has got. To be called right after it was read, so that it is not thought to be further.
fn remember(wall: Duration) {
    let (_, asked) = &*START;
    let at_the_start = wall.saturating_sub(asked.elapsed()).as_millis();
    FURTHEST.fetch_max(
        u64::try_from(at_the_start).unwrap_or(u64::MAX),
        Ordering::Relaxed,
    );
}

/// Since 1970. A clock before that reads as 1970.
fn by_the_wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

static START: LazyLock<(Duration, Instant)> = LazyLock::new(|| (by_the_wall(), Instant::now()));

/// What the clock said when it was furthest, less the time from the start to then: in milliseconds since 1970.
static FURTHEST: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back() {
        let check = |wall, unset, furthest, (by, followed)| {
            let seconds = Duration::from_secs;
            assert_eq!(
                compare(seconds(wall), seconds(unset), seconds(furthest)),
                SetBack {
                    by: seconds(by),
                    followed: seconds(followed)
                }
            );
        };
        check(100, 100, 100, (0, 0));
        // Set back once: time goes on as since the start.
        check(40, 100, 100, (60, 0));
        // Set forward and not back.
        check(160, 100, 160, (0, 0));
        // Set forward, and back to where it was, beyond it, or part of the way.
        check(100, 100, 160, (60, 60));
        check(40, 100, 160, (120, 60));
        check(130, 100, 160, (30, 30));
    }
}
