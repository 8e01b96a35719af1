//! A CA certificate that somebody wants to trust: what it says, and whether it may be trusted with that.
//!
//! Path building ignores most of what an anchor says of itself: its validity, its key usage and its critical
//! extensions (RFC 5280, section 6.1.1). So they are looked at here, when it is loaded and as time goes by.

use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS,
};

use crate::certificate::{Parsed, ReadError, Validity};
use crate::element::{self, Elements};
use crate::fingerprint::Fingerprint;
use crate::foreign::ForeignSerial;
use crate::timestamp::Timestamp;

/// A CA certificate whose extensions let it be an anchor. Whether it is valid *now* is asked again and again.
#[derive(Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: CertificateDer<'static>,
    fingerprint: Fingerprint,
    validity: Validity,
    /// Names as they were encoded; compared byte for byte.
    subject: Vec<u8>,
    issuer: Vec<u8>,
    serial: Option<ForeignSerial>,
    /// SHA-256 of its name and SubjectPublicKeyInfo.
    authority: Fingerprint,
    /// The content of the AlgorithmIdentifier of its key.
    key_algorithm: Vec<u8>,
    /// The key itself, as in subjectPublicKey.
    key: Vec<u8>,
    signs_lists: bool,
}

impl CaCertificate {
    /// Reads a certificate in DER, of at most 16 KiB.
    ///
    /// KeyUsage and ExtendedKeyUsage restrict it where they stand; a CA without them, which RFC 5280 does not
    /// allow and `openssl req -x509` makes, is not restricted. BasicConstraints must stand there and say cA.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, CaFault> {
        let parsed = Parsed::from_der(der).map_err(CaFault::Unreadable)?;
        let signs_lists = check_extensions(&parsed)?;
        let x509 = parsed.x509();
        let spki = &x509.tbs_certificate.subject_pki;
        let (key_algorithm, key) = key_of(spki.raw)?;
        webpki::anchor_from_trusted_cert(der).map_err(CaFault::NoAnchor)?;
        Ok(Self {
            fingerprint: Fingerprint::of(der),
            validity: parsed.validity(),
            subject: x509.subject().as_raw().to_vec(),
            issuer: x509.issuer().as_raw().to_vec(),
            serial: ForeignSerial::from_der_content(x509.raw_serial()),
            authority: Fingerprint::of(&[x509.subject().as_raw(), spki.raw].concat()),
            key_algorithm,
            key,
            signs_lists,
            der: der.clone().into_owned(),
        })
    }

    /// Fails outside its validity.
    pub fn check_time(&self, now: Timestamp) -> Result<(), CaFault> {
        if now < self.validity.not_before {
            Err(CaFault::NotYetValid)
        } else if now > self.validity.not_after {
            Err(CaFault::Expired)
        } else {
            Ok(())
        }
    }

    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When it holds.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Its subject, as it was encoded: a whole SEQUENCE.
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The serial that its own issuer gave it; none if no list could name it.
    pub fn serial(&self) -> Option<ForeignSerial> {
        self.serial
    }

    /// Whether it bears its own name as its issuer.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether it names `other` as its issuer.
    pub fn names_as_issuer(&self, other: &Self) -> bool {
        self.issuer == other.subject
    }

    /// Whether both have the same name and key: who is vouched for by one is vouched for by the other.
    pub fn is_same_authority(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.key_algorithm == other.key_algorithm
            && self.key == other.key
    }

    /// SHA-256 of its name and SubjectPublicKeyInfo: every certificate of one CA has the same.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// Whether it may sign lists of what it has revoked.
    pub fn signs_lists(&self) -> bool {
        self.signs_lists
    }

    /// Verifies a signature; `algorithm` is the content of the AlgorithmIdentifier that stands beside it.
    pub(crate) fn verify(
        &self,
        algorithm: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureFault> {
        let mut known = false;
        for candidate in webpki::ALL_VERIFICATION_ALGS {
            if candidate.signature_alg_id().as_ref() != algorithm
                || candidate.public_key_alg_id().as_ref() != self.key_algorithm
            {
                continue;
            }
            known = true;
            // Keys of different lengths share their algorithms.
            if candidate
                .verify_signature(&self.key, message, signature)
                .is_ok()
            {
                return Ok(());
            }
        }
        Err(if known {
            SignatureFault::Bad
        } else {
            SignatureFault::Algorithm
        })
    }
}

impl std::fmt::Debug for CaCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CaCertificate({})", self.fingerprint)
    }
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureFault {
    /// The key did not make it.
    Bad,
    /// No algorithm that is trusted: SHA-1, or one that does not go with the key.
    Algorithm,
}

/// Why a certificate may not be an anchor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaFault {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(ReadError),
    /// BasicConstraints are missing, or do not say cA.
    #[error("it is no CA certificate: its BasicConstraints do not say CA:TRUE")]
    NotCa,
    /// KeyUsage lacks keyCertSign.
    #[error("its KeyUsage lacks keyCertSign, so it may not issue certificates")]
    NoKeyCertSign,
    /// ExtendedKeyUsage names other purposes only.
    #[error(
        "its ExtendedKeyUsage names neither clientAuth nor anyExtendedKeyUsage, so its certificates may not be clients'"
    )]
    NoClientAuth,
    /// A critical extension that nobody here understands.
    #[error("it has a critical extension that is not understood")]
    CriticalExtension,
    /// Its key or name cannot be used.
    #[error("it cannot be an anchor: {0:?}")]
    NoAnchor(webpki::Error),
    /// KeyUsage lacks cRLSign, and a list is wanted.
    #[error("its KeyUsage lacks cRLSign, so it may not sign the list that is configured")]
    NoCrlSign,
    /// Its validity has not begun.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Its validity has ended.
    #[error("it has expired")]
    Expired,
}

/// Whether it may sign lists, if its extensions let it issue certificates of clients at all.
pub(crate) fn check_extensions(parsed: &Parsed<'_>) -> Result<bool, CaFault> {
    let malformed = CaFault::Unreadable(ReadError::MalformedExtension);
    let understood = [
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_EXTENDED_KEY_USAGE,
        // The chain check applies these, an anchor's too.
        OID_X509_EXT_NAME_CONSTRAINTS,
    ];
    parsed.check_extensions().map_err(CaFault::Unreadable)?;
    let mut extensions = parsed.x509().extensions().iter();
    if extensions.any(|one| one.critical && !understood.contains(&one.oid)) {
        return Err(CaFault::CriticalExtension);
    }
    match parsed
        .extension(&OID_X509_EXT_BASIC_CONSTRAINTS, Tag::Sequence)
        .map_err(CaFault::Unreadable)?
    {
        Some(ParsedExtension::BasicConstraints(constraints)) if constraints.ca => {}
        None | Some(ParsedExtension::BasicConstraints(_)) => return Err(CaFault::NotCa),
        Some(_) => return Err(malformed),
    }
    match parsed
        .extension(&OID_X509_EXT_EXTENDED_KEY_USAGE, Tag::Sequence)
        .map_err(CaFault::Unreadable)?
    {
        None => {}
        Some(ParsedExtension::ExtendedKeyUsage(usage)) if usage.client_auth || usage.any => {}
        Some(ParsedExtension::ExtendedKeyUsage(_)) => return Err(CaFault::NoClientAuth),
        Some(_) => return Err(malformed),
    }
    match parsed
        .extension(&OID_X509_EXT_KEY_USAGE, Tag::BitString)
        .map_err(CaFault::Unreadable)?
    {
        None => Ok(true),
        Some(ParsedExtension::KeyUsage(usage)) if usage.key_cert_sign() => Ok(usage.crl_sign()),
        Some(ParsedExtension::KeyUsage(_)) => Err(CaFault::NoKeyCertSign),
        Some(_) => Err(malformed),
    }
}

/// The algorithm's content and the key of a SubjectPublicKeyInfo.
fn key_of(spki: &[u8]) -> Result<(Vec<u8>, Vec<u8>), CaFault> {
    let unreadable = |_| CaFault::Unreadable(ReadError::NotDer);
    let info = element::only(spki, element::SEQUENCE).map_err(unreadable)?;
    let mut parts = Elements::of(info.content).map_err(unreadable)?;
    let algorithm = parts.expect(element::SEQUENCE).map_err(unreadable)?;
    let bits = parts.expect(element::BIT_STRING).map_err(unreadable)?;
    parts.finish().map_err(unreadable)?;
    let [0, key @ ..] = bits.content else {
        return Err(CaFault::Unreadable(ReadError::NotDer));
    };
    Ok((algorithm.content.to_vec(), key.to_vec()))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
    };

    use super::*;

    fn check(
        change: impl FnOnce(&mut CertificateParams),
        expected: Result<bool, CaFault>,
    ) -> Option<CaCertificate> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Factory CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let read = CaCertificate::read(certificate.der());
        assert_eq!(
            read.as_ref()
                .map(CaCertificate::signs_lists)
                .map_err(Clone::clone),
            expected
        );
        read.ok()
    }

    #[test]
    fn what_an_anchor_must_say() {
        check(|_| {}, Ok(true));
        check(|p| p.key_usages.clear(), Ok(true));
        check(
            |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign],
            Ok(false),
        );
        check(
            |p| p.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature],
            Err(CaFault::NoKeyCertSign),
        );
        check(|p| p.is_ca = IsCa::ExplicitNoCa, Err(CaFault::NotCa));
        check(|p| p.is_ca = IsCa::NoCa, Err(CaFault::NotCa));
        let usages = |usages: &[ExtendedKeyUsagePurpose]| {
            let usages = usages.to_vec();
            move |p: &mut CertificateParams| p.extended_key_usages = usages
        };
        check(usages(&[ExtendedKeyUsagePurpose::ClientAuth]), Ok(true));
        check(usages(&[ExtendedKeyUsagePurpose::Any]), Ok(true));
        check(
            usages(&[ExtendedKeyUsagePurpose::ServerAuth]),
            Err(CaFault::NoClientAuth),
        );
    }

    #[test]
    fn a_critical_extension_that_is_not_understood() {
        for (critical, expected) in [(true, Err(CaFault::CriticalExtension)), (false, Ok(true))] {
            let mut unknown = CustomExtension::from_oid_content(&[2, 5, 29, 99], vec![5, 0]);
            unknown.set_criticality(critical);
            check(|p| p.custom_extensions.push(unknown), expected);
        }
    }

    #[test]
    fn validity_is_looked_at() {
        let ca = check(|_| {}, Ok(true)).expect("a CA");
        let Validity {
            not_before,
            not_after,
        } = ca.validity();
        assert_eq!(ca.check_time(not_before), Ok(()));
        assert_eq!(ca.check_time(not_after), Ok(()));
        let second = std::time::Duration::from_secs(1);
        assert_eq!(
            ca.check_time(not_before.minus(second)),
            Err(CaFault::NotYetValid)
        );
        assert_eq!(ca.check_time(not_after.plus(second)), Err(CaFault::Expired));
    }

    #[test]
    fn the_same_authority_has_the_same_name_and_key() {
        let one = check(|_| {}, Ok(true)).expect("a CA");
        let other = check(|_| {}, Ok(true)).expect("a CA");
        assert!(one.is_same_authority(&one) && one.is_self_issued());
        assert!(!one.is_same_authority(&other) && one.names_as_issuer(&other));
    }
}
