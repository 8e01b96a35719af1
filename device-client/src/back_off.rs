//! How long to wait before asking again.

use std::time::Duration;

use aws_lc_rs::rand;

/// How often, and after what pauses, a lost answer is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often to ask in all; 0 counts as 1.
    pub attempts: u32,
    /// The pause after the first attempt, before jitter. It doubles each time.
    pub first_pause: Duration,
    /// What the pause, before jitter, does not exceed.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(8),
        }
    }
}

impl Retry {
    /// The pause after attempt number `attempt`, counted from 1; `None` if that was the last one.
    ///
    /// `random` shortens it by up to a half, so that devices which lost the same server do not all come back
    /// at once.
    pub(crate) fn pause(&self, attempt: u32, random: u8) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let pause = self
            .first_pause
            .saturating_mul(doubled)
            .min(self.longest_pause);
        Some(pause - pause / 2 * u32::from(random) / 255)
    }
}

/// A random byte for [`Retry::pause`]. Nothing secret depends on it.
pub(crate) fn random_byte() -> u8 {
    let mut byte = [0];
    // Without a random source there is no jitter, and no TLS either: the next attempt will say so.
    let _ = rand::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_end() {
        let retry = Retry {
            attempts: 6,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(6),
        };
        let pauses = |random| {
            (1..=6)
                .map(|attempt| retry.pause(attempt, random).map(|pause| pause.as_millis()))
                .collect::<Vec<_>>()
        };
        let longest = [1000, 2000, 4000, 6000, 6000].map(Some);
        let shortest = [500, 1000, 2000, 3000, 3000].map(Some);
        assert_eq!(pauses(0), [&longest[..], &[None]].concat());
        assert_eq!(pauses(255), [&shortest[..], &[None]].concat());
        assert_eq!(
            Retry {
                attempts: 0,
                ..retry
            }
            .pause(1, 0),
            None
        );
    }
}
