//! TLS clients that present a device's certificate.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Device, Server};

/// A configuration that presents what `device` holds.
pub fn config(server: &Server, device: &Device, alpn: &[&str]) -> ClientConfig {
    let chain = CertificateDer::pem_file_iter(device.certificate_file())
        .unwrap()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(device.key_file()).unwrap();
    config_of(&server.root_file(), Some((chain, key)), alpn)
}

pub fn config_of(
    roots: &Path,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    alpn: &[&str],
) -> ClientConfig {
    let mut store = RootCertStore::empty();
    store
        .add(CertificateDer::from_pem_file(roots).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// Connects as `localhost`. A TLS 1.3 client is "connected" before the server has judged it: read, too.
pub async fn connect(address: SocketAddr, config: ClientConfig) -> TlsStream<TcpStream> {
    connect_as("localhost", address, config).await.unwrap()
}

pub async fn connect_as(
    name: &str,
    address: SocketAddr,
    config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}
