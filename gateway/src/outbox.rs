//! Answers over HTTP/2 that wait for their device: its windows may be closed for one of them, for many, or
//! after the answer's own task has ended.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use bytes::{Buf, Bytes};

use crate::handle::Flight;
use crate::pace::Pace;
use crate::tunnel::Line;

/// What one answer waits for.
pub(crate) struct Reader {
    /// The body gave something, and was not asked for more since.
    waits: Cell<bool>,
    moved: Cell<usize>,
    unsent: Cell<usize>,
    /// Whether the answer's task has ended before all of it was sent.
    is_tail: Cell<bool>,
    tails: Rc<Tails>,
    /// If the stream becomes a tunnel.
    line: Line,
    /// The request counts until the last piece of its answer has gone.
    _flight: Rc<Flight>,
}

/// What is left of the answers of a connection whose tasks have ended.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    count: Cell<usize>,
    /// Bytes of all answers.
    moved: Cell<usize>,
}

impl Reader {
    pub(crate) fn new(tails: &Rc<Tails>, flight: Rc<Flight>) -> Rc<Self> {
        Rc::new(Self {
            waits: Cell::new(false),
            moved: Cell::new(0),
            unsent: Cell::new(0),
            is_tail: Cell::new(false),
            tails: Rc::clone(tails),
            line: Line::default(),
            _flight: flight,
        })
    }

    pub(crate) fn line(&self) -> &Line {
        &self.line
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
        if self.unsent.get() > 0 && !self.is_tail.replace(true) {
            self.tails.count.set(self.tails.count.get() + 1);
        }
    }

    fn sent(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes);
        let moved = &self.tails.moved;
        moved.set(moved.get().saturating_add(bytes));
        self.gone(bytes);
    }

    fn gone(&self, bytes: usize) {
        self.unsent.set(self.unsent.get() - bytes);
        if self.unsent.get() == 0 && self.is_tail.take() {
            self.tails.count.set(self.tails.count.get() - 1);
        }
    }
}

/// Finds connections whose devices do not take the tails of their answers, nor anything else.
#[derive(Debug)]
pub(crate) struct TailClock {
    tails: Rc<Tails>,
    pace: Pace,
}

impl TailClock {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            tails: Rc::default(),
            pace: Pace::of_reader(patience),
        }
    }

    pub(crate) fn tails(&self) -> &Rc<Tails> {
        &self.tails
    }

    /// Whether there are tails, and the connection hardly moved; if not, the task is woken to ask again.
    ///
    /// Tails hold memory, but no upstream, and count as requests under way: which of them moved does not matter.
    pub(crate) fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let moved = self.tails.moved.take();
        if self.tails.count.get() == 0 {
            self.pace.rest();
            return false;
        }
        self.pace.moved(moved);
        self.pace.is_too_slow(cx)
    }
}

/// A piece of an answer's body, which knows what of it has left.
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
    use std::sync::Arc;
    use std::task::Waker;

    use tokio::time::sleep;

    use super::*;
    use crate::handle::Handle;

    #[tokio::test]
    async fn a_tail_is_overdue_when_its_connection_stands_still() {
        let patience = Duration::from_millis(20);
        let mut clock = TailClock::new(patience);
        let handle = Arc::new(Handle::new());
        let reader = |clock: &TailClock| Reader::new(clock.tails(), Flight::enter(&handle));
        let (tail, other) = (reader(&clock), reader(&clock));
        let piece = Piece::new(Bytes::from_static(b"0123"), Some(&tail));
        let mut busy = Piece::new(Bytes::from_static(&[0; 20 * 1024]), Some(&other));
        let mut overdue = move || clock.is_overdue(&mut Context::from_waker(Waker::noop()));
        sleep(patience * 11).await;
        assert!(!overdue(), "its task still runs");
        tail.task_ended();
        assert!(!overdue());
        sleep(patience * 11).await;
        busy.advance(10 * 1024);
        assert!(!overdue(), "the connection moved");
        sleep(patience * 11).await;
        busy.advance(10 * 1024 - 1);
        assert!(overdue(), "it hardly moved");
        drop((tail, other, busy));
        assert!(handle.is_in_flight());
        drop(piece);
        assert!(!overdue(), "it has gone");
        assert!(!handle.is_in_flight());
    }
}
