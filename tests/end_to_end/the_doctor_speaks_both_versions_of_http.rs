//! `keybound doctor spoof` over TLS: in both versions of HTTP, and closed is only who insists on a certificate.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::harness::{eventually, succeed, text};
use crate::upstreams_refuse_whoever_goes_around::{believed, spoof, versions};

/// A server in Python.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate of its own for `127.0.0.1`, with its key beside it.
fn self_signed(folder: &Path) -> [PathBuf; 2] {
    let [key, certificate] = ["server.key", "server.pem"].map(|name| folder.join(name));
    succeed(
        Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-subj", "/CN=127.0.0.1"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    [certificate, key]
}

/// A server with OpenSSL that asks for certificates as `mode` says, in this version of TLS, and sends `answer` to whoever sends
/// a request.
fn over_tls(folder: &Path, mode: &str, version: &str, answer: &str) -> Server {
    let [certificate, key] = self_signed(folder);
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let program = format!(
        "
import socket, ssl, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('{certificate}', '{key}')
context.load_verify_locations('{certificate}')
context.verify_mode = ssl.{mode}
context.minimum_version = context.maximum_version = ssl.TLSVersion.{version}
def serve(tcp):
    try:
        with context.wrap_socket(tcp, server_side=True) as tls:
            if tls.recv(65536):
                tls.sendall({answer})
    except OSError:
        pass
    finally:
        tcp.close()
listener = socket.create_server(('127.0.0.1', {port}))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],)).start()
",
        certificate = certificate.display(),
        key = key.display(),
        port = address.port(),
    );
    let child = Command::new("python3")
        .args(["-c", &program])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    eventually(Duration::from_secs(10), "the server listens", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    Server { child, address }
}

#[test]
fn who_asks_for_a_certificate_is_not_closed_and_who_insists_is() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let ok = "b'HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\nconnection: close\\r\\n\\r\\nok'";
    let check = |mode, version, answer, expected: (i32, Option<bool>)| {
        let server = over_tls(folder, mode, version, answer);
        let url = format!("https://{}", server.address);
        let (exit, report) = spoof(&["--upstream", &url]);
        // It chooses no version of HTTP, so it is asked over HTTP/1.1 alone, unless it ends the handshake before that.
        let finding = report["findings"].as_array().map(|findings| {
            assert_eq!(findings[0]["http"], "1.1");
            let closed: Vec<_> = findings
                .iter()
                .map(|one| !one["closed"].is_null())
                .collect();
            assert!(closed == [false] || !closed.contains(&false), "{report}");
            closed[0]
        });
        assert_eq!((exit, finding), expected, "{mode} {version} {answer}");
    };
    for version in ["TLSv1_2", "TLSv1_3"] {
        check("CERT_REQUIRED", version, ok, (0, Some(true)));
        check("CERT_OPTIONAL", version, ok, (0, Some(false)));
        // It asks, lets everybody in, and breaks off: that proves nothing.
        check("CERT_OPTIONAL", version, "b''", (2, None));
        check("CERT_NONE", version, "b''", (2, None));
    }
}

/// Takes the word of whoever speaks this version of HTTP, and of nobody else; HTTP/2 it may choose and then break off.
async fn believes_over(
    folder: &Path,
    version: hyper::Version,
    breaks_off_http2: bool,
) -> SocketAddr {
    let [certificate, key] = self_signed(folder);
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |request: hyper::Request<hyper::body::Incoming>| async move {
        let word = request.headers().get("x-device-id").cloned();
        let word = word.filter(|_| request.version() == version);
        let body = word.map_or_else(Bytes::new, |word| Bytes::copy_from_slice(word.as_bytes()));
        Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(body)))
    };
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                if http2 && breaks_off_http2 {
                    return;
                }
                let (io, service) = (TokioIo::new(tls), hyper::service::service_fn(answer));
                let _ = if http2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await
                } else {
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await
                };
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn who_believes_only_over_http2_is_found_out() {
    let directory = tempfile::tempdir().unwrap();
    let address = believes_over(directory.path(), hyper::Version::HTTP_2, false).await;
    let (exit, report) = spoof(&["--upstream", &format!("https://{address}")]);
    assert_eq!((exit, &versions(&report)[..]), (1, &["1.1", "2"][..]));
    assert_eq!(believed(&report), ["x-device-id exact reflected"]);
    let findings = report["findings"].as_array().unwrap();
    let believing = |finding: &Value| {
        let trials = finding["trials"].as_array().unwrap();
        trials.iter().any(|trial| trial["believed"] == true)
    };
    assert_eq!(
        findings.iter().map(believing).collect::<Vec<_>>(),
        [false, true]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_off_http2_hides_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let http1 = hyper::Version::HTTP_11;
    let address = believes_over(directory.path(), http1, true).await;
    let url = format!("https://{address}");
    let (exit, report) = spoof(&["--upstream", &url]);
    assert_eq!((exit, &versions(&report)[..]), (1, &["1.1"][..]));
    assert_eq!(believed(&report), ["x-device-id exact reflected"]);
    let fault = report["faults"][0].as_str().unwrap();
    assert!(fault.contains("over HTTP/2: it did not answer"), "{fault}");
    // People are told of both.
    let output = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args(["doctor", "spoof", "--upstream", &url])
        .output()
        .unwrap();
    let told = text(&output.stderr);
    assert!(told.contains("1 forgery was believed around"), "{told}");
    assert!(told.contains("Nothing is proven of the rest"), "{told}");
    assert!(text(&output.stdout).contains("over HTTP/1.1."));
    // Where nobody is believed, what was not examined is no proof.
    let believes_nobody = hyper::Version::HTTP_09;
    let address = believes_over(directory.path(), believes_nobody, true).await;
    let (exit, report) = spoof(&["--upstream", &format!("https://{address}")]);
    assert_eq!((exit, &versions(&report)[..]), (2, &["1.1"][..]));
    assert_eq!(report["faults"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_fails_keeps_no_upstream_from_being_tried() {
    let directory = tempfile::tempdir().unwrap();
    let address = believes_over(directory.path(), hyper::Version::HTTP_2, false).await;
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let [certificate, key] = self_signed(directory.path()).map(|path| path.display().to_string());
    let (exit, report) = spoof(&[
        "--gateway",
        &format!("https://{nobody}"),
        "--cert",
        &certificate,
        "--key",
        &key,
        "--roots",
        &certificate,
        "--upstream",
        &format!("https://{address}"),
    ]);
    assert_eq!((exit, &versions(&report)[..]), (1, &["1.1", "2"][..]));
    assert_eq!(report["faults"].as_array().unwrap().len(), 2, "{report}");
}

#[test]
fn who_stops_to_answer_in_between_hides_nothing() {
    // Believes, and answers nothing to whoever claims to be a device in another way.
    let program = "
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if 'x-client-cert' in self.headers or 'x-forwarded-client-cert' in self.headers:
            self.close_connection = True
            return
        body = (self.headers.get('x-device-id') or '').encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let child = Command::new("python3")
        .args(["-c", program, &address.port().to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { child, address };
    eventually(Duration::from_secs(10), "the server listens", || {
        std::net::TcpStream::connect(server.address).is_ok()
    });
    let (exit, report) = spoof(&["--upstream", &format!("http://{}", server.address)]);
    assert_eq!(exit, 1, "{report}");
    assert!(believed(&report).contains(&"x-device-id exact reflected".to_owned()));
    assert_eq!(report["faults"].as_array().unwrap().len(), 1, "{report}");
}
