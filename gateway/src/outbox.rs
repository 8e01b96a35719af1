//! Answers over HTTP/2 that wait for their device: its windows may be closed for one of them, for many, or
//! after the answer's own task has ended.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::{Sleep, sleep};

/// What one answer waits for.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The body gave something, and was not asked for more since.
    waits: Cell<bool>,
    moved: Cell<usize>,
    unsent: Cell<usize>,
    /// Set once the answer's task has ended: when that was.
    tail: Cell<Option<u64>>,
    tails: Rc<Tails>,
}

/// What is left of answers whose tasks have ended, by connection: how many of them, in this period and
/// before it.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    period: Cell<u64>,
    young: Cell<usize>,
    old: Cell<usize>,
}

impl Reader {
    pub(crate) fn new(tails: &Rc<Tails>) -> Rc<Self> {
        Rc::new(Self {
            waits: Cell::new(false),
            moved: Cell::new(0),
            unsent: Cell::new(0),
            tail: Cell::new(None),
            tails: Rc::clone(tails),
        })
    }

    /// Notes how the body's last turn went.
    pub(crate) fn body_gave(&self, something: bool) {
        self.waits.set(something);
    }

    /// Whether nothing but the device keeps the answer from going on.
    pub(crate) fn waits_for_device(&self) -> bool {
        self.waits.get()
    }

    /// How many bytes left since the last call.
    pub(crate) fn take_moved(&self) -> usize {
        self.moved.take()
    }

    /// The answer's task has ended; what it left unsent is in HTTP/2's buffers.
    pub(crate) fn task_ended(&self) {
        if self.unsent.get() > 0 && self.tail.get().is_none() {
            let tails = &self.tails;
            self.tail.set(Some(tails.period.get()));
            tails.young.set(tails.young.get() + 1);
        }
    }

    fn sent(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes);
        self.gone(bytes);
    }

    fn gone(&self, bytes: usize) {
        self.unsent.set(self.unsent.get() - bytes);
        if self.unsent.get() == 0
            && let Some(period) = self.tail.take()
        {
            let tails = &self.tails;
            let count = if period == tails.period.get() {
                &tails.young
            } else {
                &tails.old
            };
            count.set(count.get() - 1);
        }
    }
}

/// Finds tails that a device does not take.
#[derive(Debug)]
pub(crate) struct TailClock {
    tails: Rc<Tails>,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl TailClock {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            tails: Rc::default(),
            patience,
            timer: None,
        }
    }

    pub(crate) fn tails(&self) -> &Rc<Tails> {
        &self.tails
    }

    /// Whether some tail waited for one to two times the patience; if not, the task is woken to ask again.
    pub(crate) fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let tails = &self.tails;
        if tails.young.get() + tails.old.get() == 0 {
            self.timer = None;
            return false;
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(self.patience)));
        while timer.as_mut().poll(cx) == Poll::Ready(()) {
            if tails.old.get() > 0 {
                return true;
            }
            tails.old.set(tails.young.take());
            tails.period.set(tails.period.get() + 1);
            timer.set(sleep(self.patience));
        }
        false
    }
}

/// A piece of an answer's body, which knows what of it has left.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    reader: Option<Rc<Reader>>,
}

impl Piece {
    pub(crate) fn new(bytes: Bytes, reader: Option<&Rc<Reader>>) -> Self {
        if let Some(reader) = reader {
            reader.unsent.set(reader.unsent.get() + bytes.len());
        }
        Self {
            bytes,
            reader: reader.cloned(),
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        if let Some(reader) = &self.reader {
            reader.sent(bytes);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader
            && !self.bytes.is_empty()
        {
            reader.gone(self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tail_is_overdue_between_one_and_two_patiences() {
        let patience = Duration::from_millis(100);
        let mut clock = TailClock::new(patience);
        let reader = Reader::new(clock.tails());
        let mut piece = Piece::new(Bytes::from_static(b"0123"), Some(&reader));
        let mut overdue = move || {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            clock.is_overdue(&mut cx)
        };
        assert!(!overdue(), "its task still runs");
        reader.task_ended();
        assert!(!overdue());
        sleep(patience * 11 / 10).await;
        assert!(!overdue());
        piece.advance(3);
        sleep(patience * 11 / 10).await;
        assert!(overdue());
        drop(piece);
        assert!(!overdue(), "it has gone");
        assert_eq!(reader.take_moved(), 3);
    }
}
