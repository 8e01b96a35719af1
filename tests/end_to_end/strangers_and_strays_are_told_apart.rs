//! Who gets a TLS alert, and who gets an answer that says why.

use std::process::Command;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::client::{config, config_of, connect_as};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, eventually, text};

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What the gateway answers to one request: its bytes, or the alert.
async fn ask(
    server: &Server,
    identity: Option<Identity>,
    name: &str,
    host: &str,
) -> Result<String, String> {
    let config = config_of(&server.root_file(), identity, &["http/1.1"]);
    let mut stream = connect_as(name, server.gateway(), config)
        .await
        .map_err(|error| error.to_string())?;
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let _refused_later = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => Ok(text(&answer)),
        Err(error) if answer.is_empty() => Err(error.to_string()),
        Err(_) => Ok(text(&answer)),
    }
}

fn authority(name: &str) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Issuer::new(params, KeyPair::generate().unwrap())
}

fn leaf(
    issuer: &Issuer<'static, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(
        "spiffe://keybound.local/device/a".try_into().unwrap(),
    )];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(rcgen::SerialNumber::from(vec![1; 16]));
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    (vec![certificate.der().clone()], key)
}

/// The device CA's own key: what a thief of it could do.
fn stolen_authority(server: &Server) -> Issuer<'static, KeyPair> {
    let file = |name: &str| {
        let path = server.path("data/ca").join(name);
        std::fs::read_to_string(path).unwrap()
    };
    let key = KeyPair::from_pem(&file("device-ca.key")).unwrap();
    Issuer::from_ca_cert_pem(&file("device-ca.pem"), key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_the_alert() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    let ask = |identity| ask(&server, identity, "localhost", "localhost");

    let alert = ask(None).await.unwrap_err();
    assert!(alert.contains("CertificateRequired"), "{alert}");
    let foreign = authority("Somebody else's CA");
    let alert = ask(Some(leaf(&foreign, |_| {}))).await.unwrap_err();
    assert!(alert.contains("UnknownCA"), "{alert}");
    let pretender = authority("keybound.local device CA");
    for year in [1999, 2035] {
        let self_made = leaf(&pretender, |params| {
            params.not_before = rcgen::date_time_ymd(1990, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        });
        ask(Some(self_made)).await.unwrap_err();
    }
    let operator = leaf(&stolen_authority(&server), |params| {
        params.subject_alt_names = vec![SanType::URI(
            "spiffe://keybound.local/operator/root".try_into().unwrap(),
        )];
    });
    ask(Some(operator)).await.unwrap_err();
    assert_eq!(upstream.received(), "");
    for code in [
        "certificate-required",
        "unknown-issuer",
        "bad-signature",
        "kind-not-accepted",
    ] {
        // Records are handed on a few milliseconds later.
        eventually(Duration::from_secs(5), code, || {
            server.run(&["explain", "127.0.0.1"]).contains(code)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_our_ca_signed_is_refused_with_the_reason() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    server.device("a");
    let stolen = stolen_authority(&server);
    let check = async |identity: Identity, code: &str| {
        let answer = ask(&server, Some(identity), "localhost", "localhost").await;
        let answer = answer.unwrap_or_else(|alert| panic!("{code}: {alert}"));
        assert!(
            answer.contains(&format!("\"code\":\"{code}\"")),
            "{code}: {answer}"
        );
    };
    check(leaf(&stolen, |_| {}), "unregistered").await;
    let expired =
        |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    check(leaf(&stolen, expired), "expired").await;
    let early =
        |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    check(leaf(&stolen, early), "not-yet-valid").await;
    check(
        leaf(&stolen, |p| p.extended_key_usages.clear()),
        "identity-invalid",
    )
    .await;
    let server_auth = |p: &mut CertificateParams| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    };
    check(leaf(&stolen, server_auth), "identity-invalid").await;
    check(
        leaf(&stolen, |p| {
            p.key_usages = vec![KeyUsagePurpose::KeyAgreement]
        }),
        "identity-invalid",
    )
    .await;
    let two_names = |p: &mut CertificateParams| {
        p.subject_alt_names.push(SanType::URI(
            "spiffe://keybound.local/device/b".try_into().unwrap(),
        ));
    };
    check(leaf(&stolen, two_names), "identity-invalid").await;
    assert_eq!(upstream.received(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn host_and_sni_agree_or_the_request_is_misdirected() {
    let upstream = Upstream::start().await;
    let server = Server::start(
        Setup::upstream(upstream.address)
            .argument("--name")
            .argument("localhost")
            .argument("--name")
            .argument("other.example")
            .argument("--name")
            .argument("127.0.0.1"),
    );
    let device = server.device("a");
    let asked = async |name: &str, host: &str| {
        let tls = config(&server, &device, &["http/1.1"]);
        let mut stream = connect_as(name, server.gateway(), tls).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _close = stream.read_to_end(&mut answer).await;
        text(&answer).lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(asked("localhost", "localhost").await, "HTTP/1.1 200 OK");
    assert_eq!(
        asked("localhost", "LOCALHOST.:8443").await,
        "HTTP/1.1 200 OK"
    );
    assert_eq!(
        asked("other.example", "other.example").await,
        "HTTP/1.1 200 OK"
    );
    assert!(asked("localhost", "other.example").await.contains(" 421 "));
    assert!(asked("other.example", "localhost").await.contains(" 421 "));
    // An address as the name sends no SNI.
    assert_eq!(asked("127.0.0.1", "127.0.0.1").await, "HTTP/1.1 200 OK");
    assert!(asked("127.0.0.1", "other.example").await.contains(" 421 "));
}

#[test]
fn health_is_told_without_a_certificate_and_identity_is_not() {
    let server = Server::start(Setup::default());
    let get = |path: &str| {
        let url = format!("http://{}{path}", server.health());
        let output = Command::new("curl")
            .args(["--silent", "--fail", &url])
            .output()
            .unwrap();
        assert!(output.status.success(), "{url}");
        text(&output.stdout)
    };
    get("/healthz");
    get("/readyz");
    let device = server.device("a");
    device.run(&["request", &server.url("/")]);
    let metrics = get("/metrics");
    assert!(
        metrics.contains("keybound_gateway_requests_total{status=\"2xx\"} 1"),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}
