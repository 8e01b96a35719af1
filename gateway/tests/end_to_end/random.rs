//! A small generator of numbers that are the same in every run, and whether this is a long one.

/// Whether there is time for the long counts.
pub(crate) fn is_long() -> bool {
    std::env::var_os("KEYBOUND_LONG").is_some()
}

/// Prints a figure worth reporting.
#[expect(clippy::print_stdout, reason = "the test runner collects such lines")]
pub(crate) fn figure(what: &str, value: impl std::fmt::Display) {
    println!("figure: {what}: {value}");
}

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}
