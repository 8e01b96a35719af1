//! One way to an upstream, through the gateway or around it, in one version of HTTP, and one request at a time over it.
//!
//! Each request has a connection of its own, so that none has to do with another. Around the gateway a stranger asks: without a
//! certificate, and without checking the server's, because nothing that is sent is a secret.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gateway::{Scheme, UpstreamAddress};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::judgement::Heard;

/// A way to an upstream.
pub(super) struct Door {
    pub(super) address: UpstreamAddress,
    pub(super) http: Http,
    /// What is asked for.
    pub(super) path: String,
    /// The host that is asked for.
    pub(super) host: HeaderValue,
    /// For `https`.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Becomes true when the server asks for a certificate that a stranger does not have.
    pub(super) wants_certificate: Arc<AtomicBool>,
}

/// The version of HTTP that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Http {
    #[serde(rename = "1.1")]
    One,
    #[serde(rename = "2")]
    Two,
}

impl Http {
    /// Those that can be tried: with TLS the server chooses, in the clear the address says which.
    pub(super) fn of(address: &UpstreamAddress) -> &'static [Self] {
        match address {
            UpstreamAddress::Tcp { scheme, .. } => match scheme {
                Scheme::Https => &[Self::One, Self::Two],
                Scheme::H2c => &[Self::Two],
                Scheme::Http => &[Self::One],
            },
            UpstreamAddress::Unix(_) => &[Self::One],
        }
    }

    /// Its name in ALPN (RFC 7301).
    pub(super) fn alpn(self) -> &'static [u8] {
        match self {
            Self::One => b"http/1.1",
            Self::Two => b"h2",
        }
    }

    /// As people read it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::One => "HTTP/1.1",
            Self::Two => "HTTP/2",
        }
    }
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
    /// It has chosen no version of HTTP, or another one.
    #[error("it does not speak {}", .0.words())]
    OtherVersion(Http),
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
            // Many ask for a certificate and go on without one, so that alone is no reason.
            Err(Silence::Tls(_) | Silence::Broken(_))
                if self.wants_certificate.load(Ordering::Relaxed)
                    && self.refuses_strangers().await =>
            {
                Err(Silence::WantsCertificate)
            }
            answer => answer,
        }
    }

    /// Whether the server ends TLS for want of a certificate. Nothing is sent over it: with TLS 1.3 the alert comes after the
    /// handshake, and is lost where the server leaves a request unread.
    async fn refuses_strangers(&self) -> bool {
        let waiting = async {
            let UpstreamAddress::Tcp { host, port, .. } = &self.address else {
                return Ok(());
            };
            let tcp = TcpStream::connect((host.as_str(), *port)).await?;
            if let Some(config) = &self.tls {
                let mut stream = tls(config, host, tcp).await?;
                stream.read_u8().await?;
            }
            Ok::<_, io::Error>(())
        };
        // Whoever waits for a request has let the stranger in.
        let waited = tokio::time::timeout(ALERT_WITHIN, waiting).await;
        waited.is_ok_and(|ended| ended.is_err_and(|error| misses_a_certificate(&error)))
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
                let stream = tls(config, host, tcp).await.map_err(|error| {
                    if alert(&error) == Some(AlertDescription::NoApplicationProtocol) {
                        Silence::OtherVersion(self.http)
                    } else {
                        Silence::Tls(error)
                    }
                })?;
                // Servers that choose none speak HTTP/1.1.
                let chosen = stream.get_ref().1.alpn_protocol();
                if chosen.unwrap_or(Http::One.alpn()) != self.http.alpn() {
                    return Err(Silence::OtherVersion(self.http));
                }
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
        let response = if self.http == Http::Two {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(Silence::Broken)?;
            // What goes wrong with it reaches the request's own result.
            tokio::spawn(connection);
            let host = self.host.to_str().unwrap_or_default();
            let scheme = if self.tls.is_some() { "https" } else { "http" };
            let request = self.request(&format!("{scheme}://{host}{}", self.path), fields)?;
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

/// A connection over TLS to whoever `host` is.
async fn tls(
    config: &Arc<ClientConfig>,
    host: &str,
    tcp: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(name, tcp).await
}

/// The alert by which a server ended TLS.
fn alert(error: &io::Error) -> Option<AlertDescription> {
    let fault: &rustls::Error = error.get_ref()?.downcast_ref()?;
    if let rustls::Error::AlertReceived(alert) = fault {
        Some(*alert)
    } else {
        None
    }
}

/// Whether the alert is one of those that servers send to whoever has no certificate: in TLS 1.3 (RFC 8446, section 4.4.2.4)
/// one of its own, before it several (RFC 5246, section 7.4.6).
fn misses_a_certificate(error: &io::Error) -> bool {
    alert(error).is_some_and(|alert| {
        matches!(
            alert,
            AlertDescription::CertificateRequired
                | AlertDescription::HandshakeFailure
                | AlertDescription::BadCertificate
                | AlertDescription::NoCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied
        )
    })
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
/// How long it is waited for an alert.
const ALERT_WITHIN: Duration = Duration::from_secs(2);
const BODY_WITHIN: Duration = Duration::from_secs(3);
const COMPARED: usize = 256 * 1024;
