//! File descriptors: how many there are, and how many connections that leaves to devices.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard one and returns it.
pub(super) fn raise_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    let raised = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files cannot be raised");
            soft
        }
    };
    // No limit at all is more than anybody uses.
    raised.unwrap_or(u64::MAX)
}

/// How many connections each of `workers` may hold, so that commands, health, the registry and enrollment
/// always find a descriptor. A connection needs two: its own, and one to an upstream.
pub(super) fn connections_per_worker(limit: u64, workers: usize) -> usize {
    let for_devices = limit.saturating_sub(RESERVED.min(limit / 2)) / 2;
    let per_worker = for_devices / workers.max(1) as u64;
    usize::try_from(per_worker).map_or(MOST, |per_worker| per_worker.clamp(1, MOST))
}

/// For everything but devices' connections: enrollment may have 1,024 of them.
const RESERVED: u64 = 2048;
const MOST: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_always_left() {
        let check = |limit, workers, expected| {
            assert_eq!(connections_per_worker(limit, workers), expected);
        };
        check(1024, 1, 256);
        check(1024, 2, 128);
        check(20_000, 2, 4_488);
        check(1_048_576, 2, 50_000);
        check(u64::MAX, 4, 50_000);
        check(0, 2, 1);
    }
}
