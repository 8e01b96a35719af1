//! Connections from load balancers that say, by the PROXY protocol, for whom they connect.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::pure::proxy_protocol::{PREFIX, ProxyFault, client, length_after};

/// Where a connection comes from. From one of the `trusted` addresses a header must come first, and says so; from any
/// other none is looked for, and one that comes is no TLS.
pub(crate) async fn source(
    tcp: &mut TcpStream,
    address: SocketAddr,
    trusted: &[IpNet],
) -> Result<SocketAddr, SourceFault> {
    if !is_trusted(address.ip(), trusted) {
        return Ok(address);
    }
    let read = async {
        let mut prefix = [0; PREFIX];
        tcp.read_exact(&mut prefix).await?;
        let length = length_after(&prefix)?;
        let mut header = prefix.to_vec();
        header.resize(PREFIX + length, 0);
        tcp.read_exact(&mut header[PREFIX..]).await?;
        Ok(client(&header)?.unwrap_or(address))
    };
    timeout(HEADER_WITHIN, read)
        .await
        .unwrap_or(Err(SourceFault::Timeout))
}

/// Why nobody can say where a connection comes from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceFault {
    /// The header did not come in time.
    #[error("the header did not come in time")]
    Timeout,
    /// It is none.
    #[error("{0}")]
    Header(#[from] ProxyFault),
    /// The connection ended.
    #[error("{0}")]
    Connection(#[from] io::Error),
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// A load balancer sends it at once.
const HEADER_WITHIN: Duration = Duration::from_secs(5);
