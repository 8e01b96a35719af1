//! An upstream's answer, followed byte by byte: the line ends of its head, and its body if that comes in chunks.
//!
//! The HTTP implementation takes a line feed alone for the end of a line, empty lines before an answer, interim
//! answers without end, and much for the trailers of a chunked body. What it makes of such an answer another
//! reader makes something else of, so that an answer could be mistaken for the next one (RFC 9112, section 11.2).

use memchr::memchr3;

use super::chunked::Chunked;
use super::framing::Violation;

/// Follows the heads that come before an answer's body (interim ones, and the answer's own), and a chunked body.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    place: Place,
    /// Whether the line is a status line.
    first: bool,
    /// Characters of the line so far.
    column: usize,
    status: [u8; 3],
    interims: usize,
    field: Field,
    /// Whether the head says that the body is chunked.
    chunked: bool,
    /// Whether the request was one whose answer has no body, whatever its head says.
    to_head: bool,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Line,
    AfterCarriageReturn,
    Chunked(Chunked),
    /// Where nothing is left to follow: what comes is counted by the HTTP implementation, or is a tunnel's.
    Rest,
}

/// How much of `transfer-encoding: chunked` a line is so far. The white space around the value may be of any
/// length, so that the line is not collected but compared as it comes.
#[derive(Clone, Copy, Debug)]
enum Field {
    Name(usize),
    SpaceBefore,
    Value(usize),
    SpaceAfter,
    Other,
}

/// The rule that an answer breaks, and how many of the bytes inspected, from the first, come before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub(crate) struct BadAnswer {
    pub(crate) clean: usize,
    fault: AnswerFault,
}

/// The rule that an answer breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerFault {
    /// An empty line stands before the status line.
    #[error("an empty line stands before the answer")]
    EmptyLine,
    /// A line ends without carriage return.
    #[error("a line ends with a line feed alone")]
    BareLineFeed,
    /// A carriage return stands inside a line.
    #[error("a carriage return stands inside a line")]
    BareCarriageReturn,
    /// A NUL byte.
    #[error("a NUL byte stands in the answer's head")]
    Nul,
    /// A line starts with white space (RFC 9112, section 5.2).
    #[error("a header continues on another line")]
    FoldedLine,
    /// Interim answers without end.
    #[error("more than 16 interim answers came before the answer")]
    TooManyInterims,
    /// Not the grammar of chunked bodies.
    #[error("in the chunked body: {0}")]
    Chunked(Violation),
}

impl AnswerHead {
    /// Before an answer, which is one `to_head` if the request's method was HEAD.
    pub(crate) const fn start(to_head: bool) -> Self {
        Self {
            place: Place::Line,
            first: true,
            column: 0,
            status: [0; 3],
            interims: 0,
            field: Field::Other,
            chunked: false,
            to_head,
        }
    }

    /// Judges the next bytes of the connection. They may be cut anywhere.
    pub(crate) fn inspect(&mut self, bytes: &[u8]) -> Result<(), BadAnswer> {
        let mut clean = 0;
        while let Some(&byte) = bytes.get(clean) {
            let used = match self.place {
                Place::Rest => return Ok(()),
                Place::Chunked(chunked) => match chunked.step(&bytes[clean..]) {
                    Ok((used, next)) => {
                        self.place = next.map_or(Place::Rest, Place::Chunked);
                        Ok(used)
                    }
                    Err(violation) => Err(AnswerFault::Chunked(violation)),
                },
                Place::AfterCarriageReturn if byte == b'\n' => self.end_line().map(|()| 1),
                Place::AfterCarriageReturn => Err(AnswerFault::BareCarriageReturn),
                Place::Line => match self.whole_line(&bytes[clean..]) {
                    Some(length) => self.end_line().map(|()| length),
                    None => self.in_line(byte).map(|()| 1),
                },
            };
            clean += used.map_err(|fault| BadAnswer { clean, fault })?;
        }
        Ok(())
    }

    /// Follows a line that is there from its beginning to its end, and like most: every other one, and what stands at fault
    /// in it, is followed byte by byte. Its length, with the line end.
    fn whole_line(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.column > 0 {
            return None;
        }
        let end = memchr3(0, b'\r', b'\n', bytes)?;
        let (line, rest) = bytes.split_at(end);
        if matches!(line.first()?, b' ' | b'\t') || !rest.starts_with(b"\r\n") {
            return None;
        }
        if self.first {
            let status = line.get(STATUS_COLUMN..STATUS_COLUMN + self.status.len())?;
            self.status.copy_from_slice(status);
        } else if names_framing(line) {
            return None;
        } else {
            self.field = Field::Other;
        }
        self.column = line.len();
        Some(line.len() + 2)
    }

    fn in_line(&mut self, byte: u8) -> Result<(), AnswerFault> {
        match byte {
            b'\r' => self.place = Place::AfterCarriageReturn,
            b'\n' => return Err(AnswerFault::BareLineFeed),
            0 => return Err(AnswerFault::Nul),
            b' ' | b'\t' if self.column == 0 => return Err(AnswerFault::FoldedLine),
            _ => {
                if !self.first {
                    self.field = self.field.byte(byte);
                } else if let Some(digit) = self.column.checked_sub(STATUS_COLUMN)
                    && let Some(place) = self.status.get_mut(digit)
                {
                    // `HTTP/1.1 200`: httparse sees to it that the digits stand nowhere else.
                    *place = byte;
                }
                self.column += 1;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), AnswerFault> {
        self.place = Place::Line;
        self.chunked |= self.field.is_chunked();
        self.field = Field::Name(0);
        if self.column > 0 {
            self.column = 0;
            self.first = false;
            return Ok(());
        }
        if self.first {
            return Err(AnswerFault::EmptyLine);
        }
        if self.status[0] == b'1' && self.status != *b"101" {
            self.first = true;
            self.field = Field::Other;
            self.chunked = false;
            self.interims += 1;
            if self.interims > MAX_INTERIMS {
                return Err(AnswerFault::TooManyInterims);
            }
            return Ok(());
        }
        let bodiless = self.to_head || matches!(&self.status, b"101" | b"204" | b"304");
        self.place = if self.chunked && !bodiless {
            Place::Chunked(Chunked::START)
        } else {
            Place::Rest
        };
        Ok(())
    }
}

impl Field {
    fn byte(self, byte: u8) -> Self {
        let is_next = |text: &[u8], at: usize| text.get(at) == Some(&byte.to_ascii_lowercase());
        let is_space = matches!(byte, b' ' | b'\t');
        match self {
            Self::Name(at) if at == NAME.len() && byte == b':' => Self::SpaceBefore,
            Self::Name(at) if is_next(NAME, at) => Self::Name(at + 1),
            Self::SpaceBefore if is_space => Self::SpaceBefore,
            Self::SpaceBefore if is_next(CHUNKED, 0) => Self::Value(1),
            Self::Value(at) if is_next(CHUNKED, at) => Self::Value(at + 1),
            Self::Value(CHUNKED_LENGTH) | Self::SpaceAfter if is_space => Self::SpaceAfter,
            Self::Name(_) | Self::SpaceBefore | Self::Value(_) | Self::SpaceAfter | Self::Other => {
                Self::Other
            }
        }
    }

    fn is_chunked(self) -> bool {
        matches!(self, Self::Value(CHUNKED_LENGTH) | Self::SpaceAfter)
    }
}

/// Whether a line may be one about framing.
fn names_framing(line: &[u8]) -> bool {
    line.get(..NAME.len())
        .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
}

/// Characters before the status in a status line.
const STATUS_COLUMN: usize = "HTTP/1.1 ".len();
const MAX_INTERIMS: usize = 16;
const NAME: &[u8] = b"transfer-encoding";
/// Any other encoding is refused when the head is read.
const CHUNKED: &[u8] = b"chunked";
const CHUNKED_LENGTH: usize = CHUNKED.len();

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict does not depend on how the bytes are cut.
    fn check(bytes: &[u8], expected: Result<(), AnswerFault>) {
        check_of(false, bytes, expected, None);
    }

    /// Nor does the place where the clean bytes end.
    fn check_of(
        to_head: bool,
        bytes: &[u8],
        expected: Result<(), AnswerFault>,
        clean: Option<usize>,
    ) {
        let text = String::from_utf8_lossy(bytes);
        for cut in 0..=bytes.len() {
            let mut head = AnswerHead::start(to_head);
            let verdict = head.inspect(&bytes[..cut]).and_then(|()| {
                head.inspect(&bytes[cut..]).map_err(|bad| BadAnswer {
                    clean: bad.clean + cut,
                    ..bad
                })
            });
            assert_eq!(verdict.map_err(|bad| bad.fault), expected, "{text:?}");
            if let (Err(bad), Some(clean)) = (verdict, clean) {
                assert_eq!(bad.clean, clean, "{text:?}");
            }
        }
    }

    const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

    /// A chunked body that is good up to `clean`, and breaks a rule with `rest`.
    fn chunks(clean: &str, rest: &str, violation: Violation) {
        let bytes = [HEAD, clean, rest].concat();
        let fault = AnswerFault::Chunked(violation);
        let end = HEAD.len() + clean.len();
        check_of(false, bytes.as_bytes(), Err(fault), Some(end));
        // Byte by byte, too.
        let mut head = AnswerHead::start(false);
        let at = bytes
            .bytes()
            .position(|byte| head.inspect(&[byte]).is_err());
        assert_eq!(at, Some(end), "{bytes:?}");
    }

    #[test]
    fn chunked_bodies() {
        let whole = "5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\nsum: 1\r\n\r\n";
        // What follows the last byte is no longer the answer's.
        for after in ["", "\n\0", "HTTP/1.1 200 OK\n"] {
            check([HEAD, whole, after].concat().as_bytes(), Ok(()));
        }
        chunks(
            "5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\n",
            "\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
            Violation::Trailer,
        );
        chunks("5\r\nhello\r\n0\r\na", " b: c\r\n\r\n", Violation::Trailer);
        chunks("5\r\nhello\r\n0\r\na: b", "\n\r\n", Violation::BareLineFeed);
        chunks("5", "\nhello\r\n0\r\n\r\n", Violation::ChunkSize);
        chunks("", "x\r\n", Violation::ChunkSize);
        chunks("5\r\nhello", "!\r\n0\r\n\r\n", Violation::ChunkEnd);
        chunks("5;a", "\nb\r\nhello\r\n", Violation::ChunkExtension);
    }

    #[test]
    fn which_bodies_are_chunked() {
        let bad = Err(AnswerFault::Chunked(Violation::ChunkSize));
        let answer = |status: &str, fields: &str| {
            format!("HTTP/1.1 {status} X\r\na: b\r\n{fields}\r\nc: d\r\n\r\nbody").into_bytes()
        };
        let spaces = format!(
            "Transfer-Encoding:{}Chunked\t {}",
            " \t".repeat(300),
            " ".repeat(300)
        );
        for field in [
            "transfer-encoding: chunked",
            "TRANSFER-ENCODING:CHUNKED",
            &spaces,
        ] {
            check(&answer("200", field), bad);
            for status in ["101", "204", "304"] {
                check(&answer(status, field), Ok(()));
            }
            check_of(true, &answer("200", field), Ok(()), None);
            // What an interim answer says is not said of the answer after it.
            let interim = format!("HTTP/1.1 103 X\r\n{field}\r\n\r\n").into_bytes();
            let after = |fields| [interim.as_slice(), &answer("200", fields)].concat();
            check(&after("x: y"), Ok(()));
            check(&after(field), bad);
        }
        for field in [
            "transfer-encoding: identity",
            "transfer-encoding: chunkedy",
            "transfer-encoding: chunked y",
            "transfer-encoding: chunk",
            "transfer-encoding:",
            "transfer-encodin: chunked",
            "transfer-encodings: chunked",
            "x-transfer-encoding: chunked",
            "x: transfer-encoding: chunked",
        ] {
            check(&answer("200", field), Ok(()));
        }
    }

    #[test]
    fn line_ends() {
        check(b"HTTP/1.1 200 OK\r\na: b\r\n\r\nbody\n\0\r\n\n", Ok(()));
        check(
            b"HTTP/1.1 200 OK\na: b\r\n\r\n",
            Err(AnswerFault::BareLineFeed),
        );
        check(
            b"HTTP/1.1 200 OK\r\na: b\n\n",
            Err(AnswerFault::BareLineFeed),
        );
        check(
            b"HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n",
            Err(AnswerFault::BareCarriageReturn),
        );
        check(
            b"HTTP/1.1 200 OK\r\n a: b\r\n\r\n",
            Err(AnswerFault::FoldedLine),
        );
        check(
            b"HTTP/1.1 200 OK\r\na: b\r\n\tc\r\n\r\n",
            Err(AnswerFault::FoldedLine),
        );
        check(b"HTTP/1.1 200 OK\r\na: \0\r\n\r\n", Err(AnswerFault::Nul));
        check(b"\r\nHTTP/1.1 200 OK\r\n\r\n", Err(AnswerFault::EmptyLine));
    }

    #[test]
    fn interim_answers() {
        let interim = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";
        let after =
            |count: usize, answer: &[u8]| [interim.repeat(count).as_slice(), answer].concat();
        check(&after(3, b"HTTP/1.1 200 OK\r\n\r\n\0"), Ok(()));
        check(
            &after(1, b"HTTP/1.1 200 OK\n\r\n"),
            Err(AnswerFault::BareLineFeed),
        );
        check(
            &after(1, b"\r\nHTTP/1.1 200 OK\r\n\r\n"),
            Err(AnswerFault::EmptyLine),
        );
        check(&after(17, b""), Err(AnswerFault::TooManyInterims));
        // A tunnel begins here.
        check(
            &after(1, b"HTTP/1.1 101 Switching Protocols\r\n\r\n\0\n"),
            Ok(()),
        );
    }
}
