//! EST: `est::answer` before a real authority. Every answer is a certificate for the key that asked, or a refusal
//! that says why to the peer and to the log; and base64 is decoded as a second decoder does it.
//!
//! The input is an operation, credentials, a media type (a byte each) and the body; credentials that are not known
//! here stand before the body's first line feed.
#![no_main]

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca::est::{self, Answer};
use ca::{Actor, Authority, Options, VerifiedCsr, fuzzing};
use http::{HeaderValue, Request, header};
use identity::certificate::Parsed;
use identity::{DeviceId, Token};
use keybound_fuzz::{der, seeds};
use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use tokio::runtime::Runtime;
use x509_parser::prelude::{FromDer, X509Certificate};

fuzz_target!(init: {
    seeds::write_if_asked(first_inputs);
    fixture();
}, |bytes: &[u8]| {
    let [operation, credentials, media_type, body @ ..] = bytes else {
        return;
    };
    let (given, body) = match body.iter().position(|byte| *byte == b'\n') {
        Some(at) if credentials % 6 == 5 => (&body[..at], &body[at + 1..]),
        Some(_) | None => (&b"Basic YTpi"[..], body),
    };
    decoding(body);
    let fixture = fixture();
    let path = PATHS[usize::from(operation & 0x0f) % PATHS.len()];
    let method = if operation & 0x10 == 0 { "POST" } else { "GET" };
    let mut request = Request::builder().method(method).uri(path);
    if let Some(value) = MEDIA_TYPES[usize::from(*media_type) % MEDIA_TYPES.len()] {
        request = request.header(header::CONTENT_TYPE, value);
    }
    let (value, peer) = match credentials % 6 {
        0 => (None, None),
        1 => (Some(fixture.credentials.clone()), None),
        2 => (None, Some(&fixture.peer)),
        3 => (None, Some(&fixture.stranger)),
        4 => (Some(fixture.credentials.clone()), Some(&fixture.peer)),
        _ => (HeaderValue::from_bytes(given).ok(), None),
    };
    if let Some(value) = value {
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request.body(Bytes::copy_from_slice(body)).expect("a request");
    let answer = fixture.runtime.block_on(est::answer(&fixture.authority, request, peer));
    check(&answer, body);
});

fn check(answer: &Answer, body: &[u8]) {
    let status = answer.response.status().as_u16();
    let headers = answer.response.headers();
    let decision = &answer.decision;
    if status == 200 {
        assert!(["issued", "repeated", "sent"].contains(&decision.outcome.as_str()));
        if decision.outcome != "sent" {
            let csr = VerifiedCsr::from_der(&fuzzing::est_decode(body).expect("base64"))
                .expect("acceptable");
            let certificate = only_certificate(answer.response.body());
            let (_, x509) = X509Certificate::from_der(&certificate).expect("a certificate");
            assert_eq!(x509.public_key().raw, csr.key().spki());
            let leaf = Parsed::from_der(&certificate)
                .and_then(|parsed| parsed.leaf())
                .expect("a leaf");
            let device = decision.device.as_ref().expect("it is known").as_str();
            assert!(leaf.spiffe_id.identity.name() == device && ["a", "b"].contains(&device));
            assert!(csr.claims_at_most(&DeviceId::parse(device).expect("legal"), &leaf.spiffe_id));
            assert!(decision.index.is_some() && !csr.has_challenge_password());
        }
        return;
    }
    assert!(
        [400, 401, 403, 404, 405, 413, 415].contains(&status),
        "{status}"
    );
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_slice(answer.response.body()).expect("JSON");
    assert_eq!(problem["code"], decision.outcome.as_str());
    assert_eq!(problem["status"], status);
    assert_eq!(problem["detail"].as_str(), decision.detail.as_deref());
    assert!(
        decision
            .detail
            .as_ref()
            .is_some_and(|detail| detail.len() < 1000)
            && decision.index.is_none()
    );
    assert_eq!(
        headers.contains_key(header::WWW_AUTHENTICATE),
        status == 401
    );
    assert_eq!(headers.contains_key(header::ALLOW), status == 405);
    let secret = fixture().token.expose();
    assert!(!format!("{decision:?}").contains(&secret) && !problem.to_string().contains(&secret));
}

/// The one certificate in a certs-only CMS, read by hand (RFC 5652, sections 3 and 5.1).
fn only_certificate(body: &[u8]) -> Vec<u8> {
    assert!(!body.contains(&b'\n'));
    let bag = reference_base64(body).expect("base64");
    let content = der::children(&bag, der::SEQUENCE).expect("a ContentInfo");
    let [kind, content] = content[..] else {
        panic!("{content:?}");
    };
    assert_eq!(
        (kind.content, content.tag),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2][..], 0xa0)
    );
    let signed = der::children(content.content, der::SEQUENCE).expect("a SignedData");
    let [version, digests, data, certificates, signers] = signed[..] else {
        panic!("{signed:?}");
    };
    assert_eq!(
        (version.content, digests.raw, signers.raw),
        (&[1][..], &[der::SET, 0][..], &[der::SET, 0][..])
    );
    assert_eq!(
        data.content,
        [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1]
    );
    assert_eq!(certificates.tag, 0xa0);
    der::only(certificates.content)
        .expect("exactly one certificate")
        .raw
        .to_vec()
}

fn decoding(body: &[u8]) {
    let decoded = fuzzing::est_decode(body);
    assert_eq!(decoded, reference_base64(body));
    if let Some(decoded) = decoded {
        let printed: Vec<u8> = body
            .iter()
            .copied()
            .filter(|byte| !b" \t\r\n".contains(byte))
            .collect();
        assert_eq!(
            STANDARD.encode(decoded).into_bytes(),
            printed,
            "two texts for the same bytes"
        );
    }
}

/// Base64 (RFC 4648, section 4), bit by bit.
fn reference_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut text: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !b" \t\r\n".contains(byte))
        .collect();
    if text.len() % 4 != 0 {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    text.truncate(text.len() - padding);
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

const PATHS: [&str; 8] = [
    "/.well-known/est/simpleenroll",
    "/.well-known/est/simplereenroll",
    "/.well-known/est/cacerts",
    "/.well-known/est/csrattrs",
    "/.well-known/est/",
    "/.well-known/est/label/simpleenroll",
    "/.well-known/est/simpleenroll/",
    "/",
];

const MEDIA_TYPES: [Option<&str>; 5] = [
    Some("application/pkcs10"),
    Some("Application/PKCS10; charset=x"),
    None,
    Some("text/plain"),
    Some("application/pkcs10x"),
];

struct Fixture {
    runtime: Runtime,
    authority: Authority,
    token: Token,
    /// HTTP Basic for device `a`.
    credentials: HeaderValue,
    /// The certificate of device `b`.
    peer: CertificateDer<'static>,
    /// One that no registry knows.
    stranger: CertificateDer<'static>,
    _directory: tempfile::TempDir,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open(Options {
            directory: directory.path().join("data/ca"),
            trust_domain: None,
            passphrase: None,
            device_certificate_life: Duration::from_secs(24 * 60 * 60),
        })
        .expect("an authority");
        let actor = Actor::Operator("test".into());
        let device = |id| DeviceId::parse(id).expect("legal");
        let hour = Duration::from_secs(60 * 60);
        let (token, peer) = runtime.block_on(async {
            let tokens = authority
                .new_tokens(&actor, &[device("a")], 24 * hour)
                .await
                .expect("a registry");
            let token = tokens.into_iter().next().expect("one").expect("a token");
            let peer = authority
                .sign(&actor, &device("b"), &request("b"))
                .await
                .expect("a certificate");
            (token, peer.der)
        });
        let stranger = CertificateParams::default()
            .self_signed(&KeyPair::generate().expect("a key"))
            .expect("a certificate");
        let basic = format!("Basic {}", STANDARD.encode(format!("a:{}", token.expose())));
        Fixture {
            runtime,
            authority,
            token,
            credentials: HeaderValue::from_str(&basic).expect("a value"),
            peer: peer.into(),
            stranger: stranger.der().clone(),
            _directory: directory,
        }
    })
}

fn request(name: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    params
        .serialize_request(&key)
        .expect("a request")
        .der()
        .to_vec()
}

fn first_inputs() -> Vec<Vec<u8>> {
    let body = |name| STANDARD.encode(request(name)).into_bytes();
    let input = |head: [u8; 3], body: &[u8]| [&head[..], body].concat();
    let wrapped: Vec<u8> = body("a")
        .chunks(64)
        .flat_map(|line| [line, b"\r\n"].concat())
        .collect();
    vec![
        input([0, 1, 0], &body("a")),
        input([0, 1, 1], &wrapped),
        input([1, 2, 0], &body("b")),
        input([0, 4, 0], &body("b")),
        input([0, 2, 0], &body("b")),
        input([1, 0, 0], &body("b")),
        input([1, 3, 0], &body("b")),
        input([0x12, 0, 0], b""),
        input([0x13, 0, 0], b""),
        input(
            [0, 5, 0],
            &[
                &b"Basic YTphYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYg==\n"[..],
                &body("a"),
            ]
            .concat(),
        ),
        input([0, 5, 0], b"Bearer x\nAAAA"),
        input([0, 1, 2], b"AA=="),
        input([0, 1, 0], b"AAE=\n"),
    ]
}
