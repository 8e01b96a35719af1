//! A connection's TLS, whatever is spoken over it: what a peer sends that brings nothing is bounded.

use std::io;
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
    tls: TlsStream<Socket>,
    handle: Arc<Handle>,
    overhead: Overhead,
}

impl TlsIo {
    pub(crate) fn new(tls: TlsStream<Socket>, handle: Arc<Handle>) -> Self {
        Self {
            tls,
            handle,
            overhead: Overhead::default(),
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        self.tls.get_ref().0.tcp()
    }

    pub(crate) fn get_mut(&mut self) -> (&mut Socket, &mut ServerConnection) {
        self.tls.get_mut()
    }

    /// Receives until there is something to be read, or nothing more comes for now; at the end of it, too.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let (socket, session) = self.tls.get_mut();
        while session.wants_read() {
            let received = match session.read_tls(&mut Below { socket, cx }) {
                Ok(0) => return Ok(()),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
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
        Ok(())
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.receive(cx)?;
        // What was received, or that there is nothing, or no more.
        Pin::new(&mut this.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
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
