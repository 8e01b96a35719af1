//! HTTP/2 frames by hand, for what no client library would send.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// A connection after its preface.
pub(crate) struct Raw {
    pub(crate) tls: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With GOAWAY and this code.
    Goaway(u32),
    /// Without a word.
    Closed,
    /// Not within the time.
    Open,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a request without its body, in HPACK.
pub(crate) fn head(method: u8, authority: &str, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x87];
    for (name, value) in [(1, authority), (4, path)] {
        block.extend([name, u8::try_from(value.len()).expect("short")]);
        block.extend(value.as_bytes());
    }
    block
}

pub(crate) const GET: u8 = 0x82;
pub(crate) const POST: u8 = 0x83;

pub(crate) fn get(authority: &str, path: &str, stream: u32) -> Vec<u8> {
    let block = head(GET, authority, path);
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

impl Raw {
    pub(crate) async fn start(tls: TlsStream<TcpStream>, settings: &[(u16, u32)]) -> Self {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut raw = Self {
            tls,
            buffer: Vec::new(),
        };
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &payload));
        raw.send(&bytes).await.expect("sent");
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes).await?;
        self.tls.flush().await
    }

    pub(crate) async fn next(&mut self) -> io::Result<Frame> {
        while self.buffer.len() < 9 {
            self.read().await?;
        }
        let length =
            u32::from_be_bytes([0, self.buffer[0], self.buffer[1], self.buffer[2]]) as usize;
        while self.buffer.len() < 9 + length {
            self.read().await?;
        }
        let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
        Ok(Frame {
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]),
            payload: bytes[9..].to_vec(),
        })
    }

    async fn read(&mut self) -> io::Result<()> {
        match self.tls.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The next frame of this kind, if the connection does not end before it.
    pub(crate) async fn until(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Ok(frame);
            }
        }
    }

    /// Reads on until the connection ends.
    pub(crate) async fn ending(&mut self, within: Duration) -> Ending {
        let mut ending = Ending::Closed;
        let read = async {
            while let Ok(frame) = self.next().await {
                if frame.kind == GOAWAY {
                    let code = &frame.payload[4..8];
                    ending = Ending::Goaway(u32::from_be_bytes(code.try_into().expect("four")));
                }
            }
        };
        match tokio::time::timeout(within, read).await {
            Ok(()) => ending,
            Err(_) => Ending::Open,
        }
    }

    /// Sends the same bytes over and over while it reads what comes back, until all are sent or the
    /// connection ends.
    pub(crate) async fn flood(self, bytes: Vec<u8>, times: usize, within: Duration) -> Ending {
        let (reading, mut writing) = tokio::io::split(self.tls);
        let mut ending = Ending::Closed;
        let read = async {
            let mut reading = reading;
            let mut buffer = self.buffer;
            loop {
                while buffer.len() >= 9 {
                    let length = u32::from_be_bytes([0, buffer[0], buffer[1], buffer[2]]) as usize;
                    if buffer.len() < 9 + length {
                        break;
                    }
                    if buffer[3] == GOAWAY {
                        let code = buffer[13..17].try_into().expect("four");
                        ending = Ending::Goaway(u32::from_be_bytes(code));
                    }
                    buffer.drain(..9 + length);
                }
                if !matches!(reading.read_buf(&mut buffer).await, Ok(1..)) {
                    return;
                }
            }
        };
        let batch = 64.min(times.max(1));
        let many = bytes.repeat(batch);
        let write = async {
            for _ in 0..times / batch {
                if writing.write_all(&many).await.is_err() {
                    break;
                }
            }
            let _ = writing.flush().await;
            std::future::pending::<()>().await;
        };
        let both = async {
            tokio::select! {
                () = read => {}
                () = write => {}
            }
        };
        match tokio::time::timeout(within, both).await {
            Ok(()) => ending,
            Err(_) => Ending::Open,
        }
    }
}
