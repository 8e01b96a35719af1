//! The headers of Cloudflare: the certificate in base64, and its SHA-256 in lower-case hexadecimal digits.

use identity::Fingerprint;

use super::encoding::base64;
use super::{Proven, Texts};
use crate::pure::identity_names::preset;

pub(super) fn fields(proven: Proven<'_>) -> Texts {
    vec![
        (preset::CF_DER, base64(proven.leaf)),
        (preset::CF_SHA256, Fingerprint::of(proven.leaf).to_string()),
    ]
}
