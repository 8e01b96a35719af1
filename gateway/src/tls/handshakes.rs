//! The budget of concurrent handshakes. When it is spent, the oldest makes room: an honest handshake takes
//! milliseconds, so the oldest is the one that does not mean it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Handshakes {
    running: Mutex<Running>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    displace: BTreeMap<u64, Arc<Notify>>,
}

/// A running handshake's place in the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    handshakes: &'a Handshakes,
    number: u64,
    displaced: Arc<Notify>,
}

impl Handshakes {
    /// At most `limit` handshakes at a time, and at least one.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            running: Mutex::default(),
            limit: limit.max(1),
        }
    }

    pub(super) fn enter(&self) -> Place<'_> {
        let displaced = Arc::new(Notify::new());
        let mut running = self.running();
        while running.displace.len() >= self.limit {
            if let Some((_, oldest)) = running.displace.pop_first() {
                oldest.notify_one();
            }
        }
        let number = running.next;
        running.next += 1;
        running.displace.insert(number, Arc::clone(&displaced));
        drop(running);
        Place {
            handshakes: self,
            number,
            displaced,
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Waits until the place is needed by a newer handshake.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.handshakes.running().displace.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let handshakes = Handshakes::new(2);
        let first = handshakes.enter();
        let second = handshakes.enter();
        assert!(first.displaced().now_or_never().is_none());
        let third = handshakes.enter();
        assert!(first.displaced().now_or_never().is_some());
        assert!(second.displaced().now_or_never().is_none());
        drop(third);
        let _fourth = handshakes.enter();
        assert!(second.displaced().now_or_never().is_none());
    }
}
