//! The headers of Traefik's PassTLSClientCert: the certificate in base64, and what it says in a list of its own
//! grammar, percent-encoded as a query.
//!
//! That list has no escapes, so a name with one of its separators cannot be told. Only the device's certificate is
//! in it, where Traefik passes on whatever the client sent.

use std::net::IpAddr;

use identity::description::{AlternativeName, Description, DistinguishedName};

use super::decimal::decimal;
use super::distinguished_name::text;
use super::encoding::{base64, percent};
use super::{Inexpressible, Proven, Texts, describe, magnitude};
use crate::pure::identity_names::preset;

pub(super) fn fields(proven: Proven<'_>) -> Result<Texts, Inexpressible> {
    let info = info(&describe(proven.leaf)?)?;
    Ok(vec![
        (preset::TRAEFIK_CERT, base64(proven.leaf)),
        // As in a query, a space is a plus sign.
        (preset::TRAEFIK_INFO, percent(&info, b" ").replace(' ', "+")),
    ])
}

fn info(description: &Description) -> Result<String, Inexpressible> {
    let subject = name(&description.subject, SUBJECT)?;
    let issuer = name(&description.issuer, ISSUER)?;
    let serial = decimal(magnitude(description)?);
    let seconds = |time: i64| u64::try_from(time).map_err(|_| Inexpressible::Time);
    let not_before = seconds(description.not_before)?.to_string();
    let not_after = seconds(description.not_after)?.to_string();
    let alternative_names = alternative_names(description)?;
    let parts: Vec<_> = [
        ("Subject", subject),
        ("Issuer", issuer),
        ("SerialNumber", serial),
        ("NB", not_before),
        ("NA", not_after),
        ("SAN", alternative_names),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| format!("{key}=\"{value}\""))
    .collect();
    Ok(parts.join(";"))
}

/// An attribute in the list.
struct Listed {
    arcs: &'static [u64],
    name: &'static str,
    /// Whether there is a place for one value only.
    single: bool,
}

const fn listed(arcs: &'static [u64], name: &'static str, single: bool) -> Listed {
    Listed { arcs, name, single }
}

/// The attributes of a subject, in Traefik's order. It leaves out all others.
const SUBJECT: &[Listed] = &[
    listed(&[0, 9, 2342, 19_200_300, 100, 1, 25], "DC", false),
    listed(&[2, 5, 4, 6], "C", false),
    listed(&[2, 5, 4, 8], "ST", false),
    listed(&[2, 5, 4, 7], "L", false),
    listed(&[2, 5, 4, 10], "O", false),
    listed(&[2, 5, 4, 11], "OU", false),
    listed(&[2, 5, 4, 5], "SN", true),
    listed(&[2, 5, 4, 3], "CN", true),
];

/// Those of an issuer.
const ISSUER: &[Listed] = &[
    listed(&[0, 9, 2342, 19_200_300, 100, 1, 25], "DC", false),
    listed(&[2, 5, 4, 6], "C", false),
    listed(&[2, 5, 4, 8], "ST", false),
    listed(&[2, 5, 4, 7], "L", false),
    listed(&[2, 5, 4, 10], "O", false),
    listed(&[2, 5, 4, 5], "SN", true),
    listed(&[2, 5, 4, 3], "CN", true),
];

fn name(name: &DistinguishedName, wanted: &[Listed]) -> Result<String, Inexpressible> {
    let mut parts = Vec::new();
    for Listed {
        arcs,
        name: key,
        single,
    } in wanted
    {
        let before = parts.len();
        let attributes = name.0.iter().flatten();
        for attribute in attributes.filter(|attribute| attribute.kind.arcs() == *arcs) {
            let value = text(attribute)?;
            if !value.is_empty() {
                parts.push(format!("{key}={}", plain(&value)?));
            }
        }
        if *single && parts.len() > before + 1 {
            return Err(Inexpressible::Several);
        }
    }
    Ok(parts.join(","))
}

fn alternative_names(description: &Description) -> Result<String, Inexpressible> {
    let mut sorted: [Vec<String>; 4] = Default::default();
    for name in &description.alternative_names {
        let (place, text) = match name {
            AlternativeName::Dns(name) => (0, name.clone()),
            AlternativeName::Email(address) => (1, address.clone()),
            AlternativeName::Address(octets) => (2, address(octets)?.to_string()),
            AlternativeName::Uri(uri) => (3, uri.clone()),
            AlternativeName::Other => continue,
        };
        sorted[place].push(plain(&text)?.to_owned());
    }
    Ok(sorted.concat().join(","))
}

fn address(octets: &[u8]) -> Result<IpAddr, Inexpressible> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(octets).map_err(|_| Inexpressible::Text)?;
    Ok(IpAddr::from(v6).to_canonical())
}

/// A text without separators and control characters.
fn plain(text: &str) -> Result<&str, Inexpressible> {
    if text.contains(['"', ',', ';', '\\']) || text.chars().any(char::is_control) {
        return Err(Inexpressible::Character);
    }
    Ok(text)
}
