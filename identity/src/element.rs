//! DER, one element after the other: for what the certificate parser passes over or would copy.

use der::{Decode as _, Header, Reader as _, SliceReader};

/// An element of DER: its tag octet, its content, and both with the length between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// Bytes that are no DER: a length in no shortest form, a tag that nobody uses, or too few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDer;

/// The elements that stand in `content`, in their order.
#[derive(Debug)]
pub(crate) struct Elements<'a> {
    content: &'a [u8],
    reader: SliceReader<'a>,
}

impl<'a> Elements<'a> {
    /// At most 256 MiB.
    pub(crate) fn of(content: &'a [u8]) -> Result<Self, NotDer> {
        let reader = SliceReader::new(content).map_err(|_| NotDer)?;
        Ok(Self { content, reader })
    }

    /// The next element; none after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Element<'a>>, NotDer> {
        if self.reader.is_finished() {
            return Ok(None);
        }
        let start = self.position()?;
        let header = Header::decode(&mut self.reader).map_err(|_| NotDer)?;
        let content = self.reader.read_slice(header.length).map_err(|_| NotDer)?;
        Ok(Some(Element {
            tag: header.tag.octet(),
            content,
            whole: &self.content[start..self.position()?],
        }))
    }

    /// The tag octet of the next element.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.reader.peek_byte()
    }

    /// The next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        self.next()?.filter(|one| one.tag == tag).ok_or(NotDer)
    }

    /// The next element, if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, NotDer> {
        if self.peek() == Some(tag) {
            self.next()
        } else {
            Ok(None)
        }
    }

    /// Nothing follows.
    pub(crate) fn finish(self) -> Result<(), NotDer> {
        if self.reader.is_finished() {
            Ok(())
        } else {
            Err(NotDer)
        }
    }

    fn position(&self) -> Result<usize, NotDer> {
        usize::try_from(self.reader.position()).map_err(|_| NotDer)
    }
}

/// The one element that fills `bytes`.
pub(crate) fn only(bytes: &[u8], tag: u8) -> Result<Element<'_>, NotDer> {
    let mut elements = Elements::of(bytes)?;
    let element = elements.expect(tag)?;
    elements.finish()?;
    Ok(element)
}

/// The content of an INTEGER of up to 20 bytes, padded with zeros.
///
/// `None` if it is negative, longer or not in its shortest form.
pub(crate) fn unsigned(content: &[u8]) -> Option<[u8; 20]> {
    let significant = match content {
        [] | [0, ..0x80, ..] => return None,
        [first, ..] if *first >= 0x80 => return None,
        [0] => content,
        [0, rest @ ..] => rest,
        _ => content,
    };
    let start = 20_usize.checked_sub(significant.len())?;
    let mut bytes = [0; 20];
    bytes[start..].copy_from_slice(significant);
    Some(bytes)
}

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_in_their_shortest_form() {
        let mut two = Elements::of(&[2, 1, 7, 0x30, 0]).expect("short");
        let first = two.next().expect("DER").expect("one");
        assert_eq!(
            (first.tag, first.content, first.whole),
            (2, &[7][..], &[2, 1, 7][..])
        );
        assert_eq!(two.peek(), Some(SEQUENCE));
        assert_eq!(two.optional(INTEGER), Ok(None));
        assert_eq!(two.expect(SEQUENCE).map(|one| one.content), Ok(&[][..]));
        assert_eq!(two.next(), Ok(None));
        for refused in [
            &[2, 0x81, 1, 7][..],
            &[2, 2, 7],
            &[0x30, 0x80, 0, 0],
            &[2],
            &[0x1f, 1, 0],
        ] {
            assert_eq!(only(refused, refused[0]), Err(NotDer), "{refused:x?}");
        }
        assert_eq!(only(&[2, 1, 7, 0], INTEGER), Err(NotDer));
        assert_eq!(only(&[2, 1, 7], SEQUENCE), Err(NotDer));
    }
}
