//! The body of an answer to a device: the gateway's own, or the upstream's.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::audit::Audit;
use crate::exchange::Ending;
use crate::handle::Flight;
use crate::outbox::{Piece, Reader};
use crate::upstream::ResponseBody;

/// A body, which is in flight until it is dropped.
pub(crate) struct AnswerBody {
    source: Source,
    flight: InFlight,
    /// None before a tunnel, which lasts longer.
    audit: Option<Audit>,
    sent: u64,
    /// Whether the upstream's end of it failed.
    is_broken: bool,
}

/// Where a body comes from.
pub(crate) enum Source {
    /// Nothing, or no more.
    Empty,
    /// The gateway's own bytes.
    Whole(Bytes),
    /// What the upstream sends.
    Upstream(ResponseBody),
}

impl AnswerBody {
    pub(crate) fn new(source: Source, flight: InFlight, audit: Option<Audit>) -> Self {
        Self {
            source,
            flight,
            audit,
            sent: 0,
            is_broken: false,
        }
    }

    fn ending(&self) -> Ending {
        if self.flight.flight.handle().is_cut() {
            return Ending::Cut;
        }
        match &self.source {
            Source::Upstream(_) if self.is_broken => Ending::Upstream,
            Source::Upstream(body) if !body.is_end_stream() => Ending::Client,
            Source::Empty | Source::Whole(_) | Source::Upstream(_) => Ending::Complete,
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let ending = self.ending();
        if let Some(audit) = &mut self.audit {
            audit.end(self.flight.flight.received(), self.sent, ending);
        }
    }
}

impl Body for AnswerBody {
    type Data = Piece;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Self::Error>>> {
        let this = &mut *self;
        let polled = this.source.poll_frame(cx);
        let reader = this.flight.reader.as_ref();
        if let Some(reader) = reader {
            reader.body_gave(polled.is_ready());
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.sent += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            }
            Poll::Ready(Some(Err(_))) => this.is_broken = true,
            // Said at its end, whatever its length was said to be.
            Poll::Ready(None) => this.source = Source::Empty,
            Poll::Pending => {}
        }
        polled.map_ok(|frame| frame.map_data(|bytes| Piece::new(bytes, reader)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Whole(_) => false,
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}

impl Source {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, <AnswerBody as Body>::Error>>> {
        match self {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                *self = Source::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Source::Upstream(body) => Pin::new(body).poll_frame(cx),
        }
    }
}

/// A request under way, and over HTTP/2 the reader of its answer.
pub(crate) struct InFlight {
    pub(crate) flight: Rc<Flight>,
    pub(crate) reader: Option<Rc<Reader>>,
}
