//! Guessing of tokens, made slow.
//!
//! Wrong tokens are counted by their source; right ones never are. A source that sent too many is not locked out,
//! or whoever is behind the same address translation could lock out a factory: its tokens are judged one after
//! the other, in the order of their arrival and at a steady pace, and the wrong ones among them are answered with
//! 429. A right token waits for those before it, of which there are no more than connections of one source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::source::Source;

/// What is remembered of sources that sent wrong tokens, of a bounded number of them.
#[derive(Default)]
pub(crate) struct Throttle {
    debts: Mutex<HashMap<Source, Debt>>,
}

struct Debt {
    /// When all is forgotten; every wrong token puts it off by [`FORGOTTEN_EVERY`].
    until: Instant,
    /// Where the source's tokens wait for their turn while it is in too deep.
    turn: Arc<Semaphore>,
}

impl Throttle {
    /// Waits until a token from this source may be judged: no time at all, unless too many were wrong.
    pub(crate) async fn turn(&self, source: Source) {
        let turn = match self.debts().get(&source) {
            Some(debt) if debt.excess(Instant::now()).is_some() => Arc::clone(&debt.turn),
            Some(_) | None => return,
        };
        let Ok(turn) = turn.acquire_owned().await else {
            return; // It is never closed.
        };
        // Kept for its time even if the asker goes away: who does not wait for answers would guess faster.
        tokio::spawn(async move {
            tokio::time::sleep(PACE).await;
            drop(turn);
        });
    }

    /// Counts a wrong token. If there were too many before it: after what time there will not be.
    pub(crate) fn wrong(&self, source: Source, now: Instant) -> Option<Duration> {
        let mut debts = self.debts();
        if debts.len() >= MAX_SOURCES && !debts.contains_key(&source) {
            make_room(&mut debts, now);
        }
        let debt = debts.entry(source).or_insert_with(|| Debt {
            until: now,
            turn: Arc::new(Semaphore::new(1)),
        });
        let excess = debt.excess(now);
        if excess.is_none() {
            debt.until = debt.until.max(now) + FORGOTTEN_EVERY;
        }
        excess
    }

    fn debts(&self) -> MutexGuard<'_, HashMap<Source, Debt>> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Debt {
    /// How long one more wrong token is one too many; `None` if it is not.
    fn excess(&self, now: Instant) -> Option<Duration> {
        let left = self.until.saturating_duration_since(now);
        let excess = left.saturating_sub(FORGOTTEN_EVERY * (MAX_WRONG - 1));
        (!excess.is_zero()).then_some(excess)
    }
}

/// Forgets what is over, and else whoever would be forgotten first.
fn make_room(debts: &mut HashMap<Source, Debt>, now: Instant) {
    debts.retain(|_, debt| debt.until > now);
    if debts.len() >= MAX_SOURCES {
        let first = debts.iter().min_by_key(|(_, debt)| debt.until);
        if let Some(first) = first.map(|(source, _)| *source) {
            debts.remove(&first);
        }
    }
}

/// Wrong tokens of a source before its tokens have to wait.
const MAX_WRONG: u32 = 20;
/// After so long, one of them is forgotten.
const FORGOTTEN_EVERY: Duration = Duration::from_secs(6);
/// From one token of a source that waits to the next.
const PACE: Duration = Duration::from_millis(50);
/// A few hundred kilobytes.
const MAX_SOURCES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(number: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn some_wrong_tokens_are_a_mistake_and_more_are_not() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..MAX_WRONG {
            assert_eq!(throttle.wrong(source(1), now), None);
        }
        for _ in 0..1000 {
            assert_eq!(throttle.wrong(source(1), now), Some(FORGOTTEN_EVERY));
        }
        assert_eq!(throttle.wrong(source(2), now), None);
        let later = now + FORGOTTEN_EVERY;
        assert_eq!(throttle.wrong(source(1), later), None);
        assert_eq!(throttle.wrong(source(1), later), Some(FORGOTTEN_EVERY));
        let much_later = later + FORGOTTEN_EVERY * MAX_WRONG;
        for _ in 0..MAX_WRONG {
            assert_eq!(throttle.wrong(source(1), much_later), None);
        }
        assert!(throttle.wrong(source(1), much_later).is_some());
    }

    #[test]
    fn its_memory_is_bounded_and_keeps_the_worst() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..MAX_WRONG {
            throttle.wrong(source(0), now);
        }
        for number in 1..20_000 {
            throttle.wrong(source(number), now);
            assert!(throttle.debts().len() <= MAX_SOURCES);
        }
        assert!(throttle.wrong(source(0), now).is_some());
        // One that is not among them: for one that is, no room has to be made.
        throttle.wrong(source(20_000), now + FORGOTTEN_EVERY * MAX_WRONG);
        assert_eq!(throttle.debts().len(), 1, "what is over is forgotten");
    }

    #[tokio::test]
    async fn who_waits_has_a_turn_and_the_others_do_not_wait() {
        let throttle = Arc::new(Throttle::default());
        let now = Instant::now();
        for _ in 0..MAX_WRONG {
            throttle.wrong(source(1), now);
        }
        let started = Instant::now();
        // Some that do not wait for their turn, nor for the answer.
        for _ in 0..3 {
            let waiting = tokio::time::timeout(Duration::from_millis(1), throttle.turn(source(1)));
            let _ = waiting.await;
        }
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let throttle = Arc::clone(&throttle);
                tokio::spawn(async move { throttle.turn(source(1)).await })
            })
            .collect();
        let free = throttle.debts().get(&source(2)).is_none();
        assert!(free, "another source does not wait");
        for turn in waiting {
            turn.await.expect("it has its turn");
        }
        assert!(started.elapsed() >= PACE * 10);
    }
}
