//! HTTP/1.1 as cheap as a client can have it: prepared requests, and answers that are checked and thrown away.

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::dial::{Stream, Target};

/// A connection that requests are sent over, one after the other.
#[derive(Debug)]
pub(crate) struct Http1 {
    pub(crate) stream: Stream,
}

/// What an answer must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// The device that the upstream must have been told of.
    pub(crate) device: Option<&'a str>,
    /// The length of its body.
    pub(crate) length: u64,
}

/// Buffers are lent for a request only, so that held connections own none.
pub(crate) type Buffer = Box<[u8]>;

/// A buffer for answers.
pub(crate) fn buffer() -> Buffer {
    vec![0; 64 * 1024].into_boxed_slice()
}

/// A buffer for small answers of many connections.
pub(crate) fn small_buffer() -> Buffer {
    vec![0; 4 * 1024].into_boxed_slice()
}

/// The head of a GET request.
pub(crate) fn get(target: &Target, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", target.authority).into_bytes()
}

impl Http1 {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// Sends a whole request, and reads and checks the whole answer.
    pub(crate) async fn exchange(
        &mut self,
        request: &[u8],
        expected: Expected<'_>,
        buffer: &mut Buffer,
    ) -> anyhow::Result<()> {
        self.send(request).await?;
        self.answer(expected, buffer).await
    }

    /// Sends bytes of a request.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await.context("sending")?;
        self.stream.flush().await.context("sending")
    }

    /// Reads an answer and checks it. Its body is thrown away, but for what is left in the buffer.
    pub(crate) async fn answer(
        &mut self,
        expected: Expected<'_>,
        buffer: &mut Buffer,
    ) -> anyhow::Result<()> {
        let Head {
            head,
            filled,
            length,
        } = self.head(expected.device, buffer).await?;
        ensure!(
            length == expected.length,
            "a body of {length} bytes instead of {}",
            expected.length
        );
        let mut left = length
            .checked_sub((filled - head) as u64)
            .context("more bytes than the body has")?;
        while left > 0 {
            let read = self.stream.read(buffer).await.context("reading a body")?;
            ensure!(read > 0, "the body ends early");
            left = left
                .checked_sub(read as u64)
                .context("more bytes than the body has")?;
        }
        Ok(())
    }

    /// Reads an answer with a small body, and gives the body.
    pub(crate) async fn text(
        &mut self,
        device: Option<&str>,
        buffer: &mut Buffer,
    ) -> anyhow::Result<String> {
        let Head {
            head,
            mut filled,
            length,
        } = self.head(device, buffer).await?;
        let end = head + usize::try_from(length)?;
        ensure!(end <= buffer.len(), "a body of {length} bytes");
        while filled < end {
            let read = self.stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the body ends early");
            filled += read;
        }
        Ok(String::from_utf8_lossy(&buffer[head..end]).into_owned())
    }

    /// Reads until the head of an answer is there, and with it what came along of its body.
    async fn head(&mut self, device: Option<&str>, buffer: &mut Buffer) -> anyhow::Result<Head> {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut buffer[filled..]).await;
            let read = read.context("reading an answer")?;
            ensure!(read > 0, "the connection ends instead of an answer");
            filled += read;
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut answer = httparse::Response::new(&mut fields);
            let httparse::Status::Complete(head) = answer.parse(&buffer[..filled])? else {
                ensure!(filled < buffer.len(), "the head is too long");
                continue;
            };
            let field = |name| {
                let found = answer
                    .headers
                    .iter()
                    .find(|field| field.name.eq_ignore_ascii_case(name));
                found.map(|field| String::from_utf8_lossy(field.value).into_owned())
            };
            if answer.code != Some(200) {
                let body = String::from_utf8_lossy(&buffer[head..filled]);
                bail!("answered with {:?}: {body}", answer.code);
            }
            if let Some(device) = device {
                let told = field(TOLD).unwrap_or_default();
                ensure!(
                    told.contains(device),
                    "the upstream was told {told:?} of {device}"
                );
            }
            let length = field("content-length").context("an answer without Content-Length")?;
            return Ok(Head {
                head,
                filled,
                length: length.parse()?,
            });
        }
    }
}

/// The head of an answer.
struct Head {
    /// Its length.
    head: usize,
    /// How much of the buffer is filled.
    filled: usize,
    /// The length of the body.
    length: u64,
}

/// In which header the upstream of the bench says whom it was told of.
pub(crate) const TOLD: &str = "told";
