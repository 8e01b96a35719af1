//! Gateways in a chain: what another gateway, which this one knows as a device, says of the devices behind it.
//!
//! It says so in the assertion that every route can ask for (`assertion.rs`). Only this form is read: one algorithm, the
//! keys of this gateway alone, no reference to anything outside.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::spiffe::Identity;
use identity::{DeviceId, Fingerprint, Name, SpiffeId, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A gateway that may speak for the devices behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedGateway {
    /// What stands before the ids of its devices, so that none of them can be taken for another's.
    pub name: Name,
    /// The id with which it is enrolled here: its connections are this device's.
    pub device: DeviceId,
    /// The issuer of its assertions.
    pub issuer: SpiffeId,
    /// Their audience: what the route has there that leads here.
    pub audience: String,
    /// The keys that they are signed with.
    pub keys: KeySet,
}

/// The public keys of a JWK Set (RFC 7517, section 5), by their id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet(Vec<(String, [u8; POINT])>);

/// A device behind a trusted gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The names of the gateways, the nearest first, and the id: `inner:outer:thermostat-7`.
    pub(crate) id: String,
    /// The device's SPIFFE ID.
    pub(crate) subject: String,
    /// The serial number of its certificate.
    pub(crate) serial: String,
    /// The SHA-256 of its certificate.
    pub(crate) certificate: Fingerprint,
    /// The gateways that it came through: issuers of assertions, the nearest first.
    pub(crate) via: Vec<String>,
    /// The last second in which this may be believed.
    pub(crate) until: Timestamp,
}

/// Why what a gateway says of a device is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HopFault {
    /// It says nothing.
    #[error("there is no assertion")]
    Missing,
    /// It says two things.
    #[error("there are several assertions")]
    Several,
    /// It is no assertion of a gateway.
    #[error("it is no assertion that a gateway makes")]
    Malformed,
    /// No key of the gateway signed it.
    #[error("no key of the gateway signed it")]
    Signature,
    /// Another gateway made it, or for another one.
    #[error("it is of another issuer, or for another audience")]
    OtherParties,
    /// It does not hold now.
    #[error("it does not hold at this time")]
    Time,
    /// It came through more gateways than any chain has.
    #[error("it came through more than {MAX_HOPS} gateways")]
    TooFar,
}

/// Why bytes are no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetFault {
    /// They are not JSON of this form.
    #[error("it is no JWK Set (RFC 7517)")]
    NotASet,
    /// None of the keys is one for ES256.
    #[error("it has no P-256 key with an id")]
    NoKey,
    /// Two have the same id.
    #[error("two of its keys have the same id")]
    SameId,
}

impl KeySet {
    /// Reads a JWK Set; keys for other algorithms are passed over.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetFault> {
        let set: Keys = serde_json::from_slice(json).map_err(|_| KeySetFault::NotASet)?;
        let mut keys: Vec<(String, [u8; POINT])> = Vec::new();
        for key in set.keys {
            let Some(read) = key.read() else { continue };
            if keys.iter().any(|(id, _)| *id == read.0) {
                return Err(KeySetFault::SameId);
            }
            keys.push(read);
        }
        if keys.is_empty() {
            return Err(KeySetFault::NoKey);
        }
        Ok(Self(keys))
    }
}

/// The device for which `gateway` asks, by its assertion.
pub(crate) fn behind(
    token: &[u8],
    gateway: &TrustedGateway,
    now: Timestamp,
) -> Result<Behind, HopFault> {
    if token.len() > LONGEST {
        return Err(HopFault::Malformed);
    }
    let token = std::str::from_utf8(token).map_err(|_| HopFault::Malformed)?;
    let (signed, signature) = token.rsplit_once('.').ok_or(HopFault::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(HopFault::Malformed)?;
    let header: Header = json(header)?;
    if header.alg != "ES256" || header.typ != "JWT" {
        return Err(HopFault::Malformed);
    }
    // Nothing of the claims is read before this.
    let signature = decoded(signature)?;
    let mut keys = gateway.keys.0.iter();
    let (_, point) = keys
        .find(|(id, _)| *id == header.kid)
        .ok_or(HopFault::Signature)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| HopFault::Signature)?;
    let claims: Claims = json(claims)?;
    if claims.iss != gateway.issuer.to_string() || claims.aud != gateway.audience {
        return Err(HopFault::OtherParties);
    }
    claims.check_time(now)?;
    claims.behind(gateway)
}

impl Claims {
    fn check_time(&self, now: Timestamp) -> Result<(), HopFault> {
        let is_short = self.exp.saturating_sub(self.iat) <= LONGEST_LIFE;
        let has_begun = self.nbf.max(self.iat) <= now.0.saturating_add(LEEWAY);
        if is_short && has_begun && now.0 < self.exp {
            Ok(())
        } else {
            Err(HopFault::Time)
        }
    }

    fn behind(self, gateway: &TrustedGateway) -> Result<Behind, HopFault> {
        let malformed = HopFault::Malformed;
        let mut names = self.device_id.split(':');
        let device = names.next_back().ok_or(malformed)?;
        let device = DeviceId::parse(device).map_err(|_| malformed)?;
        let names = names.map(Name::parse).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|_| malformed)?;
        let subject = SpiffeId::parse(&self.sub).map_err(|_| malformed)?;
        if subject.identity != Identity::Device(device) {
            return Err(malformed);
        }
        let mut via = vec![self.iss];
        let mut actor = self.act;
        while let Some(one) = actor {
            SpiffeId::parse(&one.sub).map_err(|_| malformed)?;
            via.push(one.sub);
            actor = one.act.map(|next| *next);
        }
        // Each gateway but the first one put a name before the id.
        if names.len() + 1 != via.len() {
            return Err(malformed);
        }
        if via.len() > MAX_HOPS {
            return Err(HopFault::TooFar);
        }
        let certificate = decoded(&self.cnf.certificate)?;
        let is_serial = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if self.serial.len() > MAX_SERIAL || !self.serial.bytes().all(is_serial) {
            return Err(malformed);
        }
        Ok(Behind {
            id: format!("{}:{}", gateway.name, self.device_id),
            subject: self.sub,
            serial: self.serial,
            certificate: Fingerprint(certificate.try_into().map_err(|_| malformed)?),
            via,
            until: Timestamp(self.exp - 1),
        })
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, HopFault> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| HopFault::Malformed)
}

fn json<T: DeserializeOwned>(part: &str) -> Result<T, HopFault> {
    serde_json::from_slice(&decoded(part)?).map_err(|_| HopFault::Malformed)
}

/// Another parameter could change what the signature means (RFC 7515, section 4.1.11), so there is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    cnf: Confirmation,
    device_id: String,
    serial: String,
    act: Option<Actor>,
}

#[derive(Deserialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: String,
}

/// RFC 8693, section 4.1.
#[derive(Deserialize)]
struct Actor {
    sub: String,
    act: Option<Box<Actor>>,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
}

impl Key {
    /// Its id, and the point without compression (SEC 1, section 2.3.3), if it is one for ES256.
    fn read(self) -> Option<(String, [u8; POINT])> {
        let for_signatures = self.usage.is_none_or(|usage| usage == "sig");
        if self.kty != "EC" || self.crv? != "P-256" || !for_signatures {
            return None;
        }
        let mut point = [4; POINT];
        let (x, y) = point[1..].split_at_mut(COORDINATE);
        for (to, from) in [(x, self.x?), (y, self.y?)] {
            let coordinate: [u8; COORDINATE] = decoded(&from).ok()?.try_into().ok()?;
            to.copy_from_slice(&coordinate);
        }
        Some((self.kid?, point))
    }
}

const COORDINATE: usize = 32;
const POINT: usize = 1 + 2 * COORDINATE;
/// Of an assertion, in bytes: those with four gateways have half of it.
const LONGEST: usize = 4096;
/// In seconds: gateways make assertions for a minute.
const LONGEST_LIFE: u64 = 300;
/// Seconds by which another gateway's clock may be ahead.
const LEEWAY: u64 = 5;
const MAX_HOPS: usize = 4;
/// Digits: 20 bytes (RFC 5280, section 4.1.2.2).
const MAX_SERIAL: usize = 40;

#[cfg(test)]
#[path = "hop_tests.rs"]
mod tests;
