//! The devices that the load pretends to be, each with a TLS configuration of its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::cli::{KeyExchange, Peer};
use crate::kept_key::KeptKey;
use crate::signing_requests::device_id;

/// A device.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) tls: Arc<ClientConfig>,
}

/// How devices speak TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speech<'a> {
    pub(crate) group: KeyExchange,
    pub(crate) alpn: &'a [u8],
    /// Keep tickets and use them.
    pub(crate) resume: bool,
    /// Who vouches for the gateway; nobody has to if there is none, which saves the load generator time.
    pub(crate) roots: Option<&'a Path>,
}

impl<'a> Speech<'a> {
    pub(crate) fn new(peer: &Peer, alpn: &'a str) -> Self {
        Self {
            group: peer.group,
            alpn: alpn.as_bytes(),
            resume: false,
            roots: None,
        }
    }
}

/// Reads the devices of a folder: at most `most` of them.
pub(crate) fn read(peer: &Peer, speech: Speech<'_>, most: usize) -> anyhow::Result<Vec<Device>> {
    let most = peer.devices.unwrap_or(usize::MAX).min(most);
    let mut devices = Vec::new();
    while devices.len() < most {
        let id = device_id(devices.len());
        let certificate = peer.certificates.join(format!("{id}.pem"));
        if !certificate.exists() {
            break;
        }
        let chain = CertificateDer::pem_file_iter(&certificate)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(peer.keys.join(format!("{id}.key")))
            .with_context(|| format!("the key of {id}"))?;
        devices.push(Device {
            id,
            tls: configuration(speech, Some((chain, key)))?,
        });
    }
    ensure!(!devices.is_empty(), "there are no devices");
    Ok(devices)
}

/// A configuration with or without a certificate.
pub(crate) fn configuration(
    speech: Speech<'_>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(provider(speech.group));
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match speech.roots {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for root in CertificateDer::pem_file_iter(file)? {
                roots.add(root?)?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(algorithms))),
    };
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![speech.alpn.to_vec()];
    config.resumption = if speech.resume {
        Resumption::in_memory_sessions(4)
    } else {
        Resumption::disabled()
    };
    Ok(Arc::new(config))
}

/// Every gateway gets the same suite, whatever it would prefer.
fn provider(group: KeyExchange) -> CryptoProvider {
    let mut provider = default_provider();
    match group {
        KeyExchange::X25519 => provider.kx_groups = vec![kx_group::X25519],
        KeyExchange::Kept => provider.kx_groups = vec![&KeptKey],
        KeyExchange::Mlkem => provider.kx_groups = vec![kx_group::X25519MLKEM768],
        KeyExchange::Default => return provider,
    }
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider
}

/// Takes any server at its word: what a client checks is not what is measured. `probe` checks everything.
#[derive(Debug)]
struct AnyServer(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
