//! TLS, written once for every listener that speaks it. Sessions are never resumed and early data is never
//! taken: a resumed session skips the verification of the client, and a ticket can be copied.

mod acceptor;
mod chain_cache;
mod fault;
mod handshakes;
mod named_certificate;
mod queue;
mod server_certificate;
mod stream;
mod verifier;

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

pub use self::acceptor::{
    Accepted, Acceptor, AcceptorOptions, Client, Clients, Policy, Prepared, Versions,
};
pub use self::fault::HandshakeFault;
pub use self::named_certificate::{NamedCertificate, NamedCertificateFault};
pub use self::server_certificate::{Certified, ServerCertificate, ServerCertificateFault};
pub use self::stream::TlsStream;

/// Reads what the peer still sends, up to so many bytes, until it closes.
pub(crate) async fn discard(tcp: &TcpStream, most: usize) -> io::Result<()> {
    let mut left = most;
    let mut buffer = [0; 4096];
    while left > 0 {
        tcp.readable().await?;
        match tcp.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => left = left.saturating_sub(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How long a peer may take to read the last bytes that it is sent.
pub(crate) const LINGER: Duration = Duration::from_millis(500);
