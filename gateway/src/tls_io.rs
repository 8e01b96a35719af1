//! A connection's TLS, whatever is spoken over it: what a peer sends that brings nothing is bounded.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::code::Code;
use crate::handle::Handle;
use crate::pure::tls_overhead::Overhead;
use crate::tls::TlsStream;

/// A TLS connection after its handshake.
pub(crate) struct TlsIo {
    tls: TlsStream,
    handle: Arc<Handle>,
    overhead: Overhead,
}

impl TlsIo {
    pub(crate) fn new(tls: TlsStream, handle: Arc<Handle>) -> Self {
        Self {
            tls,
            handle,
            overhead: Overhead::default(),
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        self.tls.tcp()
    }

    /// Whether something is ready that has not been sent.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends some of it; how much.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.tls.poll_send(cx)
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            tls,
            handle,
            overhead,
        } = self.get_mut();
        tls.poll_read_counted(cx, buf, |received| {
            if overhead.receive(received.encrypted, received.plain) {
                return Ok(());
            }
            handle.report_fault(Code::TooManyFrames);
            Err(io::ErrorKind::InvalidData.into())
        })
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
