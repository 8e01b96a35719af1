//! The IO wrapper around every connection's decrypted bytes: the one cut, the watcher and the deadline of
//! request heads, of HTTP/2's frames that lead nowhere, and of bytes that the peer does not take.
//!
//! After the cut every read and write fails. In front of HTTP/1.1 the watcher sees all bytes first; a head
//! is withheld until it is whole and clean. A request that breaks a rule is replaced by a request that only
//! this file writes, so that its refusal takes its place after the answers before it.
//! Long, because all that reads or writes these bytes has to pass the one cut, and is seen to here.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::code::Code;
use crate::handle::Handle;
use crate::pace::Pace;
use crate::pure::framing::{Rest, Violation, Watcher};
use crate::pure::http2_frames::{Allowance, Frames};
use crate::tls::TlsStream;
use crate::tls_io::TlsIo;

/// A connection's decrypted bytes.
pub(crate) struct GuardedIo {
    tls: TlsIo,
    handle: Arc<Handle>,
    inbound: Inbound,
    /// Of the peer, when it takes bytes.
    pace: Pace,
    traffic: Traffic,
    carried: Carried,
    calm: Calm,
}

/// Whether nothing is on its way through a connection of HTTP/1.1, as far as its bytes tell.
#[derive(Clone, Debug)]
pub(crate) struct Calm(Rc<Cell<(bool, bool)>>);

impl Calm {
    fn new() -> Self {
        Self(Rc::new(Cell::new((true, true))))
    }

    /// Whether what was read ended with a whole request, and what was written has gone.
    pub(crate) fn is_calm(&self) -> bool {
        self.0.get() == (true, true)
    }

    fn read(&self, is_between: bool) {
        self.0.set((is_between, self.0.get().1));
    }

    fn wrote(&self, is_flushed: bool) {
        self.0.set((self.0.get().0, is_flushed));
    }
}

/// Counts the bytes of all connections, without TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
}

/// How many bytes went through one connection, without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// How the bytes from the peer are looked at.
enum Inbound {
    /// HTTP/2 brings its own framing. After the cut its connection says goodbye for a bounded time, without
    /// its streams.
    Http2(Counted),
    /// HTTP/1.1.
    Http1(Watched),
    /// Bytes of some other protocol, which are the upstream's to judge.
    Stream,
}

/// HTTP/2's frames are counted.
struct Counted {
    received: Frames,
    sent: Frames,
    allowance: Allowance,
    refilled: Instant,
}

struct Watched {
    watcher: Watcher,
    /// Bytes that were read and not handed on; the first `clean` of them may be.
    stash: Vec<u8>,
    clean: usize,
    head_timeout: Duration,
    /// Runs while the beginning of a head waits for its end.
    head_deadline: Option<Pin<Box<Sleep>>>,
    state: Reading,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// As the peer sends.
    Open,
    /// A request broke a rule; after the stash comes the one that stands for it, and then nothing.
    Refused,
    /// That one was handed on.
    Over,
    /// A body broke a rule: the request under way must fail.
    Broken,
}

impl GuardedIo {
    /// For HTTP/2. A peer that hardly takes bytes for the `patience` is cut.
    pub(crate) fn http2(
        tls: TlsStream,
        handle: Arc<Handle>,
        patience: Duration,
        traffic: &Traffic,
    ) -> Self {
        Self {
            tls: TlsIo::new(tls, Arc::clone(&handle)),
            handle,
            inbound: Inbound::Http2(Counted {
                received: Frames::inbound(),
                sent: Frames::outbound(),
                allowance: Allowance::new(),
                refilled: Instant::now(),
            }),
            pace: Pace::of_reader(patience),
            traffic: traffic.clone(),
            carried: Carried::default(),
            calm: Calm::new(),
        }
    }

    /// For HTTP/1.1, whose heads must arrive within `head_timeout` from their first byte.
    pub(crate) fn http1(
        tls: TlsStream,
        handle: Arc<Handle>,
        head_timeout: Duration,
        patience: Duration,
        traffic: &Traffic,
    ) -> Self {
        Self {
            tls: TlsIo::new(tls, Arc::clone(&handle)),
            handle,
            inbound: Inbound::Http1(Watched {
                watcher: Watcher::new(),
                stash: Vec::new(),
                clean: 0,
                head_timeout,
                head_deadline: None,
                state: Reading::Open,
            }),
            pace: Pace::of_reader(patience),
            traffic: traffic.clone(),
            carried: Carried::default(),
            calm: Calm::new(),
        }
    }

    /// For a TCP route.
    pub(crate) fn stream(
        tls: TlsStream,
        handle: Arc<Handle>,
        patience: Duration,
        traffic: &Traffic,
    ) -> Self {
        Self {
            tls: TlsIo::new(tls, Arc::clone(&handle)),
            handle,
            inbound: Inbound::Stream,
            pace: Pace::of_reader(patience),
            traffic: traffic.clone(),
            carried: Carried::default(),
            calm: Calm::new(),
        }
    }

    /// What went through it so far.
    pub(crate) fn carried(&self) -> Carried {
        self.carried
    }

    /// What tells whether it is calm.
    pub(crate) fn calm(&self) -> Calm {
        self.calm.clone()
    }

    /// Takes back what was read and not used, from whoever reads it no more.
    pub(crate) fn take_back(&mut self, bytes: Bytes) {
        if let Inbound::Http1(watched) = &mut self.inbound {
            watched.clean += bytes.len();
            watched.stash.splice(..0, bytes);
        }
    }

    /// Waits without a reader until there is something for one, or nothing any more: then it is false.
    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.check()?;
        let Self { tls, handle, .. } = self;
        match &mut self.inbound {
            Inbound::Http1(watched) => watched.poll_wait(tls, handle, cx),
            Inbound::Http2(_) | Inbound::Stream => Poll::Ready(Ok(true)),
        }
    }

    /// The TCP connection.
    pub(crate) fn tcp(&self) -> &TcpStream {
        self.tls.tcp()
    }

    /// Sends what TLS has ready; nothing is added to it before that has gone. A peer that takes too little of
    /// it is reset.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.poll_send(cx) {
                Poll::Ready(sent) => self.pace.moved(sent?),
                Poll::Pending => {
                    if self.pace.is_too_slow(cx) {
                        self.handle.report_fault(Code::AnswerNotRead);
                        self.handle.end_with_reset();
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                    return Poll::Pending;
                }
            }
        }
        self.pace.rest();
        Poll::Ready(Ok(()))
    }

    /// Fails once the connection is cut.
    fn check(&self) -> io::Result<()> {
        if self.handle.is_cut() && !matches!(self.inbound, Inbound::Http2(_)) {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }
}

impl AsyncRead for GuardedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let this = self.get_mut();
        let Self { tls, handle, .. } = this;
        let start = buf.filled().len();
        let polled = match &mut this.inbound {
            Inbound::Http2(counted) => counted.poll_read(tls, handle, cx, buf),
            Inbound::Http1(watched) => watched.poll_read(tls, handle, cx, buf),
            Inbound::Stream => Pin::new(tls).poll_read(cx, buf),
        };
        if let Inbound::Http1(watched) = &this.inbound {
            this.calm.read(watched.is_between());
        }
        let received = (buf.filled().len() - start) as u64;
        if received > 0 {
            this.carried.received += received;
            this.traffic.received.inc_by(received);
        }
        polled
    }
}

impl Counted {
    fn poll_read(
        &mut self,
        tls: &mut TlsIo,
        handle: &Handle,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut *tls).poll_read(cx, buf))?;
        if self.admits(&buf.filled()[start..]) {
            return Poll::Ready(Ok(()));
        }
        handle.report_fault(Code::TooManyFrames);
        if self.sent.is_between() {
            // As far as the peer takes it; the connection ends in any case.
            let goaway = self.allowance.goaway();
            let _ = Pin::new(tls).poll_write(cx, &goaway);
        }
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }

    /// Whether the peer may have sent these bytes.
    fn admits(&mut self, bytes: &[u8]) -> bool {
        if self.allowance.is_low() {
            let now = Instant::now();
            self.allowance.refill(now - self.refilled);
            self.refilled = now;
        }
        let mut admitted = true;
        self.received
            .follow(bytes, |frame| admitted &= self.allowance.receive(frame));
        admitted
    }
}

impl Watched {
    /// Whether nothing of a request was handed on that was not whole.
    fn is_between(&self) -> bool {
        self.clean == 0 && self.state == Reading::Open && self.watcher.is_in_head()
    }

    /// Waits for a whole head, or for what stands for one that breaks a rule.
    fn poll_wait(
        &mut self,
        tls: &mut TlsIo,
        handle: &Handle,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        while self.clean == 0 && self.state == Reading::Open {
            if ready!(self.read_aside(tls, handle, cx))? {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }

    fn poll_read(
        &mut self,
        tls: &mut TlsIo,
        handle: &Handle,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        loop {
            if self.clean > 0 {
                self.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            match self.state {
                Reading::Open => {}
                Reading::Refused if handle.is_in_flight() => {
                    // HTTP does not look at a connection from which it has another request already. So it gets
                    // that one late, and hears until then if the peer goes away.
                    return poll_end(tls, cx);
                }
                Reading::Refused => {
                    self.stash = REFUSED_REQUEST.to_vec();
                    self.clean = self.stash.len();
                    self.state = Reading::Over;
                    continue;
                }
                // The refusal closes the connection; nobody waits for more.
                Reading::Over => return Poll::Pending,
                Reading::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            let ended = if self.stash.is_empty() {
                ready!(self.read_through(tls, handle, cx, buf))?
            } else {
                ready!(self.read_aside(tls, handle, cx))?
            };
            if ended || buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads straight into the reader's buffer; what is not clean at its end moves to the stash. True at the
    /// end of the stream.
    fn read_through(
        &mut self,
        tls: &mut TlsIo,
        handle: &Handle,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let start = buf.filled().len();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(true));
        }
        ready!(Pin::new(tls).poll_read(cx, buf))?;
        let read = &buf.filled()[start..];
        if read.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let verdict = self.watcher.inspect(read, handle.is_tunnel());
        if verdict.rest == Rest::IncompleteHead {
            self.stash.extend_from_slice(&read[verdict.clean..]);
        }
        buf.set_filled(start + verdict.clean);
        self.follow(verdict.rest, handle);
        Poll::Ready(Ok(false))
    }

    /// Reads on while the beginning of a head waits in the stash.
    fn read_aside(
        &mut self,
        tls: &mut TlsIo,
        handle: &Handle,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let mut space = [0; READ_ASIDE];
        let mut aside = ReadBuf::new(&mut space);
        if Pin::new(tls).poll_read(cx, &mut aside)?.is_pending() {
            if self.stash.is_empty() {
                return Poll::Pending;
            }
            let deadline = self
                .head_deadline
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.head_timeout)));
            ready!(deadline.as_mut().poll(cx));
            self.follow(Rest::Violation(Violation::HeadTimeout), handle);
            return Poll::Ready(Ok(false));
        }
        if aside.filled().is_empty() {
            // Half a head and the end: nobody waits for an answer.
            self.stash = Vec::new();
            return Poll::Ready(Ok(true));
        }
        self.stash.extend_from_slice(aside.filled());
        let verdict = self.watcher.inspect(&self.stash, handle.is_tunnel());
        self.clean = verdict.clean;
        self.follow(verdict.rest, handle);
        Poll::Ready(Ok(false))
    }

    /// Acts on what follows the clean bytes.
    fn follow(&mut self, rest: Rest, handle: &Handle) {
        match rest {
            Rest::Nothing => self.head_deadline = None,
            Rest::IncompleteHead if self.clean > 0 => self.head_deadline = None,
            Rest::IncompleteHead => {}
            Rest::Violation(violation) => {
                self.head_deadline = None;
                handle.report_violation(violation);
                self.stash.truncate(self.clean);
                self.state = if self.watcher.is_in_body() {
                    Reading::Broken
                } else {
                    handle.await_ends();
                    Reading::Refused
                };
            }
        }
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.clean.min(buf.remaining());
        buf.put_slice(&self.stash[..length]);
        self.clean -= length;
        if length == self.stash.len() {
            // An idle connection keeps no buffer.
            self.stash = Vec::new();
        } else {
            self.stash.drain(..length);
        }
    }
}

/// Waits for the end of the stream; nothing before it is wanted.
fn poll_end(tls: &mut TlsIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut space = [0; READ_ASIDE];
    loop {
        let mut aside = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut *tls).poll_read(cx, &mut aside))?;
        if aside.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for GuardedIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let this = self.get_mut();
        this.calm.wrote(false);
        ready!(this.poll_drain(cx))?;
        let written = ready!(Pin::new(&mut this.tls).poll_write_vectored(cx, bytes))?;
        this.carried.sent += written as u64;
        this.traffic.sent.inc_by(written as u64);
        if let Inbound::Http2(counted) = &mut this.inbound {
            let mut left = written;
            for slice in bytes {
                let length = left.min(slice.len());
                counted.sent.follow(&slice[..length], |frame| {
                    counted.allowance.sent(frame);
                    if let Some(fault) = frame.reset().and_then(broken_rule) {
                        this.handle.report_reset(fault);
                    }
                });
                left -= length;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        ready!(Pin::new(&mut this.tls).poll_flush(cx))?;
        this.calm.wrote(true);
        Poll::Ready(Ok(()))
    }

    /// Says goodbye, also after the cut.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.tls).poll_shutdown(cx)
    }
}

impl Drop for GuardedIo {
    fn drop(&mut self) {
        if self.handle.ends_with_reset() {
            // If it fails, the socket closes the ordinary way, and the peer may get what was sent before.
            let _ = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
        }
    }
}

/// What the peer did, if the HTTP/2 implementation resets a stream for it: then nobody else hears of the stream, or of
/// its end. Resets of ours have other codes.
fn broken_rule(code: u32) -> Option<Code> {
    match h2::Reason::from(code) {
        h2::Reason::PROTOCOL_ERROR | h2::Reason::FLOW_CONTROL_ERROR => Some(Code::MalformedRequest),
        // More at a time than were allowed.
        h2::Reason::REFUSED_STREAM => Some(Code::TooManyRequests),
        _ => None,
    }
}

/// Whether a request is the one that stands for a refused one.
pub(crate) fn stands_for_refused(host: &[u8]) -> bool {
    host == REFUSED_HOST
}

/// Takes the place of a request that broke a rule. A peer that sends it gains a refusal.
const REFUSED_REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nhost: refused-by-keybound.invalid\r\nconnection: close\r\n\r\n";
const REFUSED_HOST: &[u8] = b"refused-by-keybound.invalid";

const READ_ASIDE: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_idle_connection_keeps_of_it_is_small() {
        // Futures that hand it on keep room for it each.
        let size = size_of::<GuardedIo>();
        assert!(size <= 512, "{size} bytes");
    }
}
