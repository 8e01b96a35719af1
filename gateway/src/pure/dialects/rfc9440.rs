//! `Client-Cert` and `Client-Cert-Chain` (RFC 9440): Byte Sequences (RFC 8941, section 3.3.5).
//!
//! The chain is the verified path, not what the device sent: from the issuer of the device's certificate up to the
//! anchor, which is left out where it is its own issuer, as section 2.3 allows. Without any such certificate there is
//! no `Client-Cert-Chain`, which as a List cannot be empty.

use super::encoding::base64;
use super::{Proven, Texts};
use crate::pure::identity_names::preset;

/// `Client-Cert` alone.
pub(super) fn certificate(proven: Proven<'_>) -> Texts {
    vec![(preset::CLIENT_CERT, byte_sequence(proven.leaf))]
}

/// Both: the chain says nothing without the certificate.
pub(super) fn chain(proven: Proven<'_>) -> Texts {
    let mut texts = certificate(proven);
    if !proven.issuers.is_empty() {
        let sequences: Vec<_> = proven
            .issuers
            .iter()
            .map(|one| byte_sequence(one))
            .collect();
        texts.push((preset::CLIENT_CERT_CHAIN, sequences.join(", ")));
    }
    texts
}

fn byte_sequence(certificate: &[u8]) -> String {
    format!(":{}:", base64(certificate))
}
