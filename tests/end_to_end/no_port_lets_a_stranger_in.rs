//! Every port of a running server, asked without a certificate, with another's, and in old ways.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::client::{config, config_of, connect_as};
use crate::harness::upstream::Upstream;
use crate::harness::{Device, Server, Setup, text};

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What one request comes to: the answer, or the alert.
async fn ask(
    server: &Server,
    address: std::net::SocketAddr,
    identity: Option<Identity>,
    alpn: &[&str],
    request: &str,
) -> Result<String, String> {
    let config = config_of(&server.root_file(), identity, alpn);
    let mut stream = connect_as("localhost", address, config)
        .await
        .map_err(|error| error.to_string())?;
    let _refused_later = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => Ok(text(&answer)),
        Err(error) if answer.is_empty() => Err(error.to_string()),
        Err(_) => Ok(text(&answer)),
    }
}

const GET: &str =
    "GET / HTTP/1.1\r\nhost: localhost\r\nx-device-id: admin\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    for alpn in [&["http/1.1"][..], &["h2"], &["h2", "http/1.1"], &[]] {
        let refused = ask(&server, server.gateway(), None, alpn, GET).await;
        let alert = refused.expect_err("the gateway requires a certificate");
        assert!(alert.contains("CertificateRequired"), "{alpn:?}: {alert}");
    }
    // Enrollment is where one gets a certificate: who has none is answered, and gets nothing else.
    let enrollment = server.enrollment();
    let get = |path: &str| GET.replacen("GET /", &format!("GET {path}"), 1);
    let cas = get("/.well-known/est/cacerts");
    let answer = ask(&server, enrollment, None, &[], &cas).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for path in ["/", "/metrics", "/devices", "/.well-known/est/simpleenroll"] {
        let answer = ask(&server, enrollment, None, &[], &get(path))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    for path in ["simpleenroll", "simplereenroll"] {
        let request = format!(
            "POST /.well-known/est/{path} HTTP/1.1\r\nhost: localhost\r\nx-device-id: admin\r\n\
             content-type: application/pkcs10\r\ncontent-length: 4\r\nconnection: close\r\n\r\nMAA="
        );
        let answer = ask(&server, enrollment, None, &[], &request).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    // Health is plain and tells; it changes nothing.
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let url = format!("http://{}/readyz", server.health());
        let output = Command::new("curl")
            .args([
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
            ])
            .args(["--request", method, &url])
            .output()
            .unwrap();
        assert_eq!(text(&output.stdout), "405", "{method}");
    }
    assert_eq!(upstream.received(), "");
}

/// The key and certificate of `name` in the server's own directory, or of a device.
fn identity(chain: &str, key: &str) -> Identity {
    let chain = pem::parse_many(chain).unwrap();
    let chain = chain.iter().map(|one| one.contents().to_vec().into());
    let key = pem::parse(key).unwrap().contents().to_vec();
    (
        chain.collect(),
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_of_another_kind() {
    use rcgen::{
        CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
    };
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    let file = |name: &str| std::fs::read_to_string(server.path("data/ca").join(name)).unwrap();
    let key = KeyPair::from_pem(&file("device-ca.key")).unwrap();
    let stolen = Issuer::from_ca_cert_pem(&file("device-ca.pem"), key).unwrap();
    // Whoever has the CA's key may make every kind, and no listener takes any but a device's.
    for kind in ["gateway", "operator", "station"] {
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://keybound.local/{kind}/root");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &stolen).unwrap();
        for address in [server.gateway(), server.enrollment()] {
            let presented = identity(&certificate.pem(), &key.serialize_pem());
            let refused = ask(&server, address, Some(presented), &[], GET).await;
            let alert = refused.expect_err("another kind");
            assert!(
                alert.contains("AccessDenied"),
                "{kind} at {address}: {alert}"
            );
        }
    }
    // The device CA and the root are nobody's client certificates.
    for ca in ["device-ca"] {
        let presented = identity(&file(&format!("{ca}.pem")), &file(&format!("{ca}.key")));
        for address in [server.gateway(), server.enrollment()] {
            let refused = ask(
                &server,
                address,
                Some((presented.0.clone(), presented.1.clone_key())),
                &[],
                GET,
            )
            .await;
            refused.expect_err("a CA");
        }
    }
    assert_eq!(upstream.received(), "");
    let device = server.device("a");
    let mut stream = connect_as(
        "localhost",
        server.gateway(),
        config(&server, &device, &["http/1.1"]),
    )
    .await
    .unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _close = stream.read_to_end(&mut answer).await;
    assert!(text(&answer).starts_with("HTTP/1.1 200"));
    assert!(upstream.received().contains("x-device-id: a\r\n"));
    assert!(!upstream.received().contains("admin"));
}

/// The same request for a renegotiation, of a server that allows it; what `s_client` printed.
fn renegotiating(server: &Server, device: &Device) -> String {
    let mut other = Command::new("timeout")
        .args([
            "20",
            "openssl",
            "s_server",
            "-tls1_2",
            "-client_renegotiation",
        ])
        .args(["-accept", "127.0.0.1:0", "-naccept", "1", "-key"])
        .arg(device.key_file())
        .arg("-cert")
        .arg(device.certificate_file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It says where it listens.
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let port = lines
        .by_ref()
        .find_map(|line| {
            line.unwrap()
                .strip_prefix("ACCEPT ")?
                .rsplit_once(':')?
                .1
                .parse()
                .ok()
        })
        .unwrap();
    let reading = std::thread::spawn(move || lines.for_each(drop));
    let printed = s_client(server, device, port, &["-tls1_2", "-msg"], b"R\n");
    drop(other.stdin.take());
    other.wait().unwrap();
    reading.join().unwrap();
    printed
}

/// `openssl s_client` with the device's certificate; what it printed.
fn s_client(
    server: &Server,
    device: &Device,
    port: u16,
    arguments: &[&str],
    input: &[u8],
) -> String {
    let mut child = Command::new("timeout")
        .args([
            "10",
            "openssl",
            "s_client",
            "-servername",
            "localhost",
            "-connect",
        ])
        .arg(format!("127.0.0.1:{port}"))
        .arg("-CAfile")
        .arg(server.root_file())
        .arg("-key")
        .arg(device.key_file())
        .arg("-cert")
        .arg(device.certificate_file())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let _gone = stdin.write_all(line);
        let _gone = stdin.flush();
        std::thread::sleep(Duration::from_millis(300));
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_old_ways() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    let device = server.device("a");
    let (gateway, enrollment) = (server.gateway().port(), server.enrollment().port());
    for version in ["-tls1_2", "-tls1_1", "-tls1"] {
        let printed = s_client(&server, &device, gateway, &[version], GET.as_bytes());
        assert!(!printed.contains("HTTP/1.1"), "{version}: {printed}");
        assert!(
            printed.contains("Cipher is (NONE)") || printed.contains("rror"),
            "{printed}"
        );
    }
    for version in ["-tls1_1", "-tls1"] {
        let printed = s_client(&server, &device, enrollment, &[version], b"");
        assert!(
            printed.contains("Cipher is (NONE)") || printed.contains("rror"),
            "{printed}"
        );
    }
    // TLS 1.2 where EST clients need it: no tickets, no session to come back to, no renegotiation.
    let session = server.path("session");
    let saving = ["-tls1_2", "-msg", "-sess_out", session.to_str().unwrap()];
    let printed = s_client(&server, &device, enrollment, &saving, b"R\n");
    assert!(printed.contains("Cipher is ECDHE"), "{printed}");
    assert!(!printed.contains("TLS session ticket:"), "{printed}");
    // What s_client asks for, and what the server says: no, and no second ServerHello.
    let count = |line: &str| {
        let of_the_server = printed.lines().filter(|said| said.starts_with("<<< "));
        of_the_server.filter(|said| said.ends_with(line)).count()
    };
    assert!(printed.contains("RENEGOTIATING"), "{printed}");
    assert_eq!(
        count("Alert [length 0002], warning no_renegotiation"),
        1,
        "{printed}"
    );
    assert_eq!(count(", ServerHello"), 1, "{printed}");
    // Whereas a server that renegotiates says it.
    let renegotiated = renegotiating(&server, &device);
    assert_eq!(
        renegotiated.matches(", ServerHello\n").count(),
        2,
        "{renegotiated}"
    );
    assert!(!renegotiated.contains("no_renegotiation"), "{renegotiated}");
    if session.exists() {
        let offering = ["-tls1_2", "-sess_in", session.to_str().unwrap()];
        let printed = s_client(&server, &device, enrollment, &offering, b"Q\n");
        assert!(printed.contains("New, TLSv1.2"), "{printed}");
        // Nor at another listener, in another version.
        let offering = ["-sess_in", session.to_str().unwrap()];
        let printed = s_client(&server, &device, gateway, &offering, b"Q\n");
        assert!(!printed.contains("Reused,"), "{printed}");
    }
    assert_eq!(upstream.received(), "");
    let printed = s_client(&server, &device, gateway, &["-ign_eof"], GET.as_bytes());
    assert!(
        printed.contains("200 OK") && printed.contains("New, TLSv1.3"),
        "{printed}"
    );
}
