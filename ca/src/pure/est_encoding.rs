//! EST's bodies: base64 as RFC 8951 corrects it, and certificates in a certs-only CMS (RFC 7030, 4.1.3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cms::cert::CertificateChoices;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{CertificateSet, EncapsulatedContentInfo, SignedData, SignerInfos};
use der::asn1::{Any, ObjectIdentifier, SetOfVec};
use der::{Decode, Encode};

/// Decodes a request body. White space is skipped, as RFC 8951, section 3.1, asks of receivers.
pub(crate) fn decode(body: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = body
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
        .collect();
    STANDARD.decode(digits).ok()
}

/// Encodes an answer, in one line: strongSwan cannot read a wrapped one.
pub(crate) fn encode(der: &[u8]) -> Vec<u8> {
    STANDARD.encode(der).into_bytes()
}

/// A degenerate SignedData that carries certificates and nothing else (RFC 5652, section 5.1).
pub(crate) fn certs_only(certificates: &[&[u8]]) -> Result<Vec<u8>, der::Error> {
    let choices = certificates
        .iter()
        .map(|certificate| {
            x509_cert::Certificate::from_der(certificate).map(CertificateChoices::Certificate)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let signed_data = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::new(),
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: ID_DATA,
            econtent: None,
        },
        certificates: Some(CertificateSet(SetOfVec::try_from(choices)?)),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::new()),
    };
    ContentInfo {
        content_type: ID_SIGNED_DATA,
        content: Any::encode_from(&signed_data)?,
    }
    .to_der()
}

/// What a CSR should look like (RFC 7030, section 4.5.2): a P-256 key, signed with SHA-256.
pub(crate) const CSR_ATTRIBUTES: &[u8] = &[
    0x30, 0x21, // SEQUENCE of
    0x30, 0x15, // Attribute: id-ecPublicKey, values: secp256r1
    0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x31, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07, // OID: ecdsa-with-SHA256
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];

const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ID_SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_skipped_and_nothing_else() {
        assert_eq!(decode(b"AAEC\r\n Aw=\t=\n"), Some(vec![0, 1, 2, 3]));
        assert_eq!(decode(b""), Some(vec![]));
        assert_eq!(decode(b"AAEC-"), None);
        assert_eq!(decode(b"AA"), None);
        assert_eq!(
            decode(b"AB=="),
            None,
            "bits that DER of the same value would not set"
        );
    }

    #[test]
    fn csr_attributes_are_der() {
        assert!(der::asn1::AnyRef::from_der(CSR_ATTRIBUTES).is_ok());
    }
}
