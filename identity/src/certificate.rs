//! The one reader of a certificate's identity.
//!
//! Exactly one name, of one type, byte for byte, or an error that names the rule that failed. A
//! distinguished name is never an identity: its printed form is ambiguous. A third of this file is its tests.

use x509_parser::asn1_rs::{Any, Class, Oid, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::FromDer;

use crate::fingerprint::Fingerprint;
use crate::name::NameError;
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
    pub(crate) x509: X509Certificate<'a>,
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

    /// The parser's view, for what else is read in this crate.
    pub(crate) fn x509(&self) -> &X509Certificate<'a> {
        &self.x509
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

    /// The bytes.
    pub(crate) fn der(&self) -> &'a [u8] {
        self.der
    }

    /// Every extension has a whole name, stands there once and can be read.
    pub(crate) fn check_extensions(&self) -> Result<(), ReadError> {
        let extensions = self
            .x509
            .extensions_map()
            .map_err(|_| ReadError::DuplicateExtension)?;
        let unreadable = |extension: &X509Extension<'_>| {
            matches!(
                extension.parsed_extension(),
                ParsedExtension::ParseError { .. }
            )
        };
        if extensions
            .iter()
            .any(|(oid, extension)| !is_der_oid(oid.as_bytes()) || unreadable(extension))
        {
            return Err(ReadError::MalformedExtension);
        }
        Ok(())
    }

    /// The name alone: the one SAN, a SPIFFE ID of a known kind.
    pub fn spiffe_id(&self) -> Result<SpiffeId, ReadError> {
        self.check_extensions()?;
        let names = match self.extension(&OID_X509_EXT_SUBJECT_ALT_NAME, Tag::Sequence)? {
            None => return Err(ReadError::NoName),
            Some(ParsedExtension::SubjectAlternativeName(names)) => names,
            Some(_) => return Err(ReadError::MalformedExtension),
        };
        match names.general_names.as_slice() {
            [] => Err(ReadError::NoName),
            [GeneralName::URI(uri)] if !self.names_alone(uri) => Err(ReadError::MalformedExtension),
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
            serial: self.serial()?,
            validity: self.validity(),
            certificate: Fingerprint::of(self.der),
            tbs: Fingerprint::of(self.x509.tbs_certificate.as_ref()),
        })
    }

    /// Whether the subjectAltName is the one DER encoding of this URI: the parser takes others too, in which
    /// other readers find no name.
    fn names_alone(&self, uri: &str) -> bool {
        let Ok(Some(extension)) = self
            .x509
            .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
        else {
            return false;
        };
        let name = element(0x86, uri.as_bytes());
        extension.value == element(0x30, &name)
    }

    fn serial(&self) -> Result<Serial, ReadError> {
        match self.x509.raw_serial() {
            // Not the one encoding that DER has for a number.
            [] | [0, ..0x80, ..] => Err(ReadError::SerialNotOurs),
            content => Serial::from_der_content(content).ok_or(ReadError::SerialNotOurs),
        }
    }

    fn check_usages(&self) -> Result<(), ReadError> {
        match self.extension(&OID_X509_EXT_BASIC_CONSTRAINTS, Tag::Sequence)? {
            None => {}
            // A path length is a CA's alone, whatever cA says (RFC 5280, section 4.2.1.9).
            Some(ParsedExtension::BasicConstraints(constraints))
                if !constraints.ca && constraints.path_len_constraint.is_none() => {}
            Some(ParsedExtension::BasicConstraints(_)) => return Err(ReadError::IsCa),
            // It may say that this is a CA, in a spelling that others read.
            Some(_) => return Err(ReadError::MalformedExtension),
        }
        match self.extension(&OID_X509_EXT_KEY_USAGE, Tag::BitString)? {
            // And so is the right to sign certificates (section 4.2.1.3).
            Some(ParsedExtension::KeyUsage(usage)) if usage.key_cert_sign() => {
                return Err(ReadError::IsCa);
            }
            Some(ParsedExtension::KeyUsage(usage)) if usage.digital_signature() => {}
            None | Some(ParsedExtension::KeyUsage(_)) => return Err(ReadError::NoDigitalSignature),
            Some(_) => return Err(ReadError::MalformedExtension),
        }
        match self.extension(&OID_X509_EXT_EXTENDED_KEY_USAGE, Tag::Sequence)? {
            Some(ParsedExtension::ExtendedKeyUsage(usage)) if usage.client_auth => Ok(()),
            None | Some(ParsedExtension::ExtendedKeyUsage(_)) => Err(ReadError::NoClientAuth),
            Some(_) => Err(ReadError::MalformedExtension),
        }
    }

    /// An extension that stands there once, and whose value is one whole element of this tag: the parser passes
    /// over bytes behind it and over the tag's class, where another reader might find something else.
    pub(crate) fn extension(
        &self,
        oid: &Oid<'_>,
        tag: Tag,
    ) -> Result<Option<&ParsedExtension<'a>>, ReadError> {
        let found = self
            .x509
            .get_extension_unique(oid)
            .map_err(|_| ReadError::DuplicateExtension)?;
        let Some(extension) = found else {
            return Ok(None);
        };
        match Any::from_der(extension.value) {
            Ok((rest, value))
                if rest.is_empty() && value.class() == Class::Universal && value.tag() == tag =>
            {
                Ok(Some(extension.parsed_extension()))
            }
            Ok(_) | Err(_) => Err(ReadError::MalformedExtension),
        }
    }
}

/// Whether this is an object identifier (ITU-T X.690, section 8.19.2): whole arcs, each in its shortest form. The
/// parser takes others, too, and other readers do not load a certificate that has one.
fn is_der_oid(content: &[u8]) -> bool {
    let arcs = content.split_inclusive(|octet| octet & 0x80 == 0);
    let whole = content.last().is_some_and(|octet| octet & 0x80 == 0);
    whole && arcs.into_iter().all(|arc| arc.first() != Some(&0x80))
}

/// An element of DER with at most 64 KiB of content, as in a certificate of at most 16 KiB.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let header: &[u8] = match content.len() {
        0..=0x7f => &[tag, low],
        0x80..=0xff => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [header, content].concat()
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
    /// Another CA's, with a URI in our trust domain.
    #[error("another CA made it, and a URI in it lies in the trust domain of this installation")]
    OwnTrustDomain,
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
    /// A distinguished name that cannot be read.
    #[error("a distinguished name cannot be read")]
    MalformedName,
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
    #[error("its serial number is negative, longer than 16 bytes or not in its shortest form")]
    SerialNotOurs,
    /// A serial that no list of revoked certificates could name.
    #[error("its serial number is not positive, longer than 20 bytes or not in its shortest form")]
    SerialOutOfRange,
    /// Not exactly one name of the type that the anchor's ids come from.
    #[error(
        "it has {count} names of the type that identifies its anchor's devices, and exactly one is needed"
    )]
    NamesOfType {
        /// How many.
        count: usize,
    },
    /// The common name shares its RDN with other attributes.
    #[error("its common name stands in an RDN with several values")]
    CommonNameShared,
    /// The common name is of a type that can be read in several ways.
    #[error("its common name is neither a PrintableString nor a UTF8String")]
    CommonNameType,
    /// The URI does not begin as the anchor's devices' do.
    #[error("its URI does not begin with the prefix that is configured for its anchor")]
    UriPrefix,
    /// The DNS name is none in lower case.
    #[error("its DNS name is no host name in lower case")]
    NotDnsName,
    /// What should be the id is no id.
    #[error("its name is no device id: {0}")]
    NotId(NameError),
    /// The anchor's table has no line for it.
    #[error("the table of its anchor has no line with its fingerprint")]
    NotInTable,
}

/// Certificates of ours have less than 1 KiB; this leaves room for large RSA keys.
const MAX_CERTIFICATE_LENGTH: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
        KeyPair, KeyUsagePurpose, SanType,
    };

    use super::*;

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
    fn an_extension_that_cannot_be_read_is_not_passed_over() {
        let check_value = |value: &[u8], oid: &[u64], expected| {
            let replace = |p: &mut CertificateParams| {
                match oid[3] {
                    15 => p.key_usages.clear(),
                    17 => p.subject_alt_names.clear(),
                    37 => p.extended_key_usages.clear(),
                    _ => {}
                }
                let extension = CustomExtension::from_oid_content(oid, value.to_vec());
                p.custom_extensions.push(extension);
            };
            check(replace, expected);
        };
        let malformed = Err(ReadError::MalformedExtension);
        let good = Ok("spiffe://keybound.local/device/a");
        let constraints = &[2, 5, 29, 19];
        check_value(&[0x30, 0], constraints, good);
        check_value(&[0x30, 3, 1, 1, 0xff], constraints, Err(ReadError::IsCa));
        check_value(&[0x30, 3, 1, 1, 1], constraints, Err(ReadError::IsCa));
        check_value(&[0x30, 3, 2, 1, 0x80], constraints, malformed);
        check_value(&[0x30, 3, 1, 1], constraints, malformed);
        check_value(&[0x30, 0, 0x30, 3, 1, 1, 0xff], constraints, malformed);
        let key_usage = &[2, 5, 29, 15];
        check_value(&[3, 2, 7, 0x80], key_usage, good);
        check_value(&[3, 2, 7, 0x80, 5, 0], key_usage, malformed);
        check_value(&[0x83, 2, 7, 0x80], key_usage, malformed);
        let extended = &[2, 5, 29, 37];
        let client_auth = [0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];
        check_value(&client_auth, extended, good);
        check_value(&[&client_auth[..], &[0]].concat(), extended, malformed);
        let name = b"spiffe://keybound.local/device/a";
        let names = [&[0x30, 34, 0x86, 32][..], name].concat();
        let alternative = &[2, 5, 29, 17];
        check_value(&names, alternative, good);
        check_value(&[&names[..], &names].concat(), alternative, malformed);
        check_value(&names[2..], alternative, malformed);
        let constructed = [&[0x30, 34, 0xa6, 32][..], name].concat();
        check_value(&constructed, alternative, malformed);
        let long_form = [&[0x30, 35, 0x86, 0x81, 32][..], name].concat();
        check_value(&long_form, alternative, malformed);
        // Long enough that its length takes one octet more, and then two.
        for length in [120, 127, 128, 200, 251, 252, 255] {
            let domain = "d".repeat(length);
            let longer = format!("spiffe://{domain}/device/a");
            check(|p| p.subject_alt_names = vec![uri(&longer)], Ok(&longer));
        }
    }

    #[test]
    fn an_extension_must_have_a_whole_name() {
        for (oid, expected) in [
            (&[0x55, 0x1d, 0x63][..], true),
            (&[0x55, 0x1d, 0x81, 0x00], true),
            (&[0x81, 0x80, 0x01], true),
            (&[], false),
            (&[0x55, 0x1d, 0xa3], false),
            (&[0x55, 0x1d, 0x80, 0x01], false),
            (&[0x80, 0x01], false),
        ] {
            assert_eq!(is_der_oid(oid), expected, "{oid:x?}");
        }
        let key = KeyPair::generate().expect("a key");
        let mut params = profile();
        let unknown = CustomExtension::from_oid_content(&[2, 5, 29, 99], vec![5, 0]);
        params.custom_extensions.push(unknown);
        let certificate = params.self_signed(&key).expect("a certificate");
        let read = |der: &[u8]| Parsed::from_der(der).and_then(|parsed| parsed.leaf().map(|_| ()));
        let mut der = certificate.der().to_vec();
        assert_eq!(read(&der), Ok(()));
        let at = der
            .windows(5)
            .position(|there| there == [6, 3, 0x55, 0x1d, 99]);
        der[at.expect("the extension") + 4] = 0xa3;
        assert_eq!(read(&der), Err(ReadError::MalformedExtension));
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
