//! An authority, somebody who asks it, and requests built byte by byte.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca::{Actor, Authority, IssueError, Issued, Options, est};
use http::Request;
use identity::{DeviceId, Problem, Token};
use rustls_pki_types::CertificateDer;

pub const HOUR: Duration = Duration::from_secs(60 * 60);

/// An authority with an open token for the device `a`.
pub struct Fixture {
    pub authority: Arc<Authority>,
    pub token: Token,
    pub directory: tempfile::TempDir,
}

pub async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open(Options {
        directory: directory.path().join("ca"),
        trust_domain: None,
        passphrase: None,
        device_certificate_life: 24 * HOUR * 90,
    });
    let authority = Arc::new(authority.unwrap());
    let token = token(&authority, "a", HOUR).await;
    Fixture {
        authority,
        token,
        directory,
    }
}

impl Fixture {
    /// What is answered to `csr`, asked for with the token of `a`.
    pub async fn answer(&self, csr: &[u8]) -> est::Answer {
        self.answer_to(enroll_request("a", &self.token, csr), None)
            .await
    }

    pub async fn answer_to(
        &self,
        request: Request<Bytes>,
        peer: Option<&CertificateDer<'_>>,
    ) -> est::Answer {
        est::answer(&self.authority, request, peer).await
    }

    /// Refused with exactly this, in words that say something, and nothing was recorded.
    pub async fn refuses(&self, what: &str, csr: &[u8], expected: (u16, &str)) -> Problem {
        let request = enroll_request("a", &self.token, csr);
        self.refuses_request(what, request, None, expected).await
    }

    pub async fn refuses_request(
        &self,
        what: &str,
        request: Request<Bytes>,
        peer: Option<&CertificateDer<'_>>,
        expected: (u16, &str),
    ) -> Problem {
        let before = self.head().await;
        let est::Answer { response, decision } = self.answer_to(request, peer).await;
        let status = response.status().as_u16();
        assert_eq!(
            (status, decision.outcome.as_str()),
            expected,
            "{what}: {decision:?}"
        );
        assert_eq!(
            response.headers()["content-type"],
            Problem::MEDIA_TYPE,
            "{what}"
        );
        let problem: Problem = serde_json::from_slice(response.body()).unwrap();
        assert_eq!((problem.status, problem.code.as_str()), expected, "{what}");
        assert!(problem.detail.len() > 10, "{what}: {problem:?}");
        assert_eq!(decision.detail.as_ref(), Some(&problem.detail), "{what}");
        assert_eq!(decision.index, None, "{what}");
        assert_eq!(self.head().await, before, "{what}: something was recorded");
        problem
    }

    /// The positive twin: the token is still there, and good for an honest request.
    pub async fn still_enrolls(&self) {
        let answer = self.answer(&Csr::new(&Key::new()).der()).await;
        assert_eq!(answer.decision.outcome, "issued", "{:?}", answer.decision);
    }

    pub async fn sign(&self, id: &str, csr: &[u8]) -> Result<Issued, IssueError> {
        self.authority.sign(&operator(), &device(id), csr).await
    }

    pub async fn revoke(&self, id: &str) {
        let revoked = self.authority.revoke(&operator(), &device(id), None).await;
        revoked.unwrap();
    }

    pub async fn suspend(&self, id: &str) {
        let suspended = self.authority.suspend(&operator(), &device(id), None).await;
        suspended.unwrap();
    }

    pub async fn restore(&self, id: &str) {
        let restored = self.authority.restore(&operator(), &device(id), None).await;
        restored.unwrap();
    }

    pub async fn replace(&self, id: &str) {
        let replaced = self.authority.replace(&operator(), &device(id), None).await;
        replaced.unwrap();
    }

    pub async fn head(&self) -> u64 {
        self.authority.registry().head().await.unwrap()
    }

    pub fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }
}

pub fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

pub fn operator() -> Actor {
    Actor::Operator("test".into())
}

pub async fn token(authority: &Authority, id: &str, life: Duration) -> Token {
    let tokens = authority.new_tokens(&operator(), &[device(id)], life).await;
    tokens.unwrap().pop().unwrap().unwrap()
}

pub fn enroll_request(id: &str, token: &Token, csr: &[u8]) -> Request<Bytes> {
    let credentials = STANDARD.encode(format!("{id}:{}", token.expose()));
    Request::post("/.well-known/est/simpleenroll")
        .header("authorization", format!("Basic {credentials}"))
        .header("content-type", "application/pkcs10")
        .body(Bytes::from(STANDARD.encode(csr)))
        .unwrap()
}

pub fn renew_request(csr: &[u8]) -> Request<Bytes> {
    Request::post("/.well-known/est/simplereenroll")
        .header("content-type", "application/pkcs10")
        .body(Bytes::from(STANDARD.encode(csr)))
        .unwrap()
}

/// A P-256 key.
pub struct Key(pub EcdsaKeyPair);

impl Key {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    /// The uncompressed point.
    pub fn point(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// The same point in its short form (SEC 1, section 2.3.3).
    pub fn compressed_point(&self) -> Vec<u8> {
        let point = self.point();
        let sign = 2 + (point[64] & 1);
        [&[sign], &point[1..33]].concat()
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }
}

/// A request of which every part can be something else.
pub struct Csr<'a> {
    pub key: &'a Key,
    /// The content of the subject's SEQUENCE.
    pub subject: Vec<u8>,
    /// The whole SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The attributes, each a whole TLV.
    pub attributes: Vec<Vec<u8>>,
    /// Whether they are put in the order of DER (X.690, section 11.6).
    pub in_order: bool,
}

impl<'a> Csr<'a> {
    pub fn new(key: &'a Key) -> Self {
        Self {
            key,
            subject: Vec::new(),
            spki: ec_spki(P256, &key.point()),
            attributes: Vec::new(),
            in_order: true,
        }
    }

    pub fn common_name(mut self, name: &str) -> Self {
        let value = [oid(&[0x55, 0x04, 0x03]), tlv(0x0c, name.as_bytes())].concat();
        self.subject.extend(tlv(0x31, &tlv(0x30, &value)));
        self
    }

    pub fn spki(mut self, spki: Vec<u8>) -> Self {
        self.spki = spki;
        self
    }

    /// One more attribute with these values, each a whole TLV.
    pub fn attribute(mut self, kind: &[u8], values: &[Vec<u8>]) -> Self {
        let content = [oid(kind), tlv(0x31, &values.concat())].concat();
        self.attributes.push(tlv(0x30, &content));
        self
    }

    /// An extensionRequest with these extensions, each a whole TLV.
    pub fn extensions(self, extensions: &[Vec<u8>]) -> Self {
        self.attribute(EXTENSION_REQUEST, &[tlv(0x30, &extensions.concat())])
    }

    pub fn info(&self) -> Vec<u8> {
        let mut attributes = self.attributes.clone();
        if self.in_order {
            attributes.sort();
        } else {
            attributes.sort_by(|one, other| other.cmp(one));
        }
        let content = [
            tlv(0x02, &[0]),
            tlv(0x30, &self.subject),
            self.spki.clone(),
            tlv(0xa0, &attributes.concat()),
        ];
        tlv(0x30, &content.concat())
    }

    pub fn der(&self) -> Vec<u8> {
        signed(&self.info(), &self.key.sign(&self.info()))
    }

    /// Signed by another key than the one in it.
    pub fn der_signed_by(&self, other: &Key) -> Vec<u8> {
        signed(&self.info(), &other.sign(&self.info()))
    }
}

/// A request from its parts, signed with ecdsa-with-SHA256.
pub fn signed(info: &[u8], signature: &[u8]) -> Vec<u8> {
    request(info, &tlv(0x30, &oid(ECDSA_SHA256)), signature)
}

pub fn request(info: &[u8], algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    let signature = tlv(0x03, &[&[0], signature].concat());
    tlv(0x30, &[info, algorithm, &signature].concat())
}

/// An extension that is not critical.
pub fn extension(kind: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(0x30, &[oid(kind), tlv(0x04, value)].concat())
}

/// A subjectAltName extension with URIs.
pub fn names(uris: &[String]) -> Vec<u8> {
    let names: Vec<u8> = uris
        .iter()
        .flat_map(|uri| tlv(0x86, uri.as_bytes()))
        .collect();
    extension(&[0x55, 0x1d, 0x11], &tlv(0x30, &names))
}

pub fn ec_spki(curve: &[u8], point: &[u8]) -> Vec<u8> {
    let algorithm = [oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]), oid(curve)];
    spki(&algorithm.concat(), point)
}

/// A SubjectPublicKeyInfo from the content of its algorithm and the content of its key.
pub fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let key = tlv(0x03, &[&[0], key].concat());
    tlv(0x30, &[tlv(0x30, algorithm), key].concat())
}

pub fn oid(content: &[u8]) -> Vec<u8> {
    tlv(0x06, content)
}

/// Tag, length as DER has it, content.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag], length(content.len()).as_slice(), content].concat()
}

fn length(length: usize) -> Vec<u8> {
    let bytes = length.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    match length {
        0..0x80 => vec![length as u8],
        _ => [&[0x80 | (8 - first) as u8], &bytes[first..]].concat(),
    }
}

/// Runs OpenSSL, which must succeed; what it printed.
pub fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A request by OpenSSL, in DER, for the key in a file.
pub fn openssl_request(key: &Path, more: &[&str]) -> Vec<u8> {
    let key = key.to_str().unwrap();
    let arguments = [
        "req", "-new", "-outform", "DER", "-subj", "/CN=a", "-key", key,
    ];
    openssl(&[&arguments, more].concat(), b"")
}

pub const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
pub const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
