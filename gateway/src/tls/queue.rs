//! Bytes between TLS and whoever reads or sends them.

use rustls::Error;
use rustls::unbuffered::{EncodeError, EncodeTlsData, InsufficientSizeError};
use tokio::io::ReadBuf;

use super::stream::unexpected;

/// Bytes that wait. While there are none, it has no memory.
#[derive(Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// How many of them do not wait any more.
    used: usize,
}

impl Queue {
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.used
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.used += count;
        if self.used == self.bytes.len() {
            *self = Self::default();
        }
    }

    /// As much as the reader has room for.
    pub(super) fn read(&mut self, reader: &mut ReadBuf<'_>) {
        let count = self.len().min(reader.remaining());
        reader.put_slice(&self.waiting()[..count]);
        self.consume(count);
    }

    /// To the reader as far as it has room, if nothing else waits.
    pub(super) fn hand_on(&mut self, bytes: &[u8], reader: &mut ReadBuf<'_>) {
        let room = if self.is_empty() {
            reader.remaining()
        } else {
            0
        };
        let (now, later) = bytes.split_at(bytes.len().min(room));
        reader.put_slice(now);
        self.push(later);
    }

    /// What TLS wants to be sent.
    pub(super) fn encode<T>(&mut self, mut data: EncodeTlsData<'_, T>) -> Result<(), Error> {
        let start = self.bytes.len();
        let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
            data.encode(&mut [])
        else {
            return Ok(());
        };
        self.bytes.resize(start + required_size, 0);
        data.encode(&mut self.bytes[start..])
            .map(drop)
            .map_err(|_| unexpected())
    }
}
