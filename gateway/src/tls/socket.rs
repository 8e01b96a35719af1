//! A TCP connection below TLS, read in larger pieces than the TLS library asks for.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The library asks for 4 KiB at a time, and a record may have four times as many: what it did not ask for yet waits here.
/// While nothing waits, the connection owns no buffer.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    ahead: Vec<u8>,
    /// How many bytes of `ahead` have been handed on.
    used: usize,
}

thread_local! {
    /// Where all connections of a thread are read into.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; AT_ONCE].into());
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            ahead: Vec::new(),
            used: 0,
        }
    }

    /// The connection itself, for whoever wants its options, or nothing more of TLS.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The connection alone. What was read ahead is lost.
    pub(super) fn into_tcp(self) -> TcpStream {
        self.tcp
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return SPACE.with_borrow_mut(|space| {
                let mut space = ReadBuf::new(space);
                ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut space))?;
                let read = space.filled();
                let (now, later) = read.split_at(read.len().min(buf.remaining()));
                buf.put_slice(now);
                this.ahead.extend_from_slice(later);
                Poll::Ready(Ok(()))
            });
        }
        let waiting = &this.ahead[this.used..];
        let now = &waiting[..waiting.len().min(buf.remaining())];
        buf.put_slice(now);
        this.used += now.len();
        if this.used == this.ahead.len() {
            (this.ahead, this.used) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
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

/// A record of the greatest length.
const AT_ONCE: usize = 17 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_however_many_are_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let sent: Vec<u8> = (0..3 * AT_ONCE as u32).map(|n| (n / 7) as u8).collect();
        let sending = async {
            let mut peer = TcpStream::connect(address).await.expect("connected");
            peer.write_all(&sent).await.expect("sent");
        };
        let receiving = async {
            let (tcp, _) = listener.accept().await.expect("accepted");
            let mut socket = Socket::new(tcp);
            let mut received = Vec::new();
            let mut piece = vec![0; 5000];
            for length in (1..5000).step_by(61).cycle() {
                let read = socket.read(&mut piece[..length]).await.expect("read");
                if read == 0 {
                    break;
                }
                received.extend_from_slice(&piece[..read]);
            }
            assert!(socket.ahead.capacity() == 0, "it keeps no buffer");
            received
        };
        let ((), received) = tokio::join!(sending, receiving);
        assert!(received == sent);
    }
}
