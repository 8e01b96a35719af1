//! How much of what a peer sends over TLS may bring nothing: a KeyUpdate or an empty record (RFC 8446, sections 4.6.3 and 5.1)
//! costs far more to follow than to send, and the TLS library bounds only how many of one kind come in a row.

/// What of the bytes received was not made good by bytes that they brought.
#[derive(Debug, Default)]
pub(crate) struct Overhead {
    owed: usize,
}

impl Overhead {
    /// So many bytes of TLS came, by which so many can be read. False if too much of it was nothing.
    #[must_use]
    pub(crate) fn receive(&mut self, encrypted: usize, decrypted: usize) -> bool {
        let made_good = decrypted.saturating_mul(PER_BYTE);
        self.owed = self
            .owed
            .saturating_add(encrypted)
            .saturating_sub(made_good);
        self.owed <= MOST
    }
}

/// The header of a record (5 bytes), its byte, the byte's type and the tag (16 bytes): what the smallest record costs that says
/// something, in every cipher suite of TLS 1.3, and one more.
const PER_BYTE: usize = 24;
/// Four of the largest records, of which the last byte has not come; or 1,200 KeyUpdates with an empty record behind each.
const MOST: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many times as much may be received.
    fn check(pieces: &[(usize, usize)], expected: usize) {
        let mut overhead = Overhead::default();
        let received = |_: &usize| {
            pieces
                .iter()
                .all(|(encrypted, decrypted)| overhead.receive(*encrypted, *decrypted))
        };
        assert_eq!((0..100_000).take_while(received).count(), expected);
    }

    #[test]
    fn whoever_says_something_may_go_on_for_ever() {
        check(&[(23, 1)], 100_000);
        check(&[(122, 100)], 100_000);
        // The largest record, in pieces as they are read.
        check(
            &[(4096, 0), (4096, 0), (4096, 0), (4096, 0), (22, 16_384)],
            100_000,
        );
        // New keys now and then.
        check(&[(27, 0), (122, 100)], 100_000);
    }

    #[test]
    fn whoever_does_not_may_not() {
        check(&[(27, 0)], 2427);
        check(&[(27, 0), (22, 0)], 1337);
        check(&[(27, 0), (23, 1)], 2520);
        check(&[(4096, 0)], 16);
    }
}
