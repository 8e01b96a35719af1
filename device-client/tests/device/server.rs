//! A small EST server and gateway in one, which can be told to misbehave and remembers what it saw.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use device_client::{Credentials, Enrolled, Enrollment, Existing, KeyStoreUri, Retry, Trust};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use identity::{DeviceId, Fingerprint, ServerAddress, Token};
use rcgen::SanType;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use crate::answers::{as_gateway, pkcs7, problem};
use crate::test_authority::{TestAuthority, certs_only};

pub const TOKEN: [u8; 16] = [0xab; 16];

pub struct Server {
    pub port: u16,
    pub authority: Arc<TestAuthority>,
    state: Arc<Mutex<State>>,
    folder: TempDir,
}

#[derive(Default)]
pub struct State {
    /// What to do wrong.
    pub fault: Fault,
    /// How many enrollments to process without answering.
    pub lose_answers: usize,
    /// Certificates that the gateway calls retired.
    pub retired: Vec<CertificateDer<'static>>,
    /// Run once, when the gateway gets its next request.
    pub meanwhile: Option<Box<dyn FnOnce() + Send>>,
    pub seen: Vec<Seen>,
    issued: HashMap<Vec<u8>, CertificateDer<'static>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    OtherKey,
    OtherName,
    OtherAuthority,
    Expired,
    TwoCertificates,
    NotBase64,
    Html,
    Endless,
    Refuse(u16, &'static str),
    Later,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub authorization: Option<String>,
    pub presented: Option<CertificateDer<'static>>,
    pub chain_length: usize,
    pub csr: Option<SeenCsr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenCsr {
    pub public_key: Vec<u8>,
    pub subject: String,
    pub uri: Option<String>,
}

impl Server {
    pub async fn start() -> Self {
        let authority = Arc::new(TestAuthority::new());
        let clients = authority.device_ca.clone();
        Self::start_with(authority, clients).await
    }

    /// A server that takes client certificates of another CA than the one that it enrolls under.
    pub async fn start_for_strangers(authority: Arc<TestAuthority>) -> Self {
        let clients = TestAuthority::new().device_ca.clone();
        Self::start_with(authority, clients).await
    }

    async fn start_with(authority: Arc<TestAuthority>, clients: CertificateDer<'static>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let acceptor = TlsAcceptor::from(Arc::new(tls(&authority, clients)));
        let state = Arc::new(Mutex::new(State::default()));
        let shared = (Arc::clone(&authority), Arc::clone(&state));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let presented: Vec<_> = stream
                        .get_ref()
                        .1
                        .peer_certificates()
                        .map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect())
                        .unwrap_or_default();
                    let service = service_fn(move |request| {
                        let ((authority, state), presented) = (shared.clone(), presented.clone());
                        answer(authority, state, presented, request)
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            port,
            authority,
            state,
            folder: TempDir::new().expect("a folder"),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    pub fn address(&self) -> ServerAddress {
        format!("localhost:{}", self.port).parse().expect("legal")
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// A path in a folder that lives as long as the server.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn uri(&self, name: &str) -> KeyStoreUri {
        KeyStoreUri::File(self.path(name))
    }

    pub fn enrollment(&self) -> Enrollment {
        Enrollment {
            server: self.address(),
            device: DeviceId::parse("a").expect("legal"),
            token: Token::new(TOKEN),
            trust: Trust::Fingerprint(Fingerprint::of(&self.authority.root)),
            existing: Existing::Keep,
        }
    }

    pub async fn enrolled(&self, name: &str) -> Enrolled {
        device_client::enroll(&self.uri(name), &self.enrollment(), quickly())
            .await
            .expect("enrolled")
    }

    /// The requests for certificates, in order.
    pub fn csrs(&self) -> Vec<SeenCsr> {
        let state = self.state();
        state
            .seen
            .iter()
            .filter_map(|seen| seen.csr.clone())
            .collect()
    }

    pub fn authorizations(&self) -> Vec<String> {
        let state = self.state();
        let seen = state.seen.iter();
        seen.filter_map(|seen| seen.authorization.clone()).collect()
    }
}

pub fn quickly() -> Retry {
    Retry {
        attempts: 4,
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(10),
    }
}

pub fn public_key(credentials: &Credentials) -> Vec<u8> {
    credentials.key.subject_public_key_info()
}

fn tls(authority: &TestAuthority, clients: CertificateDer<'static>) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(clients).expect("a CA");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let (chain, key) = authority.server(&["localhost", "127.0.0.1"]);
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a certificate")
}

/// The answer was lost: hyper closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("lost")]
struct Lost;

async fn answer(
    authority: Arc<TestAuthority>,
    state: Arc<Mutex<State>>,
    presented: Vec<CertificateDer<'static>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Lost> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
    let path = head.uri.path().to_owned();
    let csr = path.contains("enroll").then(|| seen_csr(&body));
    let mut state = state.lock().expect("not poisoned");
    state.seen.push(Seen {
        path: path.clone(),
        authorization: head
            .headers
            .get("authorization")
            .map(|value| value.to_str().expect("ASCII").to_owned()),
        presented: presented.first().cloned(),
        chain_length: presented.len(),
        csr: csr.clone(),
    });
    match (path.as_str(), csr) {
        ("/.well-known/est/cacerts", _) => {
            let bag = certs_only(&[&authority.device_ca, &authority.root]);
            Ok(pkcs7(&bag))
        }
        ("/.well-known/est/simpleenroll" | "/.well-known/est/simplereenroll", Some(csr)) => enroll(
            &authority,
            &mut state,
            &path,
            &head.headers,
            presented.first(),
            &csr,
        ),
        _ => {
            if let Some(meanwhile) = state.meanwhile.take() {
                meanwhile();
            }
            Ok(as_gateway(
                &state.retired,
                &path,
                &head,
                presented.first(),
                &body,
            ))
        }
    }
}

fn enroll(
    authority: &TestAuthority,
    state: &mut State,
    path: &str,
    headers: &http::HeaderMap,
    presented: Option<&CertificateDer<'static>>,
    csr: &SeenCsr,
) -> Result<Response<Full<Bytes>>, Lost> {
    let token = Token::new(TOKEN).expose();
    let basic = format!("Basic {}", STANDARD.encode(format!("a:{token}")));
    let allowed = match path.ends_with("simpleenroll") {
        true => headers
            .get("authorization")
            .is_some_and(|value| *value == *basic),
        false => presented.is_some(),
    };
    if !allowed || headers["content-type"] != "application/pkcs10" {
        return Ok(problem(401, "credentials-required"));
    }
    match state.fault {
        Fault::Refuse(status, code) => return Ok(problem(status, code)),
        Fault::Later => {
            let mut later = Response::new(Full::default());
            *later.status_mut() = StatusCode::ACCEPTED;
            return Ok(later);
        }
        Fault::NotBase64 => {
            let mut answer = pkcs7(&[]);
            *answer.body_mut() = Full::from("-----BEGIN PKCS7-----");
            return Ok(answer);
        }
        Fault::Endless => {
            let mut answer = pkcs7(&[]);
            *answer.body_mut() = Full::from(vec![b'A'; 1024 * 1024]);
            return Ok(answer);
        }
        Fault::Html => return Ok(Response::new(Full::from("<html>"))),
        Fault::None
        | Fault::OtherKey
        | Fault::OtherName
        | Fault::OtherAuthority
        | Fault::Expired
        | Fault::TwoCertificates => {}
    }
    let fault = state.fault;
    let certificate = state
        .issued
        .entry(csr.public_key.clone())
        .or_insert_with(|| issue(authority, fault, csr))
        .clone();
    if state.lose_answers > 0 {
        state.lose_answers -= 1;
        return Err(Lost);
    }
    Ok(match state.fault {
        Fault::TwoCertificates => pkcs7(&certs_only(&[&certificate, &authority.device_ca])),
        _ => pkcs7(&certs_only(&[&certificate])),
    })
}

fn issue(authority: &TestAuthority, fault: Fault, csr: &SeenCsr) -> CertificateDer<'static> {
    let key = rcgen::SubjectPublicKeyInfo::from_der(&csr.public_key).expect("a key");
    let other = rcgen::KeyPair::generate().expect("a key");
    match fault {
        Fault::OtherKey => authority.issue(&other, "a", |_| {}),
        Fault::OtherName => authority.issue(&key, "a", |params| {
            let uri = "spiffe://keybound.local/device/b".try_into();
            params.subject_alt_names = vec![SanType::URI(uri.expect("ASCII"))];
        }),
        Fault::OtherAuthority => TestAuthority::new().issue(&key, "a", |_| {}),
        Fault::Expired => authority.issue(&key, "a", |params| {
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }),
        _ => authority.issue(&key, "a", |_| {}),
    }
}

fn seen_csr(body: &[u8]) -> SeenCsr {
    let der = STANDARD.decode(body).expect("base64 in one line");
    // rcgen checks the signature, which proves possession.
    rcgen::CertificateSigningRequestParams::from_der(&der.as_slice().into()).expect("signed");
    let (rest, csr) = X509CertificationRequest::from_der(&der).expect("PKCS #10");
    assert!(rest.is_empty());
    let info = &csr.certification_request_info;
    let uri = csr.requested_extensions().and_then(|mut extensions| {
        extensions.find_map(|extension| match extension {
            x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => {
                Some(names.general_names[0].to_string())
            }
            _ => None,
        })
    });
    SeenCsr {
        public_key: info.subject_pki.raw.to_vec(),
        subject: info.subject.to_string(),
        uri,
    }
}
