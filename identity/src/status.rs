//! The status of a certificate, and the 8-byte word that gateways keep for it.

use std::fmt;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;

/// Where a certificate is in its life. `Unknown` is what an empty table says: refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Status {
    /// Not in the registry.
    Unknown = 0,
    /// Issued, not yet used. Passes.
    Pending = 1,
    /// In use. Passes.
    Active = 2,
    /// Replaced by a newer certificate that has been used.
    Retired = 3,
    /// Stopped by an operator, until restored.
    Suspended = 4,
    /// Passes only where a route admits restricted devices.
    Restricted = 5,
    /// Set aside because of suspicious use.
    Quarantined = 6,
    /// Withdrawn for ever.
    Revoked = 7,
}

impl Status {
    /// The status as one word of lower-case letters, as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Suspended => "suspended",
            Self::Restricted => "restricted",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
        }
    }

    /// The status of a stored code; a code that nobody assigned is `Unknown`, which is refused.
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Pending,
            2 => Self::Active,
            3 => Self::Retired,
            4 => Self::Suspended,
            5 => Self::Restricted,
            6 => Self::Quarantined,
            7 => Self::Revoked,
            _ => Self::Unknown,
        }
    }

    /// The code under which the status is stored.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether a certificate in this status passes on an ordinary route.
    pub fn passes(self) -> bool {
        matches!(self, Self::Pending | Self::Active)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What groups, labels, assurance and limits a certificate has, interned; 0 is the ordinary device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Class(pub u16);

/// A status in the top 4 bits, a keyed fingerprint of the exact certificate in the other 60.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusWord(pub u64);

impl StatusWord {
    /// Packs a status with the fingerprint of the certificate that it is about.
    pub fn new(status: Status, fingerprint: KeyedFingerprint) -> Self {
        Self(u64::from(status.code()) << FINGERPRINT_BITS | fingerprint.0)
    }

    /// The status, if the word is about the certificate with this fingerprint; else `Unknown`.
    pub fn status_of(self, fingerprint: KeyedFingerprint) -> Status {
        if self.0 & FINGERPRINT_MASK != fingerprint.0 {
            return Status::Unknown;
        }
        Status::from_code((self.0 >> FINGERPRINT_BITS) as u8)
    }
}

/// 60 bits of an HMAC over a certificate's SHA-256.
///
/// The key is drawn by each gateway for itself, so nobody can search for two certificates that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedFingerprint(u64);

/// The key of [`KeyedFingerprint`]s.
pub struct FingerprintKey(hmac::Key);

impl FingerprintKey {
    /// Takes 32 bytes from a cryptographic random source.
    pub fn new(random: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, random))
    }

    /// The keyed fingerprint of a certificate.
    pub fn of(&self, certificate: &Fingerprint) -> KeyedFingerprint {
        let tag = hmac::sign(&self.0, &certificate.0);
        let mut first = [0; 8];
        first.copy_from_slice(&tag.as_ref()[..8]);
        KeyedFingerprint(u64::from_be_bytes(first) & FINGERPRINT_MASK)
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey")
    }
}

const FINGERPRINT_BITS: u32 = 60;
const FINGERPRINT_MASK: u64 = (1 << FINGERPRINT_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_speaks_of_one_certificate_only() {
        let key = FingerprintKey::new(&[7; 32]);
        let ours = key.of(&Fingerprint::of(b"ours"));
        let other = key.of(&Fingerprint::of(b"other"));
        for code in 0..=15 {
            let status = Status::from_code(code);
            let word = StatusWord::new(status, ours);
            assert_eq!(word.status_of(ours), status);
            assert_eq!(word.status_of(other), Status::Unknown);
        }
        assert_eq!(StatusWord(0).status_of(ours), Status::Unknown);
    }

    #[test]
    fn fingerprints_depend_on_the_key() {
        let certificate = Fingerprint::of(b"certificate");
        assert_ne!(
            FingerprintKey::new(&[1; 32]).of(&certificate),
            FingerprintKey::new(&[2; 32]).of(&certificate)
        );
    }

    #[test]
    fn only_pending_and_active_pass() {
        let passing: Vec<_> = (0..=15)
            .map(Status::from_code)
            .filter(|status| status.passes())
            .collect();
        assert_eq!(passing, [Status::Pending, Status::Active]);
    }
}
