//! Upstreams on plain sockets: what they received is known to the byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A small HTTP/1.1 server. By the request's path:
/// `/slow` sends a little of a long answer every 10 ms, `/large` as much as is taken, `/hang` nothing, `/socket` speaks WebSocket, anything else is `ok`.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    open: Arc<AtomicUsize>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            open: Arc::default(),
        };
        let (received, open) = (Arc::clone(&upstream.received), Arc::clone(&upstream.open));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (received, open) = (Arc::clone(&received), Arc::clone(&open));
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::Relaxed);
                    serve(stream, received).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        upstream
    }

    /// Every byte received so far, over all connections, WebSocket frames excepted.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn forget(&self) {
        self.received.lock().unwrap().clear();
    }
}

async fn serve(mut stream: TcpStream, received: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = Vec::new();
    loop {
        // Heads only: the bodies that tests send here are empty or end with a blank line of their own.
        let Some(end) = find(&buffer, b"\r\n\r\n") else {
            let mut peeked = [0; 4096];
            let Ok(length) = stream.peek(&mut peeked).await else {
                return;
            };
            if length == 0 {
                return;
            }
            let head = String::from_utf8_lossy(&peeked[..length]).into_owned();
            if head.starts_with("GET /socket ") && head.contains("\r\n\r\n") {
                received
                    .lock()
                    .unwrap()
                    .extend_from_slice(&peeked[..length]);
                return echo(stream).await;
            }
            let mut chunk = vec![0; length];
            if stream.read_exact(&mut chunk).await.is_err() {
                return;
            }
            received.lock().unwrap().extend_from_slice(&chunk);
            buffer.extend_from_slice(&chunk);
            continue;
        };
        let head: Vec<u8> = buffer.drain(..end + 4).collect();
        if head.starts_with(b"GET /slow ") {
            return slow(stream).await;
        }
        if head.starts_with(b"GET /large ") {
            return large(stream).await;
        }
        if head.windows(7).any(|window| window == b" /hang ") {
            // Until the gateway closes.
            while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn slow(mut stream: TcpStream) {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
    if stream.write_all(head).await.is_err() {
        return;
    }
    // Bounded: a test that forgets the connection does not keep it for ever.
    for _ in 0..6000 {
        if stream.write_all(&[b'x'; 1024]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As much as is taken.
async fn large(mut stream: TcpStream) {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n";
    if stream.write_all(head).await.is_ok() {
        while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
    }
}

async fn echo(stream: TcpStream) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
