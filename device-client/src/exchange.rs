//! One HTTP/1.1 request on one TLS connection. Every wait is bounded.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use identity::ServerAddress;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::tls::TlsFault;

/// An answer whose body is still coming.
pub(crate) struct Streaming {
    pub(crate) response: Response<Incoming>,
    /// Drives the connection; its end is the end of the body.
    pub(crate) driver: Driver,
}

/// The task that moves a connection's bytes. Dropping it closes the connection.
pub(crate) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request and waits for the head of the answer.
pub(crate) async fn send(
    address: &ServerAddress,
    tls: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
    answer_within: Duration,
) -> Result<Streaming, ExchangeError> {
    let tcp = connect(address).await?;
    // One small request: waiting for more to send would only delay it.
    let _ = tcp.set_nodelay(true);
    let connecting = TlsConnector::from(tls).connect(address.server_name(), tcp);
    let stream = match timeout(HANDSHAKE_WITHIN, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(ExchangeError::of_handshake(address, error)),
        Err(_) => {
            return Err(ExchangeError::too_slow(
                address,
                Stage::Handshake,
                HANDSHAKE_WITHIN,
            ));
        }
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ExchangeError::of_http(address, error))?;
    let driver = Driver(tokio::spawn(async move {
        // Its error reaches whoever waits for the answer or the body.
        let _ = connection.await;
    }));
    match timeout(answer_within, sender.send_request(request)).await {
        Ok(Ok(response)) => Ok(Streaming { response, driver }),
        Ok(Err(error)) => Err(ExchangeError::of_http(address, error)),
        Err(_) => Err(ExchangeError::too_slow(
            address,
            Stage::Answer,
            answer_within,
        )),
    }
}

/// Sends a request and takes the whole answer, of at most [`MAX_BODY`] bytes.
pub(crate) async fn exchange(
    address: &ServerAddress,
    tls: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ExchangeError> {
    let Streaming {
        response,
        driver: _driver,
    } = send(address, tls, request, ANSWER_WITHIN).await?;
    let (head, body) = response.into_parts();
    let body = match timeout(ANSWER_WITHIN, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(ExchangeError::TooLong {
                address: address.clone(),
            });
        }
        Ok(Err(error)) => return Err(ExchangeError::lost(address, error)),
        Err(_) => {
            return Err(ExchangeError::too_slow(
                address,
                Stage::Answer,
                ANSWER_WITHIN,
            ));
        }
    };
    Ok(Response::from_parts(head, body))
}

/// Tries every address of the host in turn.
async fn connect(address: &ServerAddress) -> Result<TcpStream, ExchangeError> {
    let lookup = tokio::net::lookup_host((address.host(), address.port()));
    let found: Vec<SocketAddr> = match timeout(CONNECT_WITHIN, lookup).await {
        Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect(),
        Ok(Err(source)) => {
            return Err(ExchangeError::NoSuchHost {
                address: address.clone(),
                source,
            });
        }
        Err(_) => {
            return Err(ExchangeError::too_slow(
                address,
                Stage::Lookup,
                CONNECT_WITHIN,
            ));
        }
    };
    let mut last = ExchangeError::NoSuchHost {
        address: address.clone(),
        source: io::ErrorKind::NotFound.into(),
    };
    for candidate in found {
        last = match timeout(CONNECT_WITHIN, TcpStream::connect(candidate)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(source)) => ExchangeError::Unreachable {
                address: address.clone(),
                source,
            },
            Err(_) => ExchangeError::too_slow(address, Stage::Connect, CONNECT_WITHIN),
        };
    }
    Err(last)
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The name could not be resolved.
    #[error("the host of {address} was not found: {source}; check the name and the network")]
    NoSuchHost {
        /// The server.
        address: ServerAddress,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody accepts connections there.
    #[error(
        "{address} could not be reached: {source}; is the server running, and is the port right?"
    )]
    Unreachable {
        /// The server.
        address: ServerAddress,
        /// What the system said.
        source: io::Error,
    },
    /// The server took too long.
    #[error("{address} was too slow: {stage} took more than {} s", .limit.as_secs())]
    TooSlow {
        /// The server.
        address: ServerAddress,
        /// What it was slow at.
        stage: Stage,
        /// How long it was given.
        limit: Duration,
    },
    /// TLS failed, during the handshake or, in TLS 1.3, at the first read after it.
    #[error("{address}: {fault}")]
    Tls {
        /// The server.
        address: ServerAddress,
        /// Why.
        fault: TlsFault,
    },
    /// The connection ended, or what came is no HTTP. The request may have arrived.
    #[error("{address} gave no complete answer: {source}")]
    Lost {
        /// The server.
        address: ServerAddress,
        /// What was seen of it.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The answer is longer than any honest one.
    #[error("the answer of {address} has more than {MAX_BODY} bytes")]
    TooLong {
        /// The server.
        address: ServerAddress,
    },
}

impl ExchangeError {
    /// Whether the request may have been answered, and the answer lost. To ask again can help.
    pub(crate) fn answer_may_be_lost(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::TooSlow { stage, .. } => match stage {
                Stage::Answer | Stage::Body => true,
                Stage::Lookup | Stage::Connect | Stage::Handshake => false,
            },
            Self::NoSuchHost { .. }
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::TooLong { .. } => false,
        }
    }

    /// Whether the server could not be reached at all.
    pub(crate) fn not_reached(&self) -> bool {
        match self {
            Self::NoSuchHost { .. } | Self::Unreachable { .. } => true,
            Self::TooSlow { stage, .. } => match stage {
                Stage::Lookup | Stage::Connect | Stage::Handshake => true,
                Stage::Answer | Stage::Body => false,
            },
            Self::Lost { .. } | Self::Tls { .. } | Self::TooLong { .. } => false,
        }
    }

    pub(crate) fn lost(address: &ServerAddress, source: Box<dyn StdError + Send + Sync>) -> Self {
        match TlsFault::among_causes_of(source.as_ref()) {
            Some(fault) => Self::Tls {
                address: address.clone(),
                fault,
            },
            None => Self::Lost {
                address: address.clone(),
                source,
            },
        }
    }

    pub(crate) fn of_http(address: &ServerAddress, error: hyper::Error) -> Self {
        Self::lost(address, error.into())
    }

    fn of_handshake(address: &ServerAddress, error: io::Error) -> Self {
        match TlsFault::among_causes_of(&error) {
            Some(fault) => Self::Tls {
                address: address.clone(),
                fault,
            },
            None => Self::Unreachable {
                address: address.clone(),
                source: error,
            },
        }
    }

    pub(crate) fn too_slow(address: &ServerAddress, stage: Stage, limit: Duration) -> Self {
        Self::TooSlow {
            address: address.clone(),
            stage,
            limit,
        }
    }
}

/// What a server can be slow at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Finding the host's addresses.
    Lookup,
    /// Accepting the connection.
    Connect,
    /// The TLS handshake.
    Handshake,
    /// The answer, or in a streamed one its head.
    Answer,
    /// The next part of a streamed answer.
    Body,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lookup => "finding its address",
            Self::Connect => "the connection",
            Self::Handshake => "the TLS handshake",
            Self::Answer => "the answer",
            Self::Body => "the next part of the answer",
        })
    }
}

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// An answer to an enrollment has less than 4 KiB.
const MAX_BODY: usize = 256 * 1024;
const MAX_HEAD: usize = 64 * 1024;
const MAX_ADDRESSES: usize = 8;
