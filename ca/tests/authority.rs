//! The authority as its callers see it; what it mints is judged by OpenSSL.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca::{Actor, Authority, IssueError, OpenError, Options, Refusal, RegistryFault};
use http::Request;
use identity::certificate::Parsed;
use identity::feed::Sighting;
use identity::{DeviceId, Status, Timestamp, Token};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

const HOUR: Duration = Duration::from_secs(60 * 60);

struct Fixture {
    directory: tempfile::TempDir,
    authority: Arc<Authority>,
}

fn open(directory: &Path) -> Result<Authority, OpenError> {
    Authority::open(Options {
        directory: directory.join("ca"),
        trust_domain: None,
        passphrase: None,
        device_certificate_life: 24 * HOUR * 90,
    })
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let authority = Arc::new(open(directory.path()).unwrap());
    Fixture {
        directory,
        authority,
    }
}

fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

fn operator() -> Actor {
    Actor::Operator("test".into())
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn csr(key: &KeyPair, name: Option<&str>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.serialize_request(key).unwrap().der().to_vec()
}

/// A certificate for a new key.
async fn sign_new(authority: &Authority, id: &str) -> ca::Issued {
    authority
        .sign(&operator(), &device(id), &csr(&key(), None))
        .await
        .unwrap()
}

async fn token(authority: &Authority, id: &str) -> Token {
    let mut tokens = authority
        .new_tokens(&operator(), &[device(id)], HOUR)
        .await
        .unwrap();
    tokens.pop().unwrap().unwrap()
}

fn enroll_request(id: &str, token: &Token, csr: &[u8]) -> Request<Bytes> {
    let credentials = STANDARD.encode(format!("{id}:{}", token.expose()));
    Request::post("/.well-known/est/simpleenroll")
        .header("authorization", format!("Basic {credentials}"))
        .header("content-type", "application/pkcs10")
        .body(Bytes::from(STANDARD.encode(csr)))
        .unwrap()
}

fn renew_request(csr: &[u8]) -> Request<Bytes> {
    Request::post("/.well-known/est/simplereenroll")
        .header("content-type", "application/pkcs10")
        .body(Bytes::from(STANDARD.encode(csr)))
        .unwrap()
}

/// The one certificate in an EST answer.
fn certificate_in(answer: &ca::est::Answer) -> Vec<u8> {
    assert_eq!(answer.response.status(), 200, "{:?}", answer.decision);
    let cms = STANDARD.decode(answer.response.body()).unwrap();
    let text = openssl(&["pkcs7", "-inform", "DER", "-print_certs"], &cms);
    let certificates = pem::parse_many(&text).unwrap();
    assert_eq!(certificates.len(), 1);
    certificates[0].contents().to_vec()
}

fn openssl(arguments: &[&str], input: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn code(answer: &ca::est::Answer) -> (u16, &str) {
    (answer.response.status().as_u16(), &answer.decision.outcome)
}

async fn first_use(authority: &Authority, id: &str, certificate: &[u8]) {
    let leaf = Parsed::from_der(certificate).unwrap().leaf().unwrap();
    let sighting = Sighting {
        index: authority.serial_key().open(&leaf.serial),
        device: device(id),
        at: Timestamp(1),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    authority.sighted(vec![sighting]).await.unwrap();
}

async fn statuses(authority: &Authority, id: &str) -> Vec<Status> {
    let record = authority.registry().device(&device(id)).await.unwrap();
    let certificates = record.unwrap().certificates;
    certificates.iter().map(|c| c.status).collect()
}

#[tokio::test]
async fn a_certificate_is_the_profiles_whatever_the_request_asked_for() {
    let Fixture {
        authority,
        directory: _kept,
    } = fixture();
    let key = key();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "a");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
        .custom_extensions
        .push(rcgen::CustomExtension::from_oid_content(
            &[1, 2, 3, 4],
            vec![5, 0],
        ));
    let greedy = params.serialize_request(&key).unwrap();
    let issued = authority
        .sign(&operator(), &device("a"), greedy.der())
        .await
        .unwrap();
    let text = openssl(&["x509", "-noout", "-text"], issued.pem().as_bytes());
    for expected in [
        "Subject: CN = a\n",
        "Issuer: CN = keybound.local device CA\n",
        "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "X509v3 Extended Key Usage: \n                TLS Web Client Authentication\n",
        "X509v3 Subject Alternative Name: \n                URI:spiffe://keybound.local/device/a\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    assert!(!text.contains("1.2.3.4"), "{text}");
    assert_eq!(text.matches("X509v3 ").count(), 6 + 1, "{text}");

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(
        "spiffe://keybound.local/device/b".try_into().unwrap(),
    )];
    let foreign = params.serialize_request(&key).unwrap();
    let refused = authority
        .sign(&operator(), &device("a"), foreign.der())
        .await;
    assert_eq!(
        refused.unwrap_err(),
        IssueError::Refused(Refusal::NameMismatch)
    );
}

#[tokio::test]
async fn openssl_accepts_the_chain_and_reads_the_crl() {
    let Fixture {
        authority,
        directory,
    } = fixture();
    let good = sign_new(&authority, "good").await;
    let bad = sign_new(&authority, "bad").await;
    authority
        .revoke(&operator(), &device("bad"), None)
        .await
        .unwrap();
    authority.publish(async {}).await;
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let root = file("root.pem", &authority.root().pem());
    let issuing = file("issuing.pem", &authority.device_ca().pem());
    let leaf = file("good.pem", &good.pem());
    openssl(
        &[
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-CAfile",
            &root,
            "-untrusted",
            &issuing,
            &leaf,
        ],
        b"",
    );
    let crl = file("crl.pem", &authority.crl().pem());
    let text = openssl(
        &["crl", "-in", &crl, "-noout", "-text", "-CAfile", &issuing],
        b"",
    );
    // OpenSSL leaves out leading zeros, two at a time.
    let serial = |issued: &ca::Issued| {
        let digits = issued.serial.to_string().to_uppercase();
        digits.trim_start_matches("00").to_owned()
    };
    assert!(text.contains(&serial(&bad)), "{text}");
    assert!(!text.contains(&serial(&good)), "{text}");
    let both = file(
        "both.pem",
        &format!("{}{}", authority.root().pem(), authority.device_ca().pem()),
    );
    let verdict = Command::new("openssl")
        .args(["verify", "-crl_check", "-CRLfile", &crl, "-CAfile", &both])
        .arg(file("bad.pem", &bad.pem()))
        .output()
        .unwrap();
    let verdict = String::from_utf8_lossy(&verdict.stderr).into_owned();
    assert!(verdict.contains("certificate revoked"), "{verdict}");
}

#[tokio::test]
async fn a_token_brings_one_certificate_for_one_key_however_often_it_is_asked() {
    let Fixture {
        authority,
        directory: _kept,
    } = fixture();
    let spent = token(&authority, "a").await;
    let request = csr(&key(), None);
    let first = ca::est::answer(&authority, enroll_request("a", &spent, &request), None).await;
    let second = ca::est::answer(&authority, enroll_request("a", &spent, &request), None).await;
    assert_eq!(certificate_in(&first), certificate_in(&second));
    assert_eq!(code(&first), (200, "issued"));
    assert_eq!(code(&second), (200, "repeated"));
    let other_key = csr(&key(), None);
    let third = ca::est::answer(&authority, enroll_request("a", &spent, &other_key), None).await;
    assert_eq!(code(&third), (401, "token-spent"));
    assert!(third.response.headers().contains_key("www-authenticate"));
    let other_device =
        ca::est::answer(&authority, enroll_request("b", &spent, &other_key), None).await;
    assert_eq!(code(&other_device), (401, "token-invalid"));
    assert_eq!(statuses(&authority, "a").await, [Status::Pending]);
}

#[tokio::test]
async fn est_refuses_what_is_no_request_and_spends_nothing_on_it() {
    let Fixture {
        authority,
        directory: _kept,
    } = fixture();
    let open_token = token(&authority, "a").await;
    let good = csr(&key(), None);
    let base = || enroll_request("a", &open_token, &good);
    let with_body = |body: &[u8]| base().map(|_| Bytes::copy_from_slice(body));
    let with_header = |name: &'static str, value: &str| {
        let mut request = base();
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let with_path = |path: &str| {
        let mut request = base();
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    let mut get = base();
    *get.method_mut() = http::Method::GET;
    let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", good.clone()));
    let wrong_user = STANDARD.encode(format!("../a:{}", open_token.expose()));
    let unknown = STANDARD.encode(format!("a:{}", Token::new([0; 16]).expose()));
    let truncated = STANDARD.encode(&good[..good.len() - 1]);
    let trailing = STANDARD.encode([good.as_slice(), &[0]].concat());
    let huge = STANDARD.encode(vec![0x30; 20_000]);
    for (request, expected) in [
        (get, (405, "method-not-allowed")),
        (
            with_path("/.well-known/est/fullcmc"),
            (404, "unknown-operation"),
        ),
        (
            with_path("/.well-known/est/simpleenroll/"),
            (404, "unknown-operation"),
        ),
        (with_path("/"), (404, "unknown-operation")),
        (
            with_header("content-type", "application/x-pem-file"),
            (415, "media-type"),
        ),
        (
            with_header("authorization", "Bearer x"),
            (401, "credentials-required"),
        ),
        (
            with_header("authorization", "Basic !"),
            (401, "credentials-required"),
        ),
        (
            with_header("authorization", &format!("Basic {wrong_user}")),
            (401, "credentials-required"),
        ),
        (
            with_header("authorization", &format!("Basic {unknown}")),
            (401, "token-invalid"),
        ),
        (with_body(b""), (400, "csr-malformed")),
        (with_body(text.as_bytes()), (400, "csr-malformed")),
        (with_body(&good), (400, "csr-malformed")),
        (with_body(truncated.as_bytes()), (400, "csr-malformed")),
        (with_body(trailing.as_bytes()), (400, "csr-malformed")),
        (with_body(huge.as_bytes()), (413, "csr-too-large")),
    ] {
        let shown = format!("{request:?}");
        let answer = ca::est::answer(&authority, request, None).await;
        assert_eq!(code(&answer), expected, "{shown}");
        let problem: identity::Problem = serde_json::from_slice(answer.response.body()).unwrap();
        assert_eq!(problem.code, expected.1);
    }
    assert!(statuses(&authority, "a").await.is_empty());
    let answer = ca::est::answer(&authority, base(), None).await;
    assert_eq!(code(&answer), (200, "issued"));
}

#[tokio::test]
async fn keys_that_are_not_certified() {
    let Fixture {
        authority,
        directory,
    } = fixture();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for (algorithm, option, expected) in [
        ("RSA", "rsa_keygen_bits:1024", "key-not-accepted"),
        ("EC", "ec_paramgen_curve:secp256k1", "key-not-accepted"),
        ("EC", "ec_paramgen_curve:P-521", "key-not-accepted"),
        ("ED448", "", "key-not-accepted"),
        ("RSA", "rsa_keygen_pubexp:3", "key-not-accepted"),
        ("RSA", "rsa_keygen_bits:2048", ""),
        ("EC", "ec_paramgen_curve:P-384", ""),
        ("ED25519", "", ""),
    ] {
        let (key, id) = (file("key"), DeviceId::parse("k").unwrap());
        let mut arguments = vec!["genpkey", "-algorithm", algorithm, "-out", &key];
        if !option.is_empty() {
            arguments.extend(["-pkeyopt", option]);
        }
        openssl(&arguments, b"");
        let request = openssl(&["req", "-new", "-key", &key, "-subj", "/CN=k"], b"");
        let signed = authority.sign(&operator(), &id, request.as_bytes()).await;
        let code = signed.as_ref().map_or_else(|error| error.code(), |_| "");
        assert_eq!(code, expected, "{algorithm} {option}: {signed:?}");
    }
    let key = file("sha1");
    openssl(&["genpkey", "-algorithm", "RSA", "-out", &key], b"");
    let sha1 = openssl(
        &["req", "-new", "-sha1", "-key", &key, "-subj", "/CN=k"],
        b"",
    );
    let refused = authority
        .sign(&operator(), &device("k"), sha1.as_bytes())
        .await;
    assert_eq!(refused.unwrap_err().code(), "key-not-accepted");
    let own = directory.path().join("ca/device-ca.key");
    let own = openssl(
        &[
            "req",
            "-new",
            "-key",
            own.to_str().unwrap(),
            "-subj",
            "/CN=k",
        ],
        b"",
    );
    let refused = authority
        .sign(&operator(), &device("k"), own.as_bytes())
        .await;
    assert_eq!(refused.unwrap_err().code(), "key-reserved");
}

#[tokio::test]
async fn fifty_requests_at_once_with_one_token() {
    let Fixture {
        authority,
        directory: _kept,
    } = fixture();
    for keys in [50, 1] {
        let id = format!("device-{keys}");
        let spent = token(&authority, &id).await;
        let requests: Vec<_> = (0..keys).map(|_| csr(&key(), None)).collect();
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let authority = Arc::clone(&authority);
                let request = enroll_request(&id, &spent, &requests[n % keys]);
                tokio::spawn(async move { ca::est::answer(&authority, request, None).await })
            })
            .collect();
        let mut certificates = Vec::new();
        for task in tasks {
            let answer = task.await.unwrap();
            if answer.response.status() == 200 {
                certificates.push(certificate_in(&answer));
            } else {
                assert_eq!(code(&answer), (401, "token-spent"));
            }
        }
        assert_eq!(certificates.len(), 50 / keys);
        certificates.dedup();
        assert_eq!(certificates.len(), 1);
        assert_eq!(statuses(&authority, &id).await.len(), 1);
    }
}

#[tokio::test]
async fn renewal_retires_the_old_certificate_at_the_first_use_of_the_new_one() {
    let Fixture {
        authority,
        directory: _kept,
    } = fixture();
    let first_token = token(&authority, "a").await;
    let answer = ca::est::answer(
        &authority,
        enroll_request("a", &first_token, &csr(&key(), None)),
        None,
    )
    .await;
    let old = certificate_in(&answer);
    first_use(&authority, "a", &old).await;
    let peer = CertificateDer::from(old.clone());
    let new_key = key();
    let nameless = renew_request(&csr(&new_key, None));
    let refused = ca::est::answer(&authority, nameless, Some(&peer)).await;
    assert_eq!(code(&refused), (403, "name-mismatch"));
    let renewal = csr(&new_key, Some("a"));
    let answer = ca::est::answer(&authority, renew_request(&renewal), Some(&peer)).await;
    let new = certificate_in(&answer);
    let again = ca::est::answer(&authority, renew_request(&renewal), Some(&peer)).await;
    assert_eq!(certificate_in(&again), new);
    assert_eq!(
        statuses(&authority, "a").await,
        [Status::Pending, Status::Active]
    );
    first_use(&authority, "a", &new).await;
    assert_eq!(
        statuses(&authority, "a").await,
        [Status::Active, Status::Retired]
    );
    let late = ca::est::answer(
        &authority,
        renew_request(&csr(&key(), Some("a"))),
        Some(&peer),
    )
    .await;
    assert_eq!(code(&late), (403, "retired"));
    let anonymous = ca::est::answer(&authority, renew_request(&renewal), None).await;
    assert_eq!(code(&anonymous), (403, "certificate-required"));
}

#[tokio::test]
async fn revoking_voids_tokens_blocks_keys_and_id_until_the_device_is_replaced() {
    let Fixture {
        authority,
        directory: _kept,
    } = fixture();
    let stolen = key();
    let request = csr(&stolen, None);
    authority
        .sign(&operator(), &device("a"), &request)
        .await
        .unwrap();
    let open = token(&authority, "a").await;
    let change = authority
        .revoke(&operator(), &device("A"), Some("lost"))
        .await
        .unwrap();
    assert_eq!(change.certificates, 1);
    let again = authority
        .revoke(&operator(), &device("a"), None)
        .await
        .unwrap();
    assert_eq!((again.entries, again.certificates), (None, 0));
    assert_eq!(statuses(&authority, "a").await, [Status::Revoked]);
    let refused = authority
        .sign(&operator(), &device("a"), &csr(&key(), None))
        .await;
    assert_eq!(refused.unwrap_err(), IssueError::Refused(Refusal::Revoked));
    let tokens = authority
        .new_tokens(&operator(), &[device("a")], HOUR)
        .await;
    assert!(tokens.unwrap()[0].is_err());

    authority
        .replace(&operator(), &device("a"), None)
        .await
        .unwrap();
    let void = ca::est::answer(&authority, enroll_request("a", &open, &request), None).await;
    assert_eq!(code(&void), (401, "token-invalid"));
    let same_key = authority.sign(&operator(), &device("a"), &request).await;
    assert_eq!(
        same_key.unwrap_err(),
        IssueError::Refused(Refusal::KeyBlocked)
    );
    let elsewhere = authority.sign(&operator(), &device("b"), &request).await;
    assert_eq!(
        elsewhere.unwrap_err(),
        IssueError::Refused(Refusal::KeyBlocked)
    );
    sign_new(&authority, "a").await;
    let history = authority
        .registry()
        .history(&device("a"), 100)
        .await
        .unwrap();
    assert!(
        history
            .iter()
            .any(|entry| entry.reason.as_deref() == Some("lost"))
    );
}

#[tokio::test]
async fn suspension_is_undone_by_restoring() {
    let Fixture {
        authority,
        directory: _kept,
    } = fixture();
    sign_new(&authority, "a").await;
    authority
        .suspend(&operator(), &device("a"), None)
        .await
        .unwrap();
    assert_eq!(statuses(&authority, "a").await, [Status::Suspended]);
    let refused = authority
        .sign(&operator(), &device("a"), &csr(&key(), None))
        .await;
    assert_eq!(
        refused.unwrap_err(),
        IssueError::Refused(Refusal::Suspended)
    );
    authority
        .restore(&operator(), &device("a"), None)
        .await
        .unwrap();
    assert_eq!(statuses(&authority, "a").await, [Status::Pending]);
}

#[tokio::test]
async fn the_feed_is_a_snapshot_and_what_changed_after_it() {
    let Fixture {
        authority,
        directory: _kept,
    } = fixture();
    let issued = sign_new(&authority, "a").await;
    let registry = authority.registry();
    let (sender, mut batches) = tokio::sync::mpsc::channel(4);
    let head = registry.snapshot(Timestamp(0), sender).await.unwrap();
    let batch = batches.recv().await.unwrap();
    assert_eq!(batch.upto, head);
    assert_eq!(batch.changes.len(), 1);
    assert_eq!(batch.changes[0].index, issued.index);
    assert_eq!(batch.changes[0].status, Status::Pending);
    let change = authority
        .revoke(&operator(), &device("a"), None)
        .await
        .unwrap();
    let batch = registry.changes_after(head, 100).await.unwrap();
    assert_eq!((batch.after, batch.upto), (head, change.entries.unwrap().1));
    assert_eq!(batch.changes.len(), 1);
    assert_eq!(batch.changes[0].status, Status::Revoked);
    assert_eq!(registry.head().await.unwrap(), batch.upto);
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let Fixture {
        authority,
        directory,
    } = fixture();
    let request = csr(&key(), None);
    let issued = authority
        .sign(&operator(), &device("a"), &request)
        .await
        .unwrap();
    authority
        .revoke(&operator(), &device("a"), None)
        .await
        .unwrap();
    authority.publish(async {}).await;
    let number = authority.crl().number;
    let root = authority.root().fingerprint();
    assert!(matches!(
        open(directory.path()).map(|_| ()),
        Err(OpenError::InUse { .. })
    ));
    drop(authority);
    let authority = open(directory.path()).unwrap();
    assert_eq!(authority.root().fingerprint(), root);
    assert_eq!(statuses(&authority, "a").await, [Status::Revoked]);
    assert!(
        authority
            .certificate(&issued.serial)
            .await
            .unwrap()
            .is_some()
    );
    let next = sign_new(&authority, "b").await;
    assert!(next.index > issued.index);
    authority.publish(async {}).await;
    assert!(authority.crl().number > number);
}

#[tokio::test]
async fn a_journal_that_was_touched_is_not_opened() {
    for sql in [
        "UPDATE journal SET actor = 'operator nobody' WHERE seq = 2",
        "DELETE FROM journal WHERE seq = 2",
        "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)",
        "UPDATE journal SET seq = -1 WHERE seq = 1; UPDATE journal SET seq = 1 WHERE seq = 2;
         UPDATE journal SET seq = 2 WHERE seq = -1",
    ] {
        let Fixture {
            authority,
            directory,
        } = fixture();
        for id in ["a", "b", "c"] {
            sign_new(&authority, id).await;
        }
        drop(authority);
        let database = directory.path().join("ca/registry.sqlite");
        rusqlite::Connection::open(database)
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        let opened = open(directory.path()).map(|_| ());
        assert!(
            matches!(
                opened,
                Err(OpenError::Registry(RegistryFault::Journal { .. }))
            ),
            "{sql}: {opened:?}"
        );
    }
}

#[tokio::test]
async fn tables_that_contradict_the_journal_are_not_opened() {
    for sql in [
        "UPDATE certificate SET status = 2 WHERE status = 7",
        "UPDATE device SET standing = 0 WHERE standing = 2",
        "UPDATE certificate SET sha256 = zeroblob(32)",
        "PRAGMA foreign_keys = OFF; DELETE FROM certificate",
        "PRAGMA foreign_keys = OFF; DELETE FROM device",
    ] {
        let Fixture {
            authority,
            directory,
        } = fixture();
        sign_new(&authority, "a").await;
        authority
            .revoke(&operator(), &device("a"), None)
            .await
            .unwrap();
        drop(authority);
        drop(open(directory.path()).unwrap());
        let database = directory.path().join("ca/registry.sqlite");
        let database = rusqlite::Connection::open(database).unwrap();
        database.execute_batch(sql).unwrap();
        drop(database);
        let opened = open(directory.path()).map(|_| ());
        assert!(
            matches!(
                opened,
                Err(OpenError::Registry(RegistryFault::Contradiction(_)))
            ),
            "{sql}: {opened:?}"
        );
    }
}

#[test]
fn a_passphrase_for_keys_without_one_is_not_ignored() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let error = Authority::open(Options {
        directory: directory.path().join("ca"),
        trust_domain: None,
        passphrase: Some(Zeroizing::new("late".into())),
        device_certificate_life: HOUR,
    })
    .map(|_| ())
    .unwrap_err();
    assert!(error.to_string().contains("are not encrypted"), "{error}");
}

#[test]
fn a_passphrase_keeps_the_keys_and_openssl_reads_them() {
    let directory = tempfile::tempdir().unwrap();
    let open = |passphrase: Option<&str>| {
        Authority::open(Options {
            directory: directory.path().join("ca"),
            trust_domain: None,
            passphrase: passphrase.map(|text| Zeroizing::new(text.to_owned())),
            device_certificate_life: 24 * HOUR,
        })
        .map(|_| ())
    };
    open(Some("correct horse")).unwrap();
    let wrong = open(Some("battery staple")).unwrap_err();
    assert!(
        wrong.to_string().contains("KEYBOUND_CA_PASSPHRASE"),
        "{wrong}"
    );
    open(None).unwrap_err();
    open(Some("correct horse")).unwrap();
    let file = directory.path().join("ca/device-ca.key");
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("ENCRYPTED")
    );
    openssl(
        &[
            "pkey",
            "-in",
            file.to_str().unwrap(),
            "-passin",
            "pass:correct horse",
            "-noout",
        ],
        b"",
    );
}

#[test]
fn keys_that_do_not_belong_together_are_not_used() {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir().unwrap();
    drop(open(here.path()).unwrap());
    drop(open(there.path()).unwrap());
    let file = |directory: &tempfile::TempDir, name: &str| directory.path().join("ca").join(name);
    std::fs::copy(file(&there, "device-ca.key"), file(&here, "device-ca.key")).unwrap();
    let error = open(here.path()).map(|_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("device-ca.key does not belong to"),
        "{error}"
    );
    std::fs::copy(file(&there, "device-ca.pem"), file(&here, "device-ca.pem")).unwrap();
    let error = open(here.path()).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("was not signed by root.pem"),
        "{error}"
    );
}
