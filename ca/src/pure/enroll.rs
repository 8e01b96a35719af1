//! Who gets which certificate: requester, request and registry facts in, one decision out.
//!
//! The decision is taken twice, by the same function: before signing, and again inside the transaction
//! that records the certificate, where nothing can change between the facts and the record.

use identity::{DeviceId, Fingerprint, Index, SpiffeId, Status, Timestamp};

use super::csr::VerifiedCsr;
use super::key_policy::PublicKey;

/// Who asks, and by what right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Requester {
    /// A device with a one-time token. The device is the one that it says it is.
    Token {
        /// The device id in the request.
        device: DeviceId,
        /// The hash of the token in the request. It is looked up by this: how long that takes tells somebody who
        /// guesses at most about hashes, of which none can be made to order, and nothing about tokens.
        hash: Fingerprint,
    },
    /// A device with a certificate of ours: chain and possession of the key were proved by TLS.
    Certificate {
        /// The device named in the certificate.
        device: DeviceId,
        /// The certificate's registry index.
        index: Index,
        /// SHA-256 of the certificate.
        certificate: Fingerprint,
        /// When it ends.
        not_after: Timestamp,
        /// When it begins.
        not_before: Timestamp,
    },
    /// An operator, for the device that he names.
    Operator {
        /// The device.
        device: DeviceId,
    },
}

impl Requester {
    /// The device that the certificate is to name.
    pub(crate) fn device(&self) -> &DeviceId {
        match self {
            Self::Token { device, .. }
            | Self::Certificate { device, .. }
            | Self::Operator { device } => device,
        }
    }
}

/// How the operators see a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is held against it.
    Good,
    /// Stopped until restored.
    Suspended,
    /// Withdrawn until replaced.
    Revoked,
}

/// What the registry knows that matters for a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The device as registered: its id, as first written, and its standing.
    pub(crate) device: Option<(DeviceId, Standing)>,
    /// The device to which the request's key is bound.
    pub(crate) key_owner: Option<DeviceId>,
    /// Whether that key may not be certified again, because a certificate for it was revoked.
    pub(crate) key_blocked: bool,
    /// The token, if the requester has one and it exists.
    pub(crate) token: Option<TokenFacts>,
    /// The certificate that the requester presented, if it is registered.
    pub(crate) presented: Option<CertificateFacts>,
    /// The device's newest pending or active certificate for the request's key, unexpired.
    pub(crate) same_key: Option<CertificateFacts>,
}

/// A token as registered.
#[derive(Clone, Debug)]
pub(crate) struct TokenFacts {
    /// The device that it is for.
    pub(crate) device: DeviceId,
    /// Its last second.
    pub(crate) expires_at: Timestamp,
    /// Withdrawn before use.
    pub(crate) voided: bool,
    /// The key for which it was spent, and the certificate.
    pub(crate) spent: Option<(Fingerprint, Index)>,
}

/// A certificate as registered.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFacts {
    /// Its index.
    pub(crate) index: Index,
    /// SHA-256 of it.
    pub(crate) certificate: Fingerprint,
    /// Its status.
    pub(crate) status: Status,
    /// The journal entry of its issuance.
    pub(crate) issued_seq: u64,
}

/// The right to one certificate. Only [`decide`] makes one.
#[derive(Debug)]
pub(crate) struct Grant {
    device: DeviceId,
    key: PublicKey,
}

impl Grant {
    /// The device to be named.
    pub(crate) fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The key to be certified.
    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// The reason in the journal of a certificate that spent a token. A start counts them.
pub(crate) const BY_TOKEN: &str = "by token";

/// What is to be done about a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// A new certificate.
    Issue(Grant),
    /// The same certificate again: its first answer may have been lost.
    Repeat(Index),
}

/// Why a request gets no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Unknown token, or a token for another device; which of the two is not told.
    #[error("the token is unknown, or for another device; ask the operator for a new one")]
    TokenInvalid,
    /// The token's time is over.
    #[error("the token has expired; ask the operator for a new one")]
    TokenExpired,
    /// The token was spent for another key.
    #[error(
        "the token was already used, for another key; if that was not this device, tell the operator"
    )]
    TokenSpent,
    /// The request names somebody else.
    #[error(
        "the request names something else than this device; leave subject and subjectAltName empty, or name exactly the device"
    )]
    NameMismatch,
    /// The key belongs to another device.
    #[error("the key belongs to another device; every device makes a key of its own")]
    KeyOfAnotherDevice,
    /// A certificate for the key was revoked.
    #[error("a certificate for this key was revoked; make a new key")]
    KeyBlocked,
    /// The key is one of the CA's own.
    #[error("the key is a key of this CA")]
    KeyReserved,
    /// The presented certificate is not in the registry.
    #[error("the presented certificate is not in the registry; the operator should look into it")]
    Unregistered,
    /// The presented certificate's time has not come.
    #[error("the presented certificate is not valid yet; set the device's clock")]
    NotYetValid,
    /// The presented certificate has expired.
    #[error("the presented certificate has expired; enroll again with a token")]
    Expired,
    /// The presented certificate was replaced.
    #[error("the presented certificate was replaced by a newer one; use that")]
    Retired,
    /// The device or its certificate is suspended.
    #[error("the device is suspended; the operator can restore it")]
    Suspended,
    /// The presented certificate is quarantined.
    #[error("the device is quarantined because of suspicious use; the operator decides")]
    Quarantined,
    /// The device or its certificate is revoked.
    #[error("the device is revoked; the operator can replace it")]
    Revoked,
    /// The CSR is bound to a TLS session, which this server does not check.
    #[error(
        "the request carries a challengePassword, which this server does not verify; leave it out"
    )]
    ChallengePassword,
}

impl Refusal {
    /// The stable code that programs compare.
    pub fn code(self) -> &'static str {
        match self {
            Self::TokenInvalid => "token-invalid",
            Self::TokenExpired => "token-expired",
            Self::TokenSpent => "token-spent",
            Self::NameMismatch => "name-mismatch",
            Self::KeyOfAnotherDevice => "key-of-another-device",
            Self::KeyBlocked => "key-blocked",
            Self::KeyReserved => "key-reserved",
            Self::Unregistered => "unregistered",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::Retired => "retired",
            Self::Suspended => "suspended",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
            Self::ChallengePassword => "challenge-password",
        }
    }
}

/// Decides, in this order: the requester's right, the device's standing, names, the key.
pub(crate) fn decide(
    requester: &Requester,
    csr: &VerifiedCsr,
    spiffe_id: &SpiffeId,
    facts: &Facts,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let spent_on_this_key = check_right(requester, csr, facts, now)?;
    match facts.device.as_ref().map(|(_, standing)| *standing) {
        None | Some(Standing::Good) => {}
        Some(Standing::Suspended) => return Err(Refusal::Suspended),
        Some(Standing::Revoked) => return Err(Refusal::Revoked),
    }
    check_names(requester, csr, spiffe_id, facts)?;
    if facts.key_blocked {
        return Err(Refusal::KeyBlocked);
    }
    match &facts.key_owner {
        Some(owner) if owner.folded() != requester.device().folded() => {
            return Err(Refusal::KeyOfAnotherDevice);
        }
        Some(_) | None => {}
    }
    if let Some(index) = spent_on_this_key {
        return Ok(Decision::Repeat(index));
    }
    if let Some(existing) = &facts.same_key
        && may_repeat(requester, existing, facts)
    {
        return Ok(Decision::Repeat(existing.index));
    }
    Ok(Decision::Issue(Grant {
        device: requester.device().clone(),
        key: csr.key().clone(),
    }))
}

/// The index of the certificate that the same token already brought for the same key, if any.
fn check_right(
    requester: &Requester,
    csr: &VerifiedCsr,
    facts: &Facts,
    now: Timestamp,
) -> Result<Option<Index>, Refusal> {
    match requester {
        Requester::Operator { .. } => Ok(None),
        Requester::Token { device, .. } => {
            let token = facts.token.as_ref().ok_or(Refusal::TokenInvalid)?;
            if token.device.folded() != device.folded() || token.voided {
                return Err(Refusal::TokenInvalid);
            }
            if now > token.expires_at {
                return Err(Refusal::TokenExpired);
            }
            match token.spent {
                None => Ok(None),
                Some((key, index)) if key == csr.key().fingerprint() => Ok(Some(index)),
                Some(_) => Err(Refusal::TokenSpent),
            }
        }
        Requester::Certificate {
            certificate,
            not_before,
            not_after,
            ..
        } => {
            if now < *not_before {
                return Err(Refusal::NotYetValid);
            }
            if now > *not_after {
                return Err(Refusal::Expired);
            }
            let presented = facts
                .presented
                .as_ref()
                .filter(|presented| presented.certificate == *certificate)
                .ok_or(Refusal::Unregistered)?;
            match presented.status {
                Status::Pending | Status::Active | Status::Restricted => Ok(None),
                Status::Unknown => Err(Refusal::Unregistered),
                Status::Retired => Err(Refusal::Retired),
                Status::Suspended => Err(Refusal::Suspended),
                Status::Quarantined => Err(Refusal::Quarantined),
                Status::Revoked => Err(Refusal::Revoked),
            }
        }
    }
}

fn check_names(
    requester: &Requester,
    csr: &VerifiedCsr,
    spiffe_id: &SpiffeId,
    facts: &Facts,
) -> Result<(), Refusal> {
    let device = requester.device();
    let as_registered = facts.device.as_ref().is_none_or(|(id, _)| id == device);
    let renewal = matches!(requester, Requester::Certificate { .. });
    if !as_registered
        || !csr.claims_at_most(device, spiffe_id)
        || (renewal && !csr.has_subject(device))
    {
        return Err(Refusal::NameMismatch);
    }
    let from_est = !matches!(requester, Requester::Operator { .. });
    if from_est && csr.has_challenge_password() {
        return Err(Refusal::ChallengePassword);
    }
    Ok(())
}

/// Whether a certificate for the same key answers the request again rather than a new one.
fn may_repeat(requester: &Requester, existing: &CertificateFacts, facts: &Facts) -> bool {
    match requester {
        Requester::Operator { .. } => true,
        // A spent token repeats its own certificate only; a fresh one asks for a fresh certificate.
        Requester::Token { .. } => false,
        Requester::Certificate { .. } => {
            existing.status == Status::Pending
                && facts
                    .presented
                    .as_ref()
                    .is_some_and(|presented| existing.issued_seq > presented.issued_seq)
        }
    }
}

#[cfg(test)]
#[path = "enroll_tests.rs"]
mod tests;
