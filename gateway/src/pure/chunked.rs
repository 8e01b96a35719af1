//! The grammar of chunked bodies (RFC 9112, section 7.1), without what servers read in two ways.

use super::framing::{MAX_HEAD, Violation, at_most};

/// Where in a chunked body (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug)]
pub(super) enum Chunked {
    Size { size: u64, digits: u8 },
    Extension { size: u64, length: u16 },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataCarriageReturn,
    DataLineFeed,
    TrailerStart { length: u16 },
    TrailerName { length: u16 },
    TrailerValue { length: u16 },
    TrailerLineFeed { length: u16 },
    LastLineFeed,
}

impl Chunked {
    /// Before the first chunk.
    pub(super) const START: Self = Self::Size { size: 0, digits: 0 };

    /// Judges some of `bytes`, which are not empty: how many, and the state after them; `None` after the body's
    /// last byte. Data is skipped, so that a large body costs little.
    pub(super) fn step(self, bytes: &[u8]) -> Result<(usize, Option<Self>), Violation> {
        let Self::Data { left } = self else {
            return Ok((1, self.byte(bytes[0])?));
        };
        let used = at_most(bytes.len(), left);
        let next = match left - used as u64 {
            0 => Self::DataCarriageReturn,
            left => Self::Data { left },
        };
        Ok((used, Some(next)))
    }

    /// The state after one more byte outside of chunk data; `None` after the body's last byte.
    fn byte(self, byte: u8) -> Result<Option<Self>, Violation> {
        let next = match self {
            Self::Size { size, digits } => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) if digits < MAX_CHUNK_SIZE_DIGITS => Self::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                },
                (None, b';') if digits > 0 => Self::Extension { size, length: 1 },
                (None, b'\r') if digits > 0 => Self::SizeLineFeed { size },
                (Some(_), _) | (None, _) => return Err(Violation::ChunkSize),
            },
            Self::Extension { size, length } => match byte {
                b'\r' => Self::SizeLineFeed { size },
                b'\t' | b' '..=b'~' | 0x80.. if length < MAX_CHUNK_EXTENSION => Self::Extension {
                    size,
                    length: length + 1,
                },
                _ => return Err(Violation::ChunkExtension),
            },
            Self::SizeLineFeed { size } => match (byte, size) {
                (b'\n', 0) => Self::TrailerStart { length: 0 },
                (b'\n', left) => Self::Data { left },
                _ => return Err(Violation::BareCarriageReturn),
            },
            // Data is counted, not looked at.
            Self::Data { left } => Self::Data { left },
            Self::DataCarriageReturn if byte == b'\r' => Self::DataLineFeed,
            Self::DataLineFeed if byte == b'\n' => Self::Size { size: 0, digits: 0 },
            Self::DataCarriageReturn | Self::DataLineFeed => return Err(Violation::ChunkEnd),
            Self::TrailerStart { .. } if byte == b'\r' => Self::LastLineFeed,
            Self::TrailerStart { .. } if matches!(byte, b' ' | b'\t') => {
                return Err(Violation::FoldedLine);
            }
            Self::TrailerStart { length }
            | Self::TrailerName { length }
            | Self::TrailerValue { length }
                if usize::from(length) >= MAX_TRAILERS =>
            {
                return Err(Violation::TrailersTooLong);
            }
            Self::TrailerStart { length } | Self::TrailerName { length } => match byte {
                b':' if matches!(self, Self::TrailerName { .. }) => {
                    Self::TrailerValue { length: length + 1 }
                }
                _ if is_token(byte) => Self::TrailerName { length: length + 1 },
                _ => return Err(Violation::Trailer),
            },
            Self::TrailerValue { length } => match byte {
                b'\r' => Self::TrailerLineFeed { length: length + 2 },
                b'\t' | b' '..=b'~' | 0x80.. => Self::TrailerValue { length: length + 1 },
                b'\n' => return Err(Violation::BareLineFeed),
                0 => return Err(Violation::Nul),
                _ => return Err(Violation::Trailer),
            },
            Self::TrailerLineFeed { length } if byte == b'\n' => Self::TrailerStart { length },
            Self::LastLineFeed if byte == b'\n' => return Ok(None),
            Self::TrailerLineFeed { .. } | Self::LastLineFeed => {
                return Err(Violation::BareCarriageReturn);
            }
        };
        Ok(Some(next))
    }
}

/// The characters of header names (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Together with the empty line after them, the trailers are no longer than a head.
const MAX_TRAILERS: usize = MAX_HEAD - 4;
const MAX_CHUNK_EXTENSION: u16 = 256;
/// A digit less than would fit, so that no sum of sizes overflows.
const MAX_CHUNK_SIZE_DIGITS: u8 = 15;
