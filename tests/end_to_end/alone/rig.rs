//! Raw, blocking clients of the admin socket, of EST and of the gateway, and a seeded source of numbers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::Fingerprint;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::harness::{Server, Setup, eventually};

/// SplitMix64: the same numbers for the same seed, on every machine.
pub struct Random(u64);

impl Random {
    /// Prints the seed, so that a failure can be repeated. `KEYBOUND_SEED` sets another one.
    pub fn new(what: &str) -> Self {
        let seed = std::env::var("KEYBOUND_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(20_261_124);
        println!("{what}: KEYBOUND_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn duration(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_micros()).unwrap();
        from + Duration::from_micros(self.below(span.max(1)))
    }
}

/// Three ports that stay the same when a server is started again, so that its devices find it. They lie below
/// the ports that the kernel gives out by itself.
pub fn on_fixed_ports(setup: Setup) -> Setup {
    let mut port = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    ["--gateway-listen", "--enrollment-listen", "--health-listen"]
        .iter()
        .fold(setup, |setup, flag| {
            while TcpListener::bind(("127.0.0.1", port)).is_err() {
                port += 1;
            }
            port += 1;
            setup
                .argument(*flag)
                .argument(format!("127.0.0.1:{}", port - 1))
        })
}

/// An answer that arrived completely, as its Content-Length says.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// The code in a problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends a request and reads its answer. No answer is an error, and so is one that [`is_cut_short`].
pub fn exchange(stream: &mut (impl Read + Write), head: &str, body: &[u8]) -> io::Result<Reply> {
    let head = format!("{head}content-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())?;
    stream.flush()?;
    read_reply(stream)
}

pub fn read_reply(stream: &mut impl Read) -> io::Result<Reply> {
    let mut received = Vec::new();
    let mut space = [0; 16 * 1024];
    loop {
        if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).into_owned();
            let length: usize = head
                .lines()
                .find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse().ok())?
                })
                .ok_or(io::ErrorKind::InvalidData)?;
            if received.len() >= end + 4 + length {
                return Ok(Reply {
                    status: head[9..12]
                        .parse()
                        .map_err(|_| io::ErrorKind::InvalidData)?,
                    body: received[end + 4..end + 4 + length].to_vec(),
                    head,
                });
            }
        }
        let read = stream.read(&mut space);
        match read.or_else(|error| {
            if received.is_empty() {
                Err(error)
            } else {
                Ok(0)
            }
        })? {
            0 if received.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Err(io::Error::new(io::ErrorKind::InvalidData, CUT_SHORT)),
            read => received.extend_from_slice(&space[..read]),
        }
    }
}

/// Whether an answer had begun, and did not come to its end.
pub fn is_cut_short(error: &io::Error) -> bool {
    error.to_string() == CUT_SHORT
}

const CUT_SHORT: &str = "the answer was cut short";

/// A key, and a request for a certificate that names nobody but `id`.
pub struct Key {
    pub id: String,
    pub key: KeyPair,
    pub csr: Vec<u8>,
}

impl Key {
    pub fn new(id: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, id);
        let csr = params.serialize_request(&key).unwrap().der().to_vec();
        Self {
            id: id.to_owned(),
            key,
            csr,
        }
    }

    /// As the registry keeps it.
    pub fn fingerprint(&self) -> Fingerprint {
        let spki = rcgen::PublicKeyData::subject_public_key_info(&self.key);
        Fingerprint::of(&spki)
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// Where a server is, for clients that outlive it.
#[derive(Clone)]
pub struct Target {
    pub admin: PathBuf,
    pub enrollment: SocketAddr,
    pub gateway: SocketAddr,
    pub roots: PathBuf,
    /// How far the clients' clocks are off, in seconds.
    pub offset: Arc<AtomicI64>,
}

/// The clock of a client.
#[derive(Debug)]
struct Offset(Arc<AtomicI64>);

impl TimeProvider for Offset {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs();
        let now = now.saturating_add_signed(self.0.load(Ordering::Relaxed));
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

impl Target {
    pub fn of(server: &Server) -> Self {
        Self {
            admin: server.path("data/admin.sock"),
            enrollment: server.enrollment(),
            gateway: server.gateway(),
            roots: server.root_file(),
            offset: Arc::default(),
        }
    }

    pub fn admin(&self, method: &str, path: &str, body: &Value) -> io::Result<Reply> {
        let mut stream = UnixStream::connect(&self.admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: keybound\r\n");
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        exchange(&mut stream, &head, &body)
    }

    /// A one-time token for a device.
    pub fn token(&self, id: &str) -> io::Result<String> {
        self.made(id, "token")
    }

    /// The same as a code for `keybound-device`.
    pub fn code(&self, id: &str) -> io::Result<String> {
        self.made(id, "code")
    }

    fn made(&self, id: &str, what: &str) -> io::Result<String> {
        let asked = serde_json::json!({ "devices": [id], "life_seconds": 3600 });
        let reply = self.admin("POST", "/v1/tokens", &asked)?;
        if reply.status == 503 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        assert_eq!(reply.status, 200, "{reply:?}");
        let made = &reply.json()["results"][0]["made"][what];
        Ok(made
            .as_str()
            .unwrap_or_else(|| panic!("{reply:?}"))
            .to_owned())
    }

    pub fn tls(
        &self,
        address: SocketAddr,
        identity: Option<(&Key, &[u8])>,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&self.roots).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clock = Arc::new(Offset(Arc::clone(&self.offset)));
        let builder = ClientConfig::builder_with_details(provider, clock)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = Arc::new(match identity {
            Some((key, certificate)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from(certificate.to_vec())],
                    key.private(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        });
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, tcp))
    }

    /// Asks for a certificate by token, or by the certificate of `current`. The answer as it came.
    pub fn est(&self, key: &Key, right: Right<'_>) -> io::Result<Reply> {
        let identity = match right {
            Right::Token(_) => None,
            Right::Certificate(current, certificate) => Some((current, certificate)),
        };
        self.est_over(&mut self.tls(self.enrollment, identity)?, key, right)
    }

    /// The same over a connection that is open.
    pub fn est_over(
        &self,
        stream: &mut (impl Read + Write),
        key: &Key,
        right: Right<'_>,
    ) -> io::Result<Reply> {
        stream.write_all(&est_request(key, right))?;
        stream.flush()?;
        read_reply(stream)
    }

    /// What the gateway answers this device on `GET /`.
    pub fn get(&self, key: &Key, certificate: &[u8]) -> io::Result<Reply> {
        let mut stream = self.tls(self.gateway, Some((key, certificate)))?;
        exchange(&mut stream, "GET / HTTP/1.1\r\nhost: localhost\r\n", &[])
    }
}

/// The bytes of the request.
pub fn est_request(key: &Key, right: Right<'_>) -> Vec<u8> {
    let (path, credentials) = match right {
        Right::Token(token) => {
            let basic = STANDARD.encode(format!("{}:{token}", key.id));
            ("simpleenroll", format!("authorization: Basic {basic}\r\n"))
        }
        Right::Certificate(..) => ("simplereenroll", String::new()),
    };
    let body = STANDARD.encode(&key.csr);
    format!(
        "POST /.well-known/est/{path} HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/pkcs10\r\n{credentials}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// By what right a certificate is asked for.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    Token(&'a str),
    Certificate(&'a Key, &'a [u8]),
}

/// The certificate in a certs-only answer (RFC 7030, section 4.1.3).
pub fn certificate_in(reply: &Reply) -> Vec<u8> {
    let text: String = String::from_utf8_lossy(&reply.body)
        .split_whitespace()
        .collect();
    let cms = STANDARD.decode(text).unwrap();
    // ContentInfo, [0], SignedData; then version, digests, content, and [0] with the certificates.
    let signed_data = inside(inside(after(inside(&cms))));
    let certificates = inside(after(after(after(signed_data))));
    certificates[..length(certificates)].to_vec()
}

/// The length of the first element, header included.
fn length(der: &[u8]) -> usize {
    header(der) + content_length(der)
}

fn header(der: &[u8]) -> usize {
    match der[1] {
        0..=0x7f => 2,
        long => 2 + usize::from(long & 0x7f),
    }
}

fn content_length(der: &[u8]) -> usize {
    match der[1] {
        short @ 0..=0x7f => short.into(),
        long => der[2..2 + usize::from(long & 0x7f)]
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte)),
    }
}

/// What is in the first element.
fn inside(der: &[u8]) -> &[u8] {
    &der[header(der)..length(der)]
}

/// What follows the first element.
fn after(der: &[u8]) -> &[u8] {
    &der[length(der)..]
}

/// strace on a running server: what it sees, and what it makes fail.
pub struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// Returns once every thread is followed. Each expression goes to an `-e` of its own.
    pub fn attach(server: &Server, expressions: &[&str]) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (log, said) = (
            server.path(&format!("strace-{number}")),
            server.path(&format!("strace-{number}.said")),
        );
        let mut command = Command::new("strace");
        command.args(["-f", "-yy", "-s", "64", "-o"]).arg(&log);
        for expression in expressions {
            command.args(["-e", expression]);
        }
        let child = command
            .args(["-p", &server.process().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&said).unwrap())
            .spawn()
            .expect("tests/run installs strace");
        let threads = std::fs::read_dir(format!("/proc/{}/task", server.process()))
            .unwrap()
            .count();
        eventually(
            Duration::from_secs(10),
            "strace follows every thread",
            || {
                let said = std::fs::read_to_string(&said).unwrap();
                assert!(
                    !said.contains("Operation not permitted"),
                    "these tests need ptrace: {said}"
                );
                said.contains(&format!("attached with {threads} threads"))
                    || said.matches("attached").count() >= threads
            },
        );
        Self { child, log }
    }

    /// Lets the server go, and returns the lines.
    pub fn end(mut self) -> Vec<String> {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap();
        let lines = std::fs::read_to_string(&self.log).unwrap();
        lines.lines().map(str::to_owned).collect()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server's registry, read as a file.
pub fn registry(data: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(data.join("ca/registry.sqlite")).unwrap()
}

const PATIENCE: Duration = Duration::from_secs(20);
