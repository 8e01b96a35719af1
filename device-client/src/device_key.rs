//! The signing type behind which every key store hides its private key.
//!
//! What is deliberately absent: any method that returns the private key, or bytes from which it could be
//! had. A hardware key signs slowly, and would block; the key of a `file:` store signs in microseconds.

use std::fmt;

use identity::Fingerprint;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::key_store::FileKey;

/// A device's key pair, wherever its private half lives. It signs with ECDSA on P-256 and SHA-256.
#[derive(Clone)]
pub enum DeviceKey {
    /// The private half is a file of a `file:` key store.
    File(FileKey),
}

impl DeviceKey {
    /// The public key as a DER SubjectPublicKeyInfo with an uncompressed point.
    pub fn subject_public_key_info(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(self)
    }

    /// An ECDSA signature over the SHA-256 of `message`, in DER.
    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, SigningFault> {
        match self {
            Self::File(key) => key.sign(message),
        }
    }
}

/// The key store did not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key store did not sign")]
pub(crate) struct SigningFault;

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = Fingerprint::of(&self.subject_public_key_info());
        write!(f, "DeviceKey(public key {public})")
    }
}

/// For certificate signing requests: the uncompressed point.
impl rcgen::PublicKeyData for DeviceKey {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::File(key) => key.public_point(),
        }
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for DeviceKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_message(message)
            .map_err(|SigningFault| rcgen::Error::RemoteKeyError)
    }
}

/// For TLS. rustls compares the public key with the certificate's.
impl SigningKey for DeviceKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SCHEME)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.subject_public_key_info().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for DeviceKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.sign_message(message)
            .map_err(|fault| rustls::Error::General(fault.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
