//! The chain check, with the time clamped into the leaf's validity.
//!
//! webpki checks validity before signatures, so its "expired" proves nothing: anybody can make an expired
//! certificate. Here the signature is always checked, and time is left to whoever asks what the
//! certificate may do *now*.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};

use crate::certificate::{Parsed, ReadError, Validity};
use crate::element;
use crate::foreign::ForeignSerial;
use crate::timestamp::Timestamp;

/// Issuing CAs that are believed. Never empty.
#[derive(Clone, Debug)]
pub struct Anchors(Arc<Believed>);

/// The anchors, and the certificate that each was made from, at the same position.
#[derive(Debug)]
struct Believed {
    anchors: Vec<TrustAnchor<'static>>,
    certificates: Vec<CertificateDer<'static>>,
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

    /// Whether an anchor bears the name that `leaf` names as its issuer: without one that does, nobody here issued it
    /// directly.
    pub fn has_issuer_name_of(&self, leaf: &CertificateDer<'_>) -> bool {
        let Ok(parsed) = Parsed::from_der(leaf) else {
            return false;
        };
        let issuer = parsed.x509().issuer().as_raw();
        // An anchor's subject lacks the tag and length of the SEQUENCE.
        element::only(issuer, element::SEQUENCE).is_ok_and(|name| {
            let mut anchors = self.0.anchors.iter();
            anchors.any(|anchor| anchor.subject.as_ref() == name.content)
        })
    }

    /// Proves that one of the anchors vouches for `leaf`, wherever `now` lies in relation to its validity, and
    /// says which one.
    ///
    /// It says nothing about names, usages, time and status. At most `MAX_INTERMEDIATES` further
    /// certificates are looked at.
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
                None,
            )
            .map_err(ChainError::NotVouchedFor)?;
        Ok(look_at(&path))
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
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
    };

    use super::*;

    struct Authority {
        der: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("a CA").der().clone();
        Authority {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    fn subordinate(name: &str, issuer: &Authority) -> Authority {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer.issuer).expect("a CA");
        Authority {
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn leaf(issuer: &Authority, from: i32, until: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer.issuer).expect("a leaf");
        certificate.der().clone()
    }

    const DIRECT: Path = Path {
        anchor: 0,
        intermediate: None,
    };
    const IN_2026: Timestamp = Timestamp(1_780_000_000);

    #[test]
    fn expiry_hides_no_bad_signature() {
        let ours = authority("Device CA");
        let pretender = authority("Device CA");
        let anchors = Anchors::new(std::slice::from_ref(&ours.der)).expect("an anchor");
        let bad_signature = Err(ChainError::NotVouchedFor(
            webpki::Error::InvalidSignatureForPublicKey,
        ));
        for (from, until) in [(2020, 2030), (2000, 2001), (2040, 2041)] {
            let good = leaf(&ours, from, until);
            assert_eq!(anchors.verify(&good, &[], IN_2026), Ok(DIRECT));
            let forged = leaf(&pretender, from, until);
            assert_eq!(anchors.verify(&forged, &[], IN_2026), bad_signature);
        }
    }

    #[test]
    fn the_anchor_that_vouches_is_named() {
        let (ours, other) = (authority("Device CA"), authority("Other CA"));
        let subordinate = {
            let mut params = CertificateParams::default();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, "Subordinate");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.serial_number = Some(rcgen::SerialNumber::from(vec![7]));
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &other.issuer).expect("a CA");
            Authority {
                der: certificate.der().clone(),
                issuer: Issuer::new(params, key),
            }
        };
        let both = [ours.der.clone(), other.der.clone()];
        let anchors = Anchors::new(&both).expect("anchors");
        let verify = |leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]| {
            anchors.verify(leaf, sent, IN_2026)
        };
        assert_eq!(verify(&leaf(&ours, 2020, 2030), &[]), Ok(DIRECT));
        let direct = Path {
            anchor: 1,
            intermediate: None,
        };
        assert_eq!(verify(&leaf(&other, 2020, 2030), &[]), Ok(direct));
        let through = Path {
            anchor: 1,
            intermediate: ForeignSerial::from_der_content(&[7]),
        };
        let sent = std::slice::from_ref(&subordinate.der);
        assert_eq!(verify(&leaf(&subordinate, 2020, 2030), sent), Ok(through));
        assert_eq!(anchors.certificate(1), Some(&other.der));
        assert!(anchors.has_issuer_name_of(&leaf(&other, 2020, 2030)));
        assert!(!anchors.has_issuer_name_of(&leaf(&subordinate, 2020, 2030)));
    }

    #[test]
    fn strangers() {
        let ours = authority("Device CA");
        let other = authority("Other CA");
        let anchors = Anchors::new(std::slice::from_ref(&ours.der)).expect("an anchor");
        let stranger = leaf(&other, 2020, 2030);
        assert_eq!(
            anchors.verify(&stranger, std::slice::from_ref(&other.der), IN_2026),
            Err(ChainError::NotVouchedFor(webpki::Error::UnknownIssuer))
        );
        assert_eq!(
            anchors.verify(&stranger, &vec![other.der.clone(); 4], IN_2026),
            Err(ChainError::TooLong { length: 5 })
        );
        assert_eq!(
            anchors.verify(&leaf(&ours, 2030, 2020), &[], IN_2026),
            Err(ChainError::EmptyValidity)
        );
        assert_eq!(
            anchors.verify(&CertificateDer::from(vec![0]), &[], IN_2026),
            Err(ChainError::Leaf(ReadError::NotDer))
        );
    }

    #[test]
    fn issuers_are_those_of_the_path_and_not_what_was_sent() {
        let root = authority("Root CA");
        let middle = subordinate("Middle CA", &root);
        let issuing = subordinate("Device CA", &middle);
        let leaf = leaf(&issuing, 2020, 2030);
        let other = authority("Other CA");
        let check = |anchor: &Authority, sent: &[&Authority], expected: &[&Authority]| {
            let anchors = Anchors::new(&[other.der.clone(), anchor.der.clone()]).expect("anchors");
            let sent: Vec<_> = sent.iter().map(|one| one.der.clone()).collect();
            let expected: Vec<_> = expected.iter().map(|one| one.der.clone()).collect();
            assert_eq!(anchors.issuers(&leaf, &sent, IN_2026), Ok(expected));
        };
        check(&issuing, &[], &[&issuing]);
        check(&issuing, &[&other, &middle, &root], &[&issuing]);
        check(&middle, &[&issuing], &[&issuing, &middle]);
        check(&middle, &[&other, &middle, &issuing], &[&issuing, &middle]);
        // The root is its own issuer.
        check(&root, &[&middle, &other, &issuing], &[&issuing, &middle]);
        let anchors = Anchors::new(std::slice::from_ref(&other.der)).expect("an anchor");
        let sent = [issuing.der.clone(), middle.der.clone()];
        assert_eq!(
            anchors.issuers(&leaf, &sent, IN_2026),
            Err(ChainError::NotVouchedFor(webpki::Error::UnknownIssuer))
        );
    }

    #[test]
    fn nobody_is_believed_without_an_anchor() {
        assert_eq!(Anchors::new(&[]).map(|_| ()), Err(AnchorError::None));
    }
}
