//! HTTP/2 by hand: frames and header blocks (RFC 9113, RFC 7541) that no client library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{config, handshake};
use crate::session::Lane;

pub(crate) struct Frames {
    tls: TlsStream<TcpStream>,
    buffer: Vec<u8>,
    stream: u32,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer with this body.
    Answer(String),
    /// A reset, with its code.
    Reset(u32),
    /// The connection ended, with the code of its GOAWAY if there was one.
    Gone(Option<u32>),
}

impl Outcome {
    /// The code of a refusal.
    pub(crate) fn code(&self) -> Option<&str> {
        let Self::Answer(body) = self else {
            return None;
        };
        body.split("\"code\":\"").nth(1)?.split('"').next()
    }

    /// Whether the gateway itself answered with this status.
    pub(crate) fn status(&self) -> Option<u16> {
        let Self::Answer(body) = self else {
            return None;
        };
        let problem: identity::Problem = serde_json::from_str(body).ok()?;
        Some(problem.status)
    }
}

type Field<'a> = (&'a [u8], &'a [u8]);

impl Frames {
    pub(crate) async fn connect(lane: &Lane) -> Self {
        let config = config(&lane.rig, Some(&lane.device), "h2");
        let tls = handshake(&lane.rig, config, "api.test")
            .await
            .expect("a handshake");
        let mut frames = Self {
            tls,
            buffer: vec![],
            stream: 1,
        };
        frames.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        frames.frame(SETTINGS, 0, 0, b"").await;
        // Room for all answers of the test.
        frames
            .frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes())
            .await;
        frames
    }

    /// Sends one request and waits for its end.
    pub(crate) async fn ask(
        &mut self,
        fields: &[(&str, &str)],
        body: Option<&str>,
        trailers: &[(&str, &str)],
    ) -> Outcome {
        let bytes = |fields: &[(&str, &str)]| {
            block(fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
        };
        self.ask_raw(
            &bytes(fields),
            body.map(str::as_bytes),
            (!trailers.is_empty()).then(|| bytes(trailers)),
        )
        .await
    }

    /// Sends one request whose header blocks are ready, and waits for its end.
    pub(crate) async fn ask_raw(
        &mut self,
        head: &[u8],
        body: Option<&[u8]>,
        trailers: Option<Vec<u8>>,
    ) -> Outcome {
        let stream = self.stream;
        self.stream += 2;
        let last = body.is_none() && trailers.is_none();
        self.header_block(stream, head, last).await;
        if let Some(body) = body {
            let last = if trailers.is_none() { END_STREAM } else { 0 };
            self.frame(DATA, last, stream, body).await;
        }
        if let Some(trailers) = trailers {
            self.header_block(stream, &trailers, true).await;
        }
        tokio::time::timeout(Duration::from_secs(10), self.outcome(stream))
            .await
            .expect("an end of the stream within 10 s")
    }

    /// Sends one request whose body comes in pieces, and waits for its end.
    pub(crate) async fn ask_in_pieces(&mut self, head: &[u8], pieces: &[&[u8]]) -> Outcome {
        let stream = self.stream;
        self.stream += 2;
        self.header_block(stream, head, false).await;
        for piece in pieces {
            self.frame(DATA, 0, stream, piece).await;
        }
        self.frame(DATA, END_STREAM, stream, b"").await;
        tokio::time::timeout(Duration::from_secs(10), self.outcome(stream))
            .await
            .expect("an end of the stream within 10 s")
    }

    async fn header_block(&mut self, stream: u32, block: &[u8], last: bool) {
        let mut pieces = block.chunks(16_384).peekable();
        let mut kind = HEADERS;
        if pieces.peek().is_none() {
            let flags = END_HEADERS | if last { END_STREAM } else { 0 };
            self.frame(HEADERS, flags, stream, b"").await;
        }
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            let last = if last && kind == HEADERS {
                END_STREAM
            } else {
                0
            };
            self.frame(kind, end | last, stream, piece).await;
            kind = CONTINUATION;
        }
    }

    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.write(&bytes).await;
    }

    /// What cannot be sent any more will show in what can be read.
    async fn write(&mut self, bytes: &[u8]) {
        let _ = self.tls.write_all(bytes).await;
        let _ = self.tls.flush().await;
    }

    async fn outcome(&mut self, wanted: u32) -> Outcome {
        let mut body = Vec::new();
        let mut farewell = None;
        loop {
            let Some((kind, flags, stream, payload)) = self.read().await else {
                return Outcome::Gone(farewell);
            };
            let number = |at: usize| {
                let bytes = payload.get(at..at + 4).expect("a whole frame");
                u32::from_be_bytes(bytes.try_into().expect("four bytes"))
            };
            match kind {
                DATA if stream == wanted => body.extend_from_slice(&payload),
                RST_STREAM if stream == wanted => return Outcome::Reset(number(0)),
                GOAWAY => farewell = Some(number(4)),
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, b"").await,
                _ => {}
            }
            if stream == wanted && flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS) {
                return Outcome::Answer(String::from_utf8_lossy(&body).into_owned());
            }
        }
    }

    async fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some(head) = self.buffer.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let frame: Vec<u8> = self.buffer.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
                    return Some((frame[3], frame[4], stream, frame[9..].to_vec()));
                }
            }
            if self.tls.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// A header block of literals, none of which enters the table.
pub(crate) fn block<'a>(fields: impl IntoIterator<Item = Field<'a>>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                block.push(length as u8);
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push((length % 128) as u8 | 128);
                    length /= 128;
                }
                block.push(length as u8);
            }
            block.extend_from_slice(text);
        }
    }
    block
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
