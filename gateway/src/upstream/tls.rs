//! TLS towards upstreams: their own roots and nobody else's, and this gateway's certificate if they insist on it.

use std::sync::Arc;

use identity::certificate::{Parsed, Validity};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};

use crate::pure::upstream_address::UpstreamAddress;

/// How TLS 1.2 or 1.3 is spoken with the servers of one upstream.
///
/// There is no way to leave out the check of their certificates, and the roots of the system play no part. Sessions
/// are not resumed: a resumed one would not show the certificate again, and connections are kept anyway.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    config: Arc<ClientConfig>,
    /// For what HTTP/2 cannot do here.
    http1: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    made_of: Arc<MadeOf>,
}

/// What was written, as far as it tells these settings from others: a certificate has one key.
#[derive(Debug, PartialEq, Eq)]
struct MadeOf {
    roots: Vec<CertificateDer<'static>>,
    /// The gateway's own, its certificate first.
    chain: Vec<CertificateDer<'static>>,
    http2: Http2,
    own_validity: Option<Validity>,
}

/// Whether HTTP/2 is spoken with an upstream over TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2 {
    /// If the server chooses it (RFC 7301).
    #[default]
    Auto,
    /// HTTP/1.1 alone is offered.
    Never,
    /// HTTP/2 alone is offered.
    Always,
}

/// Why there is no TLS with an upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsFault {
    /// Without roots no certificate could be checked.
    #[error("there is no root certificate")]
    NoRoots,
    /// One of the roots, counted from 0, cannot be one.
    #[error("root certificate {} cannot be used: {error}", .position + 1)]
    Root {
        /// Which one.
        position: usize,
        /// Why not.
        error: rustls::Error,
    },
    /// The gateway's key is not that of its certificate.
    #[error("the key is not the key of the certificate")]
    KeyMismatch,
    /// The gateway's certificate or key cannot be used.
    #[error("certificate and key cannot be used together: {0}")]
    Identity(rustls::Error),
    /// Not a DNS name or IP address.
    #[error("the server name is neither a DNS name nor an IP address")]
    ServerName,
    /// The TLS library cannot do it.
    #[error("TLS cannot be configured: {0}")]
    Library(rustls::Error),
}

impl UpstreamTls {
    /// `identity` is shown to servers that ask for it: a chain, the gateway's own certificate first, and its key.
    /// `server_name` is what their certificates must name instead of the host in their address.
    pub fn new(
        roots: &[CertificateDer<'static>],
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
        server_name: Option<&str>,
        http2: Http2,
    ) -> Result<Self, UpstreamTlsFault> {
        if roots.is_empty() {
            return Err(UpstreamTlsFault::NoRoots);
        }
        let mut store = RootCertStore::empty();
        for (position, root) in roots.iter().enumerate() {
            store
                .add(root.clone())
                .map_err(|error| UpstreamTlsFault::Root { position, error })?;
        }
        let server_name = server_name
            .map(|name| ServerName::try_from(name.to_owned()))
            .transpose()
            .map_err(|_| UpstreamTlsFault::ServerName)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(UpstreamTlsFault::Library)?
            .with_root_certificates(store);
        let chain = identity.as_ref().map_or(&[][..], |(chain, _)| chain);
        let made_of = MadeOf {
            roots: roots.to_vec(),
            chain: chain.to_vec(),
            http2,
            own_validity: (chain.first())
                .and_then(|own| Parsed::from_der(own).ok())
                .map(|own| own.validity()),
        };
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                if matches!(error, rustls::Error::InconsistentKeys(_)) {
                    UpstreamTlsFault::KeyMismatch
                } else {
                    UpstreamTlsFault::Identity(error)
                }
            })?,
        };
        config.resumption = Resumption::disabled();
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Self {
            config: match http2 {
                Http2::Auto => offering(&[HTTP2, HTTP1]),
                Http2::Never => offering(&[HTTP1]),
                Http2::Always => offering(&[HTTP2]),
            },
            http1: offering(&[HTTP1]),
            server_name,
            made_of: Arc::new(made_of),
        })
    }

    /// When the certificate is valid that servers are shown, if they are shown one that says so.
    pub fn own_validity(&self) -> Option<Validity> {
        self.made_of.own_validity
    }

    /// For whoever speaks HTTP/1.1 with such a server in another way than the gateway does.
    pub fn http1_config(&self) -> &Arc<ClientConfig> {
        &self.http1
    }

    /// What a server's certificate must name.
    pub(super) fn name_of(
        &self,
        server: &UpstreamAddress,
    ) -> Result<ServerName<'static>, InvalidDnsNameError> {
        match (&self.server_name, server) {
            (Some(name), _) => Ok(name.clone()),
            (None, UpstreamAddress::Tcp { host, .. }) => ServerName::try_from(host.clone()),
            (None, UpstreamAddress::Unix(_)) => ServerName::try_from("localhost".to_owned()),
        }
    }

    /// With HTTP/2 or, for what needs it, HTTP/1.1 alone.
    pub(super) fn config(&self, http1_only: bool) -> &Arc<ClientConfig> {
        if http1_only {
            &self.http1
        } else {
            &self.config
        }
    }

    /// Where these settings are in memory, which tells them from others.
    pub(super) fn place(&self) -> *const () {
        Arc::as_ptr(&self.config).cast()
    }

    /// Whether a server may choose HTTP/2.
    pub(super) fn may_be_http2(&self) -> bool {
        self.config.alpn_protocols.iter().any(|name| name == HTTP2)
    }

    /// Whether a server must choose HTTP/2.
    pub(super) fn must_be_http2(&self) -> bool {
        !self.config.alpn_protocols.iter().any(|name| name == HTTP1)
    }
}

impl PartialEq for UpstreamTls {
    /// Whether the same was written, however often it was read.
    fn eq(&self, other: &Self) -> bool {
        self.server_name == other.server_name && self.made_of == other.made_of
    }
}

impl Eq for UpstreamTls {}

pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
