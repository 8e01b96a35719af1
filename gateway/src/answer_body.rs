//! The body of an answer to a device: the gateway's own, or the upstream's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::handle::Handle;
use crate::upstream::ResponseBody;

/// A body, and the fact that an answer is in flight until it is dropped.
pub(crate) struct AnswerBody {
    source: Source,
    _flight: InFlight,
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
            _flight: flight,
        }
    }

    pub(crate) fn whole(bytes: Bytes, flight: InFlight) -> Self {
        Self {
            source: Source::Whole(bytes),
            _flight: flight,
        }
    }

    pub(crate) fn upstream(body: ResponseBody, flight: InFlight) -> Self {
        Self {
            source: Source::Upstream(body),
            _flight: flight,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                self.source = Source::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Source::Upstream(body) => Pin::new(body).poll_frame(cx),
        }
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

/// Counts as an answer under way until it is dropped.
pub(crate) struct InFlight(Arc<Handle>);

impl InFlight {
    pub(crate) fn enter(handle: &Arc<Handle>) -> Self {
        handle.enter_flight();
        Self(Arc::clone(handle))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.leave_flight();
    }
}
