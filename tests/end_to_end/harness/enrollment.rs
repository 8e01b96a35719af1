//! Somebody who talks to the enrollment listener in bytes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::config_of;
use super::{Server, text};

/// A client without a certificate, at an address of the loopback.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    root: PathBuf,
    source: IpAddr,
}

impl Client {
    pub fn new(server: &Server) -> Self {
        Self {
            address: server.enrollment(),
            root: server.root_file(),
            source: "127.0.0.1".parse().unwrap(),
        }
    }

    /// The same at another address.
    pub fn from(&self, source: &str) -> Self {
        Self {
            source: source.parse().unwrap(),
            ..self.clone()
        }
    }

    pub async fn tcp(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.source, 0))?;
        socket.connect(self.address).await
    }

    pub async fn tls(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let config = config_of(&self.root, None, &["http/1.1"]);
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(std::sync::Arc::new(config))
            .connect(name, self.tcp().await?)
            .await
    }

    /// Sends bytes on a connection of their own, and reads all that comes, for a minute at most.
    pub async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.tls().await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let mut answer = Vec::new();
        let exchange = async {
            // A refusal may come before all is written.
            let _ = tokio::join!(writing.write_all(bytes), reading.read_to_end(&mut answer));
        };
        let _ = tokio::time::timeout(Duration::from_secs(60), exchange).await;
        text(&answer)
    }

    /// Enrolls with a request for a new key; the whole answer.
    pub async fn enroll(&self, device: &str, token: &str) -> String {
        let csr = STANDARD.encode(csr(&KeyPair::generate().unwrap()));
        self.send(&enroll_request(device, token, csr.as_bytes()))
            .await
    }
}

/// An HTTP request to simpleenroll, after which the connection ends.
pub fn enroll_request(device: &str, token: &str, body: &[u8]) -> Vec<u8> {
    let credentials = STANDARD.encode(format!("{device}:{token}"));
    let head = format!(
        "POST /.well-known/est/simpleenroll HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Basic {credentials}\r\ncontent-type: application/pkcs10\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A request that names nobody.
pub fn csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key).unwrap().der().to_vec()
}

/// The code in a refusal; empty if there is none.
pub fn code_of(answer: &str) -> String {
    let after = answer.split("\"code\":\"").nth(1).unwrap_or_default();
    after.split('"').next().unwrap_or_default().to_owned()
}

/// The sum of all metrics whose line contains `what`.
pub fn metric(server: &Server, what: &str) -> u64 {
    let url = format!("http://{}/metrics", server.health());
    let output = std::process::Command::new("curl")
        .args(["--silent", "--fail", &url])
        .output()
        .unwrap();
    text(&output.stdout)
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains(what))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}
