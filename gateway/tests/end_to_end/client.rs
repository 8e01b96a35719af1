//! A device's end: TLS by rustls, HTTP/1.1 by hand, HTTP/2 by hyper.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WantsClientCert};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::Identity;
use crate::rig::Rig;

/// A connection that speaks HTTP/1.1.
pub(crate) struct Client {
    pub(crate) tls: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

pub(crate) fn config(rig: &Rig, device: Option<&Identity>, alpn: &str) -> ClientConfig {
    let chain = device.map(|device| (vec![device.certificate.clone()], device.key()));
    config_of_chain(rig, chain, alpn)
}

/// Presents a chain of certificates, the client's own first.
pub(crate) fn config_of_chain(
    rig: &Rig,
    chain: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    alpn: &str,
) -> ClientConfig {
    let builder = builder(rig);
    let mut config = match chain {
        Some((chain, key)) => {
            let key = any_supported_type(&key).expect("a key");
            builder.with_client_cert_resolver(Arc::new(Unchecked(CertifiedKey::new(chain, key))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = Resumption::in_memory_sessions(8);
    config
}

/// Presents what no library would let pass, whatever the server asks for.
#[derive(Debug)]
pub(crate) struct Unchecked(pub(crate) CertifiedKey);

impl ResolvesClientCert for Unchecked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::new(self.0.clone()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// TLS 1.3, and the rig's CA as the only root.
pub(crate) fn builder(rig: &Rig) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots
        .add(rig.authority.certificate.clone())
        .expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
}

/// What a request over a new connection came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The handshake was refused, with this alert. In TLS 1.3 the client learns of it only when it reads.
    Alert(AlertDescription),
    /// The connection ended without a word.
    Closed,
    /// Status, and the code if the gateway refused.
    Answer(u16, Option<String>),
}

/// Connects, sends one HTTP/1.1 request and reads until the end.
pub(crate) async fn verdict(rig: &Rig, config: ClientConfig) -> Verdict {
    let asked = async {
        let mut tls = handshake(rig, config, "api.test").await?;
        let request = b"GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";
        // It may have been refused already.
        let _ = tls.write_all(request).await;
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.map(|_| answer)
    };
    match asked.await {
        Ok(answer) => {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let status = answer[9..12].parse().expect("a status");
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
            let problem = serde_json::from_str(body).ok();
            Verdict::Answer(status, problem.map(|one: identity::Problem| one.code))
        }
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => Verdict::Alert(*alert),
            Some(other) => panic!("{other:?}"),
            None => Verdict::Closed,
        },
    }
}

/// The same over HTTP/2, for a device that gets through its handshake.
pub(crate) async fn verdict_http2(rig: &Rig, device: &Identity) -> Verdict {
    let (mut sender, driver) = http2(rig, device).await;
    let request = http::Request::get("https://api.test/").body(Full::default());
    let answer = sender.send_request(request.expect("a request")).await;
    let (head, body) = answer.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let code = serde_json::from_slice(&body)
        .ok()
        .map(|one: identity::Problem| {
            let named = head.headers["proxy-status"].to_str().expect("text");
            assert!(named.contains(&format!("details=\"{}\"", one.code)));
            one.code
        });
    driver.abort();
    Verdict::Answer(head.status.as_u16(), code)
}

pub(crate) async fn handshake(
    rig: &Rig,
    config: ClientConfig,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(rig.address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

impl Client {
    pub(crate) async fn connect(rig: &Rig, device: &Identity) -> Self {
        Self::connect_to(rig, device, "api.test").await
    }

    pub(crate) async fn connect_to(rig: &Rig, device: &Identity, name: &str) -> Self {
        let config = config(rig, Some(device), "http/1.1");
        Self::with_name(rig, config, name).await
    }

    pub(crate) async fn with(rig: &Rig, config: ClientConfig) -> Self {
        Self::with_name(rig, config, "api.test").await
    }

    async fn with_name(rig: &Rig, config: ClientConfig, name: &str) -> Self {
        let tls = handshake(rig, config, name).await.expect("a handshake");
        Self {
            tls,
            buffer: Vec::new(),
        }
    }

    /// Connects without a certificate.
    pub(crate) async fn connect_without(rig: &Rig, name: &str) -> Self {
        let config = config(rig, None, "http/1.1");
        let tls = handshake(rig, config, name).await.expect("a handshake");
        Self {
            tls,
            buffer: Vec::new(),
        }
    }

    /// What comes of connecting without a certificate where that is refused.
    pub(crate) async fn try_without(rig: &Rig, name: &str) -> Verdict {
        Self::refused(rig, config(rig, None, "http/1.1"), name).await
    }

    /// What comes of connecting with a certificate where that is refused.
    pub(crate) async fn try_as(rig: &Rig, device: &Identity, name: &str) -> Verdict {
        Self::refused(rig, config(rig, Some(device), "http/1.1"), name).await
    }

    async fn refused(rig: &Rig, mut config: ClientConfig, name: &str) -> Verdict {
        // Whatever the server is called: this is about the client.
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(AnyServer));
        let read = async {
            let mut tls = handshake(rig, config, name).await?;
            tls.read_to_end(&mut Vec::new()).await
        };
        // Whoever is let in would wait for its first request.
        let read = tokio::time::timeout(Duration::from_secs(5), read);
        match read.await.expect("a refusal in time") {
            Ok(_) => Verdict::Closed,
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(rustls::Error::AlertReceived(alert)) => Verdict::Alert(*alert),
                Some(_) | None => Verdict::Closed,
            },
        }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.tls.write_all(text.as_bytes()).await.expect("sent");
        self.tls.flush().await.expect("sent");
    }

    /// Sends a request without body and reads its answer.
    pub(crate) async fn get(&mut self, path: &str, lines: &str) -> Answer {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: api.test\r\n{lines}\r\n"
        ))
        .await;
        self.answer().await.expect("an answer")
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        let head = self.until(b"\r\n\r\n").await?;
        let lower = head.to_ascii_lowercase();
        let mut body = String::new();
        if let Some(rest) = lower.split("content-length: ").nth(1) {
            let digits = rest.split("\r\n").next().unwrap_or_default();
            let length: usize = digits.parse().expect("a length");
            while length < 1_000_000 && self.buffer.len() < length {
                self.read().await?;
            }
            if length < 1_000_000 {
                body = String::from_utf8_lossy(&self.buffer).into_owned();
                self.buffer.drain(..length);
            }
        } else if lower.contains("transfer-encoding: chunked") {
            body = self.until(b"0\r\n").await?;
            body.push_str(&self.until(b"\r\n\r\n").await?);
        }
        Ok(Answer { head: lower, body })
    }

    /// Reads the text up to and including `end`.
    pub(crate) async fn until(&mut self, end: &[u8]) -> io::Result<String> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(end.len())
                .position(|window| window == end)
            {
                let text: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            self.read().await?;
        }
    }

    /// Reads so many bytes; `None` if the connection ends before.
    pub(crate) async fn exactly(&mut self, length: usize) -> Option<String> {
        while self.buffer.len() < length {
            self.read().await.ok()?;
        }
        let bytes: Vec<u8> = self.buffer.drain(..length).collect();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn read(&mut self) -> io::Result<()> {
        let reading = self.tls.read_buf(&mut self.buffer);
        match tokio::time::timeout(Duration::from_secs(5), reading).await {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Whether the connection ends, within the time that a cut may take.
    pub(crate) async fn ends(&mut self) -> bool {
        let ending = async {
            loop {
                self.buffer.clear();
                match self.tls.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(1), ending)
            .await
            .is_ok()
    }
}

/// An answer, its head in lower case.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head[9..12].parse().expect("a status")
    }

    /// Status and code of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let problem: identity::Problem =
            serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"));
        assert_eq!(problem.status, self.status());
        assert!(self.head.contains(&format!("details=\"{}\"", problem.code)));
        (problem.status, problem.code)
    }
}

/// Believes every server.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A connection that speaks HTTP/2, and the task that drives it.
pub(crate) async fn http2(
    rig: &Rig,
    device: &Identity,
) -> (
    SendRequest<Full<Bytes>>,
    tokio::task::JoinHandle<hyper::Result<()>>,
) {
    http2_with(rig, Some(device)).await
}

/// The same, maybe without a certificate.
pub(crate) async fn http2_with(
    rig: &Rig,
    device: Option<&Identity>,
) -> (
    SendRequest<Full<Bytes>>,
    tokio::task::JoinHandle<hyper::Result<()>>,
) {
    let config = config(rig, device, "h2");
    let tls = handshake(rig, config, "api.test")
        .await
        .expect("a handshake");
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(tls))
        .await
        .expect("HTTP/2");
    (sender, tokio::spawn(connection))
}
