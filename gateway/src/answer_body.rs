//! The body of an answer to a device: the gateway's own, or the upstream's.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::handle::Flight;
use crate::outbox::{Piece, Reader};
use crate::upstream::ResponseBody;

/// A body, which is in flight until it is dropped.
pub(crate) struct AnswerBody {
    source: Source,
    flight: InFlight,
}

enum Source {
    /// Nothing, or no more.
    Empty,
    /// The gateway's own bytes.
    Whole(Bytes),
    /// What the upstream sends.
    Upstream(ResponseBody),
}

impl AnswerBody {
    pub(crate) fn empty(flight: InFlight) -> Self {
        Self {
            source: Source::Empty,
            flight,
        }
    }

    pub(crate) fn whole(bytes: Bytes, flight: InFlight) -> Self {
        Self {
            source: Source::Whole(bytes),
            flight,
        }
    }

    pub(crate) fn upstream(body: ResponseBody, flight: InFlight) -> Self {
        Self {
            source: Source::Upstream(body),
            flight,
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
