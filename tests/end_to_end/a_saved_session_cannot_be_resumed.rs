//! TLS sessions are not resumed: a saved one outlives neither a revocation nor the certificate.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Device, Server, Setup, text};

/// One request by `openssl s_client`; what it printed, the answer included.
fn request(server: &Server, device: &Device, session: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-ign_eof",
            "-servername",
            "localhost",
            "-connect",
        ])
        .arg(server.gateway().to_string())
        .arg("-CAfile")
        .arg(server.path("root.pem"))
        .arg("-key")
        .arg(device.key_file())
        .arg("-cert")
        .arg(device.certificate_file())
        .args(session)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn save(server: &Server, device: &Device, file: &Path) {
    let before = request(server, device, &["-sess_out", file.to_str().unwrap()]);
    assert!(before.contains("200 OK"), "{before}");
    assert!(before.contains("New, TLSv1.3"), "{before}");
    assert!(
        !before.contains("Post-Handshake New Session Ticket"),
        "{before}"
    );
}

/// Offers the saved session, if the client was given one to save, and the certificate anew.
fn offer(server: &Server, device: &Device, file: &Path) -> String {
    let session: &[&str] = if file.exists() {
        &["-sess_in", file.to_str().unwrap()]
    } else {
        &[]
    };
    let after = request(server, device, session);
    assert!(!after.contains("Reused,"), "{after}");
    after
}

#[test]
fn not_after_a_revocation() {
    let server = Server::start(Setup::default());
    server.root_file();
    let device = server.device("a");
    let session = server.path("session");
    save(&server, &device, &session);
    server.run(&["device", "revoke", "a"]);
    let after = offer(&server, &device, &session);
    assert!(after.contains("\"code\":\"revoked\""), "{after}");
}

#[test]
fn not_after_the_certificate_expired() {
    let server = Server::start(Setup::default());
    server.root_file();
    let device = server.device("a");
    let session = server.path("session");
    save(&server, &device, &session);
    let directory = server.stop();
    let later = Setup::default().clock("+91d");
    let server = Server::start_in(directory, later);
    // The client's clock stays behind: it must not mind the server's new certificate.
    let after = offer(&server, &device, &session);
    assert!(after.contains("\"code\":\"expired\""), "{after}");
}
