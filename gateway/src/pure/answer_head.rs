//! The line ends of an upstream's answer, followed byte by byte.
//!
//! The HTTP implementation takes a line feed alone for the end of a line, empty lines before an answer, and
//! interim answers without end. What it makes of such an answer another reader makes something else of, so
//! that an answer could be mistaken for the next one (RFC 9112, section 11.2).

/// Follows the heads that come before an answer's body: interim ones, and the answer's own.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    place: Place,
    /// Whether the line is a status line.
    first: bool,
    /// Characters of the line so far.
    column: usize,
    status: [u8; 3],
    interims: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Line,
    AfterCarriageReturn,
    /// After the head: what follows is counted by the HTTP implementation.
    Body,
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
}

impl AnswerHead {
    /// Before an answer.
    pub(crate) const START: Self = Self {
        place: Place::Line,
        first: true,
        column: 0,
        status: [0; 3],
        interims: 0,
    };

    /// Judges the next bytes of the connection. They may be cut anywhere.
    pub(crate) fn inspect(&mut self, bytes: &[u8]) -> Result<(), AnswerFault> {
        for &byte in bytes {
            if self.place == Place::Body {
                return Ok(());
            }
            self.byte(byte)?;
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8) -> Result<(), AnswerFault> {
        match (self.place, byte) {
            (Place::AfterCarriageReturn, b'\n') => return self.end_line(),
            (Place::AfterCarriageReturn, _) => return Err(AnswerFault::BareCarriageReturn),
            (_, b'\r') => self.place = Place::AfterCarriageReturn,
            (_, b'\n') => return Err(AnswerFault::BareLineFeed),
            (_, 0) => return Err(AnswerFault::Nul),
            (_, b' ' | b'\t') if self.column == 0 => return Err(AnswerFault::FoldedLine),
            (_, _) => {
                // `HTTP/1.1 200`: httparse sees to it that the digits stand nowhere else.
                if self.first
                    && let Some(digit) = self.column.checked_sub(STATUS_COLUMN)
                    && let Some(place) = self.status.get_mut(digit)
                {
                    *place = byte;
                }
                self.column += 1;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), AnswerFault> {
        self.place = Place::Line;
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
            self.interims += 1;
            if self.interims > MAX_INTERIMS {
                return Err(AnswerFault::TooManyInterims);
            }
        } else {
            self.place = Place::Body;
        }
        Ok(())
    }
}

/// Characters before the status in a status line.
const STATUS_COLUMN: usize = "HTTP/1.1 ".len();
const MAX_INTERIMS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict does not depend on how the bytes are cut.
    fn check(bytes: &[u8], expected: Result<(), AnswerFault>) {
        for cut in 0..=bytes.len() {
            let mut head = AnswerHead::START;
            let verdict = head
                .inspect(&bytes[..cut])
                .and_then(|()| head.inspect(&bytes[cut..]));
            assert_eq!(verdict, expected, "{:?}", String::from_utf8_lossy(bytes));
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
