//! Connections to the gateway.

use std::net::SocketAddr;

use anyhow::Context as _;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cli::Peer;
use crate::counted::Counted;
use crate::devices::Device;

/// An encrypted connection.
pub(crate) type Stream = TlsStream<Counted>;

/// Where the gateway is and what it is called.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) name: ServerName<'static>,
    /// For `Host` and `:authority`.
    pub(crate) authority: String,
}

impl Target {
    pub(crate) fn new(peer: &Peer) -> anyhow::Result<Self> {
        Self::named(peer.gateway, &peer.name)
    }

    pub(crate) fn named(address: SocketAddr, name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            address,
            name: ServerName::try_from(name.to_owned())?,
            authority: format!("{name}:{}", address.port()),
        })
    }

    /// A connection whose handshake is finished on this side.
    pub(crate) async fn dial(&self, device: &Device) -> anyhow::Result<Stream> {
        let tcp = TcpStream::connect(self.address).await.context("connect")?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(device.tls.clone())
            .connect(self.name.clone(), Counted::new(tcp))
            .await
            .context("handshake")
    }
}
