//! Which public keys are certified, and which signatures prove possession of them.
//!
//! One key has one accepted form: named curves, uncompressed points, RSA with NULL parameters. So equal
//! keys have equal bytes, and a key cannot come back in another spelling.

use aws_lc_rs::signature::{self, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm};
use der::asn1::{ObjectIdentifier, UintRef};
use der::{Decode, Encode, Sequence};
use identity::Fingerprint;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::weak_rsa::{self, Weakness};

/// A public key that the policy accepts, in its one canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
    /// The key as signature verification wants it: the point, the RSAPublicKey or the 32 bytes.
    bytes: Vec<u8>,
    kind: KeyKind,
}

/// The accepted kinds of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 to 8192 bits and exponent 65537, of primes that are not easily found.
    Rsa,
}

impl PublicKey {
    /// Takes a SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7) that the policy accepts.
    pub(crate) fn from_spki(spki: &SubjectPublicKeyInfoOwned) -> Result<Self, KeyFault> {
        let bytes = spki
            .subject_public_key
            .as_bytes()
            .ok_or(KeyFault::Malformed)?
            .to_vec();
        let kind = kind_of(&spki.algorithm, &bytes)?;
        // Is the point on its curve, is the modulus odd? A verifier asks that first, so this is not in vain.
        ParsedPublicKey::new(any_verification_of(kind), &bytes).map_err(|_| KeyFault::Malformed)?;
        let spki = spki.to_der().map_err(|_| KeyFault::Malformed)?;
        Ok(Self { spki, bytes, kind })
    }

    /// The SubjectPublicKeyInfo, in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo, under which the registry knows the key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.spki)
    }

    /// Whether `signature` by `algorithm` over `message` was made with the private key.
    pub(crate) fn verify(
        &self,
        algorithm: &AlgorithmIdentifierOwned,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyFault> {
        let verification = verification_of(self.kind, algorithm.oid)?;
        // RFC 8410, section 3, RFC 5758, section 3.2, and RFC 4055, section 5: none, or NULL for RSA.
        let as_prescribed = match &algorithm.parameters {
            None => true,
            Some(parameters) => self.kind == KeyKind::Rsa && parameters.is_null(),
        };
        if !as_prescribed {
            return Err(KeyFault::SignatureParameters);
        }
        UnparsedPublicKey::new(verification, &self.bytes)
            .verify(message, signature)
            .map_err(|_| KeyFault::ProofOfPossession)
    }
}

/// Why a key or its proof of possession is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// An algorithm that is not certified.
    #[error("keys of algorithm {0} are not accepted; use P-256, P-384, Ed25519 or RSA")]
    Algorithm(ObjectIdentifier),
    /// A curve that is not certified.
    #[error("curve {0} is not accepted; use P-256 or P-384")]
    Curve(ObjectIdentifier),
    /// A compressed or hybrid point.
    #[error("the public key is not an uncompressed point; encode it uncompressed (0x04)")]
    CompressedPoint,
    /// The key does not have the form that its algorithm prescribes.
    #[error("the public key is malformed")]
    Malformed,
    /// RSA outside 2048 to 8192 bits.
    #[error("an RSA key of {bits} bits is not accepted; use 2048 to 8192")]
    RsaSize {
        /// The length of the modulus.
        bits: usize,
    },
    /// An RSA exponent other than 65537.
    #[error("the RSA public exponent is not 65537")]
    RsaExponent,
    /// An RSA modulus of the form of CVE-2017-15361, which can be factored.
    #[error(
        "the RSA key was made by a library that makes keys which can be factored (ROCA, CVE-2017-15361); make it with another one"
    )]
    RsaRoca,
    /// An RSA modulus whose primes are so close that it can be factored.
    #[error(
        "the two primes of the RSA key are so close that anybody can find them; make a new key, with another library"
    )]
    RsaClosePrimes,
    /// An Ed25519 point of small order: signatures by it can be made without a private key.
    #[error("the Ed25519 public key is one of the few for which anybody can sign; make a new key")]
    SmallOrder,
    /// A signature algorithm that is not accepted, or not with this key.
    #[error(
        "the request is signed with {0}, which is not accepted for this key; use SHA-256 or SHA-384"
    )]
    SignatureAlgorithm(ObjectIdentifier),
    /// The signature algorithm has parameters that it does not have.
    #[error("the signature algorithm of the request has parameters that do not belong there")]
    SignatureParameters,
    /// The request was not signed with the private key of the public key in it.
    #[error("the signature does not prove possession of the private key")]
    ProofOfPossession,
}

fn kind_of(algorithm: &AlgorithmIdentifierOwned, bytes: &[u8]) -> Result<KeyKind, KeyFault> {
    match algorithm.oid {
        EC_PUBLIC_KEY => {
            let curve = algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok())
                .ok_or(KeyFault::Malformed)?;
            let (kind, coordinate) = match curve {
                SECP256R1 => (KeyKind::P256, 32),
                SECP384R1 => (KeyKind::P384, 48),
                other => return Err(KeyFault::Curve(other)),
            };
            match bytes {
                [0x04, point @ ..] if point.len() == 2 * coordinate => Ok(kind),
                [0x04, ..] | [] => Err(KeyFault::Malformed),
                [..] => Err(KeyFault::CompressedPoint),
            }
        }
        ED25519 => {
            let point: &[u8; 32] = bytes.try_into().map_err(|_| KeyFault::Malformed)?;
            if algorithm.parameters.is_some() || !is_canonical(point) {
                return Err(KeyFault::Malformed);
            }
            if has_small_order(point) {
                return Err(KeyFault::SmallOrder);
            }
            Ok(KeyKind::Ed25519)
        }
        RSA_ENCRYPTION => {
            let null = algorithm.parameters.as_ref().is_some_and(|p| p.is_null());
            let key = RsaPublicKey::from_der(bytes).map_err(|_| KeyFault::Malformed)?;
            if !null {
                return Err(KeyFault::Malformed);
            }
            let bits = bit_length(key.modulus.as_bytes());
            if !(2048..=8192).contains(&bits) {
                return Err(KeyFault::RsaSize { bits });
            }
            if key.public_exponent.as_bytes() != [1, 0, 1] {
                return Err(KeyFault::RsaExponent);
            }
            match weak_rsa::weakness(key.modulus.as_bytes()) {
                None => Ok(KeyKind::Rsa),
                Some(Weakness::Roca) => Err(KeyFault::RsaRoca),
                Some(Weakness::ClosePrimes) => Err(KeyFault::RsaClosePrimes),
            }
        }
        other => Err(KeyFault::Algorithm(other)),
    }
}

/// Any algorithm for keys of this kind.
fn any_verification_of(kind: KeyKind) -> &'static dyn VerificationAlgorithm {
    match kind {
        KeyKind::P256 => &signature::ECDSA_P256_SHA256_ASN1,
        KeyKind::P384 => &signature::ECDSA_P384_SHA384_ASN1,
        KeyKind::Ed25519 => &signature::ED25519,
        KeyKind::Rsa => &signature::RSA_PKCS1_2048_8192_SHA256,
    }
}

fn verification_of(
    kind: KeyKind,
    algorithm: ObjectIdentifier,
) -> Result<&'static dyn VerificationAlgorithm, KeyFault> {
    Ok(match (kind, algorithm) {
        (KeyKind::P256, ECDSA_SHA256) => &signature::ECDSA_P256_SHA256_ASN1,
        (KeyKind::P256, ECDSA_SHA384) => &signature::ECDSA_P256_SHA384_ASN1,
        (KeyKind::P384, ECDSA_SHA256) => &signature::ECDSA_P384_SHA256_ASN1,
        (KeyKind::P384, ECDSA_SHA384) => &signature::ECDSA_P384_SHA384_ASN1,
        (KeyKind::Ed25519, ED25519) => &signature::ED25519,
        (KeyKind::Rsa, RSA_SHA256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa, RSA_SHA384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa, RSA_SHA512) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::P256 | KeyKind::P384 | KeyKind::Ed25519 | KeyKind::Rsa, other) => {
            return Err(KeyFault::SignatureAlgorithm(other));
        }
    })
}

/// Whether an Ed25519 point's coordinate is below the field's prime 2^255 - 19 (RFC 8032, section 5.1.3).
fn is_canonical(point: &[u8; 32]) -> bool {
    let [first, middle @ .., last] = point;
    *first < 0xed || last & 0x7f != 0x7f || middle.iter().any(|byte| *byte != 0xff)
}

/// Whether eight times the point is the neutral element (RFC 8032, section 5.1). Then a signature that anybody
/// can make up verifies for one message in eight, and proves nothing.
fn has_small_order(point: &[u8; 32]) -> bool {
    let mut coordinate = *point;
    coordinate[31] &= 0x7f; // The highest bit is the sign of the other coordinate.
    SMALL_ORDER.contains(&coordinate)
}

fn bit_length(big_endian: &[u8]) -> usize {
    match big_endian {
        [] => 0,
        [first, rest @ ..] => rest.len() * 8 + (8 - first.leading_zeros() as usize),
    }
}

/// RFC 8017, appendix A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

/// The y-coordinates of the eight points: orders 4, 1, 8, 8 and 2.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
];

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
