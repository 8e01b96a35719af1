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
            if let Some((_, oldest)) = running.give_up() {
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
        while self.all_are_young() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn all_are_young(&self) -> bool {
        let running = self.running();
        running.count() >= self.limit && !running.has_old_silent() && !running.has_old_begun()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn count(&self) -> usize {
        self.silent.len() + self.begun.len()
    }

    /// Takes out whoever makes room: the oldest of which no ClientHello came, unless it has only just connected and another
    /// one has had its time.
    fn give_up(&mut self) -> Option<Waiter> {
        let spare_silent = !self.has_old_silent() && self.has_old_begun();
        let silent = if spare_silent {
            None
        } else {
            self.silent.pop_first()
        };
        let oldest = silent.or_else(|| self.begun.pop_first());
        oldest.map(|(_, waiter)| waiter)
    }

    fn has_old_silent(&self) -> bool {
        is_old(&self.silent, SILENT_SAFE_FOR)
    }

    fn has_old_begun(&self) -> bool {
        is_old(&self.begun, SAFE_FOR)
    }
}

/// Whether the oldest has been there for so long.
fn is_old(waiters: &BTreeMap<u64, Waiter>, long: Duration) -> bool {
    let oldest = waiters.first_key_value();
    oldest.is_some_and(|(_, (since, _))| since.elapsed() >= long)
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

/// A handshake over a mobile network takes as long. Whoever never finishes holds no place for longer, if others want it.
const SAFE_FOR: Duration = Duration::from_millis(500);
/// In a crowd, connections wait in the kernel before they are accepted, and their ClientHello with them: it is read within a
/// fraction of this.
const SILENT_SAFE_FOR: Duration = Duration::from_millis(50);
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
        second.begin();
        let began = Instant::now();
        assert!(handshakes.room().now_or_never().is_none());
        handshakes.room().await;
        assert!(began.elapsed() > SAFE_FOR / 2);
        let third = handshakes.enter();
        assert!(first.displaced().now_or_never().is_some());
        // The second is the oldest, and the third, for which nothing was done, has only just connected.
        let _fourth = handshakes.enter();
        assert!(second.displaced().now_or_never().is_some());
        assert!(third.displaced().now_or_never().is_none());
    }

    #[tokio::test]
    async fn whoever_says_nothing_is_safe_for_less() {
        let handshakes = Handshakes::new(2);
        let begun = handshakes.enter();
        begun.begin();
        let silent = handshakes.enter();
        let began = Instant::now();
        assert!(handshakes.room().now_or_never().is_none());
        handshakes.room().await;
        let waited = began.elapsed();
        assert!(
            (SILENT_SAFE_FOR / 2..SAFE_FOR).contains(&waited),
            "{waited:?}"
        );
        let _third = handshakes.enter();
        assert!(silent.displaced().now_or_never().is_some());
        assert!(begun.displaced().now_or_never().is_none());
    }
}
