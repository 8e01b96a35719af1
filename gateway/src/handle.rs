//! A connection's handle: how others end it, and what its parts tell each other.
//!
//! There is ONE cut. It is a flag in here, the IO wrapper fails every read and write once it is set, and the
//! connection's task wakes to let go of everything else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::code::Code;
use crate::pure::framing::Violation;

/// Shared by the connection's task, its IO wrapper, its requests and the connection index.
#[derive(Debug)]
pub(crate) struct Handle {
    flags: AtomicU8,
    is_tunnel: AtomicBool,
    was_asked: AtomicBool,
    violation: OnceLock<Violation>,
    /// Requests and tunnels that have not ended.
    in_flight: AtomicUsize,
    /// The same over all connections with the certificate.
    of_certificate: OnceLock<Arc<AtomicUsize>>,
    /// Why the gateway ended the connection, if the peer gave it a reason.
    fault: OnceLock<Code>,
    /// Why streams were reset, until the connection's task hears of it.
    resets: Mutex<Vec<Code>>,
    was_reset: AtomicBool,
    /// The connection's task.
    waker: AtomicWaker,
    gone: AtomicBool,
    going: Notify,
}

impl Handle {
    pub(crate) fn new() -> Self {
        Self {
            flags: AtomicU8::new(0),
            is_tunnel: AtomicBool::new(false),
            was_asked: AtomicBool::new(false),
            violation: OnceLock::new(),
            in_flight: AtomicUsize::new(0),
            of_certificate: OnceLock::new(),
            fault: OnceLock::new(),
            resets: Mutex::default(),
            was_reset: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            gone: AtomicBool::new(false),
            going: Notify::new(),
        }
    }

    /// Ends the connection at once. True for whoever is first.
    pub(crate) fn cut(&self) -> bool {
        self.raise(CUT)
    }

    /// Lets the connection finish its work because its certificate was retired.
    pub(crate) fn retire(&self) {
        self.raise(RETIRED);
    }

    /// Lets the connection finish its work because the gateway stops.
    pub(crate) fn drain(&self) {
        self.raise(DRAINING);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.has(CUT)
    }

    /// Whether the certificate was retired after the connection had been entered in the index.
    pub(crate) fn is_retired(&self) -> bool {
        self.has(RETIRED)
    }

    /// Whether the gateway stops.
    pub(crate) fn is_draining(&self) -> bool {
        self.has(DRAINING)
    }

    /// Whether the connection should take no further requests than those under way.
    pub(crate) fn is_finishing(&self) -> bool {
        self.has(RETIRED | DRAINING)
    }

    /// Makes the socket's end a reset, so that what waits in the kernel is not delivered any more.
    pub(crate) fn end_with_reset(&self) {
        self.raise(RESET);
    }

    pub(crate) fn ends_with_reset(&self) -> bool {
        self.has(RESET)
    }

    /// Wakes this task when a flag is raised.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Whether the connection's request for an upgrade was accepted.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Ordering::Acquire)
    }

    /// Accepts the request for an upgrade: before its answer, which the peer's next bytes must follow.
    pub(crate) fn become_tunnel(&self) {
        self.is_tunnel.store(true, Ordering::Release);
    }

    /// The first rule of framing that the peer broke.
    pub(crate) fn violation(&self) -> Option<Violation> {
        self.violation.get().copied()
    }

    pub(crate) fn report_violation(&self, violation: Violation) {
        // Only the first one counts: nothing after it was read.
        let _ = self.violation.set(violation);
    }

    /// Why the gateway ended the connection, if the peer gave it a reason.
    pub(crate) fn fault(&self) -> Option<Code> {
        self.fault.get().copied()
    }

    pub(crate) fn report_fault(&self, fault: Code) {
        // Only the first one counts.
        let _ = self.fault.set(fault);
    }

    /// A stream was reset for what the peer did.
    pub(crate) fn report_reset(&self, fault: Code) {
        self.resets().push(fault);
        self.was_reset.store(true, Ordering::Release);
    }

    /// Why streams were reset since this was asked the last time.
    pub(crate) fn take_resets(&self) -> Vec<Code> {
        if !self.was_reset.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.was_reset.store(false, Ordering::Release);
        std::mem::take(&mut *self.resets())
    }

    fn resets(&self) -> MutexGuard<'_, Vec<Code>> {
        self.resets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts requests under way in `all`, too; said before the first one.
    pub(crate) fn count_in(&self, all: &Arc<AtomicUsize>) {
        let _ = self.of_certificate.set(Arc::clone(all));
    }

    /// Requests under way on all connections with the certificate.
    pub(crate) fn in_flight_of_certificate(&self) -> usize {
        let all = self.of_certificate.get();
        all.map_or(0, |all| all.load(Ordering::Relaxed))
    }

    fn enter_flight(&self) {
        self.was_asked.store(true, Ordering::Release);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        if let Some(all) = self.of_certificate.get() {
            all.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn leave_flight(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        if let Some(all) = self.of_certificate.get() {
            all.fetch_sub(1, Ordering::Relaxed);
        }
        if self.has(AWAITS_END) {
            self.waker.wake();
        }
    }

    /// Wakes the connection's task whenever a request under way has ended.
    pub(crate) fn await_ends(&self) {
        self.flags.fetch_or(AWAITS_END, Ordering::AcqRel);
    }

    /// Whether there ever was a request.
    pub(crate) fn was_asked(&self) -> bool {
        self.was_asked.load(Ordering::Acquire)
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Says that the connection's socket is closed.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.going.notify_waiters();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Waits until the connection's socket is closed.
    pub(crate) async fn gone(&self) {
        loop {
            let going = self.going.notified();
            if self.is_gone() {
                return;
            }
            going.await;
        }
    }

    fn has(&self, flags: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    fn raise(&self, flag: u8) -> bool {
        let before = self.flags.fetch_or(flag, Ordering::AcqRel);
        self.waker.wake();
        before & flag == 0
    }
}

/// Counts as a request under way until everything that holds it has let go: the answer, what HTTP/2 has yet to
/// send of it, and the request's body, which an answer may come before.
///
/// Meanwhile it notes what the request's exchange is told by.
#[derive(Debug)]
pub(crate) struct Flight {
    handle: Arc<Handle>,
    /// Bytes of the request's body that were passed on.
    received: Cell<u64>,
    asked: RefCell<Option<Asked>>,
}

/// The server of an upstream that a request was sent to last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its address as it was configured.
    pub(crate) server: Arc<str>,
    /// How long it took to begin its answer, if it did.
    pub(crate) latency: Option<Duration>,
}

impl Flight {
    pub(crate) fn enter(handle: &Arc<Handle>) -> Rc<Self> {
        handle.enter_flight();
        Rc::new(Self {
            handle: Arc::clone(handle),
            received: Cell::new(0),
            asked: RefCell::new(None),
        })
    }

    /// Of the request's connection.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Notes bytes of the request's body.
    pub(crate) fn receive(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    /// Bytes of the request's body so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Notes the server that the request is sent to.
    pub(crate) fn ask(&self, asked: Asked) {
        self.asked.replace(Some(asked));
    }

    /// The server that the request was sent to last; told once.
    pub(crate) fn take_asked(&self) -> Option<Asked> {
        self.asked.take()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.handle.leave_flight();
    }
}

const CUT: u8 = 1;
const RETIRED: u8 = 2;
const DRAINING: u8 = 4;
const RESET: u8 = 8;
const AWAITS_END: u8 = 16;
