//! A back end believes a device assertion because of its signature, checked with a library of others and the keys that
//! the server publishes.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, text};

/// What PyJWT makes of an assertion.
fn check(server: &Server, audience: &str, issuer: &str, assertion: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new(root.join("target/peers/bin/python"))
        .arg(root.join("tests/peers/check_assertion.py"))
        .arg(format!("http://{}/.well-known/jwks.json", server.health()))
        .args([audience, issuer])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("installed by tests/run (tests/peers/install)");
    let mut input = python.stdin.take().unwrap();
    input.write_all(assertion.as_bytes()).unwrap();
    drop(input);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn configured(upstream: &Upstream, directory: &Path) -> Setup {
    let configuration = directory.join("keybound.toml");
    std::fs::write(
        &configuration,
        format!(
            "[[gateway.route]]\npath = \"/v1\"\nupstream = \"http://{}\"\nidentity = [\"assertion\"]\n",
            upstream.address
        ),
    )
    .unwrap();
    Setup::default()
        .argument("--config")
        .argument(configuration.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_published_keys_and_no_others() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(configured(&upstream, directory.path()));
    let device = server.device("thermostat-7");
    let assertion = |server: &Server| {
        upstream.forget();
        let url = server.url("/v1/x");
        let answer = device.curl(server, &["-H", "X-Device-Assertion: forged", &url]);
        assert_eq!(text(&answer.stdout), "ok\n", "{}", text(&answer.stderr));
        let received = upstream.received();
        let values: Vec<_> = received
            .lines()
            .filter_map(|line| line.strip_prefix("x-device-assertion: "))
            .collect();
        assert_eq!(values.len(), 1, "{received}");
        assert!(!received.contains("x-device-id"), "{received}");
        values[0].to_owned()
    };
    let first = assertion(&server);
    let (audience, issuer) = ("https://*/v1", "spiffe://keybound.local/gateway/gateway-1");
    let claims = check(&server, audience, issuer, &first);
    assert_eq!(claims["sub"], "spiffe://keybound.local/device/thermostat-7");
    assert_eq!(claims["device_id"], "thermostat-7");
    assert_eq!(
        claims["exp"].as_u64(),
        Some(claims["iat"].as_u64().unwrap() + 60)
    );
    let shown = server.json(&["device", "show", "thermostat-7", "--json"]);
    let certificate = &shown["certificates"][0];
    assert_eq!(claims["serial"], certificate["serial"], "{shown}");
    assert_eq!(
        claims["cnf"]["x5t#S256"],
        thumbprint(&device.certificate_file())
    );

    let refused = |audience, issuer, assertion: &str, expected: &str| {
        let verdict = check(&server, audience, issuer, assertion);
        assert_eq!(verdict["refused"], expected, "{verdict}");
    };
    refused("https://*/", issuer, &first, "InvalidAudienceError");
    let other = "spiffe://keybound.local/gateway/gateway-2";
    refused(audience, other, &first, "InvalidIssuerError");
    // The last character has bits to spare; the one before it has none.
    let (head, tail) = first.split_at(first.len() - 2);
    let other = if tail.starts_with('A') { 'B' } else { 'A' };
    let altered = format!("{head}{other}{}", &tail[1..]);
    refused(audience, issuer, &altered, "InvalidSignatureError");

    // The key stays over a restart, and nobody else may read it.
    let key = server.path("data/gateway/assertion-key.pem");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    let data = server.stop();
    let server = Server::start_in(data, configured(&upstream, directory.path()));
    check(&server, audience, issuer, &first)["sub"]
        .as_str()
        .unwrap();
    let second = assertion(&server);
    assert_ne!(second, first);
    check(&server, audience, issuer, &second)["sub"]
        .as_str()
        .unwrap();

    // Another installation's keys check nothing of this one.
    let stranger = Server::start(configured(&upstream, directory.path()));
    let verdict = check(&stranger, audience, issuer, &second);
    assert_eq!(verdict["refused"], "PyJWKClientError", "{verdict}");
}

/// The certificate's SHA-256 by OpenSSL, in base64url.
fn thumbprint(certificate: &Path) -> String {
    use base64::Engine as _;
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(certificate)
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    let digits = printed.trim().split_once('=').unwrap().1.replace(':', "");
    let bytes: Vec<u8> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
