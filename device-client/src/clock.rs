//! The one place where this crate reads the clock. Decisions take the time as an argument.

use std::time::SystemTime;

use identity::Timestamp;

/// The device's idea of now. A clock set before 1970 counts as 1970.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since_epoch.map_or(0, |elapsed| elapsed.as_secs()))
}

/// A time as people and programs read it (RFC 3339, in UTC).
pub fn rfc3339(time: Timestamp) -> String {
    i64::try_from(time.0)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| {
            time.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| format!("{} s after 1970", time.0))
}
