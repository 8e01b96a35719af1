//! How often something may be done: the generic cell rate algorithm, a token bucket in one number.
//!
//! The number is the time at which the bucket would be full again. A bucket that nobody has touched for long is full,
//! whatever its number says, so one that is full need not be kept.

use std::num::NonZeroU32;

/// So many at once, and so many again per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds until one more may be done.
    interval: u64,
    burst: NonZeroU32,
}

impl Rate {
    /// `count` in each `seconds`, and `burst` at once. `None` if one takes longer than an hour or less than a
    /// nanosecond, or if the burst is larger than a million: in 64 bits there is room for no more.
    pub fn new(count: NonZeroU32, seconds: NonZeroU32, burst: NonZeroU32) -> Option<Self> {
        let interval = u64::from(seconds.get()) * NANOSECONDS / u64::from(count.get());
        let bounded = (1..=LONGEST_INTERVAL).contains(&interval) && burst.get() <= MAX_BURST;
        bounded.then_some(Self { interval, burst })
    }

    /// How many may be done at once.
    pub fn burst(&self) -> u32 {
        self.burst.get()
    }
}

/// Takes one from the bucket that would be full at `full_at`, at the time `now`; both in nanoseconds since the same moment.
///
/// Ok: when it would be full from now on. Error: in how many seconds there will be one to take, at least 1.
pub(crate) fn take(full_at: u64, now: u64, rate: &Rate) -> Result<u64, u64> {
    let after = full_at.max(now) + rate.interval;
    let room = rate.interval * u64::from(rate.burst.get());
    match after.saturating_sub(now).checked_sub(room) {
        None | Some(0) => Ok(after),
        Some(early) => Err(early.div_ceil(NANOSECONDS)),
    }
}

const NANOSECONDS: u64 = 1_000_000_000;
const LONGEST_INTERVAL: u64 = 60 * 60 * NANOSECONDS;
const MAX_BURST: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: u32, seconds: u32, burst: u32) -> Option<Rate> {
        let number = |n| NonZeroU32::new(n).expect("not zero");
        Rate::new(number(count), number(seconds), number(burst))
    }

    /// What remains of takes at these times (milliseconds): each one's refusal in seconds, or 0.
    fn check(rate: &Rate, times: &[u64], expected: &[u64]) {
        let mut full_at = 0;
        let refused: Vec<u64> = times
            .iter()
            .map(|time| match take(full_at, time * 1_000_000, rate) {
                Ok(after) => {
                    full_at = after;
                    0
                }
                Err(seconds) => seconds,
            })
            .collect();
        assert_eq!(refused, expected, "{times:?}");
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = rate(2, 1, 3).expect("a rate");
        check(&rate, &[0, 0, 0, 0], &[0, 0, 0, 1]);
        // One every half second, not earlier.
        check(
            &rate,
            &[0, 0, 0, 499, 500, 501, 1000],
            &[0, 0, 0, 1, 0, 1, 0],
        );
        // Full again after a pause, and never fuller than that.
        check(
            &rate,
            &[0, 0, 0, 60_000, 60_000, 60_000, 60_000],
            &[0, 0, 0, 0, 0, 0, 1],
        );
    }

    #[test]
    fn the_time_to_wait_is_rounded_up() {
        let rate = rate(1, 60, 1).expect("a rate");
        check(&rate, &[0, 0, 30_500, 59_999, 60_000], &[0, 60, 30, 1, 0]);
    }

    #[test]
    fn a_new_rate_takes_over_an_old_bucket() {
        let (slow, fast) = (rate(1, 60, 1), rate(100, 1, 1));
        let full_at = take(0, 0, &slow.expect("a rate")).expect("one");
        assert_eq!(take(full_at, 0, &fast.expect("a rate")), Err(60));
    }

    #[test]
    fn what_is_no_rate() {
        assert!(rate(1, 3600, MAX_BURST).is_some());
        assert!(rate(1, 1, MAX_BURST + 1).is_none());
        assert!(rate(1, 3601, 1).is_none());
        assert!(rate(1_000_000_000, 1, 1).is_some());
        assert!(rate(1_000_000_001, 1, 1).is_none());
        let slowest = rate(1, 3600, MAX_BURST).expect("a rate");
        assert!(take(0, u64::MAX / 2, &slowest).is_ok());
    }
}
