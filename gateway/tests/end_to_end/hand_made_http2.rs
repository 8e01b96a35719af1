//! An HTTP/2 server by hand, which answers one request after the other as it was told to.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::raw_http2::{DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame};

#[derive(Clone)]
pub(crate) struct HandMade {
    pub(crate) address: SocketAddr,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    acts: VecDeque<Act>,
    /// The connection and stream of each request.
    seen: Vec<(usize, u32)>,
    /// Those that the other side reset, with the code.
    reset: Vec<(usize, u32, u32)>,
}

/// What is done about a request; the stream's number is put in.
#[derive(Clone)]
pub(crate) enum Act {
    Frames(Vec<(u8, u8, Vec<u8>)>),
    /// The same, then the connection closes.
    Last(Vec<(u8, u8, Vec<u8>)>),
    /// GOAWAY that names the stream so much earlier as the last one.
    Goaway {
        earlier: u32,
        close: bool,
    },
    /// These bytes, so often.
    Flood(Vec<u8>, usize),
    Silence,
}

impl HandMade {
    pub(crate) async fn start(max_streams: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self {
            address: listener.local_addr().expect("bound"),
            known: Arc::default(),
        };
        let accepting = server.clone();
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((tcp, _)) = listener.accept().await {
                number += 1;
                let serving = accepting.clone();
                tokio::spawn(async move { serving.serve(tcp, number, max_streams).await });
            }
        });
        server
    }

    /// What is done about the next requests; those after get 200 with `ok`.
    pub(crate) fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.with(|known| {
            known.acts = acts.into_iter().collect();
            known.seen.clear();
            known.reset.clear();
        });
    }

    pub(crate) fn seen(&self) -> Vec<(usize, u32)> {
        self.with(|known| known.seen.clone())
    }

    pub(crate) fn reset(&self) -> Vec<(usize, u32, u32)> {
        self.with(|known| known.reset.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve(&self, mut tcp: TcpStream, number: usize, max_streams: u32) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        tcp.read_exact(&mut [0; 24]).await?;
        let mut settings = vec![0, 3];
        settings.extend(max_streams.to_be_bytes());
        tcp.write_all(&frame(SETTINGS, 0, 0, &settings)).await?;
        loop {
            let mut head = [0; 9];
            tcp.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            tcp.read_exact(&mut payload).await?;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match kind {
                SETTINGS | PING if flags & 1 == 0 => {
                    let echo = if kind == PING { &payload[..] } else { &[] };
                    tcp.write_all(&frame(kind, 1, 0, echo)).await?;
                }
                RST_STREAM => {
                    let code = u32::from_be_bytes(payload[..4].try_into().expect("four"));
                    self.with(|known| known.reset.push((number, stream, code)));
                }
                HEADERS => {
                    let act = self.with(|known| {
                        known.seen.push((number, stream));
                        known.acts.pop_front()
                    });
                    let act = act.unwrap_or_else(ok);
                    let (frames, close) = match act {
                        Act::Frames(frames) => (frames, false),
                        Act::Last(frames) => (frames, true),
                        Act::Goaway { earlier, close } => {
                            let mut payload = (stream - earlier).to_be_bytes().to_vec();
                            payload.extend([0; 4]);
                            tcp.write_all(&frame(7, 0, 0, &payload)).await?;
                            (vec![], close)
                        }
                        Act::Flood(bytes, times) => {
                            let batch = 100.min(times);
                            let bytes = bytes.repeat(batch);
                            for _ in 0..times / batch {
                                tcp.write_all(&bytes).await?;
                            }
                            (vec![], false)
                        }
                        Act::Silence => (vec![], false),
                    };
                    for (kind, flags, payload) in frames {
                        tcp.write_all(&frame(kind, flags, stream, &payload)).await?;
                    }
                    if close {
                        return tcp.shutdown().await;
                    }
                }
                _ => {}
            }
        }
    }
}

/// `:status: 200`, and these fields.
pub(crate) fn head(flags: u8, fields: &[(&str, &str)]) -> (u8, u8, Vec<u8>) {
    (
        HEADERS,
        END_HEADERS | flags,
        [vec![0x88], block(fields)].concat(),
    )
}

/// An interim answer.
pub(crate) fn interim() -> (u8, u8, Vec<u8>) {
    (HEADERS, END_HEADERS, b"\x08\x03103".to_vec())
}

pub(crate) fn data(flags: u8, bytes: &str) -> (u8, u8, Vec<u8>) {
    (DATA, flags, bytes.as_bytes().to_vec())
}

pub(crate) fn reset(code: u32) -> Act {
    Act::Frames(vec![(RST_STREAM, 0, code.to_be_bytes().to_vec())])
}

pub(crate) fn ok() -> Act {
    Act::Frames(vec![head(0, &[]), data(END_STREAM, "ok")])
}

/// Fields in HPACK, none of them indexed.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend(text.as_bytes());
        }
    }
    block
}
