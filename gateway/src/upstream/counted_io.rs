//! The IO wrapper around an upstream's HTTP/2 connection: its frames are counted before HTTP reads them.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::lease::Slot;
use super::transport::Transport;
use crate::pure::http2_answers::AnswerHeads;
use crate::pure::http2_frames::Frames;

/// An upstream's connection.
pub(super) struct CountedIo {
    transport: Transport,
    frames: Frames,
    heads: AnswerHeads,
    signals: Rc<Signals>,
    _slot: Option<Slot>,
}

/// What is known of a connection beside what HTTP tells.
#[derive(Debug, Default)]
pub(super) struct Signals {
    broken: Cell<bool>,
    greeted: Cell<bool>,
    closed: Cell<bool>,
    changed: Notify,
    /// How many requests the server takes at once.
    pub(super) max_streams: Cell<usize>,
    /// Whether it takes an extended CONNECT (RFC 8441, section 3).
    pub(super) takes_websockets: Cell<bool>,
    /// Of the task that knows both.
    pub(super) driver: AtomicWaker,
}

impl Signals {
    /// Whether the server broke a rule that HTTP does not know.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Waits for the server's first SETTINGS, with which it begins (RFC 9113, section 3.4). False if the connection
    /// ends before.
    pub(super) async fn greeting(&self) -> bool {
        while !self.greeted.get() && !self.closed.get() {
            self.changed.notified().await;
        }
        self.greeted.get()
    }
}

impl CountedIo {
    pub(super) fn new(transport: Transport, signals: Rc<Signals>, slot: Option<Slot>) -> Self {
        Self {
            transport,
            frames: Frames::outbound(),
            heads: AnswerHeads::default(),
            signals,
            _slot: slot,
        }
    }
}

impl AsyncRead for CountedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buf.filled().len();
        ready!(Pin::new(&mut this.transport).poll_read(cx, buf))?;
        let mut sound = true;
        let mut settings = false;
        let (frames, heads) = (&mut this.frames, &mut this.heads);
        frames.follow(&buf.filled()[start..], |frame| {
            sound &= heads.receive(frame);
            settings |= frame.is_settings();
        });
        if settings {
            this.signals.greeted.set(true);
            this.signals.driver.wake();
            this.signals.changed.notify_waiters();
        }
        if !sound {
            tracing::debug!("an upstream sent too many interim answers");
            this.signals.broken.set(true);
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for CountedIo {
    fn drop(&mut self) {
        self.signals.closed.set(true);
        self.signals.changed.notify_waiters();
    }
}

impl AsyncWrite for CountedIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
