//! Who of a worker's handshakes gets the processor: one step of one of them, and then whatever else is ready.
//!
//! A handshake costs as much as many requests. If a fleet comes back after a power cut, those devices that are connected
//! are served as before, and handshakes are finished in the order of their arrival rather than begun all at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::timeout;

/// Of one worker.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
    /// Somebody had a turn since the sockets were last looked at.
    is_taken: Cell<bool>,
    left: Notify,
}

/// Of one handshake.
#[derive(Debug, Default)]
struct Ticket {
    waker: RefCell<Option<Waker>>,
    has_turn: Cell<bool>,
}

impl Turnstile {
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Runs a handshake, each step of it when it is its turn.
    pub(crate) async fn pass<T>(self: &Rc<Self>, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        let ticket = Rc::new(Ticket::default());
        std::future::poll_fn(|cx| {
            if self.is_taken.get() && !ticket.has_turn.take() {
                // Whoever waits keeps its place, and wakes up as whoever it is now.
                if ticket.waker.replace(Some(cx.waker().clone())).is_none() {
                    self.waiting.borrow_mut().push_back(Rc::clone(&ticket));
                }
                return Poll::Pending;
            }
            if !self.is_taken.replace(true) {
                spawn_local(Rc::clone(self).turn());
            }
            handshake.as_mut().poll(cx)
        })
        .await
    }

    /// Waits a moment while as many handshakes as are sensible wait for the processor. Those that wait for their peers do not
    /// count. No longer than that: who sends its handshake byte by byte waits again for each, and must not keep all others out.
    pub(crate) async fn has_room(&self) {
        let room = async {
            while self.waiting.borrow().len() >= MOST_WAITING {
                self.left.notified().await;
            }
        };
        // Then there is one too many.
        let _ = timeout(PATIENCE, room).await;
    }

    /// Gives one turn after the other, as long as there is somebody to take it.
    async fn turn(self: Rc<Self>) {
        loop {
            let began = Instant::now();
            // Comes back when the sockets have been looked at and everything that was ready has run.
            yield_now().await;
            // If that took long, one turn would be less than their share.
            let turns = 1 + began.elapsed().as_micros() / PER_TURN.as_micros();
            for _ in 0..turns {
                let next = self.waiting.borrow_mut().pop_front();
                let Some(next) = next else {
                    self.is_taken.set(false);
                    return;
                };
                self.left.notify_one();
                // Of a handshake that was given up, nobody wakes.
                if let Some(waker) = next.waker.take() {
                    next.has_turn.set(true);
                    waker.wake();
                }
            }
        }
    }
}

/// What is accepted beyond that would wait here rather than in the kernel, for which both sides would have paid.
const MOST_WAITING: usize = 32;
/// A step takes a fifth of it: a sixth of the processor is for handshakes, whatever else there is to do.
const PER_TURN: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn others_run_between_two_steps_and_all_finish_in_order() {
        let turnstile = Turnstile::new();
        let steps = Rc::new(RefCell::new(Vec::new()));
        let local = LocalSet::new();
        local
            .run_until(async {
                let handshakes: Vec<_> = (0..100)
                    .map(|number| {
                        let (turnstile, steps) = (Rc::clone(&turnstile), Rc::clone(&steps));
                        spawn_local(async move {
                            turnstile
                                .pass(async {
                                    steps.borrow_mut().push((number, 0));
                                    yield_now().await;
                                    steps.borrow_mut().push((number, 1));
                                })
                                .await;
                        })
                    })
                    .collect();
                let mut seen = 0;
                let mut most = 0;
                while seen < 200 {
                    yield_now().await;
                    let now = steps.borrow().len();
                    most = most.max(now - seen);
                    seen = now;
                }
                assert!(most <= 2, "{most} steps at a time");
                for handshake in handshakes {
                    handshake.await.expect("no panic");
                }
            })
            .await;
        let firsts: Vec<_> = steps
            .borrow()
            .iter()
            .filter(|step| step.1 == 0)
            .copied()
            .collect();
        assert!(firsts.is_sorted());
    }

    #[tokio::test]
    async fn whoever_waits_for_its_peer_is_in_nobodys_way() {
        let turnstile = Turnstile::new();
        let local = LocalSet::new();
        local
            .run_until(async {
                for _ in 0..1000 {
                    let turnstile = Rc::clone(&turnstile);
                    spawn_local(
                        async move { turnstile.pass(sleep(Duration::from_secs(60))).await },
                    );
                }
                turnstile.has_room().await;
                turnstile.pass(yield_now()).await;
                // Some that are given up while they wait.
                for _ in 0..100 {
                    let turnstile = Rc::clone(&turnstile);
                    spawn_local(async move { turnstile.pass(yield_now()).await }).abort();
                }
                turnstile.pass(yield_now()).await;
                turnstile.has_room().await;
            })
            .await;
    }

    #[tokio::test]
    async fn nobody_is_kept_out_by_those_who_wait_again_and_again() {
        let turnstile = Turnstile::new();
        turnstile
            .waiting
            .borrow_mut()
            .extend((0..MOST_WAITING).map(|_| Rc::default()));
        let began = Instant::now();
        turnstile.has_room().await;
        assert!(began.elapsed() < PATIENCE * 20);
    }
}
