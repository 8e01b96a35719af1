//! The IO wrapper around an upstream's connection: what it answers is looked at before HTTP reads it.
//!
//! The HTTP implementation reads when its task gets its turn. What a kept connection holds before that, whoever
//! takes it sees on the socket itself.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::lease::Slot;
use super::transport::Transport;
use crate::pace::Pace;
use crate::pure::answer_head::AnswerHead;

/// An upstream's connection.
pub(super) struct WatchedIo {
    transport: Arc<Mutex<Transport>>,
    watch: Arc<Watch>,
    head: AnswerHead,
    /// Of the upstream, when it takes bytes: one that has answered and takes no more of the body would keep the
    /// connection, and a device's place, for ever.
    pace: Pace,
    /// Why the upstream takes nothing any more.
    deaf: Option<io::ErrorKind>,
    _slot: Option<Slot>,
}

/// What whoever waits for an answer needs to know of its connection. All of it is on one thread, where no lock is
/// ever waited for; there are locks and atomics because a connection that may become a tunnel must be `Send`.
#[derive(Debug)]
pub(super) struct Watch {
    /// Weak, so that the connection closes as soon as HTTP drops it.
    transport: Weak<Mutex<Transport>>,
    begun: AtomicBool,
    to_head: AtomicBool,
    received: AtomicBool,
    broken: AtomicBool,
}

impl WatchedIo {
    /// An upstream that hardly takes bytes for ten times the `patience` is let go. The `slot` is kept as long as this.
    pub(super) fn new(
        transport: Transport,
        slot: Option<Slot>,
        patience: Duration,
    ) -> (Self, Arc<Watch>) {
        let transport = Arc::new(Mutex::new(transport));
        let watch = Arc::new(Watch {
            transport: Arc::downgrade(&transport),
            begun: AtomicBool::new(false),
            to_head: AtomicBool::new(false),
            received: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        });
        let io = Self {
            transport,
            watch: Arc::clone(&watch),
            head: AnswerHead::start(false),
            pace: Pace::of_reader(patience),
            deaf: None,
            _slot: slot,
        };
        (io, watch)
    }

    /// Fails if the upstream took too little for too long.
    ///
    /// One that takes nothing more may have answered before it had the whole request, and closed: what it said is there
    /// to be read, and HTTP would not read it after a failure. So the rest of the request, of this `length`, goes nowhere.
    fn follow(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending if self.pace.is_too_slow(cx) => {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending => {}
            Poll::Ready(Ok(length)) => {
                self.pace.pause();
                self.pace.moved(*length);
            }
            Poll::Ready(Err(error)) => {
                self.deaf = Some(error.kind());
                return Poll::Ready(Ok(length));
            }
        }
        written
    }

    fn transport(&self) -> MutexGuard<'_, Transport> {
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// A request is about to be sent, for HEAD or not: what comes next is the beginning of an answer.
    pub(super) fn begin(&self, to_head: bool) {
        self.received.store(false, Ordering::Relaxed);
        self.to_head.store(to_head, Ordering::Relaxed);
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is open and holds no byte that nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        let Some(transport) = self.transport.upgrade() else {
            return false;
        };
        let transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
        transport.is_quiet()
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
        if this.watch.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let start = buf.filled().len();
        ready!(Pin::new(&mut *this.transport()).poll_read(cx, buf))?;
        let read = &buf.filled()[start..];
        if read.is_empty() {
            // Without a length, an answer that the kernel may have lost the end of would look whole.
            return Poll::Ready(this.deaf.map_or(Ok(()), |kind| Err(kind.into())));
        }
        if this.watch.begun.load(Ordering::Relaxed) {
            this.watch.begun.store(false, Ordering::Relaxed);
            this.head = AnswerHead::start(this.watch.to_head.load(Ordering::Relaxed));
        }
        this.watch.received.store(true, Ordering::Relaxed);
        if let Err(fault) = this.head.inspect(read) {
            tracing::debug!(%fault, "an upstream's answer is refused");
            this.watch.broken.store(true, Ordering::Relaxed);
            // What comes before the fault is read, so that what the device hears does not depend on how the bytes
            // were cut. It is never a whole answer: the next read fails.
            buf.set_filled(start + fault.clean);
            if fault.clean == 0 {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
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
        let this = self.get_mut();
        if this.deaf.is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut *this.transport()).poll_write(cx, bytes);
        this.follow(cx, bytes.len(), written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = bytes.iter().map(|slice| slice.len()).sum();
        if this.deaf.is_some() {
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut *this.transport()).poll_write_vectored(cx, bytes);
        this.follow(cx, length, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.deaf.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut *this.transport()).poll_flush(cx));
        if let Err(error) = flushed {
            this.deaf = Some(error.kind());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().transport()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (WatchedIo, Arc<Watch>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let tcp = TcpStream::connect(address).await.expect("connected");
        let (upstream, _) = listener.accept().await.expect("accepted");
        let (io, watch) = WatchedIo::new(Transport::Tcp(tcp), None, Duration::from_secs(30));
        (io, watch, upstream)
    }

    #[tokio::test]
    async fn what_nobody_has_read_yet_is_seen() {
        let (_io, watch, mut upstream) = pair().await;
        assert!(watch.is_quiet());
        // Nobody polls the connection meanwhile.
        upstream.write_all(b"H").await.expect("written");
        assert!(!watch.is_quiet());

        let (_io, watch, upstream) = pair().await;
        drop(upstream);
        assert!(!watch.is_quiet());

        let (io, watch, _upstream) = pair().await;
        drop(io);
        assert!(!watch.is_quiet());
    }
}
