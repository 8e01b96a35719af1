//! The chain check, with the time clamped into the leaf's validity.
//!
//! webpki checks validity before signatures, so its "expired" proves nothing: anybody can make an expired
//! certificate. Here the signature is always checked, and time is left to whoever asks what the
//! certificate may do *now*.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath,
};
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;

use crate::ca_certificate::{CaFault, check_extensions};
use crate::certificate::{Parsed, ReadError, Validity};
use crate::foreign::ForeignSerial;
use crate::timestamp::Timestamp;

/// Issuing CAs that are believed. Never empty.
#[derive(Clone, Debug)]
pub struct Anchors(Arc<Believed>);

/// The anchors, and what each was made from and webpki forgets, at the same position.
#[derive(Debug)]
struct Believed {
    anchors: Vec<TrustAnchor<'static>>,
    certificates: Vec<CertificateDer<'static>>,
    /// pathLenConstraint (RFC 5280, section 4.2.1.9), where it stands.
    path_lengths: Vec<Option<u32>>,
}

impl Anchors {
    /// Takes the CA certificates, in DER.
    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Self, AnchorError> {
        if certificates.is_empty() {
            return Err(AnchorError::None);
        }
        let anchors: Result<Vec<_>, _> = certificates
            .iter()
            .map(|der| webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()))
            .collect();
        Ok(Self(Arc::new(Believed {
            anchors: anchors.map_err(AnchorError::Unusable)?,
            path_lengths: certificates.iter().map(path_length).collect(),
            certificates: certificates
                .iter()
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
        })))
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.0.anchors.len()
    }

    /// The CA certificate at a position, as in [`Path::anchor`].
    pub fn certificate(&self, position: usize) -> Option<&CertificateDer<'static>> {
        self.0.certificates.get(position)
    }

    /// Proves that one of the anchors vouches for `leaf`, wherever `now` lies in relation to its validity, and
    /// says which one.
    ///
    /// It says nothing about names, time and status, and nothing about the usages of `leaf`. The CAs between must be
    /// allowed to issue certificates of TLS clients, and be no more than the anchor's pathLenConstraint allows (RFC 5280,
    /// section 6.1.4), which webpki does not look at. At most `MAX_INTERMEDIATES` further certificates are looked at.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Path, ChainError> {
        self.verified(leaf, intermediates, now, |path| {
            // The path refers to the anchor itself, or it would be no anchor of ours.
            let anchor = self
                .position_of(path)
                .ok_or(ChainError::NotVouchedFor(webpki::Error::UnknownIssuer))?;
            let intermediate = path
                .intermediate_certificates()
                .next_back()
                .map(|certificate| {
                    let content = certificate.serial();
                    ForeignSerial::from_der_content(content).ok_or(ChainError::IntermediateSerial)
                })
                .transpose()?;
            Ok(Path {
                anchor,
                intermediate,
            })
        })?
    }

    /// The CA certificates of the path that proves `leaf`, each directly certifying the one before it, from the
    /// issuer of `leaf` up to the anchor. An anchor that is its own issuer is left out: whoever verifies has it
    /// (RFC 9440, section 2.3). What the client sent besides is not among them.
    pub fn issuers(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Vec<CertificateDer<'static>>, ChainError> {
        self.verified(leaf, intermediates, now, |path| {
            let between = path.intermediate_certificates();
            let mut issuers: Vec<_> = between.map(|one| one.der().into_owned()).collect();
            let anchor = self
                .position_of(path)
                .and_then(|position| self.0.certificates.get(position));
            issuers.extend(anchor.filter(|anchor| !is_own_issuer(anchor)).cloned());
            issuers
        })
    }

    fn verified<T>(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
        look_at: impl FnOnce(&VerifiedPath<'_>) -> T,
    ) -> Result<T, ChainError> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(ChainError::TooLong {
                length: intermediates.len() + 1,
            });
        }
        let validity = Parsed::from_der(leaf).map_err(ChainError::Leaf)?.validity();
        if validity.not_before > validity.not_after {
            return Err(ChainError::EmptyValidity);
        }
        let end_entity = EndEntityCert::try_from(leaf).map_err(ChainError::NotVouchedFor)?;
        let path = end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.0.anchors,
                intermediates,
                clamp(now, validity).into(),
                UsageIsReadElsewhere,
                None,
                Some(&|path| self.check_between(path)),
            )
            .map_err(ChainError::NotVouchedFor)?;
        Ok(look_at(&path))
    }

    /// Whether the CAs between the anchor and the leaf may be there. Another path may still do.
    fn check_between(&self, path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
        let mut length = 0;
        for ca in path.intermediate_certificates() {
            let der = ca.der();
            let parsed = Parsed::from_der(&der).map_err(|_| webpki::Error::BadDer)?;
            check_extensions(&parsed).map_err(no_issuer)?;
            let x509 = parsed.x509();
            // What a CA issued to itself, to replace its key, does not count.
            length += u32::from(x509.subject().as_raw() != x509.issuer().as_raw());
        }
        let position = self.position_of(path);
        let most = position.and_then(|position| self.0.path_lengths.get(position));
        match most {
            Some(None) => Ok(()),
            Some(Some(most)) if length <= *most => Ok(()),
            Some(Some(_)) | None => Err(webpki::Error::PathLenConstraintViolated),
        }
    }

    fn position_of(&self, path: &VerifiedPath<'_>) -> Option<usize> {
        let mut anchors = self.0.anchors.iter();
        anchors.position(|anchor| std::ptr::eq(anchor, path.anchor()))
    }
}

/// Whether subject and issuer are the same name, byte for byte. An anchor that cannot be read counts as its own.
fn is_own_issuer(certificate: &CertificateDer<'_>) -> bool {
    Parsed::from_der(certificate).map_or(true, |parsed| {
        parsed.x509().subject().as_raw() == parsed.x509().issuer().as_raw()
    })
}

/// How many CAs may stand between an anchor and a leaf, if it says so. Below one that cannot be read there may be none.
fn path_length(anchor: &CertificateDer<'_>) -> Option<u32> {
    let constraints = Parsed::from_der(anchor).map(|parsed| {
        match parsed.extension(&OID_X509_EXT_BASIC_CONSTRAINTS, Tag::Sequence) {
            Ok(None) => Ok(None),
            Ok(Some(ParsedExtension::BasicConstraints(found))) => Ok(found.path_len_constraint),
            Ok(Some(_)) | Err(_) => Err(()),
        }
    });
    match constraints {
        Ok(Ok(length)) => length,
        Ok(Err(())) | Err(_) => Some(0),
    }
}

/// The nearest that webpki has for a CA that may not issue certificates of clients.
fn no_issuer(fault: CaFault) -> webpki::Error {
    match fault {
        CaFault::NotCa | CaFault::NoKeyCertSign | CaFault::NoCrlSign => {
            webpki::Error::EndEntityUsedAsCa
        }
        CaFault::NoClientAuth => {
            webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
                required: KeyUsage::client_auth(),
                present: Vec::new(),
            })
        }
        CaFault::CriticalExtension => webpki::Error::UnsupportedCriticalExtension,
        CaFault::Unreadable(_) => webpki::Error::BadDer,
        CaFault::NoAnchor(error) => error,
        CaFault::NotYetValid | CaFault::Expired => webpki::Error::InvalidCertValidity,
    }
}

/// How an anchor vouches for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The anchor's position among those that were given.
    pub anchor: usize,
    /// The serial that the anchor gave to the intermediate CA below it; none if it issued the leaf itself.
    pub intermediate: Option<ForeignSerial>,
}

/// Why no anchor vouches for a certificate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// More certificates than any honest device sends.
    #[error("the chain has {length} certificates, and {} is the limit", MAX_INTERMEDIATES + 1)]
    TooLong {
        /// How many certificates came.
        length: usize,
    },
    /// The leaf cannot be parsed.
    #[error("the certificate cannot be read: {0}")]
    Leaf(ReadError),
    /// `notAfter` lies before `notBefore`.
    #[error("the certificate's validity is empty")]
    EmptyValidity,
    /// An intermediate CA has a serial that no list could name.
    #[error("the serial of an intermediate CA is not positive or longer than 20 bytes")]
    IntermediateSerial,
    /// No chain of good signatures leads to an anchor.
    #[error("no trusted CA vouches for it: {0:?}")]
    NotVouchedFor(webpki::Error),
}

/// Why CA certificates cannot serve as anchors.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// There are none; nobody could be verified.
    #[error("there is no CA certificate")]
    None,
    /// One cannot be used.
    #[error("a CA certificate cannot be used: {0:?}")]
    Unusable(webpki::Error),
}

/// Devices send their leaf; some add the issuing CA and the root.
const MAX_INTERMEDIATES: usize = 3;

/// The reader in [`crate::certificate`] judges usages, so that a wrong one can be explained at HTTP.
struct UsageIsReadElsewhere;

impl ExtendedKeyUsageValidator for UsageIsReadElsewhere {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

fn clamp(now: Timestamp, validity: Validity) -> Timestamp {
    now.clamp(validity.not_before, validity.not_after)
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
