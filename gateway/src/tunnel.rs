//! The bytes of a WebSocket between a device and an upstream, either of which may be a stream of an HTTP/2 connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::task::AbortHandle;

use crate::audit::Audit;
use crate::code::Code;
use crate::guarded_io::Carried;
use crate::pace::Pace;
use crate::request::{Connection, record_fault};
use crate::splice;
use crate::upstream::Lease;

/// What both sides have agreed to.
pub(crate) struct Tunnel {
    /// The device's end, if its connection has others beside it; else the connection is that end.
    pub(crate) device: Option<OnUpgrade>,
    pub(crate) upstream: OnUpgrade,
    /// Counts as a request under way at the upstream.
    pub(crate) lease: Lease,
    /// What it leaves behind.
    pub(crate) audit: Option<Audit>,
}

/// The upstream's end. One that hardly takes bytes for ten times the `patience` fails.
pub(crate) async fn upstream(end: OnUpgrade, patience: Duration) -> io::Result<Paced> {
    Ok(Paced::new(
        end.await.map_err(io::Error::other)?,
        Pace::of_reader(patience),
    ))
}

/// What the tasks of an HTTP/2 stream that becomes a tunnel tell each other: the one that carries bytes, and HTTP's own,
/// which sends them to the device.
#[derive(Default)]
pub(crate) struct Line {
    tunnel: RefCell<Option<Box<Tunnel>>>,
    sender: RefCell<Option<AbortHandle>>,
    sender_ended: Cell<bool>,
    /// Whether all was sent that there is to send.
    shut: Cell<bool>,
    carrier: RefCell<Option<Waker>>,
}

impl Line {
    /// Both sides have agreed; the answer comes first.
    pub(crate) fn begin(&self, tunnel: Box<Tunnel>) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    pub(crate) fn take(&self) -> Option<Box<Tunnel>> {
        self.tunnel.borrow_mut().take()
    }

    pub(crate) fn sender_began(&self, sender: AbortHandle) {
        *self.sender.borrow_mut() = Some(sender);
    }

    pub(crate) fn sender_ended(&self) {
        self.sender_ended.set(true);
        if let Some(carrier) = self.carrier.borrow_mut().take() {
            carrier.wake();
        }
    }

    /// Whether the device reset the stream. Who only reads would take that for an ordinary end.
    fn is_lost(&self, cx: &mut Context<'_>) -> bool {
        *self.carrier.borrow_mut() = Some(cx.waker().clone());
        self.sender_ended.get() && !self.shut.get()
    }

    /// Resets the stream: nobody may take what was sent for all there is.
    fn break_off(&self) {
        if let Some(sender) = self.sender.borrow_mut().take() {
            sender.abort();
        }
    }
}

/// Carries bytes both ways over a stream of a device's HTTP/2 connection, until both sides have ended.
pub(crate) async fn carry(connection: &Connection, line: &Line, tunnel: Tunnel) {
    let Tunnel {
        device: Some(device),
        upstream: answered,
        lease: _lease,
        audit,
    } = tunnel
    else {
        return;
    };
    let patience = connection.worker.shared.limits.load().patience;
    let carried = Cell::new(Carried::default());
    let carrying = async {
        let end = device.await.map_err(io::Error::other)?;
        let mut device = Device {
            end: Paced::new(end, Pace::of_reader(patience)),
            connection,
            line,
            carried: &carried,
        };
        let mut upstream = upstream(answered, patience).await?;
        copy_bidirectional_with_sizes(&mut device, &mut upstream, BUFFER, BUFFER).await
    };
    let mut carrying = pin!(carrying);
    let ended = poll_fn(|cx| {
        // What was read before the cut goes nowhere after it.
        if line.is_lost(cx) || connection.handle.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        carrying.as_mut().poll(cx)
    })
    .await;
    if let Some(mut audit) = audit {
        let ending = splice::ending(&connection.handle, Some(&ended));
        audit.end_carried(Carried::default(), carried.get(), 0, ending);
    }
    if let Err(error) = ended {
        tracing::debug!(%error, "a WebSocket was broken off");
        line.break_off();
    }
}

/// The device's end of a tunnel over HTTP/2: dead after the cut, as every other byte of its connection.
struct Device<'c> {
    end: Paced,
    connection: &'c Connection,
    line: &'c Line,
    carried: &'c Cell<Carried>,
}

impl Device<'_> {
    fn check(&self) -> io::Result<()> {
        if self.connection.handle.is_cut() {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }

    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled
            && error.kind() == io::ErrorKind::TimedOut
        {
            record_fault(self.connection, Code::AnswerNotRead);
        }
        polled
    }
}

impl AsyncRead for Device<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let start = buf.filled().len();
        let polled = Pin::new(&mut self.end).poll_read(cx, buf);
        let mut carried = self.carried.get();
        carried.received += (buf.filled().len() - start) as u64;
        self.carried.set(carried);
        polled
    }
}

impl AsyncWrite for Device<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let polled = Pin::new(&mut self.end).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = &polled {
            let mut carried = self.carried.get();
            carried.sent += *length as u64;
            self.carried.set(carried);
        }
        self.note(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.end).poll_flush(cx);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.shut.set(true);
        let polled = Pin::new(&mut self.end).poll_shutdown(cx);
        self.note(polled)
    }
}

/// An end of which the other side has to take bytes; else it fails with `TimedOut`.
pub(crate) struct Paced {
    io: TokioIo<Upgraded>,
    pace: Pace,
}

impl Paced {
    fn new(upgraded: Upgraded, pace: Pace) -> Self {
        Self {
            io: TokioIo::new(upgraded),
            pace,
        }
    }

    fn follow<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.pace.pause();
        } else if self.pace.is_too_slow(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        let polled = self.follow(cx, polled);
        if let Poll::Ready(Ok(length)) = &polled {
            self.pace.moved(*length);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.follow(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.follow(cx, polled)
    }
}

/// Per direction. What HTTP/2 has taken beyond the device's window is at most one of it.
const BUFFER: usize = 8 * 1024;
