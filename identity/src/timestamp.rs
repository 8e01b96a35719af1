//! Points in time, as whole seconds since 1970-01-01T00:00:00Z.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

/// Seconds since the Unix epoch, without leap seconds. Certificates know nothing finer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time moved forward.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by.as_secs()))
    }

    /// This time moved back, at most to the epoch.
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by.as_secs()))
    }

    /// How long it is from `earlier` to this time; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl From<Timestamp> for UnixTime {
    fn from(time: Timestamp) -> Self {
        UnixTime::since_unix_epoch(Duration::from_secs(time.0))
    }
}
