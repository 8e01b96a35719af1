//! One way to an upstream, through the gateway or around it, and one request at a time over it.
//!
//! Each request has a connection of its own, so that none has to do with another. Around the gateway a stranger asks: without a
//! certificate, and without checking the server's, because nothing that is sent is a secret.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gateway::UpstreamAddress;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::judgement::Heard;

/// A way to an upstream.
pub(super) struct Door {
    pub(super) address: UpstreamAddress,
    /// What is asked for.
    pub(super) path: String,
    /// The host that is asked for.
    pub(super) host: HeaderValue,
    /// For `https`.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Becomes true when the server asks for a certificate that a stranger does not have.
    pub(super) wants_certificate: Arc<AtomicBool>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Silence {
    /// Whoever has no certificate gets none.
    #[error("it wants a certificate in the TLS handshake")]
    WantsCertificate,
    /// The file system keeps strangers from the socket.
    #[error("this user may not open the socket")]
    MayNot,
    /// Not within the time.
    #[error("it did not answer within {} s", WITHIN.as_secs())]
    Late,
    /// No connection.
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    /// No TLS.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// No whole answer.
    #[error("it did not answer: {0}")]
    Broken(hyper::Error),
    /// The address, path or host cannot be asked for.
    #[error("it cannot be asked: {0}")]
    Request(http::Error),
}

impl Silence {
    /// Whether strangers are kept out on purpose.
    pub(super) fn is_deliberate(&self) -> bool {
        matches!(self, Self::WantsCertificate | Self::MayNot)
    }
}

impl Door {
    /// Asks once, with these header fields beside what every request has.
    pub(super) async fn ask(&self, fields: &[(HeaderName, HeaderValue)]) -> Result<Heard, Silence> {
        let asked = tokio::time::timeout(WITHIN, self.ask_in_time(fields)).await;
        let answer = asked.unwrap_or(Err(Silence::Late));
        match answer {
            // A server that misses a certificate says so, or just leaves.
            Err(Silence::Tls(_) | Silence::Broken(_))
                if self.wants_certificate.load(Ordering::Relaxed) =>
            {
                Err(Silence::WantsCertificate)
            }
            answer => answer,
        }
    }

    async fn ask_in_time(&self, fields: &[(HeaderName, HeaderValue)]) -> Result<Heard, Silence> {
        match &self.address {
            UpstreamAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| {
                    if error.kind() == io::ErrorKind::PermissionDenied {
                        Silence::MayNot
                    } else {
                        Silence::Unreachable(error)
                    }
                })?;
                self.exchange(stream, fields).await
            }
            UpstreamAddress::Tcp { host, port, .. } => {
                let tcp = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(Silence::Unreachable)?;
                let Some(config) = &self.tls else {
                    return self.exchange(tcp, fields).await;
                };
                let name = ServerName::try_from(host.clone())
                    .map_err(|error| Silence::Tls(io::Error::other(error)))?;
                let stream = TlsConnector::from(Arc::clone(config))
                    .connect(name, tcp)
                    .await
                    .map_err(Silence::Tls)?;
                self.exchange(stream, fields).await
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        fields: &[(HeaderName, HeaderValue)],
    ) -> Result<Heard, Silence> {
        let io = TokioIo::new(stream);
        let h2c = matches!(
            self.address,
            UpstreamAddress::Tcp {
                scheme: gateway::Scheme::H2c,
                ..
            }
        );
        let response = if h2c {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(Silence::Broken)?;
            // What goes wrong with it reaches the request's own result.
            tokio::spawn(connection);
            let host = self.host.to_str().unwrap_or_default();
            let request = self.request(&format!("http://{host}{}", self.path), fields)?;
            sender.send_request(request).await
        } else {
            let (mut sender, connection) = http1::Builder::new()
                .title_case_headers(true)
                .handshake(io)
                .await
                .map_err(Silence::Broken)?;
            tokio::spawn(connection);
            let mut request = self.request(&self.path, fields)?;
            let headers = request.headers_mut();
            headers.insert(header::HOST, self.host.clone());
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            sender.send_request(request).await
        };
        heard(response.map_err(Silence::Broken)?).await
    }

    fn request(
        &self,
        target: &str,
        fields: &[(HeaderName, HeaderValue)],
    ) -> Result<Request<Empty<Bytes>>, Silence> {
        let mut request = Request::get(target)
            .header(header::USER_AGENT, "keybound-doctor")
            .header(header::ACCEPT, "*/*")
            .body(Empty::new())
            .map_err(Silence::Request)?;
        for (name, value) in fields {
            request.headers_mut().append(name.clone(), value.clone());
        }
        Ok(request)
    }
}

/// The head, and the body as far as it is compared.
async fn heard(response: Response<Incoming>) -> Result<Heard, Silence> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    let reading = async {
        while body.len() < COMPARED
            && let Some(frame) = incoming.frame().await
        {
            if let Some(data) = frame?.data_ref() {
                body.extend_from_slice(data);
            }
        }
        Ok(())
    };
    // A stream of events does not end; what it begins with is compared.
    if let Ok(read) = tokio::time::timeout(BODY_WITHIN, reading).await {
        read.map_err(Silence::Broken)?;
    }
    body.truncate(COMPARED);
    let mut fields = String::new();
    for value in head.headers.values() {
        fields.push_str(&String::from_utf8_lossy(value.as_bytes()));
        fields.push('\n');
    }
    Ok(Heard {
        status: head.status.as_u16(),
        refusal: refusal(&head.headers),
        fields,
        body,
    })
}

/// The code of Keybound's own refusals (RFC 9209), which no upstream behind it can write.
fn refusal(headers: &HeaderMap) -> Option<String> {
    let status = headers.get("proxy-status")?.to_str().ok()?;
    let (_, details) = status
        .strip_prefix("keybound; error=")?
        .split_once("details=\"")?;
    Some(details.split('"').next().unwrap_or_default().to_owned())
}

const WITHIN: Duration = Duration::from_secs(10);
const BODY_WITHIN: Duration = Duration::from_secs(3);
const COMPARED: usize = 256 * 1024;
