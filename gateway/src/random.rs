//! Random numbers for names of requests and traces, drawn in bulk: a call of the library costs more than what else is done
//! for a request's name. For no secret: bytes that are handed out stay in memory until the next are drawn.

use std::cell::RefCell;

use aws_lc_rs::rand;

struct Drawn {
    bytes: [u8; AT_ONCE],
    used: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const {
        RefCell::new(Drawn { bytes: [0; AT_ONCE], used: AT_ONCE })
    };
}

/// So many random bytes that nobody else was given.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= AT_ONCE, "more than are drawn") };
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.used + N > AT_ONCE {
            rand::fill(&mut drawn.bytes)
                .expect("the random source of aws-lc does not fail after its start");
            drawn.used = 0;
        }
        let mut taken = [0; N];
        taken.copy_from_slice(&drawn.bytes[drawn.used..drawn.used + N]);
        drawn.used += N;
        taken
    })
}

const AT_ONCE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_handed_out_twice() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..AT_ONCE {
            assert!(seen.insert(bytes::<16>().to_vec()));
            assert!(seen.insert(bytes::<28>()[..16].to_vec()));
        }
    }
}
