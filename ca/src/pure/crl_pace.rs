//! When the CRL is signed again.

use std::time::Duration;

/// How long to wait after a signing that took `cost` before a revocation may cause the next one.
///
/// Signing takes at most a twentieth of the time, whatever the list has grown to; a short list follows
/// each revocation within a second.
pub(crate) fn pause_after(cost: Duration) -> Duration {
    (cost * 19).clamp(SHORTEST, RESIGN_EVERY)
}

/// A CRL is signed again this often even if nothing was revoked.
pub(crate) const RESIGN_EVERY: Duration = Duration::from_secs(60 * 60);

/// From thisUpdate to nextUpdate: time to mend a CA that cannot sign.
pub(crate) const VALID_FOR: Duration = Duration::from_secs(24 * 60 * 60);

const SHORTEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_lists_are_signed_less_often() {
        let check = |cost_ms, pause_ms| {
            assert_eq!(
                pause_after(Duration::from_millis(cost_ms)),
                Duration::from_millis(pause_ms)
            );
        };
        check(0, 1_000);
        check(10, 1_000);
        check(1_000, 19_000);
        check(1_000_000, 3_600_000);
    }
}
