//! The one place of this crate that asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use identity::Timestamp;

/// Now, by the system's clock. A clock before 1970 reads as 1970.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(since_epoch.as_secs())
}
