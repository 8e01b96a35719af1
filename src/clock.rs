//! What time it is, and how times are written for people.

use std::time::Duration;

use identity::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Now, as the CA sees it: never earlier than by the time that has passed since the start.
pub(crate) fn now() -> Timestamp {
    ca::now()
}

/// A time as RFC 3339 writes it, in UTC.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} s after 1970", at.0))
}

/// A length of time in the one unit that suits it best: `45 s`, `12 min`, `7 h`, `83 days`.
pub(crate) fn roughly(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(Timestamp(1_795_000_000)), "2026-11-18T11:06:40Z");
        assert_eq!(roughly(Duration::from_secs(119)), "119 s");
        assert_eq!(roughly(Duration::from_secs(7_199)), "119 min");
        assert_eq!(roughly(Duration::from_secs(90 * 86_400)), "90 days");
    }
}
