//! EST with a client that nobody here wrote, and its certificate in tools that nobody here wrote.

use std::path::Path;
use std::process::Command;

use crate::harness::{Device, Server, Setup, succeed, text};

fn pki(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("pki").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "pki {arguments:?}: {}",
        text(&output.stderr)
    );
    // It exits with 0 even when it does not trust what it received.
    assert!(
        !text(&output.stderr).contains("not trusted"),
        "{}",
        text(&output.stderr)
    );
    output.stdout
}

fn string(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn strongswan_curl_and_openssl_agree() {
    let server = Server::start(Setup::default());
    let root = server.root_file();
    let root = string(&root);
    let est = format!("https://localhost:{}", server.enrollment().port());

    // It numbers the files that it writes, and is confused by dots in the folders' names.
    let folder = server.path("authorities");
    std::fs::create_dir(&folder).unwrap();
    succeed(
        Command::new("pki")
            .current_dir(&folder)
            .args(["--estca", "--url", &est, "--cacert", root])
            .args(["--caout", "ca", "--outform", "pem"]),
    );
    let issuing = server.path("issuing.pem");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        let subject = succeed(
            Command::new("openssl")
                .args(["x509", "-noout", "-subject", "-in"])
                .arg(&file),
        );
        if subject.contains("device CA") {
            std::fs::copy(file, &issuing).unwrap();
        }
    }
    let issuing = string(&issuing);

    let device = Device {
        store: server.path("swan"),
    };
    std::fs::create_dir(&device.store).unwrap();
    let key = device.key_file();
    std::fs::write(
        &key,
        pki(&[
            "--gen",
            "--type",
            "ecdsa",
            "--size",
            "256",
            "--outform",
            "pem",
        ]),
    )
    .unwrap();
    let token = server.json(&["token", "new", "--device", "swan", "--json"]);
    let userpass = format!("swan:{}", token["token"].as_str().unwrap());
    let request = server.path("swan.csr");
    let make_request = |key: &Path| {
        let csr = pki(&[
            "--req",
            "--type",
            "priv",
            "--in",
            string(key),
            "--dn",
            "CN=swan",
            "--outform",
            "pem",
        ]);
        std::fs::write(&request, csr).unwrap();
    };
    make_request(&key);
    let certificate = pki(&[
        "--est",
        "--url",
        &est,
        "--in",
        string(&request),
        "--cacert",
        root,
        "--cacert",
        issuing,
        "--userpass",
        &userpass,
        "--outform",
        "pem",
    ]);
    std::fs::write(device.certificate_file(), certificate).unwrap();
    let answer = device.curl(&server, &[&server.url("/first")]);
    assert!(
        text(&answer.stdout)
            .to_lowercase()
            .contains("x-device-id: swan"),
        "{}",
        text(&answer.stderr)
    );

    let new_key = server.path("new-key.pem");
    std::fs::write(
        &new_key,
        pki(&[
            "--gen",
            "--type",
            "ecdsa",
            "--size",
            "384",
            "--outform",
            "pem",
        ]),
    )
    .unwrap();
    make_request(&new_key);
    let renewed = pki(&[
        "--est",
        "--url",
        &est,
        "--in",
        string(&request),
        "--cacert",
        root,
        "--cacert",
        issuing,
        "--cert",
        string(&device.certificate_file()),
        "--key",
        string(&key),
        "--outform",
        "pem",
    ]);
    let old = Device {
        store: server.path("old-swan"),
    };
    std::fs::rename(&device.store, &old.store).unwrap();
    std::fs::create_dir(&device.store).unwrap();
    std::fs::rename(&new_key, device.key_file()).unwrap();
    std::fs::write(device.certificate_file(), renewed).unwrap();
    let answer = device.curl(&server, &[&server.url("/second")]);
    assert!(
        text(&answer.stdout)
            .to_lowercase()
            .contains("x-device-id: swan"),
        "{}",
        text(&answer.stderr)
    );
    crate::harness::eventually(
        std::time::Duration::from_secs(2),
        "the old certificate is retired",
        || {
            text(&old.curl(&server, &[&server.url("/third")]).stdout)
                .contains("\"code\":\"retired\"")
        },
    );

    let verified = succeed(
        Command::new("openssl")
            .args([
                "verify",
                "-x509_strict",
                "-purpose",
                "sslclient",
                "-CAfile",
                root,
                "-untrusted",
                issuing,
            ])
            .arg(device.certificate_file()),
    );
    assert!(verified.contains(": OK"), "{verified}");
    server.run(&["device", "revoke", "swan"]);
    let crl = server.path("crl.pem");
    let serial = succeed(
        Command::new("openssl")
            .args(["x509", "-noout", "-serial", "-in"])
            .arg(device.certificate_file()),
    );
    let serial = serial.trim().trim_start_matches("serial=").to_owned();
    crate::harness::eventually(
        std::time::Duration::from_secs(5),
        "the CRL names the certificate",
        || {
            std::fs::write(&crl, server.run(&["ca", "crl"])).unwrap();
            let list = succeed(
                Command::new("openssl")
                    .args(["crl", "-noout", "-text", "-CAfile", issuing, "-in"])
                    .arg(&crl),
            );
            assert!(list.contains("verify OK"), "{list}");
            list.contains(&serial)
        },
    );
}
