//! When a connection ends: by the cut, with its certificate, or some time after it was told to finish.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use identity::Timestamp;
use tokio::time::{Instant, Sleep, sleep};

use crate::handle::Handle;
use crate::shared::now;

/// Watches over one connection, polled before every turn of its task.
pub(crate) struct Lifetime {
    handle: Arc<Handle>,
    not_after: Option<Timestamp>,
    expiry: Option<Pin<Box<Sleep>>>,
    drain: Duration,
    drain_deadline: Option<Pin<Box<Sleep>>>,
}

/// What the connection does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It goes on.
    Go,
    /// It takes no further requests and ends after those under way. Said once.
    Finish,
    /// It ends at once.
    End,
}

impl Lifetime {
    /// `drain` is how long a connection may take to finish. One whose certificate has expired already lasts long enough for
    /// its peer to ask, and to be told why it is refused.
    pub(crate) fn new(handle: Arc<Handle>, not_after: Option<Timestamp>, drain: Duration) -> Self {
        Self {
            handle,
            not_after,
            expiry: not_after.map(|not_after| {
                let first = if now() > not_after {
                    TOLD_WITHIN
                } else {
                    until_check(not_after)
                };
                Box::pin(sleep(first))
            }),
            drain,
            drain_deadline: None,
        }
    }

    /// What to do now; the task is woken when that changes.
    pub(crate) fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        self.handle.register(cx.waker());
        if self.is_expired(cx) || self.is_overdue(cx) {
            self.handle.cut();
        }
        if self.handle.is_cut() {
            return Turn::End;
        }
        if self.handle.is_finishing() && self.drain_deadline.is_none() {
            let mut deadline = Box::pin(sleep(self.drain));
            // Polled once, so that it wakes the task.
            if deadline.as_mut().poll(cx).is_ready() {
                self.handle.cut();
                return Turn::End;
            }
            self.drain_deadline = Some(deadline);
            return Turn::Finish;
        }
        Turn::Go
    }

    fn is_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let (Some(not_after), Some(expiry)) = (self.not_after, &mut self.expiry) else {
            return false;
        };
        while expiry.as_mut().poll(cx).is_ready() {
            if now() > not_after {
                return true;
            }
            expiry
                .as_mut()
                .reset(Instant::now() + until_check(not_after));
        }
        false
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        self.drain_deadline
            .as_mut()
            .is_some_and(|deadline| deadline.as_mut().poll(cx) == Poll::Ready(()))
    }
}

/// How long to sleep until the first second after `not_after`, to the millisecond; not too long, as the clock may be
/// set, and never nothing.
fn until_check(not_after: Timestamp) -> Duration {
    let end = Duration::from_secs(not_after.0.saturating_add(1));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let left = end.saturating_sub(now.unwrap_or_default());
    left.clamp(MIN_SLEEP, MAX_SLEEP)
}

const TOLD_WITHIN: Duration = Duration::from_secs(10);
const MIN_SLEEP: Duration = Duration::from_millis(1);
const MAX_SLEEP: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_comes_with_an_expired_certificate_has_the_time_to_be_told() {
        let (past, handle) = (Timestamp(1), Arc::new(Handle::new()));
        let mut lifetime = Lifetime::new(Arc::clone(&handle), Some(past), Duration::from_secs(60));
        // A network that is slower than the shortest sleep.
        sleep(MIN_SLEEP * 20).await;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(lifetime.turn(&mut cx), Turn::Go);
        handle.cut();
        assert_eq!(lifetime.turn(&mut cx), Turn::End);
    }
}
