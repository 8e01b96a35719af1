//! The one reader of a certificate's identity.
//!
//! Exactly one name, of one type, byte for byte, or an error that names the rule that failed. A
//! distinguished name is never an identity: its printed form is ambiguous.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::fingerprint::Fingerprint;
use crate::serial::Serial;
use crate::spiffe::{SpiffeError, SpiffeId};
use crate::timestamp::Timestamp;

/// What an end-entity certificate of ours says. Whether it is true is [`crate::chain`]'s question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// The serial, which hides the registry index.
    pub serial: Serial,
    /// When the certificate holds.
    pub validity: Validity,
    /// SHA-256 of the whole certificate.
    pub certificate: Fingerprint,
    /// SHA-256 of its TBSCertificate.
    pub tbs: Fingerprint,
}

/// `notBefore` and `notAfter` (RFC 5280, section 4.1.2.5), both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: Timestamp,
    /// The last second.
    pub not_after: Timestamp,
}

/// A DER certificate, parsed once and not yet believed.
pub struct Parsed<'a> {
    der: &'a [u8],
    x509: X509Certificate<'a>,
}

impl<'a> Parsed<'a> {
    /// Parses one certificate that fills `der`, of at most 16 KiB.
    pub fn from_der(der: &'a [u8]) -> Result<Self, ReadError> {
        if der.len() > MAX_CERTIFICATE_LENGTH {
            return Err(ReadError::TooLarge { length: der.len() });
        }
        let (rest, x509) = X509Certificate::from_der(der).map_err(|_| ReadError::NotDer)?;
        if !rest.is_empty() {
            return Err(ReadError::TrailingBytes);
        }
        Ok(Self { der, x509 })
    }

    /// When the certificate holds. A time before 1970 counts as 1970.
    pub fn validity(&self) -> Validity {
        let seconds = |time: x509_parser::time::ASN1Time| {
            Timestamp(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        Validity {
            not_before: seconds(self.x509.validity().not_before),
            not_after: seconds(self.x509.validity().not_after),
        }
    }

    /// The name alone: the one SAN, a SPIFFE ID of a known kind.
    pub fn spiffe_id(&self) -> Result<SpiffeId, ReadError> {
        self.x509
            .extensions_map()
            .map_err(|_| ReadError::DuplicateExtension)?;
        let names = self
            .x509
            .subject_alternative_name()
            .map_err(|_| ReadError::MalformedExtension)?
            .ok_or(ReadError::NoName)?;
        match names.value.general_names.as_slice() {
            [] => Err(ReadError::NoName),
            [GeneralName::URI(uri)] => SpiffeId::parse(uri).map_err(ReadError::NotSpiffe),
            [_] => Err(ReadError::NameNotUri),
            names => Err(ReadError::SeveralNames { count: names.len() }),
        }
    }

    /// Everything that an end-entity certificate for a TLS client must say.
    pub fn leaf(&self) -> Result<Leaf, ReadError> {
        let spiffe_id = self.spiffe_id()?;
        self.check_usages()?;
        Ok(Leaf {
            spiffe_id,
            serial: Serial::from_der_content(self.x509.raw_serial())
                .ok_or(ReadError::SerialNotOurs)?,
            validity: self.validity(),
            certificate: Fingerprint::of(self.der),
            tbs: Fingerprint::of(self.x509.tbs_certificate.as_ref()),
        })
    }

    fn check_usages(&self) -> Result<(), ReadError> {
        let malformed = |_| ReadError::MalformedExtension;
        if let Some(constraints) = self.x509.basic_constraints().map_err(malformed)?
            && constraints.value.ca
        {
            return Err(ReadError::IsCa);
        }
        let digital_signature = self
            .x509
            .key_usage()
            .map_err(malformed)?
            .is_some_and(|usage| usage.value.digital_signature());
        if !digital_signature {
            return Err(ReadError::NoDigitalSignature);
        }
        let client_auth = self
            .x509
            .extended_key_usage()
            .map_err(malformed)?
            .is_some_and(|usage| usage.value.client_auth);
        if !client_auth {
            return Err(ReadError::NoClientAuth);
        }
        Ok(())
    }
}

/// The rule that a certificate breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Longer than any certificate of ours.
    #[error("the certificate has {length} bytes, and {MAX_CERTIFICATE_LENGTH} is the limit")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
    },
    /// Not a DER certificate.
    #[error("it is not a DER certificate")]
    NotDer,
    /// Bytes follow the certificate.
    #[error("bytes follow the certificate")]
    TrailingBytes,
    /// An extension occurs twice.
    #[error("an extension occurs twice")]
    DuplicateExtension,
    /// An extension that matters cannot be read.
    #[error("an extension cannot be read")]
    MalformedExtension,
    /// No subjectAltName.
    #[error("it has no subjectAltName")]
    NoName,
    /// More than one subjectAltName.
    #[error("it has {count} subjectAltNames, and exactly one is allowed")]
    SeveralNames {
        /// How many.
        count: usize,
    },
    /// The subjectAltName is not a URI.
    #[error("its subjectAltName is not a URI")]
    NameNotUri,
    /// The URI is not a SPIFFE ID of a known kind.
    #[error("its URI is not a SPIFFE ID of Keybound: {0}")]
    NotSpiffe(SpiffeError),
    /// A CA certificate.
    #[error("it is a CA certificate")]
    IsCa,
    /// KeyUsage lacks digitalSignature.
    #[error("its KeyUsage lacks digitalSignature")]
    NoDigitalSignature,
    /// ExtendedKeyUsage lacks clientAuth.
    #[error("its ExtendedKeyUsage lacks clientAuth")]
    NoClientAuth,
    /// A serial that this CA cannot have given.
    #[error("its serial number is negative or longer than 16 bytes")]
    SerialNotOurs,
}

/// Certificates of ours have less than 1 KiB; this leaves room for large RSA keys.
const MAX_CERTIFICATE_LENGTH: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        KeyUsagePurpose, SanType,
    };

    use super::*;
    use crate::name::NameError;

    fn profile() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri("spiffe://keybound.local/device/a")];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(rcgen::SerialNumber::from(vec![1, 2, 3]));
        params
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().expect("ASCII"))
    }

    fn check(change: impl FnOnce(&mut CertificateParams), expected: Result<&str, ReadError>) {
        let mut params = profile();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let leaf = Parsed::from_der(certificate.der()).and_then(|parsed| parsed.leaf());
        assert_eq!(
            leaf.map(|leaf| leaf.spiffe_id.to_string()),
            expected.map(str::to_owned)
        );
    }

    #[test]
    fn one_name_or_the_rule_that_failed() {
        check(|_| {}, Ok("spiffe://keybound.local/device/a"));
        check(|p| p.subject_alt_names.clear(), Err(ReadError::NoName));
        check(
            |p| {
                p.subject_alt_names
                    .push(uri("spiffe://keybound.local/device/b"))
            },
            Err(ReadError::SeveralNames { count: 2 }),
        );
        check(
            |p| {
                p.subject_alt_names
                    .push(SanType::DnsName("a".try_into().expect("ASCII")))
            },
            Err(ReadError::SeveralNames { count: 2 }),
        );
        check(
            |p| {
                p.subject_alt_names = vec![SanType::DnsName("a.example".try_into().expect("ASCII"))]
            },
            Err(ReadError::NameNotUri),
        );
        check(
            |p| p.subject_alt_names = vec![uri("urn:device:a")],
            Err(ReadError::NotSpiffe(SpiffeError::Scheme)),
        );
        check(
            |p| p.subject_alt_names = vec![uri("spiffe://keybound.local/device/a\r\nX: y")],
            Err(ReadError::NotSpiffe(SpiffeError::Name(
                NameError::Character {
                    character: '\r',
                    position: 1,
                },
            ))),
        );
    }

    #[test]
    fn usages() {
        check(|p| p.key_usages.clear(), Err(ReadError::NoDigitalSignature));
        check(
            |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            Err(ReadError::NoDigitalSignature),
        );
        check(
            |p| p.extended_key_usages.clear(),
            Err(ReadError::NoClientAuth),
        );
        check(
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            Err(ReadError::NoClientAuth),
        );
        check(
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
            Err(ReadError::NoClientAuth),
        );
        check(
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Err(ReadError::IsCa),
        );
    }

    #[test]
    fn bytes_that_are_no_certificate() {
        let read = |der: &[u8]| Parsed::from_der(der).map(|_| ());
        assert_eq!(read(b""), Err(ReadError::NotDer));
        assert_eq!(read(&[0x30, 0x80, 0, 0]), Err(ReadError::NotDer));
        assert_eq!(
            read(&[0; 16 * 1024 + 1]),
            Err(ReadError::TooLarge {
                length: 16 * 1024 + 1
            })
        );
        let key = KeyPair::generate().expect("a key");
        let mut der = profile()
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .to_vec();
        der.push(0);
        assert_eq!(read(&der), Err(ReadError::TrailingBytes));
    }
}
