//! SPIFFE IDs: the names that certificates carry (SPIFFE-ID standard, section 2).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{DeviceId, Name, NameError};

/// The trust domain: 1–255 characters of `[a-z0-9._-]`. Fixed for the life of a CA.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain; upper case is an error, not folded.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(legal) {
            return Err(SpiffeError::TrustDomain);
        }
        Ok(Self(text.into()))
    }

    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeError;
    fn try_from(text: String) -> Result<Self, SpiffeError> {
        Self::parse(&text)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.as_str().to_owned()
    }
}

/// What an identity is for; each listener names the kinds that it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A device in the field.
    Device,
    /// A gateway of this installation.
    Gateway,
    /// A person or program that operates it.
    Operator,
    /// A station of a factory, that enrolls devices.
    Station,
}

impl Kind {
    /// The first path segment of this kind's SPIFFE IDs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
            Self::Station => "station",
        }
    }
}

/// Who somebody is within a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A device.
    Device(DeviceId),
    /// A gateway.
    Gateway(Name),
    /// An operator.
    Operator(Name),
    /// A factory station.
    Station(Name),
}

impl Identity {
    /// The identity's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Device(_) => Kind::Device,
            Self::Gateway(_) => Kind::Gateway,
            Self::Operator(_) => Kind::Operator,
            Self::Station(_) => Kind::Station,
        }
    }

    /// The name without its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::Device(id) => id.as_str(),
            Self::Gateway(name) | Self::Operator(name) | Self::Station(name) => name.as_str(),
        }
    }
}

/// `spiffe://<trust domain>/<kind>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    /// The trust domain that vouches for the identity.
    pub trust_domain: TrustDomain,
    /// Who it is.
    pub identity: Identity,
}

impl SpiffeId {
    /// Parses a SPIFFE ID of a known kind, byte for byte: no case folding, no percent-decoding.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let rest = text.strip_prefix("spiffe://").ok_or(SpiffeError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(SpiffeError::Path)?;
        let (kind, name) = path.split_once('/').ok_or(SpiffeError::Path)?;
        let trust_domain = TrustDomain::parse(domain)?;
        let identity = match kind {
            "device" => Identity::Device(DeviceId::parse(name).map_err(SpiffeError::Name)?),
            "gateway" => Identity::Gateway(Name::parse(name).map_err(SpiffeError::Name)?),
            "operator" => Identity::Operator(Name::parse(name).map_err(SpiffeError::Name)?),
            "station" => Identity::Station(Name::parse(name).map_err(SpiffeError::Name)?),
            _ => return Err(SpiffeError::Kind),
        };
        Ok(Self {
            trust_domain,
            identity,
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/{}/{}",
            self.trust_domain,
            self.identity.kind().as_str(),
            self.identity.name()
        )
    }
}

/// Why a text is no SPIFFE ID of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// It does not start with `spiffe://`.
    #[error("it does not start with spiffe://")]
    Scheme,
    /// The trust domain is empty, too long or has a character outside `[a-z0-9._-]`.
    #[error("the trust domain is not 1-255 characters of a-z 0-9 . _ -")]
    TrustDomain,
    /// The path is not `/<kind>/<name>`.
    #[error("its path is not /<kind>/<name>")]
    Path,
    /// The kind is not one of ours.
    #[error("its kind is not device, gateway, operator or station")]
    Kind,
    /// The name breaks the grammar of names.
    #[error("its name is refused: {0}")]
    Name(NameError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<Kind, SpiffeError>) {
        let parsed = SpiffeId::parse(text);
        assert_eq!(
            parsed.as_ref().map(|id| id.identity.kind()),
            expected.as_ref().copied(),
            "{text:?}"
        );
        if let Ok(id) = parsed {
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn spiffe_ids() {
        check("spiffe://keybound.local/device/a", Ok(Kind::Device));
        check("spiffe://example.com/operator/ops-1", Ok(Kind::Operator));
        check("spiffe://example.com/gateway/g", Ok(Kind::Gateway));
        check("spiffe://example.com/station/line_4", Ok(Kind::Station));
        check("SPIFFE://example.com/device/a", Err(SpiffeError::Scheme));
        check("https://example.com/device/a", Err(SpiffeError::Scheme));
        check(
            "spiffe://Example.com/device/a",
            Err(SpiffeError::TrustDomain),
        );
        check("spiffe:///device/a", Err(SpiffeError::TrustDomain));
        check(
            "spiffe://example.com:1/device/a",
            Err(SpiffeError::TrustDomain),
        );
        check("spiffe://example.com/device", Err(SpiffeError::Path));
        check("spiffe://example.com/robot/a", Err(SpiffeError::Kind));
        check("spiffe://example.com/Device/a", Err(SpiffeError::Kind));
        check(
            "spiffe://example.com/device/",
            Err(SpiffeError::Name(NameError::Empty)),
        );
        check(
            "spiffe://example.com/device/a/b",
            Err(SpiffeError::Name(NameError::Character {
                character: '/',
                position: 1,
            })),
        );
        check(
            "spiffe://example.com/device/a?x",
            Err(SpiffeError::Name(NameError::Character {
                character: '?',
                position: 1,
            })),
        );
    }
}
