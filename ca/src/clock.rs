//! The one place of this crate that asks what time it is.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::Timestamp;

/// Now: by the system's clock, or by the time that has passed since the process first asked, whichever is later.
///
/// So nothing that has expired is valid again because the clock was set back. A clock that was ahead and is right
/// again is believed, unless it was ahead from the start; then it is believed from the next start on.
pub fn now() -> Timestamp {
    let (start, asked) = &*START;
    Timestamp(by_the_wall().max(*start + asked.elapsed()).as_secs())
}

/// How far the system's clock is behind [`now`]: zero, unless it was set back.
pub fn set_back_by() -> Duration {
    now().since(Timestamp(by_the_wall().as_secs()))
}

/// Since 1970. A clock before that reads as 1970.
fn by_the_wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

static START: LazyLock<(Duration, Instant)> = LazyLock::new(|| (by_the_wall(), Instant::now()));
