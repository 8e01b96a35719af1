//! An upstream on a bare socket: keeps every byte that arrives, and answers by the path.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    connections: usize,
    ended: usize,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = Self {
            address: listener.local_addr().expect("bound"),
            seen: Arc::default(),
        };
        let accepting = upstream.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                accepting.with(|seen| seen.connections += 1);
                let serving = accepting.clone();
                tokio::spawn(async move {
                    let _ = serving.serve(tcp).await;
                    serving.with(|seen| seen.ended += 1);
                });
            }
        });
        upstream
    }

    /// Everything that arrived since the last call.
    pub(crate) fn take(&self) -> String {
        let bytes = self.with(|seen| std::mem::take(&mut seen.bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn connections(&self) -> usize {
        self.with(|seen| seen.connections)
    }

    pub(crate) fn open(&self) -> usize {
        self.with(|seen| seen.connections - seen.ended)
    }

    /// Waits until only `open` connections are open.
    pub(crate) async fn wait_for_open(&self, open: usize) {
        for _ in 0..200 {
            if self.open() <= open {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("upstream connections stay open");
    }

    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve(&self, mut tcp: TcpStream) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let Some(head) = self.read_until(&mut tcp, &mut buffer, b"\r\n\r\n").await? else {
                return Ok(());
            };
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let lower = head.to_ascii_lowercase();
            if path.starts_with("/hang") {
                // Until the gateway closes.
                while self.read(&mut tcp, &mut buffer).await? > 0 {}
                return Ok(());
            }
            if path.starts_with("/early") {
                // The answer begins before the request's body has come, and does not end.
                tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
                    .await?;
                while self.read(&mut tcp, &mut buffer).await? > 0 {}
                return Ok(());
            }
            if path.starts_with("/talks") {
                // Much longer than a patience, while the request's body stays open.
                tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
                    .await?;
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    tcp.write_all(b"x").await?;
                }
                while self.read(&mut tcp, &mut buffer).await? > 0 {}
                return Ok(());
            }
            if path.starts_with("/deaf") {
                // The whole answer comes, and nothing more of the request's body is read.
                tcp.write_all(OK).await?;
                while tcp
                    .ready(Interest::ERROR)
                    .await
                    .is_ok_and(|ready| !ready.is_error())
                {}
                return Ok(());
            }
            if path.starts_with("/done") {
                // The whole answer comes before the request's body.
                tcp.write_all(OK).await?;
            }
            if path.starts_with("/ws") {
                match path.as_str() {
                    "/ws-success" => {
                        tcp.write_all(OK).await?;
                        continue;
                    }
                    "/ws-declined" => {
                        let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
                        tcp.write_all(answer).await?;
                        continue;
                    }
                    "/ws-wrong" => tcp.write_all(&switch("another key")).await?,
                    "/ws-silent" => {}
                    _ => tcp.write_all(&switch(key_in(&head))).await?,
                }
                if path == "/ws-bye" {
                    return tcp.write_all(b"bye").await;
                }
                if path == "/ws-large" {
                    loop {
                        tcp.write_all(&[b'x'; 16 * 1024]).await?;
                    }
                }
                if path == "/ws-reset" {
                    self.read(&mut tcp, &mut buffer).await?;
                    return SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                }
                loop {
                    let received = std::mem::take(&mut buffer);
                    tcp.write_all(&received).await?;
                    if self.read(&mut tcp, &mut buffer).await? == 0 {
                        return Ok(());
                    }
                }
            }
            if lower.contains("transfer-encoding: chunked") {
                if !self.read_chunks(&mut tcp, &mut buffer).await? {
                    return Ok(());
                }
            } else if let Some(rest) = lower.split("content-length: ").nth(1) {
                let length: usize = rest
                    .split("\r\n")
                    .next()
                    .and_then(|digits| digits.parse().ok())
                    .expect("a length");
                while buffer.len() < length {
                    if self.read(&mut tcp, &mut buffer).await? == 0 {
                        return Ok(());
                    }
                }
                buffer.drain(..length);
            }
            match path.split('?').next().unwrap_or_default() {
                "/slow" => {
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
                        .await?;
                    loop {
                        tcp.write_all(&[b'x'; 1000]).await?;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                "/large" => {
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n")
                        .await?;
                    loop {
                        tcp.write_all(&[b'x'; 16 * 1024]).await?;
                    }
                }
                "/sized" => {
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 32768\r\n\r\n")
                        .await?;
                    tcp.write_all(&[b'x'; 32 * 1024]).await?;
                }
                "/done" => {}
                "/late" => {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    tcp.write_all(OK).await?;
                }
                "/pauses" => {
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nbegin")
                        .await?;
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    tcp.write_all(b"end").await?;
                }
                "/two-lengths" => {
                    tcp.write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                    )
                    .await?;
                }
                "/garbage" => tcp.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await?,
                "/close" => return Ok(()),
                "/headers" => tcp.write_all(HEADERS).await?,
                "/trailers" => tcp.write_all(TRAILERS).await?,
                _ => tcp.write_all(OK).await?,
            }
        }
    }

    /// Reads a chunked body with its trailers; false at the end of the stream.
    async fn read_chunks(
        &self,
        tcp: &mut TcpStream,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<bool> {
        loop {
            let Some(line) = self.read_until(tcp, buffer, b"\r\n").await? else {
                return Ok(false);
            };
            let size = usize::from_str_radix(line.trim(), 16).expect("a chunk's size");
            if size == 0 {
                break;
            }
            while buffer.len() < size + 2 {
                if self.read(tcp, buffer).await? == 0 {
                    return Ok(false);
                }
            }
            buffer.drain(..size + 2);
        }
        loop {
            match self.read_until(tcp, buffer, b"\r\n").await? {
                None => return Ok(false),
                Some(line) if line == "\r\n" => return Ok(true),
                Some(_) => {}
            }
        }
    }

    /// Reads a text up to and including `end`; `None` at the end of the stream.
    async fn read_until(
        &self,
        tcp: &mut TcpStream,
        buffer: &mut Vec<u8>,
        end: &[u8],
    ) -> std::io::Result<Option<String>> {
        loop {
            if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
                let head: Vec<u8> = buffer.drain(..at + end.len()).collect();
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            if self.read(tcp, buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn read(&self, tcp: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
        let start = buffer.len();
        let length = tcp.read_buf(buffer).await?;
        self.with(|seen| seen.bytes.extend_from_slice(&buffer[start..]));
        Ok(length)
    }
}

/// The key of a WebSocket's handshake.
pub(crate) fn key_in(head: &str) -> &str {
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.eq_ignore_ascii_case("sec-websocket-key")).then_some(value)
    });
    line.unwrap_or_default().trim()
}

/// How a WebSocket is opened (RFC 6455, section 4.2.2).
fn switch(key: &str) -> Vec<u8> {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()));
    format!("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: chat\r\nsec-websocket-accept: {accept}\r\n\r\n").into_bytes()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HEADERS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-device-id: forged\r\nx_device_id: forged\r\nproxy-status: forged\r\nconnection: x-private\r\nx-private: 1\r\nx-public: 1\r\n\r\nok";
const TRAILERS: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: digest, x-device-id\r\n\r\n2\r\nok\r\n0\r\ndigest: sum\r\nx-device-id: forged\r\n\r\n";
