//! The signer of device assertions: ES256 (RFC 7518, section 3.4) with a key that never leaves it.
//!
//! The compact serialization is two encoded texts and a signature, and its readers are elsewhere; so aws-lc-rs does
//! it alone, without a JWT library.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::Timestamp;

use crate::pure::assertion::{Holder, Life, signing_input};

/// Signs assertions. There is no way to get its private key.
pub struct AssertionSigner {
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// The thumbprint of the public key (RFC 7638).
    key_id: String,
    issuer: String,
    /// Coordinates of the public key, in base64url.
    x: String,
    y: String,
}

/// Why bytes are no key for assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerFault {
    /// They are not the PKCS #8 of a P-256 key.
    #[error("it is not the private key of a P-256 key pair in PKCS #8")]
    NotP256,
}

impl AssertionSigner {
    /// Takes the key, in PKCS #8, and the name of the issuer, which is the claim `iss`.
    pub fn from_pkcs8(key: &[u8], issuer: String) -> Result<Self, SignerFault> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key)
            .map_err(|_| SignerFault::NotP256)?;
        // An uncompressed point (SEC 1, section 2.3.3).
        let [4, coordinates @ ..] = key.public_key().as_ref() else {
            return Err(SignerFault::NotP256);
        };
        let (x, y) = coordinates
            .split_at_checked(32)
            .ok_or(SignerFault::NotP256)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Ok(Self {
            key_id: URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes())),
            random: SystemRandom::new(),
            key,
            issuer,
            x,
            y,
        })
    }

    /// The JWK Set (RFC 7517, section 5) by which assertions are checked.
    pub fn key_set(&self) -> String {
        let key = serde_json::json!({
            "kty": "EC",
            "crv": "P-256",
            "x": self.x,
            "y": self.y,
            "kid": self.key_id,
            "use": "sig",
            "alg": "ES256",
        });
        serde_json::json!({ "keys": [key] }).to_string()
    }

    /// A new assertion.
    pub(crate) fn sign(
        &self,
        holder: &Holder<'_>,
        audience: &str,
        now: Timestamp,
    ) -> (String, Life) {
        let life = Life::beginning(now, holder.not_after);
        let mut unique = [0; 16];
        rand::fill(&mut unique).expect("the random source of aws-lc does not fail after its start");
        let mut token = signing_input(&self.key_id, &self.issuer, holder, audience, life, unique);
        let signature = self
            .key
            .sign(&self.random, token.as_bytes())
            .expect("the random source of aws-lc does not fail after its start");
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        (token, life)
    }
}

impl std::fmt::Debug for AssertionSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AssertionSigner({})", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaSigningAlgorithm,
    };

    use super::*;

    #[test]
    fn only_p256_keys_sign() {
        let take = |algorithm: &'static EcdsaSigningAlgorithm| {
            let key = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("a key");
            AssertionSigner::from_pkcs8(key.as_ref(), "issuer".into()).map(|_| ())
        };
        assert_eq!(take(&ECDSA_P256_SHA256_ASN1_SIGNING), Ok(()));
        assert_eq!(
            take(&ECDSA_P384_SHA384_ASN1_SIGNING),
            Err(SignerFault::NotP256)
        );
        let nothing = AssertionSigner::from_pkcs8(b"", "issuer".into()).map(|_| ());
        assert_eq!(nothing, Err(SignerFault::NotP256));
    }
}
