//! Connections to the gateway.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
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
        self.speak_tls(tcp, device).await
    }

    /// The same, from one of many addresses: for the ten-thousandth connection from the same one, the kernel looks long for a
    /// port that is free.
    pub(crate) async fn dial_from(&self, number: usize, device: &Device) -> anyhow::Result<Stream> {
        let socket = TcpSocket::new_v4()?;
        let source = Ipv4Addr::new(127, 0, 1, 1 + (number % SOURCES) as u8);
        socket.bind((source, 0).into()).context("bind")?;
        let tcp = socket.connect(self.address).await.context("connect")?;
        self.speak_tls(tcp, device).await
    }

    async fn speak_tls(&self, tcp: TcpStream, device: &Device) -> anyhow::Result<Stream> {
        tcp.set_nodelay(true)?;
        TlsConnector::from(device.tls.clone())
            .connect(self.name.clone(), Counted::new(tcp))
            .await
            .context("handshake")
    }
}

const SOURCES: usize = 200;
