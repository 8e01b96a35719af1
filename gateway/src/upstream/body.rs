//! Bodies on their way through: read as the other side takes them, ended by the cut.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::idle::Idle;
use super::lease::Lease;
use crate::handle::Flight;
use crate::pace::{LONG, Pace};
use crate::pure::headers::{HeaderFault, clean_request_trailers, clean_response_trailers};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How far an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Awaited,
    /// It has begun.
    UnderWay,
    Ended,
}

/// How a request's body gets on, as whoever waits for the answer needs to know; and the answer, as the request's
/// body needs to know.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Either direction.
    last_moved: Cell<Instant>,
    answer: Cell<Progress>,
    waits_for_peer: Cell<bool>,
    broken: Cell<bool>,
    is_stalled: Cell<bool>,
    is_too_large: Cell<bool>,
    fault: Cell<Option<HeaderFault>>,
}

impl Upload {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            last_moved: Cell::new(Instant::now()),
            answer: Cell::new(Progress::Awaited),
            waits_for_peer: Cell::new(false),
            broken: Cell::new(false),
            is_stalled: Cell::new(false),
            is_too_large: Cell::new(false),
            fault: Cell::new(None),
        })
    }

    pub(super) fn moved(&self) {
        self.last_moved.set(Instant::now());
    }

    /// A request was begun; whoever knows the time need not ask for it again.
    pub(super) fn begin(&self, now: Instant) {
        self.last_moved.set(now);
    }

    pub(super) fn begin_answer(&self, now: Instant) {
        self.answer.set(Progress::UnderWay);
        self.last_moved.set(now);
    }

    pub(super) fn last_moved(&self) -> Instant {
        self.last_moved.get()
    }

    /// Whether the upstream would take more of the body, and the peer sends none.
    pub(super) fn waits_for_peer(&self) -> bool {
        self.waits_for_peer.get()
    }

    /// Whether the peer's end of the body failed.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Whether the peer sent too slowly, and the body ended for it.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled.get()
    }

    /// Whether more came than the route allows, and the body ended for it.
    pub(super) fn is_too_large(&self) -> bool {
        self.is_too_large.get()
    }

    /// What was wrong with the trailers.
    pub(super) fn fault(&self) -> Option<HeaderFault> {
        self.fault.get()
    }
}

/// A request's body. After the cut no byte of it reaches the upstream; a peer that sends it too slowly ends it.
///
/// While an answer is under way, both may be parts of one conversation: then it ends only if neither says
/// anything.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    flight: Rc<Flight>,
    upload: Rc<Upload>,
    pace: Pace,
    max_silence: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    /// How many bytes may still come.
    left: u64,
    held: Held,
}

/// Small pieces of a body, which are joined as long as more are there. Each would be a frame over HTTP/2, and upstreams end
/// connections, which others use too, for too many of those.
#[derive(Default)]
struct Held {
    bytes: Bytes,
    /// What came behind them.
    behind: Option<Option<Frame<Bytes>>>,
    /// Whether whoever sends the pieces had a turn since the last one.
    waited: bool,
}

impl Held {
    fn add(&mut self, piece: Bytes) {
        self.waited = false;
        if self.bytes.is_empty() {
            self.bytes = piece;
            return;
        }
        let held = std::mem::take(&mut self.bytes);
        let mut joined = held.try_into_mut().unwrap_or_else(|held| {
            let mut joined = BytesMut::with_capacity(ENOUGH + SMALL);
            joined.extend_from_slice(&held);
            joined
        });
        joined.extend_from_slice(&piece);
        self.bytes = joined.freeze();
    }

    fn take(&mut self) -> Frame<Bytes> {
        Frame::data(std::mem::take(&mut self.bytes))
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.behind.is_none()
    }
}

impl RequestBody {
    /// The peer's, if it sends one, with the `patience` of [`Pace`], and at most `longest` bytes of it.
    pub(super) fn new(
        incoming: Option<Incoming>,
        flight: Rc<Flight>,
        upload: Rc<Upload>,
        patience: Duration,
        longest: Option<u64>,
    ) -> Self {
        Self {
            incoming,
            flight,
            upload,
            pace: Pace::of_sender(patience),
            max_silence: patience * LONG,
            silence: None,
            left: longest.unwrap_or(u64::MAX),
            held: Held::default(),
        }
    }

    /// Whether the peer, which is waited for, is so slow that the body ends; if not, the task is woken to ask
    /// again.
    fn is_too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        match self.upload.answer.get() {
            Progress::Awaited | Progress::Ended => self.pace.is_too_slow(cx),
            Progress::UnderWay => {
                self.pace.rest();
                self.is_silent(cx)
            }
        }
    }

    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.upload.last_moved() + self.max_silence;
        let timer = (self.silence).get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx) == Poll::Ready(())
    }
}

impl RequestBody {
    /// The next piece, as it came.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self;
        if this.flight.handle().is_cut() {
            return Poll::Ready(Some(Err(
                io::Error::from(io::ErrorKind::ConnectionAborted).into()
            )));
        }
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        this.upload.waits_for_peer.set(polled.is_pending());
        if polled.is_pending() && this.is_too_slow(cx) {
            this.upload.is_stalled.set(true);
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
        }
        let frame = ready!(polled);
        this.pace.pause();
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            this.pace.moved(length);
            this.flight.receive(length as u64);
            match this.left.checked_sub(length as u64) {
                Some(left) => this.left = left,
                None => {
                    // Nothing of this frame is passed on, and the upstream sees a body that does not end.
                    this.upload.is_too_large.set(true);
                    return Poll::Ready(Some(Err(
                        io::Error::from(io::ErrorKind::FileTooLarge).into()
                    )));
                }
            }
        }
        this.upload.moved();
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => {
                this.upload.broken.set(true);
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => Some(clean_frame(frame, |trailers| {
                clean_request_trailers(trailers).inspect_err(|fault| {
                    this.upload.fault.set(Some(*fault));
                })
            })),
        })
    }

    /// Whether the piece is small, and not the last.
    fn is_worth_joining(&self, frame: &Frame<Bytes>) -> bool {
        let small = frame.data_ref().is_some_and(|piece| piece.len() < SMALL);
        small && !self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(behind) = this.held.behind.take() {
            return Poll::Ready(behind.map(Ok));
        }
        loop {
            match this.poll_piece(cx) {
                // The upstream sees a body that does not end, so what is held of it need not come, and after the cut
                // must not.
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) if this.is_worth_joining(&frame) => {
                    this.held.add(frame.into_data().unwrap_or_default());
                    if this.held.bytes.len() >= ENOUGH {
                        return Poll::Ready(Some(Ok(this.held.take())));
                    }
                }
                Poll::Ready(piece) if this.held.is_empty() => return Poll::Ready(piece),
                Poll::Ready(piece) => {
                    this.held.behind = Some(piece.transpose()?);
                    return Poll::Ready(Some(Ok(this.held.take())));
                }
                Poll::Pending if this.held.is_empty() => return Poll::Pending,
                Poll::Pending if this.held.waited => {
                    return Poll::Ready(Some(Ok(this.held.take())));
                }
                Poll::Pending => {
                    this.held.waited = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Pieces of fewer bytes are joined.
const SMALL: usize = 256;
/// So many bytes are a piece.
const ENOUGH: usize = 4096;

/// An answer's body. At its end the upstream's connection is kept; dropped before, the connection closes.
pub(crate) struct ResponseBody {
    incoming: Incoming,
    lease: Option<Lease>,
    upload: Rc<Upload>,
    idle: Idle,
}

/// An upstream broke its answer off: why, for people. Its own error would tell HTTP/2 the reason of a reset, which would
/// be the device's, too, as if it had broken a rule itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BrokenOff(String);

impl ResponseBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease, upload: Rc<Upload>) -> Self {
        Self {
            incoming,
            idle: Idle::new(lease.idle),
            lease: Some(lease),
            upload,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if polled.is_pending() && self.idle.is_over(cx) {
            tracing::debug!("an upstream paused for too long in the middle of an answer");
            self.lease = None;
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
        }
        let frame = ready!(polled);
        self.idle.rest();
        self.upload.moved();
        Poll::Ready(match frame {
            None => {
                if let Some(lease) = self.lease.take() {
                    lease.give_back();
                }
                None
            }
            Some(Err(error)) => {
                self.lease = None;
                Some(Err(BrokenOff(error.to_string()).into()))
            }
            Some(Ok(frame)) => Some(clean_frame(frame, |trailers| {
                clean_response_trailers(trailers);
                Ok(())
            })),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.upload.answer.set(Progress::Ended);
        // Whoever reads a body of known length stops at its last byte and does not ask for its end.
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

fn clean_frame(
    frame: Frame<Bytes>,
    clean: impl FnOnce(&mut HeaderMap) -> Result<(), HeaderFault>,
) -> Result<Frame<Bytes>, BoxError> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean(&mut trailers)?;
            Ok(Frame::trailers(trailers))
        }
        Err(frame) => Ok(frame),
    }
}
