//! The IO wrapper around an upstream's connection: what it answers is looked at before HTTP reads it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::pure::answer_head::AnswerHead;

/// An upstream's connection.
pub(super) struct WatchedIo {
    tcp: TcpStream,
    watch: Arc<Watch>,
    head: AnswerHead,
}

/// What whoever waits for an answer needs to know of its connection. Both are on one thread; it is atomic because
/// a connection that may become a tunnel must be `Send`.
#[derive(Debug, Default)]
pub(super) struct Watch {
    begun: AtomicBool,
    received: AtomicBool,
    broken: AtomicBool,
}

impl WatchedIo {
    pub(super) fn new(tcp: TcpStream) -> (Self, Arc<Watch>) {
        let watch = Arc::<Watch>::default();
        let io = Self {
            tcp,
            watch: Arc::clone(&watch),
            head: AnswerHead::START,
        };
        (io, watch)
    }
}

impl Watch {
    /// A request is about to be sent: what comes next is the beginning of an answer.
    pub(super) fn begin(&self) {
        self.received.store(false, Ordering::Relaxed);
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether any byte of an answer came: then the upstream has seen the request.
    pub(super) fn has_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the answer broke a rule.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

impl AsyncRead for WatchedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buf.filled().len();
        ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
        let read = &buf.filled()[start..];
        if read.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if this.watch.begun.load(Ordering::Relaxed) {
            this.watch.begun.store(false, Ordering::Relaxed);
            this.head = AnswerHead::START;
        }
        this.watch.received.store(true, Ordering::Relaxed);
        if let Err(fault) = this.head.inspect(read) {
            tracing::debug!(%fault, "an upstream's answer is refused");
            this.watch.broken.store(true, Ordering::Relaxed);
            buf.set_filled(start);
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
