//! Server certificates that another CA made: chosen by the name that a device asks for, replaced when their files
//! change, and left alone when what comes instead cannot serve (I5).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::harness::client::{config, connect_as};
use crate::harness::upstream::Upstream;
use crate::harness::{Device, Server, Setup, eventually, succeed, text};

/// Somebody else's CA.
pub struct Other {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Other {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        // A leaf with its name would look signed by itself.
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "Somebody else's CA");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, root }
    }

    /// PEM of a certificate that lives so many days from now, and of its key.
    pub fn certificate(&self, names: &[&str], days: i64) -> (String, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(30);
        params.not_after = now + time::Duration::days(days);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

pub fn put(directory: &Path, name: &str, (certificate, key): &(String, String)) {
    let secret = directory.join(format!("{name}.key"));
    fs::write(&secret, key).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(directory.join(format!("{name}.pem")), certificate).unwrap();
}

pub fn table(directory: &Path, name: &str) -> String {
    let path = directory.join(name).display().to_string();
    format!("[[gateway.certificate]]\ncertificate = '{path}.pem'\nkey = '{path}.key'\n")
}

/// The certificate that the gateway presents to whoever asks for this name.
pub async fn presented(server: &Server, device: &Device, name: &str) -> CertificateDer<'static> {
    // Whoever made it is not the question here.
    let mut config = config(server, device, &["http/1.1"]);
    let seen = std::sync::Arc::new(Seen(std::sync::Mutex::new(None)));
    config
        .dangerous()
        .set_certificate_verifier(std::sync::Arc::clone(&seen) as _);
    let _ = connect_as(name, server.gateway(), config).await;
    seen.0.lock().unwrap().clone().expect("a certificate")
}

#[derive(Debug)]
struct Seen(std::sync::Mutex<Option<CertificateDer<'static>>>);

impl rustls::client::danger::ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Some(certificate.clone().into_owned());
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 alone".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![
            rustls::SignatureScheme::ECDSA_NISTP256_SHA256,
            rustls::SignatureScheme::RSA_PSS_SHA256,
        ]
    }
}

pub fn der((certificate, _): &(String, String)) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()
}

fn health(server: &Server, path: &str) -> String {
    let url = format!("http://{}{path}", server.health());
    succeed(std::process::Command::new("curl").args(["--silent", &url]))
}

pub fn readiness(server: &Server) -> serde_json::Value {
    serde_json::from_str(&health(server, "/readyz")).unwrap()
}

pub const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn from_the_start_to_the_last_replacement() {
    let upstream = Upstream::start().await;
    let other = Other::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let exact = other.certificate(&["api.example.com", "192.0.2.1"], 300);
    let wildcard = other.certificate(&["*.example.com"], 300);
    put(&path, "exact", &exact);
    put(&path, "wildcard", &wildcard);
    let routes = format!(
        "names = ['localhost']\n[gateway]\n[[gateway.route]]\nhost = 'api.example.com'\nupstream = 'http://{0}'\n\
         [[gateway.route]]\nhost = 'www.example.com'\nupstream = 'http://{0}'\n[[gateway.route]]\nupstream = 'http://{0}'\n",
        upstream.address
    );
    let content = routes + &table(&path, "exact") + &table(&path, "wildcard");
    fs::write(path.join("c.toml"), &content).unwrap();
    let setup = Setup::default()
        .argument("--config")
        .argument(path.join("c.toml").display().to_string());
    let server = Server::start_in(directory, setup);
    let device = server.device("a");
    assert_eq!(readiness(&server)["degraded"], false);

    // Chosen by name; whoever asks for another name, or at the enrollment listener, gets the embedded CA's.
    assert_eq!(
        presented(&server, &device, "api.example.com").await,
        der(&exact)
    );
    assert_eq!(
        presented(&server, &device, "www.example.com").await,
        der(&wildcard)
    );
    let own = presented(&server, &device, "localhost").await;
    assert_eq!(presented(&server, &device, "a.b.example.com").await, own);
    assert_eq!(presented(&server, &device, "elsewhere").await, own);
    assert!(own != der(&exact) && own != der(&wildcard));
    // And curl, which trusts that CA alone, is served under each of its names.
    fs::write(path.join("other.pem"), &other.root).unwrap();
    let curl = |name: &str| {
        let port = server.gateway().port();
        let output = std::process::Command::new("curl")
            .args([
                "--silent",
                "--max-time",
                "20",
                "--write-out",
                "%{http_code}",
            ])
            .args(["--output", "/dev/null", "--cacert"])
            .arg(path.join("other.pem"))
            .arg("--key")
            .arg(device.key_file())
            .arg("--cert")
            .arg(device.certificate_file())
            .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
            .arg(format!("https://{name}:{port}/"))
            .output()
            .unwrap();
        text(&output.stdout)
    };
    assert_eq!(curl("api.example.com"), "200");
    assert_eq!(curl("www.example.com"), "200");
    assert_eq!(curl("localhost"), "000");
    let metrics = health(&server, "/metrics");
    for labels in [
        "{name=\"api.example.com\",source=\"file\"}",
        "{name=\"*.example.com\",source=\"file\"}",
        "{name=\"localhost\",source=\"ca\"}",
    ] {
        let metric = format!("keybound_server_certificate_not_after_seconds{labels} 1");
        assert!(metrics.contains(&metric), "{metric} in {metrics}");
    }

    // What cannot serve is not taken by the timer, nor by a reload; what was there goes on. Meanwhile the other one
    // of the two is replaced as if nothing were wrong.
    let (good_certificate, good_key) = &exact;
    let stranger = other.certificate(&["api.example.com"], 300);
    let broken = [
        (
            "not that of the certificate",
            good_certificate.clone(),
            stranger.1.clone(),
        ),
        (
            "it is damaged",
            good_certificate[..300].to_owned(),
            good_key.clone(),
        ),
        ("no certificate in PEM", String::new(), good_key.clone()),
        (
            "it is a CA certificate",
            other.root.clone(),
            good_key.clone(),
        ),
    ];
    let mut newer = wildcard;
    for (what, certificate, key) in broken {
        put(&path, "exact", &(certificate, key));
        let noticed = || {
            let reasons = readiness(&server)["reasons"].to_string();
            reasons.contains("was not replaced") && reasons.contains(what)
        };
        eventually(SOON, what, noticed);
        assert_eq!(
            presented(&server, &device, "api.example.com").await,
            der(&exact),
            "{what}"
        );
        let output = server.keybound(&["reload"]);
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(
            text(&output.stderr).contains("exact."),
            "{what}: {}",
            text(&output.stderr)
        );
        assert_eq!(
            presented(&server, &device, "api.example.com").await,
            der(&exact),
            "{what}"
        );
        if what == "not that of the certificate" {
            newer = other.certificate(&["*.example.com"], 300);
            put(&path, "wildcard", &newer);
            let limit = std::time::Instant::now() + SOON;
            while presented(&server, &device, "www.example.com").await != der(&newer) {
                assert!(std::time::Instant::now() < limit, "the other one");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(readiness(&server)["degraded"], true);
        }
    }
    // One that would leave a route's host without a certificate is not taken, either.
    put(
        &path,
        "wildcard",
        &other.certificate(&["*.example.net"], 300),
    );
    eventually(SOON, "both alarms", || {
        let reasons = readiness(&server)["reasons"].to_string();
        reasons.contains("lacks www.example.com")
    });
    assert_eq!(
        presented(&server, &device, "www.example.com").await,
        der(&newer)
    );

    // What can serve is taken by itself, and ends the alarm. One that ends soon is an alarm and serves.
    let short = other.certificate(&["api.example.com"], 5);
    put(&path, "exact", &short);
    put(&path, "wildcard", &newer);
    eventually(SOON, "the alarm of one that ends soon", || {
        // That no reload has succeeded is still true.
        let reasons = readiness(&server)["reasons"].to_string();
        reasons.contains("for api.example.com ends soon") && !reasons.contains("was not replaced")
    });
    assert_eq!(
        presented(&server, &device, "api.example.com").await,
        der(&short)
    );
    let long = other.certificate(&["api.example.com"], 300);
    put(&path, "exact", &long);
    server.run(&["reload"]);
    assert_eq!(
        presented(&server, &device, "api.example.com").await,
        der(&long)
    );
    assert_eq!(readiness(&server)["degraded"], false);
}

#[test]
fn what_cannot_serve_stops_the_start() {
    let other = Other::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let check = |content: &str, words: &[&str]| {
        let base =
            "names = ['localhost']\n[ca]\n[gateway]\n[[gateway.route]]\nupstream = 'http://b'\n";
        fs::write(path.join("c.toml"), format!("{base}{content}")).unwrap();
        for command in ["check", "serve"] {
            let output = std::process::Command::new("timeout")
                .args([
                    "20",
                    env!("CARGO_BIN_EXE_keybound"),
                    command,
                    "--config",
                    "c.toml",
                ])
                .current_dir(path)
                .output()
                .unwrap();
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{told}");
            for words in words {
                assert!(told.contains(words), "{words:?} in {told}");
            }
        }
        assert!(!path.join("keybound-data").exists());
    };
    let (certificate, key) = other.certificate(&["a.example"], 300);
    put(path, "a", &(certificate.clone(), key.clone()));
    put(
        path,
        "same",
        &other.certificate(&["b.example", "A.example"], 300),
    );
    put(path, "nameless", &other.certificate(&["192.0.2.1"], 300));
    put(
        path,
        "mixed",
        &(certificate.clone(), other.certificate(&["x"], 1).1),
    );
    let a = table(Path::new(""), "a");
    check(
        "[[gateway.certificate]]\n",
        &[
            "2 mistakes",
            "line 6: [[gateway.certificate]] has no certificate",
            "has no key",
        ],
    );
    check(
        &(a.clone() + &table(Path::new(""), "same")),
        &["line 10: the name a.example is in another"],
    );
    check(
        &table(Path::new(""), "nameless"),
        &["line 7: nameless.pem", "no DNS name"],
    );
    check(
        &table(Path::new(""), "mixed"),
        &["line 8: mixed.key", "not that of the certificate"],
    );
    check(
        &table(Path::new(""), "none"),
        &["line 7: none.pem: it cannot be read"],
    );
    check(
        &(a.clone() + "[[gateway.route]]\nhost = 'b.example'\nupstream = 'http://b'\n"),
        &["line 10: the route's host b.example is not a name of the server certificate"],
    );
    fs::set_permissions(path.join("a.key"), fs::Permissions::from_mode(0o640)).unwrap();
    check(&a, &["line 8: a.key: others may read the key (mode 640)"]);
    fs::set_permissions(path.join("a.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(path.join("a.pem")).unwrap();
    succeed(std::process::Command::new("mkfifo").arg(path.join("a.pem")));
    check(&a, &["it is not a file"]);
    // Its twin: the same files, whole, have no mistake; one that ends soon is told of.
    fs::remove_file(path.join("a.pem")).unwrap();
    put(path, "a", &other.certificate(&["a.example"], 3));
    fs::write(path.join("c.toml"), format!("names = ['localhost']\n[ca]\n[gateway]\n[[gateway.route]]\nhost = 'a.example'\nupstream = 'http://b'\n{a}")).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args(["check", "--config", "c.toml"])
        .current_dir(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("for a.example ends soon"),
        "{}",
        text(&output.stderr)
    );
}
