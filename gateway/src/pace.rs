//! How slow a peer may be while it is waited for.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Measures one direction of one exchange. Only time in which the peer is waited for counts; in each
/// `patience` of it the peer has to move [`LEAST`] bytes.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Duration,
    left: Duration,
    moved: usize,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            left: patience,
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
        if self.moved >= LEAST {
            self.moved = 0;
            self.left = self.patience;
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
        self.left = self.patience;
        self.moved = 0;
        self.waiting_since = None;
        self.timer = None;
    }
}

/// Bytes in each patience: with 30 s, what the slowest modem sends in one.
const LEAST: usize = 1024;
