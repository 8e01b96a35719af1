//! From a request to a certificate, in the order of "the path of a CSR".

use std::sync::Arc;
use std::time::Duration;

use der::Decode;
use identity::certificate::Parsed;
use identity::chain::Anchors;
use identity::{
    DeviceId, Fingerprint, Identity, Index, Name, Problem, Serial, SpiffeId, Timestamp,
};
use rustls_pki_types::CertificateDer;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use crate::authority::Authority;
use crate::clock;
use crate::keys::{self, CertificateAuthority};
use crate::pure::csr::{CsrFault, VerifiedCsr};
use crate::pure::draft::{Draft, DraftFault, Particulars};
use crate::pure::enroll::{self, Decision, Refusal, Requester};
use crate::pure::journal::Actor;
use crate::pure::key_policy::{KeyFault, PublicKey};
use crate::registry::{
    Lifetime, NewCertificate, Operation, Outcome, Owner, Recorded, Rejection, Unavailable,
};

/// A certificate that may leave: the registry holds it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Its registry index.
    pub index: Index,
    /// Its serial.
    pub serial: Serial,
    /// The certificate.
    pub der: Vec<u8>,
    /// Its last second.
    pub not_after: Timestamp,
    /// Whether the same request was answered with it before.
    pub repeated: bool,
}

impl Issued {
    /// The certificate in PEM.
    pub fn pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new("CERTIFICATE", self.der.clone()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request itself is not acceptable.
    #[error("{0}")]
    Csr(#[from] CsrFault),
    /// The enrollment rules refuse it.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The registry rejects it.
    #[error("{0}")]
    Rejected(Rejection),
    /// No certificate of the profile can be drafted.
    #[error("{0}")]
    Draft(#[from] DraftFault),
    /// What was signed is not what was drafted; it was thrown away.
    #[error("the certificate that was made is not the one that was drafted; nothing was issued")]
    Miscarried,
    /// The registry cannot be used.
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
}

impl IssueError {
    /// The stable code that programs compare.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Csr(CsrFault::TooLarge { .. }) => "csr-too-large",
            Self::Csr(
                CsrFault::Empty | CsrFault::NotPem | CsrFault::NotDer | CsrFault::Duplicate,
            ) => "csr-malformed",
            Self::Csr(CsrFault::Key(KeyFault::ProofOfPossession)) => "proof-of-possession",
            Self::Csr(CsrFault::Key(_)) => "key-not-accepted",
            Self::Refused(refusal) | Self::Rejected(Rejection::Refused(refusal)) => refusal.code(),
            Self::Rejected(Rejection::UnknownDevice(_)) => "unknown-device",
            Self::Rejected(Rejection::SpelledDifferently { .. }) => "name-mismatch",
            Self::Rejected(Rejection::DeviceRevoked(_)) => "revoked",
            Self::Rejected(Rejection::DeviceSuspended(_)) => "suspended",
            // Nobody labels by asking for a certificate.
            Self::Rejected(Rejection::Labels(_) | Rejection::NoClassLeft) => "bad-request",
            Self::Draft(_) => "issuer",
            Self::Miscarried => "internal",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// The refusal as the peer reads it. Of a token that is not right, HTTP wants 401.
    pub fn problem(&self) -> Problem {
        let (status, title) = match self {
            Self::Csr(CsrFault::TooLarge { .. }) => (413, "The request is too large"),
            Self::Csr(_) => (400, "The certificate request is not acceptable"),
            Self::Refused(Refusal::TokenInvalid | Refusal::TokenExpired | Refusal::TokenSpent)
            | Self::Rejected(Rejection::Refused(
                Refusal::TokenInvalid | Refusal::TokenExpired | Refusal::TokenSpent,
            )) => (401, "The token is not valid"),
            Self::Refused(_) | Self::Rejected(_) => (403, "No certificate is issued"),
            Self::Draft(_) | Self::Miscarried => (500, "No certificate can be issued"),
            Self::Unavailable(_) => (503, "No certificate can be issued at the moment"),
        };
        Problem::new(status, self.code(), title, self.to_string())
    }
}

impl Authority {
    /// Signs a device's request on an operator's word. PEM or DER.
    pub async fn sign(
        &self,
        actor: &Actor,
        device: &DeviceId,
        csr: &[u8],
    ) -> Result<Issued, IssueError> {
        let csr = VerifiedCsr::from_pem_or_der(csr)?;
        let requester = Requester::Operator {
            device: device.clone(),
        };
        self.enroll(actor.clone(), requester, csr).await
    }

    /// The one way to a device certificate.
    pub(crate) async fn enroll(
        &self,
        actor: Actor,
        requester: Requester,
        csr: VerifiedCsr,
    ) -> Result<Issued, IssueError> {
        let key = csr.key().fingerprint();
        if self.keys.reserved.contains(&key) {
            return Err(Refusal::KeyReserved.into());
        }
        let now = clock::now();
        let spiffe_id = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            identity: Identity::Device(requester.device().clone()),
        };
        let facts = self.registry.facts(requester.clone(), key, now).await?;
        let grant = match enroll::decide(&requester, &csr, &spiffe_id, &facts, now)? {
            Decision::Repeat(index) => return self.repeat(index).await,
            Decision::Issue(grant) => grant,
        };
        let life = self.device_certificate_life;
        let particulars = self.particulars(&self.keys.device, now, life).await?;
        let draft = Draft::of_device(grant, &self.trust_domain, particulars)?;
        let owner = Owner::Device {
            requester,
            csr: Arc::new(csr),
            spiffe_id,
        };
        self.issue(actor, &self.keys.device, draft, owner).await
    }

    /// A certificate for a gateway's own key: `names` are its DNS names and IP addresses.
    pub async fn issue_server_certificate(
        &self,
        gateway: &Name,
        names: &[String],
        subject_public_key_info: &[u8],
    ) -> Result<Issued, IssueError> {
        let key = SubjectPublicKeyInfoOwned::from_der(subject_public_key_info)
            .map_err(|_| KeyFault::Malformed)
            .and_then(|spki| PublicKey::from_spki(&spki))
            .map_err(|fault| IssueError::Csr(CsrFault::Key(fault)))?;
        let ca = &self.keys.infrastructure;
        let particulars = self
            .particulars(ca, clock::now(), SERVER_CERTIFICATE_LIFE)
            .await?;
        let draft = Draft::of_server(key, gateway, names, &self.trust_domain, particulars)?;
        let owner = Owner::Gateway(gateway.clone());
        self.issue(Actor::System, ca, draft, owner).await
    }

    async fn particulars(
        &self,
        ca: &CertificateAuthority,
        now: Timestamp,
        life: Duration,
    ) -> Result<Particulars, Unavailable> {
        let index = self.next_index(Lifetime::of(life)).await?;
        let serial = loop {
            let mut random = [0; 8];
            keys::fill_random(&mut random);
            if let Some(serial) = self.serial_key.seal(index, random) {
                break serial;
            }
        };
        Ok(Particulars {
            index,
            serial,
            now,
            life,
            issuer_not_after: ca.not_after(),
        })
    }

    /// Signs, reads back, records, and only then lets go.
    async fn issue(
        &self,
        actor: Actor,
        ca: &CertificateAuthority,
        draft: Draft,
        owner: Owner,
    ) -> Result<Issued, IssueError> {
        let der = ca.sign(&draft).map_err(|_| IssueError::Miscarried)?;
        let new = read_back(ca, draft, &der, owner)?;
        let issued = Issued {
            index: new.index,
            serial: new.serial,
            der: new.der.clone(),
            not_after: new.not_after,
            repeated: false,
        };
        let operation = Operation::RecordCertificate(Box::new(new));
        match self.submit_one(actor, operation).await? {
            Ok(Outcome::Recorded(Recorded::New)) => Ok(issued),
            Ok(Outcome::Recorded(Recorded::Existing(index))) => self.repeat(index).await,
            Ok(Outcome::Done | Outcome::Changed(_) | Outcome::Leased { .. } | Outcome::Crl(_)) => {
                Err(IssueError::Miscarried)
            }
            Err(Rejection::Refused(refusal)) => Err(refusal.into()),
            Err(rejection) => Err(IssueError::Rejected(rejection)),
        }
    }

    /// The certificate of an earlier answer, if it may still be used.
    async fn repeat(&self, index: Index) -> Result<Issued, IssueError> {
        let record = self.registry.certificate(index, None).await?;
        let der = self.registry.certificate_der(index).await?;
        let (Some(record), Some(der)) = (record, der) else {
            return Err(Unavailable.into());
        };
        Ok(Issued {
            index,
            serial: record.serial,
            der,
            not_after: record.not_after,
            repeated: true,
        })
    }
}

/// Parses what was signed, as a verifier would, and compares it with what was meant.
fn read_back(
    ca: &CertificateAuthority,
    draft: Draft,
    der: &CertificateDer<'static>,
    owner: Owner,
) -> Result<NewCertificate, IssueError> {
    let parsed = Parsed::from_der(der).map_err(|_| IssueError::Miscarried)?;
    let named = match &owner {
        Owner::Device { .. } => parsed
            .leaf()
            .is_ok_and(|leaf| leaf.spiffe_id == draft.spiffe_id && leaf.serial == draft.serial),
        // A server's certificate has DNS names beside its SPIFFE ID; TLS clients check those.
        Owner::Gateway(_) => true,
    };
    let validity = parsed.validity();
    let (_, x509) = x509_parser::parse_x509_certificate(der).map_err(|_| IssueError::Miscarried)?;
    let as_meant = named
        && validity.not_before == draft.not_before
        && validity.not_after == draft.not_after
        && x509.public_key().raw == draft.key.spki()
        && Serial::from_der_content(x509.raw_serial()) == Some(draft.serial)
        && Anchors::new(std::slice::from_ref(ca.certificate().der()))
            .is_ok_and(|anchors| anchors.verify(der, &[], draft.not_before).is_ok());
    if !as_meant {
        return Err(IssueError::Miscarried);
    }
    Ok(NewCertificate {
        owner,
        index: draft.index,
        serial: draft.serial,
        certificate: Fingerprint::of(der),
        tbs: Fingerprint::of(x509.tbs_certificate.as_ref()),
        key: draft.key.fingerprint(),
        der: der.to_vec(),
        not_before: draft.not_before,
        not_after: draft.not_after,
    })
}

const SERVER_CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
