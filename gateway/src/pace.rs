//! How slow a peer may be while it is waited for.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Measures one direction of one exchange. Only time in which the peer is waited for counts; in each `period` of
/// it the peer has to move `least` bytes.
#[derive(Debug)]
pub(crate) struct Pace {
    period: Duration,
    least: usize,
    left: Duration,
    moved: usize,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Of a peer that sends: [`LEAST`] bytes in each patience.
    pub(crate) fn of_sender(patience: Duration) -> Self {
        Self::new(patience, LEAST)
    }

    /// Of a peer that takes bytes. It has to be as fast, but is measured over a longer time: kernels and
    /// windows take bytes in lumps, and say nothing of a peer that is in the middle of one.
    pub(crate) fn of_reader(patience: Duration) -> Self {
        Self::new(patience * LONG, LEAST * LONG as usize)
    }

    fn new(period: Duration, least: usize) -> Self {
        Self {
            period,
            least,
            left: period,
            moved: 0,
            waiting_since: None,
            timer: None,
        }
    }

    /// Whether the peer, which is waited for, was too slow; if not, the task is woken to ask again.
    pub(crate) fn is_too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = *self.waiting_since.get_or_insert_with(Instant::now) + self.left;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx) == Poll::Ready(())
    }

    /// The peer moved some bytes.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes);
        if self.moved >= self.least {
            self.moved = 0;
            self.left = self.period;
            self.waiting_since = None;
        }
    }

    /// The peer is not waited for now.
    pub(crate) fn pause(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
    }

    /// Everything moved that there was; what was owed is forgotten.
    pub(crate) fn rest(&mut self) {
        self.left = self.period;
        self.moved = 0;
        self.waiting_since = None;
        self.timer = None;
    }
}

/// Bytes in each patience: with 30 s, what the slowest modem sends in one.
const LEAST: usize = 1024;

/// Patiences that a peer has when it cannot be seen whether it is slow or dead.
pub(crate) const LONG: u32 = 10;
