//! The budget of concurrent handshakes. When it is spent, the oldest makes room: an honest handshake takes
//! milliseconds, so the oldest is the one that does not mean it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Handshakes {
    running: Mutex<Running>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    /// Those of which no whole ClientHello came: nothing was done for them, so they make room first.
    silent: BTreeMap<u64, Waiter>,
    begun: BTreeMap<u64, Waiter>,
}

/// Since when, and how it hears that it has to make room.
type Waiter = (Instant, Arc<Notify>);

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
        while running.count() >= self.limit {
            let silent = running.silent.pop_first();
            if let Some((_, (_, oldest))) = silent.or_else(|| running.begun.pop_first()) {
                oldest.notify_one();
            }
        }
        let number = running.next;
        running.next += 1;
        let began = Instant::now();
        running
            .silent
            .insert(number, (began, Arc::clone(&displaced)));
        drop(running);
        Place {
            handshakes: self,
            number,
            displaced,
        }
    }

    /// Waits until one more handshake displaces none that has only just begun. If a whole fleet comes at once, those that
    /// are not accepted yet lose nothing by waiting, and those that are would lose what they have done.
    pub(super) async fn room(&self) {
        while self.oldest_is_young() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn oldest_is_young(&self) -> bool {
        let running = self.running();
        let oldest = running.begun.first_key_value();
        running.count() >= self.limit
            && running.silent.is_empty()
            && oldest.is_some_and(|(_, (since, _))| since.elapsed() < SAFE_FOR)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn count(&self) -> usize {
        self.silent.len() + self.begun.len()
    }
}

impl Place<'_> {
    /// Notes that a whole ClientHello came.
    pub(super) fn begin(&self) {
        let mut running = self.handshakes.running();
        if let Some(one) = running.silent.remove(&self.number) {
            running.begun.insert(self.number, one);
        }
    }

    /// Waits until the place is needed by a newer handshake.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut running = self.handshakes.running();
        running.silent.remove(&self.number);
        running.begun.remove(&self.number);
    }
}

/// A handshake over a fast network takes a tenth of it. Whoever never finishes holds no place for longer, if others want it.
const SAFE_FOR: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(2);

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

    #[tokio::test]
    async fn whoever_has_just_begun_is_safe_for_a_moment() {
        let handshakes = Handshakes::new(2);
        let first = handshakes.enter();
        assert!(handshakes.room().now_or_never().is_some());
        let second = handshakes.enter();
        first.begin();
        assert!(handshakes.room().now_or_never().is_some(), "one is silent");
        second.begin();
        let began = Instant::now();
        assert!(handshakes.room().now_or_never().is_none());
        handshakes.room().await;
        assert!(began.elapsed() > SAFE_FOR / 2);
        let third = handshakes.enter();
        assert!(first.displaced().now_or_never().is_some());
        // The newest, but nothing was done for it.
        let _fourth = handshakes.enter();
        assert!(third.displaced().now_or_never().is_some());
        assert!(second.displaced().now_or_never().is_none());
    }
}
