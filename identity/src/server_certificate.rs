//! What the certificate of a TLS server says: the names that it is for, and whether a server may present it.

use std::net::IpAddr;

use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
};

use crate::certificate::{Parsed, ReadError};

/// The names of a server's certificate, of any kind that clients look for (RFC 9525, section 4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// DNS names in lower case; the first label may be `*`.
    pub dns: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// Why a certificate is none that a TLS server can present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerLeafFault {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(ReadError),
    /// It is a CA's.
    #[error("it is a CA certificate; the server's own stands first in its file")]
    IsCa,
    /// Its ExtendedKeyUsage lacks serverAuth.
    #[error("it is not for servers: its ExtendedKeyUsage lacks serverAuth")]
    NotForServers,
    /// A client would find no name in it.
    #[error("it names no host: its subjectAltName has no DNS name")]
    NoDnsName,
}

impl Parsed<'_> {
    /// The names that a client compares with the one that it wants; none if there is no subjectAltName.
    pub fn server_names(&self) -> Result<ServerNames, ReadError> {
        let found = match self.extension(&OID_X509_EXT_SUBJECT_ALT_NAME, Tag::Sequence)? {
            None => return Ok(ServerNames::default()),
            Some(ParsedExtension::SubjectAlternativeName(names)) => names,
            Some(_) => return Err(ReadError::MalformedExtension),
        };
        let mut names = ServerNames::default();
        for name in &found.general_names {
            if let GeneralName::DNSName(name) = name {
                names.dns.push(name.to_ascii_lowercase());
            } else if let GeneralName::IPAddress(bytes) = name {
                names
                    .addresses
                    .push(address(bytes).ok_or(ReadError::MalformedExtension)?);
            }
        }
        Ok(names)
    }

    /// Whether clients would take it as a server's, and its names, of which one at least is a DNS name.
    pub fn server_leaf(&self) -> Result<ServerNames, ServerLeafFault> {
        let unreadable = ServerLeafFault::Unreadable;
        let constraints = self
            .extension(&OID_X509_EXT_BASIC_CONSTRAINTS, Tag::Sequence)
            .map_err(unreadable)?;
        match constraints {
            Some(ParsedExtension::BasicConstraints(constraints)) if constraints.ca => {
                return Err(ServerLeafFault::IsCa);
            }
            None | Some(_) => {}
        }
        let usage = self
            .extension(&OID_X509_EXT_EXTENDED_KEY_USAGE, Tag::Sequence)
            .map_err(unreadable)?;
        match usage {
            Some(ParsedExtension::ExtendedKeyUsage(usage)) if !usage.server_auth && !usage.any => {
                return Err(ServerLeafFault::NotForServers);
            }
            None | Some(_) => {}
        }
        let names = self.server_names().map_err(unreadable)?;
        if names.dns.is_empty() {
            return Err(ServerLeafFault::NoDnsName);
        }
        Ok(names)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    use super::*;

    fn check(
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
        expected: Result<(&[&str], usize), ServerLeafFault>,
    ) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let parsed = Parsed::from_der(certificate.der()).expect("DER");
        let read = parsed.server_leaf();
        let read = read.map(|names| (names.dns, names.addresses.len()));
        let expected = expected.map(|(dns, addresses)| {
            let dns: Vec<String> = dns.iter().map(|&name| name.to_owned()).collect();
            (dns, addresses)
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn what_a_server_can_present() {
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
        let plain = |_: &mut CertificateParams| {};
        check(
            &["API.example.com", "*.example.com", "127.0.0.1", "::1"],
            plain,
            Ok((&["api.example.com", "*.example.com"], 2)),
        );
        check(&["127.0.0.1"], plain, Err(ServerLeafFault::NoDnsName));
        check(&[], plain, Err(ServerLeafFault::NoDnsName));
        check(
            &["a"],
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Err(ServerLeafFault::IsCa),
        );
        check(&["a"], |p| p.is_ca = IsCa::ExplicitNoCa, Ok((&["a"], 0)));
        check(
            &["a"],
            |p| p.extended_key_usages = vec![ClientAuth],
            Err(ServerLeafFault::NotForServers),
        );
        for usages in [vec![ServerAuth, ClientAuth], vec![Any]] {
            check(&["a"], |p| p.extended_key_usages = usages, Ok((&["a"], 0)));
        }
    }
}
