//! Memory that a crowd of connections took goes back to the system once they are gone or quiet.

use std::hint::black_box;
use std::time::Duration;

use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// The allocator returns what has been free for a while, but it looks for that only when a large block is freed. A server that
/// has become quiet frees none, so now and then one is made that is never written to.
pub(crate) async fn return_what_is_free(ends: CancellationToken) {
    let mut ticks = interval(EVERY);
    loop {
        tokio::select! {
            () = ends.cancelled() => return,
            _ = ticks.tick() => drop(black_box(Vec::<u8>::with_capacity(LARGE))),
        }
    }
}

const EVERY: Duration = Duration::from_secs(1);
/// Larger than any block of the pages that a thread keeps for itself (mimalloc: 512 KiB).
const LARGE: usize = 1024 * 1024;
