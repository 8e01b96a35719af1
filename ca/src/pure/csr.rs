//! Certificate signing requests (PKCS #10, RFC 2986): bytes in, a verified public key and its claims out.

use der::asn1::{Ia5StringRef, ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use der::{Decode, Encode, Tagged};
use identity::{DeviceId, SpiffeId};
use x509_cert::ext::Extensions;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::RdnSequence;
use x509_cert::request::{CertReq, CertReqInfo};

use super::key_policy::{KeyFault, PublicKey};

/// A request whose sender holds the private key, and whose key the policy accepts.
///
/// Only [`VerifiedCsr::from_der`] makes one. Of the request nothing is kept but the public key and what
/// names it asked for, to compare them with whom it is from.
#[derive(Debug)]
pub struct VerifiedCsr {
    key: PublicKey,
    subject: SubjectClaim,
    alternative_name: NameClaim,
    has_challenge_password: bool,
}

impl VerifiedCsr {
    /// Checks size, strict DER, the key and the proof of possession.
    pub fn from_der(der: &[u8]) -> Result<Self, CsrFault> {
        if der.is_empty() {
            return Err(CsrFault::Empty);
        }
        if der.len() > MAX_CSR_LENGTH {
            return Err(CsrFault::TooLarge { length: der.len() });
        }
        let request = CertReq::from_der(der).map_err(|_| CsrFault::NotDer)?;
        // DER has one encoding for each value, so whatever reads back differently was not DER.
        let strict = request.to_der().is_ok_and(|again| again == der);
        if !strict {
            return Err(CsrFault::NotDer);
        }
        let key = PublicKey::from_spki(&request.info.public_key).map_err(CsrFault::Key)?;
        let signed = request.info.to_der().map_err(|_| CsrFault::NotDer)?;
        let signature = request.signature.as_bytes().ok_or(CsrFault::NotDer)?;
        key.verify(&request.algorithm, &signed, signature)
            .map_err(CsrFault::Key)?;
        let attributes = request.info.attributes.iter();
        each_once(attributes.map(|attribute| attribute.oid))?;
        Ok(Self {
            key,
            subject: SubjectClaim::of(&request.info.subject),
            alternative_name: alternative_name(&request.info)?,
            has_challenge_password: attribute(&request.info, CHALLENGE_PASSWORD)?.is_some(),
        })
    }

    /// [`Self::from_der`] for what people have at hand: DER, or PEM with one `CERTIFICATE REQUEST`.
    pub fn from_pem_or_der(bytes: &[u8]) -> Result<Self, CsrFault> {
        if !bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Self::from_der(bytes);
        }
        if bytes.len() > 2 * MAX_CSR_LENGTH {
            return Err(CsrFault::TooLarge {
                length: bytes.len(),
            });
        }
        match pem::parse_many(bytes).as_deref() {
            Ok([request])
                if matches!(
                    request.tag(),
                    "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
                ) =>
            {
                Self::from_der(request.contents())
            }
            Ok(_) | Err(_) => Err(CsrFault::NotPem),
        }
    }

    /// The public key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether every name in the request, if there is one, is exactly the given one.
    pub fn claims_at_most(&self, device: &DeviceId, spiffe_id: &SpiffeId) -> bool {
        let subject = match &self.subject {
            SubjectClaim::Empty => true,
            SubjectClaim::CommonName(name) => name == device.as_str(),
            SubjectClaim::Other => false,
        };
        subject
            && match &self.alternative_name {
                NameClaim::None => true,
                NameClaim::Uri(uri) => *uri == spiffe_id.to_string(),
                NameClaim::Other => false,
            }
    }

    /// Whether the subject is exactly `CN=<device>`, as re-enrollment wants it (RFC 7030, section 4.2.2).
    pub fn has_subject(&self, device: &DeviceId) -> bool {
        matches!(&self.subject, SubjectClaim::CommonName(name) if name == device.as_str())
    }

    /// Whether it carries a challengePassword, which in EST binds it to a TLS session (RFC 7030, 3.5).
    pub fn has_challenge_password(&self) -> bool {
        self.has_challenge_password
    }
}

/// Why bytes are no acceptable request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrFault {
    /// No bytes at all.
    #[error("the request is empty")]
    Empty,
    /// Longer than any honest request.
    #[error("the request has {length} bytes, and {MAX_CSR_LENGTH} is the limit")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
    },
    /// PEM, but not exactly one certificate request.
    #[error("the PEM text is not exactly one CERTIFICATE REQUEST")]
    NotPem,
    /// Not one PKCS #10 request in strict DER that fills the bytes.
    #[error("it is not a PKCS #10 certificate request in strict DER (RFC 2986)")]
    NotDer,
    /// The same attribute or extension twice, or an attribute with two values.
    #[error("an attribute or an extension occurs twice")]
    Duplicate,
    /// The key or the proof of possession is refused.
    #[error("{0}")]
    Key(KeyFault),
}

/// What the subject says.
#[derive(Debug)]
enum SubjectClaim {
    Empty,
    CommonName(String),
    Other,
}

impl SubjectClaim {
    fn of(subject: &RdnSequence) -> Self {
        match subject.0.as_slice() {
            [] => Self::Empty,
            [single] => match single.0.as_slice() {
                [attribute] if attribute.oid == COMMON_NAME => {
                    let value = &attribute.value;
                    let text = if value.tag() == der::Tag::PrintableString {
                        value
                            .decode_as::<PrintableStringRef<'_>>()
                            .map(|text| text.to_string())
                    } else if value.tag() == der::Tag::Ia5String {
                        value
                            .decode_as::<Ia5StringRef<'_>>()
                            .map(|text| text.to_string())
                    } else {
                        value
                            .decode_as::<Utf8StringRef<'_>>()
                            .map(|text| text.to_string())
                    };
                    text.map_or(Self::Other, Self::CommonName)
                }
                [..] => Self::Other,
            },
            [..] => Self::Other,
        }
    }
}

/// What the subjectAltName says.
#[derive(Debug)]
enum NameClaim {
    None,
    Uri(String),
    Other,
}

fn alternative_name(info: &CertReqInfo) -> Result<NameClaim, CsrFault> {
    let Some(value) = attribute(info, EXTENSION_REQUEST)? else {
        return Ok(NameClaim::None);
    };
    let extensions = Extensions::from_der(&value).map_err(|_| CsrFault::NotDer)?;
    // RFC 5280, section 4.1: Extensions has at least one. What is in an attribute was not compared yet.
    let strict = extensions.to_der().is_ok_and(|again| again == value);
    if extensions.is_empty() || !strict {
        return Err(CsrFault::NotDer);
    }
    each_once(extensions.iter().map(|extension| extension.extn_id))?;
    let name = extensions
        .iter()
        .find(|extension| extension.extn_id == SUBJECT_ALT_NAME);
    let Some(extension) = name else {
        return Ok(NameClaim::None);
    };
    let Ok(SubjectAltName(names)) = SubjectAltName::from_der(extension.extn_value.as_bytes())
    else {
        return Ok(NameClaim::Other);
    };
    Ok(match names.as_slice() {
        [GeneralName::UniformResourceIdentifier(uri)] => NameClaim::Uri(uri.as_str().to_owned()),
        [..] => NameClaim::Other,
    })
}

/// The DER of the one value of an attribute; `None` if the attribute is absent.
fn attribute(info: &CertReqInfo, oid: ObjectIdentifier) -> Result<Option<Vec<u8>>, CsrFault> {
    let mut attributes = info.attributes.iter();
    let Some(attribute) = attributes.find(|attribute| attribute.oid == oid) else {
        return Ok(None);
    };
    match attribute.values.as_slice() {
        [value] => value.to_der().map(Some).map_err(|_| CsrFault::NotDer),
        [] => Err(CsrFault::NotDer),
        [..] => Err(CsrFault::Duplicate),
    }
}

/// Two of a kind would leave it to the reader which of them counts.
fn each_once(kinds: impl Iterator<Item = ObjectIdentifier>) -> Result<(), CsrFault> {
    let mut kinds: Vec<_> = kinds.collect();
    kinds.sort_unstable();
    if kinds.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(CsrFault::Duplicate);
    }
    Ok(())
}

/// An RSA-8192 request with a few names has 2.5 KiB.
const MAX_CSR_LENGTH: usize = 16 * 1024;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");
const CHALLENGE_PASSWORD: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.7");

#[cfg(test)]
mod tests {
    use identity::TrustDomain;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn spiffe_id() -> SpiffeId {
        SpiffeId {
            trust_domain: TrustDomain::parse("keybound.local").expect("legal"),
            identity: identity::Identity::Device(device()),
        }
    }

    fn device() -> DeviceId {
        DeviceId::parse("a").expect("legal")
    }

    fn csr(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let request = params.serialize_request(&key).expect("a request");
        request.der().to_vec()
    }

    fn claims(change: impl FnOnce(&mut CertificateParams)) -> bool {
        VerifiedCsr::from_der(&csr(change))
            .expect("an acceptable request")
            .claims_at_most(&device(), &spiffe_id())
    }

    #[test]
    fn a_request_may_ask_for_nothing_or_for_exactly_its_own_name() {
        assert!(claims(|_| {}));
        assert!(claims(|p| p
            .distinguished_name
            .push(DnType::CommonName, "a")));
        assert!(claims(|p| {
            p.subject_alt_names = vec![SanType::URI(
                "spiffe://keybound.local/device/a"
                    .try_into()
                    .expect("ASCII"),
            )];
        }));
        assert!(!claims(|p| p
            .distinguished_name
            .push(DnType::CommonName, "b")));
        assert!(!claims(|p| p
            .distinguished_name
            .push(DnType::CommonName, "A")));
        assert!(!claims(|p| {
            p.distinguished_name.push(DnType::CommonName, "a");
            p.distinguished_name.push(DnType::OrganizationName, "b");
        }));
        for name in [
            SanType::URI(
                "spiffe://keybound.local/device/b"
                    .try_into()
                    .expect("ASCII"),
            ),
            SanType::DnsName("a".try_into().expect("ASCII")),
        ] {
            assert!(!claims(|p| p.subject_alt_names = vec![name]));
        }
    }

    #[test]
    fn bytes_that_are_no_request() {
        let check = |der: &[u8], expected| {
            assert_eq!(VerifiedCsr::from_der(der).map(|_| ()), Err(expected));
        };
        let good = csr(|_| {});
        check(b"", CsrFault::Empty);
        check(
            &[0x30; MAX_CSR_LENGTH + 1],
            CsrFault::TooLarge { length: 16385 },
        );
        for length in 1..good.len() {
            check(&good[..length], CsrFault::NotDer);
        }
        check(&[good.as_slice(), &[0]].concat(), CsrFault::NotDer);
        let mut long_form = good.clone();
        // 30 81 xx becomes 30 82 00 xx: the same length in a form that DER forbids.
        assert_eq!(long_form[..2], [0x30, 0x81]);
        long_form.splice(1..2, [0x82, 0]);
        check(&long_form, CsrFault::NotDer);
        let mut forged = good.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let refused = VerifiedCsr::from_der(&forged)
            .map(|_| ())
            .expect_err("forged");
        assert!(matches!(
            refused,
            CsrFault::Key(KeyFault::ProofOfPossession) | CsrFault::NotDer
        ));
        check(
            good.iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
                .as_bytes(),
            CsrFault::NotDer,
        );
    }

    #[test]
    fn pem_is_taken_from_people() {
        let der = csr(|_| {});
        let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        assert!(VerifiedCsr::from_pem_or_der(text.as_bytes()).is_ok());
        let twice = VerifiedCsr::from_pem_or_der(format!("{text}{text}").as_bytes());
        assert_eq!(twice.map(|_| ()), Err(CsrFault::NotPem));
    }
}
