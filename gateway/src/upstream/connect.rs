//! From an upstream server's address to a connection that speaks HTTP with it.

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::UpstreamFault;
use super::counted_io::{CountedIo, Signals};
use super::lease::Slot;
use super::tls::{HTTP2, UpstreamTls};
use super::transport::Transport;
use super::watched_io::{Watch, WatchedIo};
use crate::pure::upstream_address::UpstreamAddress;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection, and what was agreed to speak over it.
pub(super) enum Connected {
    Http1(Transport),
    Http2(Transport),
}

/// The requesting end of an HTTP/1.1 connection.
pub(super) struct Http1<B> {
    pub(super) http: http1::SendRequest<B>,
    pub(super) watch: Arc<Watch>,
}

/// The requesting end of an HTTP/2 connection. Clones share it.
pub(super) struct Http2<B> {
    pub(super) http: http2::SendRequest<B>,
    pub(super) signals: Rc<Signals>,
}

/// Connects within the deadline, the TLS handshake included.
pub(super) async fn connect(
    server: &UpstreamAddress,
    tls: Option<&UpstreamTls>,
    http1_only: bool,
    deadline: Instant,
) -> Result<Connected, UpstreamFault> {
    let connecting = async {
        match server {
            UpstreamAddress::Unix(path) => {
                let unix = UnixStream::connect(path).await;
                unix.map(|unix| Connected::Http1(Transport::Unix(unix)))
                    .map_err(|_| UpstreamFault::Connect)
            }
            UpstreamAddress::Tcp { host, port, .. } => {
                let tcp = connect_tcp(host, *port).await?;
                if server.is_h2c() {
                    Ok(Connected::Http2(Transport::Tcp(tcp)))
                } else if !server.is_tls() {
                    Ok(Connected::Http1(Transport::Tcp(tcp)))
                } else {
                    // A route table has no such server without.
                    let tls = tls.ok_or(UpstreamFault::Tls)?;
                    shake_hands(tcp, server, tls, http1_only).await
                }
            }
        }
    };
    timeout_at(deadline, connecting)
        .await
        .map_err(|_| UpstreamFault::ConnectTimeout)?
}

async fn connect_tcp(host: &str, port: u16) -> Result<TcpStream, UpstreamFault> {
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|_| UpstreamFault::Name)?;
    let mut last = UpstreamFault::Name;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                tcp.set_nodelay(true).map_err(|_| UpstreamFault::Connect)?;
                return Ok(tcp);
            }
            Err(_) => last = UpstreamFault::Connect,
        }
    }
    Err(last)
}

async fn shake_hands(
    tcp: TcpStream,
    server: &UpstreamAddress,
    tls: &UpstreamTls,
    http1_only: bool,
) -> Result<Connected, UpstreamFault> {
    let name = tls.name_of(server).map_err(|_| UpstreamFault::Untrusted)?;
    let connector = TlsConnector::from(Arc::clone(tls.config(http1_only)));
    let stream = connector.connect(name, tcp).await.map_err(|error| {
        tracing::warn!(%server, %error, "there is no TLS with an upstream");
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                UpstreamFault::Untrusted
            }
            Some(_) | None => UpstreamFault::Tls,
        }
    })?;
    let chosen = stream.get_ref().1.alpn_protocol();
    if chosen == Some(HTTP2) {
        Ok(Connected::Http2(Transport::Tls(Box::new(stream))))
    } else if tls.must_be_http2() {
        Err(UpstreamFault::Tls)
    } else {
        Ok(Connected::Http1(Transport::Tls(Box::new(stream))))
    }
}

impl<B> Http1<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Drives the connection until it ends, and keeps `slot` as long as its socket.
    pub(super) async fn start(
        transport: Transport,
        slot: Option<Slot>,
        patience: Duration,
    ) -> Result<Self, UpstreamFault> {
        let (io, watch) = WatchedIo::new(transport, slot, patience);
        let (http, connection) = http1::Builder::new()
            .max_headers(MAX_RESPONSE_HEADERS)
            .max_buf_size(MAX_RESPONSE_HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(failed_at_once)?;
        spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Self { http, watch })
    }
}

impl<B> Http2<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Waits for the server's first words until the deadline, drives the connection until it ends, and keeps `slot` as
    /// long as its socket.
    pub(super) async fn start(
        transport: Transport,
        slot: Option<Slot>,
        deadline: Instant,
    ) -> Result<Self, UpstreamFault> {
        let signals = Rc::new(Signals::default());
        let io = CountedIo::new(transport, Rc::clone(&signals), slot);
        let (http, mut connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
            .initial_max_send_streams(MAX_STREAMS as usize)
            .max_header_list_size(MAX_RESPONSE_HEAD as u32)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(io))
            .await
            .map_err(failed_at_once)?;
        let driven = Rc::clone(&signals);
        let driving = poll_fn(move |cx| {
            driven.driver.register(cx.waker());
            let polled = Pin::new(&mut connection).poll(cx);
            driven
                .max_streams
                .set(connection.current_max_send_streams());
            driven
                .takes_websockets
                .set(connection.is_extended_connect_protocol_enabled());
            polled
        });
        spawn_local(async move {
            if let Err(error) = driving.await {
                tracing::debug!(%error, cause = ?error.source(), "upstream connection ended");
            }
        });
        match timeout_at(deadline, signals.greeting()).await {
            Ok(true) => Ok(Self { http, signals }),
            Ok(false) => Err(UpstreamFault::Invalid),
            Err(_) => Err(UpstreamFault::ConnectTimeout),
        }
    }

    /// How many requests the server takes at once, or the gateway sends, whichever is less.
    pub(super) fn max_streams(&self) -> usize {
        self.signals.max_streams.get().min(MAX_STREAMS as usize)
    }
}

impl<B> Clone for Http2<B> {
    fn clone(&self) -> Self {
        Self {
            http: self.http.clone(),
            signals: Rc::clone(&self.signals),
        }
    }
}

/// Runs on this thread what hyper wants to run beside a connection.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}

fn failed_at_once(error: hyper::Error) -> UpstreamFault {
    tracing::debug!(%error, "upstream connection failed at once");
    UpstreamFault::Connect
}

/// The HTTP implementation keeps so many on the stack while it reads a head; for more, it allocates 8 KiB each time.
pub(super) const MAX_RESPONSE_HEADERS: usize = 100;
const MAX_RESPONSE_HEAD: usize = 64 * 1024;
/// Requests at once over one HTTP/2 connection; there may be several connections.
const MAX_STREAMS: u32 = 100;
/// What waits for one slow device. The connection's window holds as much for every stream, so that no device waits
/// for another.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Of one request's body.
const MAX_SEND_BUFFER: usize = 64 * 1024;
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
