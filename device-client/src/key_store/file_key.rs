//! The key of a `file:` store. Its PKCS #8 form exists twice: when it is made and written, and when it is
//! read.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use pkcs8::{LineEnding, SecretDocument};
use zeroize::Zeroizing;

use crate::device_key::SigningFault;

/// A P-256 key pair whose private half was read from a file. It signs; it cannot be read out.
#[derive(Clone)]
pub struct FileKey(Arc<EcdsaKeyPair>);

impl FileKey {
    /// Reads a PKCS #8 key in PEM (RFC 5958); `None` if it is anything else than one P-256 key.
    pub(super) fn from_pem(pem: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(pem).ok()?;
        let (label, document) = SecretDocument::from_pem(text.trim_end()).ok()?;
        if label != LABEL {
            return None;
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_bytes());
        Some(Self(Arc::new(pair.ok()?)))
    }

    pub(crate) fn public_point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFault> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| SigningFault)
    }
}

/// A new P-256 key, as the text of its file. The one place where a key is made.
pub(super) fn new_key_pem() -> Option<Zeroizing<String>> {
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).ok()?;
    SecretDocument::try_from(pkcs8.as_ref())
        .ok()?
        .to_pem(LABEL, LineEnding::LF)
        .ok()
}

const LABEL: &str = "PRIVATE KEY";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_read_back_and_signs() {
        let pem = new_key_pem().expect("a key");
        let key = FileKey::from_pem(pem.as_bytes()).expect("the same key");
        let signature = key.sign(b"message").expect("a signature");
        aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            key.public_point(),
        )
        .verify(b"message", &signature)
        .expect("the signature holds");
    }

    #[test]
    fn other_keys_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        assert!(FileKey::from_pem(p384.serialize_pem().as_bytes()).is_none());
        let pem = new_key_pem().expect("a key");
        assert!(FileKey::from_pem(&pem.as_bytes()[..pem.len() / 2]).is_none());
        assert!(FileKey::from_pem(pem.replace("PRIVATE", "PUBLIC").as_bytes()).is_none());
        assert!(FileKey::from_pem(b"").is_none());
    }
}
