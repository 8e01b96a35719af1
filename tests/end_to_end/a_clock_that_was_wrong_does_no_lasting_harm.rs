//! A start with a clock that is far ahead is forgotten once the clock is right again.

use std::process::Command;

use crate::harness::{Server, Setup, eventually, succeed};

#[test]
fn three_hundred_days_ahead_and_back() {
    let server = Server::start(Setup::default());
    let device = server.device("a");
    device.run(&["request", &server.url("/")]);
    let directory = server.stop();
    let ahead = Setup::default().clock("+300d");
    let server = Server::start_in(directory, ahead);
    server.run(&["token", "new", "--device", "b"]);
    let directory = server.stop();

    let server = Server::start_in(directory, Setup::default());
    // The key store remembers the enrollment server by its port, which is another one now.
    let newcomer = server.device("c");
    newcomer.run(&["renew"]);
    newcomer.run(&["request", &server.url("/")]);
    let old = server.keybound(&["device", "show", "a"]);
    assert!(old.status.success());
    device.run(&["request", &server.url("/")]);

    server.run(&["device", "revoke", "c"]);
    let (crl, issuing) = (server.path("crl.pem"), server.path("data/ca/device-ca.pem"));
    let root = server.root_file();
    let verify = |certificate: &std::path::Path| {
        std::fs::write(&crl, server.run(&["ca", "crl"])).unwrap();
        let output = Command::new("openssl")
            .args(["verify", "-crl_check", "-CRLfile"])
            .arg(&crl)
            .arg("-untrusted")
            .arg(&issuing)
            .arg("-CAfile")
            .arg(&root)
            .arg(certificate)
            .output()
            .unwrap();
        format!(
            "{}{}",
            crate::harness::text(&output.stdout),
            crate::harness::text(&output.stderr)
        )
    };
    assert!(
        verify(&device.certificate_file()).contains(": OK"),
        "{}",
        verify(&device.certificate_file())
    );
    eventually(
        std::time::Duration::from_secs(5),
        "the CRL names the revoked certificate",
        || verify(&newcomer.certificate_file()).contains("certificate revoked"),
    );
    succeed(
        Command::new("openssl")
            .args(["crl", "-noout", "-in"])
            .arg(&crl),
    );
}
