//! A connection's TLS, whatever is spoken over it: what a peer sends that brings nothing is bounded.

use std::io::{self, BufRead as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::code::Code;
use crate::handle::Handle;
use crate::pure::tls_overhead::Overhead;
use crate::tls::Socket;

/// A TLS connection after its handshake.
pub(crate) struct TlsIo {
    /// Boxed, because it is moved from future to future, and each would keep the room for it.
    tls: Box<TlsStream<Socket>>,
    handle: Arc<Handle>,
    overhead: Overhead,
    /// What reading failed with after something had been read.
    error: Option<io::Error>,
}

impl TlsIo {
    pub(crate) fn new(tls: TlsStream<Socket>, handle: Arc<Handle>) -> Self {
        Self {
            tls: Box::new(tls),
            handle,
            overhead: Overhead::default(),
            error: None,
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        self.tls.get_ref().0.tcp()
    }

    pub(crate) fn get_mut(&mut self) -> (&mut Socket, &mut ServerConnection) {
        self.tls.get_mut()
    }

    /// Reads what is there as one piece; nothing at the end of the stream. The TLS library's own reading would receive more
    /// until the reader has no room, and count none of it.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let waits = self.receive(cx)?;
        let session = self.tls.get_mut().1;
        match session.reader().into_first_chunk() {
            Ok(chunk) => {
                let length = chunk.len().min(buf.remaining());
                buf.put_slice(&chunk[..length]);
                session.reader().consume(length);
                Poll::Ready(Ok(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !waits {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Receives until there is something to be read, or nothing more comes for now: then it is true.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let (socket, session) = self.tls.get_mut();
        while session.wants_read() {
            let received = match session.read_tls(&mut Below { socket, cx }) {
                Ok(0) => return Ok(false),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let readable = match session.process_new_packets() {
                Ok(state) => state.plaintext_bytes_to_read(),
                Err(error) => {
                    // The alert, if it can leave at once.
                    let _ = session.write_tls(&mut Below { socket, cx });
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            if !self.overhead.receive(received, readable) {
                self.handle.report_fault(Code::TooManyFrames);
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(false)
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Err(error));
        }
        let start = buf.filled().len();
        while buf.remaining() > 0 {
            match this.poll_piece(cx, buf) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(_)) => {}
                // What was read comes first.
                Poll::Ready(Err(error)) if buf.filled().len() > start => {
                    this.error = Some(error);
                    break;
                }
                Poll::Pending if buf.filled().len() > start => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.tls).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.tls).poll_shutdown(cx)
    }
}

/// A socket as TLS reads and writes it.
pub(crate) struct Below<'a, 'b> {
    pub(crate) socket: &'a mut Socket,
    pub(crate) cx: &'a mut Context<'b>,
}

impl Below<'_, '_> {
    fn done<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
        match polled {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl io::Read for Below<'_, '_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(space);
        Self::done(Pin::new(&mut *self.socket).poll_read(self.cx, &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl io::Write for Below<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::done(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Self::done(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
