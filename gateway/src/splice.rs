//! The path of a TCP stream, in the order of the design: from the finished handshake to the last byte.
//!
//! There is no HTTP in it, so a refusal is the end of the connection; `explain` says why.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustls::ProtocolVersion;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::audit::Audit;
use crate::exchange::Ending;
use crate::guarded_io::GuardedIo;
use crate::handle::{Flight, Handle};
use crate::lifetime::{Lifetime, Turn};
use crate::pure::authorize::{StreamPermit, View, authorize_stream};
use crate::pure::proxy_protocol::Announcement;
use crate::pure::tcp_route::{StreamAddress, TcpRoute};
use crate::record::{Outcome, Record};
use crate::refusal::{Refusal, wire};
use crate::request::{Connection, random_request_id, sight, standing, unregistered};
use crate::shared::now;
use crate::tls::TlsStream;
use crate::upstream::UpstreamFault;

/// What the handshake agreed on, as an upstream is told it.
pub(crate) struct Agreed {
    tls_version: &'static str,
    cipher: String,
    alpn: Option<Vec<u8>>,
}

impl Agreed {
    pub(crate) fn read(tls: &TlsStream, alpn: Option<Vec<u8>>) -> Self {
        let cipher = tls
            .session()
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or_default();
        Self {
            tls_version: tls_version(tls),
            // Of TLS 1.3, OpenSSL's names are these with other letters: TLS13_AES_128_GCM_SHA256.
            cipher: cipher.replacen("TLS13_", "TLS_", 1),
            alpn,
        }
    }
}

/// The version of TLS that the handshake agreed on.
pub(crate) fn tls_version(tls: &TlsStream) -> &'static str {
    match tls.session().protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        // The listener speaks no other.
        Some(_) | None => "TLSv1.3",
    }
}

/// Why a tunnel or stream ended, from how its copying ended; none if it was cut.
pub(crate) fn ending<T>(handle: &Handle, copied: Option<&std::io::Result<T>>) -> Ending {
    match copied {
        _ if handle.is_cut() => Ending::Cut,
        None => Ending::Cut,
        Some(Ok(_)) => Ending::Complete,
        // Which of the two it was, copying does not tell.
        Some(Err(_)) => Ending::Client,
    }
}

/// Serves a connection under the name of a TCP route, until it ends. It is decided by the view that the route was found in,
/// which a stream, however long it lasts, does not keep.
pub(crate) async fn serve(
    connection: &Connection,
    io: GuardedIo,
    mut lifetime: Lifetime,
    route: &TcpRoute,
    view: Arc<View>,
    agreed: Agreed,
) {
    let begun = Instant::now();
    let shared = &connection.worker.shared;
    let unique_id = random_request_id();
    // Counted before anything is decided, so that whoever cuts the connection resets it.
    let _flight = Flight::enter(&connection.handle);
    let now = now();
    let standing = standing(connection, begun);
    let decided = authorize_stream(&connection.peer, route, &view, standing, now);
    drop(view);
    let outcome = match decided {
        Ok(permit) => {
            sight(connection, permit.device(), standing.status, now);
            let mut opening = pin!(open(connection, &permit, &agreed, unique_id.as_bytes()));
            // While an upstream lets one wait, the device may be revoked.
            std::future::poll_fn(|cx| match lifetime.turn(cx) {
                Turn::End => Poll::Ready(Err(Refusal::Cut)),
                Turn::Finish | Turn::Go => opening.as_mut().poll(cx),
            })
            .await
        }
        Err(denial) => Err(Refusal::Denied(denial)),
    };
    let (outcome, address) = match outcome {
        Ok((upstream, address)) => (Ok(upstream), Some(address.to_string().into())),
        Err(refusal) => (Err(refusal), None),
    };
    let told = match &outcome {
        Ok(_) => Outcome::Forwarded,
        Err(refusal) => {
            let code = wire(*refusal).code;
            shared.metrics.refused(code);
            Outcome::Refused(code)
        }
    };
    let peer = &connection.peer;
    let record = Record {
        at: now,
        request_id: unique_id.to_str().ok().map(str::to_owned),
        address: peer.address,
        device: peer.name(),
        serial: peer.serial(),
        on_behalf_of: None,
        reported: None,
        unregistered: unregistered(connection, told),
        server_name: peer.server_name.clone(),
        host: Some(route.host.clone()),
        method: None,
        path: None,
        outcome: told,
        status: None,
        duration: begun.elapsed(),
    };
    let mut audit = Audit::of_stream(connection, begun, record, address);
    match outcome {
        Ok(Upstream::Tcp(mut upstream)) => {
            let is_whole = splice(connection, io, lifetime, &mut upstream, audit).await;
            if !is_whole {
                // An ordinary end would say that the device has sent all that there is.
                let _ = SockRef::from(&upstream).set_linger(Some(Duration::ZERO));
            }
        }
        Ok(Upstream::Unix(mut upstream)) => {
            // A Unix socket has no other end than the ordinary one.
            splice(connection, io, lifetime, &mut upstream, audit).await;
        }
        Err(_) => {
            audit.end(0, 0, Ending::Complete);
            let mut io = io;
            // A peer that does not take the goodbye goes without.
            let _ = timeout(FAREWELL, io.shutdown()).await;
        }
    }
}

enum Upstream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Connects to the upstream whose turn it is, or to the next one that accepts, and tells it who is there.
async fn open<'p>(
    connection: &Connection,
    permit: &StreamPermit<'p>,
    agreed: &Agreed,
    unique_id: &[u8],
) -> Result<(Upstream, &'p StreamAddress), Refusal> {
    let worker = &connection.worker;
    let route = permit.route();
    let header = if route.announce {
        let header = announcement(connection, permit, agreed, unique_id)?;
        Some(header)
    } else {
        None
    };
    let first = worker.next_turn() % route.upstreams.len();
    let mut fault = UpstreamFault::Connect;
    for address in route.upstreams[first..]
        .iter()
        .chain(&route.upstreams[..first])
    {
        let connecting = connect(address, header.as_deref());
        match timeout(worker.shared.limits.load().upstream.connect, connecting).await {
            Ok(Ok(upstream)) => {
                worker.shared.metrics.upstream_connections.inc();
                return Ok((upstream, address));
            }
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "upstream does not accept a stream");
                fault = UpstreamFault::Connect;
            }
            Err(_) => fault = UpstreamFault::ConnectTimeout,
        }
    }
    Err(Refusal::Upstream(fault))
}

fn announcement(
    connection: &Connection,
    permit: &StreamPermit<'_>,
    agreed: &Agreed,
    unique_id: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let peer = &connection.peer;
    let name = permit.device().name().to_string();
    let announcement = Announcement {
        source: peer.address,
        destination: connection.local_address,
        alpn: agreed.alpn.as_deref(),
        authority: peer.server_name.as_deref().unwrap_or_default(),
        unique_id,
        tls_version: agreed.tls_version,
        cipher: &agreed.cipher,
        device: &name,
        certificate: permit.device().presented().certificate(),
    };
    // Certificates are bounded, so it always fits; if it did not, nobody would be let through unannounced.
    announcement.to_bytes().ok_or(Refusal::Panic)
}

async fn connect(address: &StreamAddress, header: Option<&[u8]>) -> std::io::Result<Upstream> {
    Ok(match address {
        StreamAddress::Tcp { host, port } => {
            let mut tcp = TcpStream::connect((host.as_str(), *port)).await?;
            tcp.set_nodelay(true)?;
            if let Some(header) = header {
                tcp.write_all(header).await?;
            }
            Upstream::Tcp(tcp)
        }
        StreamAddress::Unix(path) => {
            let mut unix = UnixStream::connect(path).await?;
            if let Some(header) = header {
                unix.write_all(header).await?;
            }
            Upstream::Unix(unix)
        }
    })
}

/// Carries bytes both ways until both sides have ended, or the connection is cut. Returns whether both have ended.
async fn splice(
    connection: &Connection,
    mut io: GuardedIo,
    mut lifetime: Lifetime,
    upstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut audit: Audit,
) -> bool {
    let before = io.carried();
    let ended = {
        let mut copying = pin!(copy_bidirectional_with_sizes(
            &mut io, upstream, BUFFER, BUFFER
        ));
        std::future::poll_fn(|cx| match lifetime.turn(cx) {
            Turn::End => Poll::Ready(None),
            // A stream has no messages to finish; it has the time that a connection has.
            Turn::Finish | Turn::Go => copying.as_mut().poll(cx).map(Some),
        })
        .await
    };
    let ending = ending(&connection.handle, ended.as_ref());
    audit.end_carried(before, io.carried(), 0, ending);
    match ended {
        None => {
            connection.handle.end_with_reset();
            false
        }
        Some(Ok(_)) => !connection.handle.is_cut(),
        Some(Err(error)) => {
            tracing::debug!(%error, "stream ended");
            false
        }
    }
}

/// Per direction.
const BUFFER: usize = 16 * 1024;
/// How long a peer may take to read the goodbye.
const FAREWELL: Duration = Duration::from_millis(100);
