//! How long an upstream may pause in the middle of an answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Measures pauses. Only time in which the upstream is waited for counts: a device that does not read is not waited
/// with here.
#[derive(Debug)]
pub(super) struct Idle {
    longest: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            since: None,
            timer: None,
        }
    }

    /// Whether the upstream, which is waited for, has paused for too long; if not, the task is woken to ask again.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.longest;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx) == Poll::Ready(())
    }

    /// Something came.
    pub(super) fn rest(&mut self) {
        self.since = None;
    }
}
