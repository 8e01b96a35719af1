//! Bodies on their way through: read as the other side takes them, ended by the cut.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::pool::Lease;
use crate::handle::Handle;
use crate::pace::Pace;
use crate::pure::headers::{HeaderFault, clean_request_trailers, clean_response_trailers};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a request's body gets on, as whoever waits for the answer needs to know.
#[derive(Debug)]
pub(crate) struct Upload {
    last_moved: Cell<Instant>,
    waits_for_peer: Cell<bool>,
    broken: Cell<bool>,
    is_stalled: Cell<bool>,
    fault: Cell<Option<HeaderFault>>,
}

impl Upload {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            last_moved: Cell::new(Instant::now()),
            waits_for_peer: Cell::new(false),
            broken: Cell::new(false),
            is_stalled: Cell::new(false),
            fault: Cell::new(None),
        })
    }

    pub(super) fn moved(&self) {
        self.last_moved.set(Instant::now());
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

    /// What was wrong with the trailers.
    pub(super) fn fault(&self) -> Option<HeaderFault> {
        self.fault.get()
    }
}

/// A request's body. After the cut no byte of it reaches the upstream; a peer that sends it too slowly ends it.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    handle: Arc<Handle>,
    upload: Rc<Upload>,
    pace: Pace,
}

impl RequestBody {
    /// The peer's, if it sends one, with the `patience` of [`Pace`].
    pub(super) fn new(
        incoming: Option<Incoming>,
        handle: Arc<Handle>,
        upload: Rc<Upload>,
        patience: Duration,
    ) -> Self {
        Self {
            incoming,
            handle,
            upload,
            pace: Pace::new(patience),
        }
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
        if this.handle.is_cut() {
            return Poll::Ready(Some(Err(
                io::Error::from(io::ErrorKind::ConnectionAborted).into()
            )));
        }
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        this.upload.waits_for_peer.set(polled.is_pending());
        if polled.is_pending() && this.pace.is_too_slow(cx) {
            this.upload.is_stalled.set(true);
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
        }
        let frame = ready!(polled);
        this.pace.pause();
        if let Some(Ok(frame)) = &frame {
            this.pace.moved(frame.data_ref().map_or(0, Bytes::len));
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

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// An answer's body. At its end the upstream's connection is kept; dropped before, the connection closes.
pub(crate) struct ResponseBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

impl ResponseBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease) -> Self {
        Self {
            incoming,
            lease: Some(lease),
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
        Poll::Ready(match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                if let Some(lease) = self.lease.take() {
                    lease.give_back();
                }
                None
            }
            Some(Err(error)) => {
                self.lease = None;
                Some(Err(error.into()))
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
