//! The server's certificate, replaceable while connections are made.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// One certificate for every name that it has. A replacement serves the next handshake.
#[derive(Debug)]
pub struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ServerCertificate {
    /// Takes a chain, the server's own certificate first, and the key of that certificate.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, ServerCertificateFault> {
        certified(chain, key).map(|certified| Self(ArcSwap::from_pointee(certified)))
    }

    /// Replaces chain and key; an error leaves the old ones in force.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), ServerCertificateFault> {
        self.0.store(Arc::new(certified(chain, key)?));
        Ok(())
    }
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

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, ServerCertificateFault> {
    if chain.is_empty() {
        return Err(ServerCertificateFault::Empty);
    }
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(ServerCertificateFault::Unusable)
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}
