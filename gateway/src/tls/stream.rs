//! A TLS connection of which we are the server, by the TLS library's interface that keeps no buffers: a quiet connection has
//! none. All connections of a thread are received, encrypted and put together in the same space. Long, because handshake,
//! reading, writing and ending are steps of one session.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::queue::Queue;

/// A TLS connection after its handshake.
pub struct TlsStream(Box<Connection>);

/// What a handshake is made from, and what remains of it.
pub(super) struct Connection {
    tcp: TcpStream,
    session: UnbufferedServerConnection,
    /// Received and not whole: the beginning of a record, or of a message in several records.
    incoming: Vec<u8>,
    /// Decrypted and not read.
    plain: Queue,
    /// Encrypted and not sent.
    outgoing: Queue,
    /// The peer has said that nothing more comes.
    has_ended: bool,
    /// We have.
    has_closed: bool,
    failure: Option<Failure>,
}

/// Why nothing is received any more.
enum Failure {
    /// Whoever reads has not heard of it, because something came before.
    New(io::Error),
    Told,
}

/// What one look at the socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes of TLS.
    pub(crate) encrypted: usize,
    /// Bytes for the reader.
    pub(crate) plain: usize,
}

impl Connection {
    /// `received` is the ClientHello, and what else came with it.
    pub(super) fn new(
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        received: Vec<u8>,
    ) -> Result<Box<Self>, Error> {
        Ok(Box::new(Self {
            tcp,
            session: UnbufferedServerConnection::new(config)?,
            incoming: received,
            plain: Queue::default(),
            outgoing: Queue::default(),
            has_ended: false,
            has_closed: false,
            failure: None,
        }))
    }

    /// Finishes the handshake. The peer of one that failed was sent the alert, if that could leave at once.
    pub(super) async fn handshake(self: &mut Box<Self>) -> io::Result<()> {
        let mut hello = mem::take(&mut self.incoming);
        let followed = self.follow(&mut hello, &mut ReadBuf::new(&mut []));
        let mut begun = Some(followed.and_then(|done| {
            hello.drain(..done);
            self.keep(hello)
        }));
        poll_fn(|cx| {
            if let Some(Err(error)) = begun.take() {
                return Poll::Ready(Err(self.fail(cx, error)));
            }
            loop {
                ready!(self.poll_flush(cx))?;
                if !self.session.is_handshaking() {
                    return Poll::Ready(Ok(()));
                }
                ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
            }
        })
        .await
    }

    pub(super) fn into_stream(self: Box<Self>) -> TlsStream {
        TlsStream(self)
    }

    pub(super) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    pub(super) fn session(&self) -> &CommonState {
        &self.session
    }

    /// Receives what is there, as much as a record has at most. What it brings the reader goes into `reader`, as far as there
    /// is room. The end of the connection is an error: the peer did not say that it was the end.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Received>> {
        if let Some(failure) = &mut self.failure {
            return Poll::Ready(Err(match mem::replace(failure, Failure::Told) {
                Failure::New(error) => error,
                Failure::Told => io::ErrorKind::InvalidData.into(),
            }));
        }
        INCOMING.with_borrow_mut(|space| {
            let mut buf = ReadBuf::new(&mut space[AT_ONCE..]);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf))?;
            let received = buf.filled();
            let encrypted = received.len();
            if encrypted == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let before = self.plain.len() + reader.filled().len();
            // Of what is kept and what came, the smaller goes to the larger, so that a trickle is not copied again and again.
            let mut kept = mem::take(&mut self.incoming);
            let followed = if kept.len() > encrypted {
                kept.extend_from_slice(received);
                self.follow(&mut kept, reader).map(|done| {
                    kept.drain(..done);
                })
            } else {
                let start = AT_ONCE - kept.len();
                space[start..AT_ONCE].copy_from_slice(&kept);
                let all = &mut space[start..AT_ONCE + encrypted];
                self.follow(all, reader).map(|done| {
                    kept.clear();
                    kept.extend_from_slice(&all[done..]);
                })
            };
            let plain = self.plain.len() + reader.filled().len() - before;
            if let Err(error) = followed.and_then(|()| self.keep(kept)) {
                let error = self.fail(cx, error);
                if plain == 0 {
                    return Poll::Ready(Err(error));
                }
                self.failure = Some(Failure::New(error));
            }
            Poll::Ready(Ok(Received { encrypted, plain }))
        })
    }

    /// Nothing is received any more. The alert leaves if it can.
    fn fail(&mut self, cx: &mut Context<'_>, error: Error) -> io::Error {
        self.failure = Some(Failure::Told);
        self.incoming = Vec::new();
        // What is ready comes before anything else that TLS might want to look at.
        while self.session.wants_write() {
            let state = self.session.process_tls_records(&mut []).state;
            let Ok(ConnectionState::EncodeTlsData(data)) = state else {
                break;
            };
            if self.outgoing.encode(data).is_err() {
                break;
            }
        }
        let _ = self.poll_flush(cx);
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    /// Lets TLS follow what was received, as far as it is whole: so many bytes.
    fn follow(&mut self, received: &mut [u8], reader: &mut ReadBuf<'_>) -> Result<usize, Error> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.session.process_tls_records(&mut received[done..]);
            let goes_on = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.plain.hand_on(record.payload, reader);
                    }
                    true
                }
                ConnectionState::EncodeTlsData(data) => {
                    self.outgoing.encode(data)?;
                    true
                }
                // What is ready is sent in its order, whoever asks for it. TLS has seen all that is whole by now; of early data,
                // which nobody takes, it would count each look as if more had come (RFC 8446, section 4.2.10).
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    !self.session.is_handshaking()
                }
                ConnectionState::PeerClosed => {
                    self.has_ended = true;
                    true
                }
                ConnectionState::BlockedHandshake
                | ConnectionState::WriteTraffic(_)
                | ConnectionState::Closed => false,
                // No configuration of ours takes early data.
                ConnectionState::ReadEarlyData(_) | _ => return Err(unexpected()),
            };
            done += discard;
            if !goes_on {
                return Ok(done);
            }
        }
    }

    /// Keeps what was received and is not whole.
    fn keep(&mut self, rest: Vec<u8>) -> Result<(), Error> {
        let most = if self.session.is_handshaking() {
            MOST_KEPT
        } else {
            AT_ONCE
        };
        // After the peer's last word, TLS looks at nothing any more.
        if rest.is_empty() || self.has_ended {
            return Ok(());
        }
        if rest.len() > most {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        self.incoming = rest;
        Ok(())
    }

    /// Does something with what can encrypt.
    fn encrypting<T>(
        &mut self,
        act: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> T,
    ) -> io::Result<T> {
        if self.has_closed || self.failure.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            // What is kept of it is not whole, so nothing follows from it; TLS wants to see it all the same.
            let status = self.session.process_tls_records(&mut self.incoming);
            match status.state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => return Ok(act(&mut traffic)),
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    self.outgoing.encode(data).map_err(io::Error::other)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) | Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        OUTGOING.with_borrow_mut(
            |Space {
                 encrypted,
                 together,
             }| {
                let mut length = 0;
                let taken = self.encrypting(|traffic| {
                    let mut encrypt = |bytes: &[u8]| {
                        length += encrypt(traffic, bytes, encrypted, length)?;
                        io::Result::Ok(())
                    };
                    let mut taken = 0;
                    together.clear();
                    for slice in slices {
                        let slice = &slice[..slice.len().min(MOST_AT_ONCE - taken)];
                        taken += slice.len();
                        if slice.len() < LARGE {
                            together.extend_from_slice(slice);
                            continue;
                        }
                        encrypt(together)?;
                        together.clear();
                        encrypt(slice)?;
                    }
                    encrypt(together)?;
                    io::Result::Ok(taken)
                })?;
                let taken = match taken {
                    Ok(taken) => taken,
                    // What was encrypted before that has its place in the order, also before a farewell.
                    Err(error) => {
                        self.outgoing.push(&encrypted[..length]);
                        return Poll::Ready(Err(error));
                    }
                };
                // What TLS wanted to be sent before.
                let _ = self.poll_flush(cx)?;
                let mut sent = 0;
                while sent < length && self.outgoing.is_empty() {
                    match Pin::new(&mut self.tcp).poll_write(cx, &encrypted[sent..length])? {
                        Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        Poll::Ready(count) => sent += count,
                        Poll::Pending => break,
                    }
                }
                self.outgoing.push(&encrypted[sent..length]);
                Poll::Ready(Ok(taken))
            },
        )
    }

    /// Sends some of what is ready; how much.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, self.outgoing.waiting()))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.outgoing.consume(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_closed && self.failure.is_none() {
            let mut farewell = [0; LARGEST_ALERT];
            let said = self.encrypting(|traffic| traffic.queue_close_notify(&mut farewell));
            if let Ok(Ok(length)) = said {
                self.outgoing.push(&farewell[..length]);
            }
            self.has_closed = true;
        }
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl TlsStream {
    /// The TCP connection.
    pub fn tcp(&self) -> &TcpStream {
        &self.0.tcp
    }

    /// What the handshake agreed on.
    pub fn session(&self) -> &CommonState {
        &self.0.session
    }

    /// Whether something is ready that has not been sent.
    pub(crate) fn wants_write(&self) -> bool {
        !self.0.outgoing.is_empty()
    }

    /// Sends some of it; how much.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx)
    }

    /// Reads, and says of each look at the socket what it brought.
    pub(crate) fn poll_read_counted(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut count: impl FnMut(Received) -> io::Result<()>,
    ) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        self.0.plain.read(buf);
        while buf.remaining() > 0 && !self.0.has_ended {
            let has_read = buf.filled().len() > start;
            match self.0.poll_receive(cx, buf) {
                Poll::Ready(Ok(received)) => {
                    count(received)?;
                    if received.encrypted < AT_ONCE && buf.filled().len() > start {
                        break;
                    }
                }
                // What was read comes first.
                Poll::Ready(Err(error)) if has_read => {
                    if let Some(failure) = &mut self.0.failure {
                        *failure = Failure::New(error);
                    }
                    // Otherwise it was the socket's, which will say it again.
                    break;
                }
                Poll::Pending if has_read => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsStream")
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll_read_counted(cx, buf, |_| Ok(()))
    }
}

impl AsyncWrite for TlsStream {
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
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().0.poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_shutdown(cx)
    }
}

/// Receives once into the space of the thread; what `act` is given is what came, and nothing of it at the end.
pub(super) async fn receive<T>(
    tcp: &mut TcpStream,
    mut act: impl FnMut(&[u8]) -> io::Result<T>,
) -> io::Result<T> {
    poll_fn(|cx| {
        INCOMING.with_borrow_mut(|space| {
            let mut buf = ReadBuf::new(&mut space[..AT_ONCE]);
            ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buf))?;
            Poll::Ready(act(buf.filled()))
        })
    })
    .await
}

/// Encrypts into `space` from `at` on. How long it became.
fn encrypt(
    traffic: &mut WriteTraffic<'_, ServerConnectionData>,
    bytes: &[u8],
    space: &mut Vec<u8>,
    at: usize,
) -> io::Result<usize> {
    loop {
        match traffic.encrypt(bytes, &mut space[at..]) {
            Ok(length) => return Ok(length),
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                space.resize(at + required_size, 0);
            }
            Err(EncryptError::EncryptExhausted) => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

pub(super) fn unexpected() -> Error {
    Error::General("a state of TLS that was not asked for".to_owned())
}

/// What the connections of a thread share to send.
struct Space {
    encrypted: Vec<u8>,
    /// Small pieces, which become one record.
    together: Vec<u8>,
}

thread_local! {
    static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; 2 * AT_ONCE].into());
    static OUTGOING: RefCell<Space> = RefCell::new(Space {
        encrypted: vec![0; MOST_AT_ONCE + OVERHEAD],
        together: Vec::new(),
    });
}

/// A record of the greatest length.
const AT_ONCE: usize = 17 * 1024;
/// Of a message in several records: the handshake's may be long (RFC 8446, section 4), a device's is not.
const MOST_KEPT: usize = 64 * 1024 - 1;
/// How much is taken from a writer.
const MOST_AT_ONCE: usize = 64 * 1024;
/// Headers and tags of as many records.
const OVERHEAD: usize = 4 * 1024;
/// What is worth a record of its own, rather than a copy.
const LARGE: usize = 4 * 1024;
/// An encrypted alert, and new keys before it.
const LARGEST_ALERT: usize = 256;

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
