//! EST's bodies: base64 (RFC 8951, section 3) and certificates in a certs-only CMS (RFC 7030, section 4.1.3).
//! Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::SignedData;
use der::asn1::ObjectIdentifier;
use der::{Decode, Encode};
use rustls::pki_types::CertificateDer;

use super::AnswerFault;

/// A body in one line, as every server can read it.
pub(super) fn encode(der: &[u8]) -> String {
    STANDARD.encode(der)
}

/// The certificates in an answer, in whatever order.
pub(super) fn certificates(body: &[u8]) -> Result<Vec<CertificateDer<'static>>, AnswerFault> {
    let digits: Vec<u8> = body
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
        .collect();
    let der = STANDARD
        .decode(digits)
        .map_err(|_| AnswerFault::NotBase64)?;
    let content = ContentInfo::from_der(&der).map_err(|_| AnswerFault::NotCms)?;
    if content.content_type != SIGNED_DATA {
        return Err(AnswerFault::NotCms);
    }
    let signed_data: SignedData = content
        .content
        .decode_as()
        .map_err(|_| AnswerFault::NotCms)?;
    let certificates = signed_data
        .certificates
        .ok_or(AnswerFault::Certificates { count: 0 })?;
    certificates
        .0
        .iter()
        .map(|choice| match choice {
            CertificateChoices::Certificate(certificate) => certificate
                .to_der()
                .map(CertificateDer::from)
                .map_err(|_| AnswerFault::NotCms),
            CertificateChoices::Other(_) => Err(AnswerFault::NotCms),
        })
        .collect()
}

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_authority::{TestAuthority, certs_only};

    fn check(body: &[u8], expected: Result<usize, AnswerFault>) {
        assert_eq!(certificates(body).map(|found| found.len()), expected);
    }

    #[test]
    fn bags_of_certificates() {
        let authority = TestAuthority::new();
        let bag = certs_only(&[&authority.root, &authority.device_ca]);
        let body = encode(&bag);
        let found = certificates(body.as_bytes()).expect("two certificates");
        assert_eq!(found.len(), 2);
        assert!(found.contains(&authority.root) && found.contains(&authority.device_ca));

        let wrapped: Vec<u8> = body
            .as_bytes()
            .chunks(64)
            .collect::<Vec<_>>()
            .join(&b"\r\n"[..]);
        check(&wrapped, Ok(2));
        check(encode(&certs_only(&[])).as_bytes(), Ok(0));
        check(b"", Err(AnswerFault::NotCms));
        check(b"-----BEGIN PKCS7-----", Err(AnswerFault::NotBase64));
        check(encode(&authority.root).as_bytes(), Err(AnswerFault::NotCms));
        check(
            encode(&[bag.as_slice(), &[0]].concat()).as_bytes(),
            Err(AnswerFault::NotCms),
        );
        for length in (0..bag.len()).step_by(7) {
            check(encode(&bag[..length]).as_bytes(), Err(AnswerFault::NotCms));
        }
    }
}
