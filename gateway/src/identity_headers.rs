//! The list of identity headers, for whoever tests that a back end does not believe them from anybody.

use crate::pure::identity_names::{FAMILIES, NAMES, Name, judge, preset};

/// Every single name in the list, in lower case.
pub fn identity_header_names() -> impl Iterator<Item = &'static str> {
    preset::NAMES.iter().chain(NAMES).copied()
}

/// What the names of each family in the list begin with, in lower case.
pub fn identity_header_families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().copied()
}

/// Whether a header of this name, in lower case, is stripped from requests.
pub fn is_identity_header(name: &str) -> bool {
    judge(name) == Name::Identity
}
