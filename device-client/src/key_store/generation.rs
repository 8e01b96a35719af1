//! The numbers of a store's generations, which only grow.

use std::fmt;

/// One pair of key and certificate. Its directory has the number as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation(u64);

impl Generation {
    /// The generation whose directory has this name: a number from 1 on, without leading zeros.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let canonical = !name.starts_with('0')
            && name.len() <= MAX_DIGITS
            && name.bytes().all(|byte| byte.is_ascii_digit());
        canonical.then(|| name.parse().ok().map(Self)).flatten()
    }

    /// The generation after `last`, or the first one.
    pub(super) fn after(last: Option<Self>) -> Self {
        Self(last.map_or(1, |Self(number)| number + 1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// So that counting on never overflows.
const MAX_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(Generation::parse("1"), Some(Generation(1)));
        assert_eq!(Generation::parse("120"), Some(Generation(120)));
        for name in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            "1 ",
            "a",
            "../1",
            "1/",
            "9999999999999999999",
        ] {
            assert_eq!(Generation::parse(name), None, "{name:?}");
        }
        assert_eq!(Generation::after(None), Generation(1));
        assert_eq!(Generation::after(Some(Generation(9))), Generation(10));
    }
}
