//! A list of revoked certificates behind a URL: one request, one answer, within bounds. Whoever answers is not believed
//! for it: the list bears its CA's signature.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway::UpstreamTls;
use http::header::{CONNECTION, CONTENT_ENCODING, HOST, LOCATION};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use identity::revocation_list::MAX_LENGTH;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::CrlUrl;

/// Why there is no list behind a URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchFault {
    #[error("its host cannot be reached: {0}")]
    Unreachable(std::io::Error),
    #[error("there is no TLS with its host: {0}")]
    Tls(std::io::Error),
    #[error("the answer is no HTTP, or ended before its end: {0}")]
    Http(String),
    #[error("it answers with {0}, and not with 200")]
    Status(u16),
    #[error(
        "it answers with {0} and another URL; redirects are not followed, write where the list is"
    )]
    Redirect(u16),
    #[error("the answer is compressed")]
    Encoded,
    #[error("the answer has more than {} MiB", MAX_LENGTH >> 20)]
    TooLarge,
    #[error("there was no whole answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// Gets what is behind a URL, to be read and kept without another copy.
pub(crate) async fn fetch(
    url: &CrlUrl,
    tls: Option<&UpstreamTls>,
    within: Duration,
) -> Result<Bytes, FetchFault> {
    tokio::time::timeout(within, get(url, tls))
        .await
        .map_err(|_| FetchFault::Timeout(within))?
}

async fn get(url: &CrlUrl, tls: Option<&UpstreamTls>) -> Result<Bytes, FetchFault> {
    let tcp = TcpStream::connect((url.host.as_str(), url.port))
        .await
        .map_err(FetchFault::Unreachable)?;
    if !url.is_tls {
        return exchange(url, tcp).await;
    }
    let missing = || FetchFault::Tls(std::io::ErrorKind::InvalidInput.into());
    let config = tls.ok_or_else(missing)?.http1_config();
    let name = ServerName::try_from(url.host.clone()).map_err(|_| missing())?;
    let stream = TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await;
    exchange(url, stream.map_err(FetchFault::Tls)?).await
}

async fn exchange(
    url: &CrlUrl,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Bytes, FetchFault> {
    let http = |error: hyper::Error| FetchFault::Http(error.to_string());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let request = Request::get(&url.target)
        .header(HOST, url.authority())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchFault::Http(error.to_string()))?;
    let answering = async {
        let response = sender.send_request(request).await.map_err(http)?;
        body(response).await
    };
    tokio::select! {
        // Its error reaches whoever waits for the answer.
        biased;
        answer = answering => answer,
        Err(error) = connection => Err(http(error)),
    }
}

async fn body(response: Response<Incoming>) -> Result<Bytes, FetchFault> {
    let (head, body) = response.into_parts();
    let status = head.status.as_u16();
    if head.status.is_redirection() && head.headers.contains_key(LOCATION) {
        return Err(FetchFault::Redirect(status));
    }
    if status != 200 {
        return Err(FetchFault::Status(status));
    }
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(FetchFault::Encoded);
    }
    collect(body).await
}

/// The whole body. One that says that it is too long is not even begun; of one that does not say how long it is, no more is
/// held than has come, because it comes in pieces: one vector that grows would be held twice meanwhile.
async fn collect(mut body: Incoming) -> Result<Bytes, FetchFault> {
    let length = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if length > MAX_LENGTH {
        return Err(FetchFault::TooLarge);
    }
    let mut pieces = Vec::new();
    let mut piece = Vec::with_capacity(length);
    let mut held = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchFault::Http(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > MAX_LENGTH - held {
            return Err(FetchFault::TooLarge);
        }
        held += data.len();
        if data.len() > piece.capacity() - piece.len() {
            let next = Vec::with_capacity(PIECE.max(data.len()));
            pieces.push(std::mem::replace(&mut piece, next));
        }
        piece.extend_from_slice(&data);
    }
    if pieces.is_empty() {
        return Ok(piece.into());
    }
    pieces.push(piece);
    let mut whole = Vec::with_capacity(held);
    // Each is given back as soon as it is copied.
    for piece in pieces {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

const MAX_HEAD: usize = 16 * 1024;
/// More than hyper reads at once.
const PIECE: usize = 1 << 20;
