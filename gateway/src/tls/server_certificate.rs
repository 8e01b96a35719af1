//! The server's certificates, replaceable while connections are made.
//!
//! The server's own one serves whoever asks for no name, or for one that no other certificate has. Others are chosen
//! by the name that the client asks for (RFC 6066, section 3).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A chain and the key of its first certificate, which were seen to belong together.
#[derive(Clone, Debug)]
pub struct Certified(Arc<CertifiedKey>);

/// The server's own certificate, and others beside it. A replacement of its own serves the next handshake.
#[derive(Debug)]
pub struct ServerCertificate {
    own: Arc<ArcSwap<CertifiedKey>>,
    others: ByName,
}

/// Certificates by the names that they have, in lower case.
#[derive(Debug, Default)]
struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

/// Why a chain and a key cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerCertificateFault {
    /// The chain is empty.
    #[error("there is no certificate")]
    Empty,
    /// The key is unusable, or not that of the certificate.
    #[error("the server's certificate and key cannot be used together: {0}")]
    Unusable(rustls::Error),
}

impl Certified {
    /// Takes a chain, the server's own certificate first, and the key of that certificate.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, ServerCertificateFault> {
        if chain.is_empty() {
            return Err(ServerCertificateFault::Empty);
        }
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(ServerCertificateFault::Unusable)?;
        // The library lets a key pass that does not tell its public half.
        certified
            .keys_match()
            .map_err(ServerCertificateFault::Unusable)?;
        Ok(Self(Arc::new(certified)))
    }
}

impl ServerCertificate {
    /// The server's own certificate, first in its chain, and no other.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, ServerCertificateFault> {
        Ok(Self {
            own: Arc::new(ArcSwap::new(Certified::new(chain, key)?.0)),
            others: ByName::default(),
        })
    }

    /// The same own certificate, with all its replacements, beside others: each with its DNS names, of which `*.` stands
    /// for one label. If several have a name, the first one serves it.
    pub fn beside<'n>(
        &self,
        others: impl IntoIterator<Item = (&'n [String], &'n Certified)>,
    ) -> Self {
        let mut by_name = ByName::default();
        for (names, certified) in others {
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut by_name.wildcard, parent),
                    None => (&mut by_name.exact, name.as_str()),
                };
                map.entry(name.to_ascii_lowercase())
                    .or_insert_with(|| Arc::clone(&certified.0));
            }
        }
        Self {
            own: Arc::clone(&self.own),
            others: by_name,
        }
    }

    /// Replaces chain and key of the server's own certificate; an error leaves the old ones in force.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), ServerCertificateFault> {
        self.replace_own(Certified::new(chain, key)?);
        Ok(())
    }

    /// Replaces the server's own certificate, here and wherever it stands beside others.
    pub fn replace_own(&self, own: Certified) {
        self.own.store(own.0);
    }

    fn named(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let others = &self.others;
        if others.exact.is_empty() && others.wildcard.is_empty() {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let by_wildcard = || {
            let (_, parent) = name.split_once('.')?;
            others.wildcard.get(parent)
        };
        others.exact.get(&name).or_else(by_wildcard).cloned()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(name));
        Some(named.unwrap_or_else(|| self.own.load_full()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        (vec![made.cert.der().clone()], key)
    }

    fn certified() -> Certified {
        let (chain, key) = made();
        Certified::new(chain, key).expect("they belong together")
    }

    #[test]
    fn exact_before_wildcard_before_own() {
        let [exact, wildcard] = [certified(), certified()];
        let (chain, key) = made();
        let server = ServerCertificate::new(chain, key).expect("they belong together");
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let (first, second) = (names(&["*.Example.com"]), names(&["api.example.com", "b"]));
        let server = server.beside([(&first[..], &wildcard), (&second[..], &exact)]);
        let check = |name: &str, expected: Option<&Certified>| {
            let found = server.named(name);
            let same = match (&found, expected) {
                (Some(found), Some(expected)) => Arc::ptr_eq(found, &expected.0),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(same, "{name}");
        };
        check("api.example.com", Some(&exact));
        check("API.example.COM", Some(&exact));
        check("b", Some(&exact));
        check("www.example.com", Some(&wildcard));
        check("example.com", None);
        check("a.b.example.com", None);
        check("c", None);
        check("", None);
    }

    #[test]
    fn only_its_own_key_goes_with_a_certificate() {
        let ((chain, _), (_, other_key)) = (made(), made());
        let fault = Certified::new(chain, other_key).expect_err("another's key");
        assert!(matches!(fault, ServerCertificateFault::Unusable(_)));
        let fault = Certified::new(vec![], made().1).expect_err("no certificate");
        assert!(matches!(fault, ServerCertificateFault::Empty));
    }
}
