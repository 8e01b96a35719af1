//! Refusals of the enrollment listener: the peer, the metrics and the operator are told, and nothing is recorded.

use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};

use crate::harness::enrollment::{Client, code_of, csr, enroll_request, metric};
use crate::harness::{Device, Server, Setup, text};

fn token(server: &Server, device: &str) -> String {
    let token = server.json(&["token", "new", "--device", device, "--json"]);
    token["token"].as_str().unwrap().to_owned()
}

fn named(name: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_the_metrics_and_the_operator_are_told() {
    let server = Server::start(Setup::default());
    let client = Client::new(&server);
    let token = token(&server, "a");
    server.device("b");
    let seq = metric(&server, "keybound_feed_applied_seq");
    let good = STANDARD.encode(csr(&KeyPair::generate().unwrap()));
    let base = text(&enroll_request("a", &token, good.as_bytes()));
    let body = |body: &[u8]| enroll_request("a", &token, body);
    let with = |from: &str, to: &str| {
        assert!(base.contains(from), "{from}");
        base.replacen(from, to, 1).into_bytes()
    };
    let pem = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", named("a")));
    let mut forged = csr(&KeyPair::generate().unwrap());
    let inside = forged.len() / 2;
    forged[inside] ^= 1;
    let chunk = format!("{:x}\r\n{}\r\n", 100_000, "A".repeat(100_000));
    let (start, _) = base.split_once("content-length").unwrap();
    let chunked = format!(
        "{start}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(10)
    );
    for (what, bytes, expected) in [
        ("nothing", body(b""), (400, "csr-malformed")),
        ("PEM", body(pem.as_bytes()), (400, "csr-malformed")),
        ("DER", body(&named("a")), (400, "csr-malformed")),
        (
            "half",
            body(&good.as_bytes()[..100]),
            (400, "csr-malformed"),
        ),
        (
            "a megabyte",
            body(&vec![b'A'; 1 << 20]),
            (413, "csr-too-large"),
        ),
        (
            "a megabyte in chunks",
            chunked.into_bytes(),
            (413, "csr-too-large"),
        ),
        (
            "a foreign name",
            body(STANDARD.encode(named("b")).as_bytes()),
            (403, "name-mismatch"),
        ),
        (
            "a text",
            with("application/pkcs10", "text/plain"),
            (415, "media-type"),
        ),
        ("a PUT", with("POST ", "PUT "), (405, "method-not-allowed")),
        (
            "another operation",
            with("simpleenroll", "fullcmc"),
            (404, "unknown-operation"),
        ),
        (
            "another path",
            with("/.well-known/est/simpleenroll", "/"),
            (404, "unknown-operation"),
        ),
        (
            "no credentials",
            with("authorization: ", "x: "),
            (401, "credentials-required"),
        ),
        (
            "no certificate",
            with("simpleenroll", "simplereenroll"),
            (403, "certificate-required"),
        ),
        (
            "a wrong token",
            enroll_request("a", &"0".repeat(32), good.as_bytes()),
            (401, "token-invalid"),
        ),
        (
            "another's token",
            enroll_request("b", &token, good.as_bytes()),
            (401, "token-invalid"),
        ),
    ] {
        let (status, code) = expected;
        let label = format!("outcome=\"{code}\"");
        let before = metric(&server, &label);
        let answer = client.send(&bytes).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{what}: {answer}"
        );
        assert_eq!(code_of(&answer), code, "{what}: {answer}");
        assert!(!answer.contains(&token), "{what}: {answer}");
        assert_eq!(metric(&server, &label), before + 1, "{what}");
        let explained = server.run(&["explain", "127.0.0.1"]);
        assert!(explained.contains(code), "{what}: {explained}");
    }
    let answer = client
        .send(&body(STANDARD.encode(&forged).as_bytes()))
        .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(metric(&server, "keybound_feed_applied_seq"), seq);
    let explained = server.run(&["explain", "a"]);
    assert!(explained.contains("name-mismatch"), "{explained}");
    let log = server.log();
    assert!(!log.contains(&token), "a token is in the log");
    let answer = client.send(base.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 "),
        "the token is there: {answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_with_one_token() {
    let server = Server::start(Setup::default());
    let client = Client::new(&server);
    for (device, keys) in [("many-keys", 50), ("one-key", 1)] {
        let token = token(&server, device);
        let bodies: Vec<_> = (0..keys)
            .map(|_| STANDARD.encode(csr(&KeyPair::generate().unwrap())))
            .collect();
        let ready = Arc::new(tokio::sync::Barrier::new(50));
        let asking: Vec<_> = (0..50)
            .map(|number| {
                let request = enroll_request(device, &token, bodies[number % keys].as_bytes());
                let (client, ready) = (client.clone(), Arc::clone(&ready));
                tokio::spawn(async move {
                    ready.wait().await;
                    client.send(&request).await
                })
            })
            .collect();
        let mut certificates = Vec::new();
        for asked in asking {
            let answer = asked.await.unwrap();
            if answer.starts_with("HTTP/1.1 200 ") {
                let (_, body) = answer.split_once("\r\n\r\n").unwrap();
                certificates.push(body.to_owned());
            } else {
                assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
                assert_eq!(code_of(&answer), "token-spent");
            }
        }
        assert_eq!(certificates.len(), 50 / keys, "{device}");
        certificates.dedup();
        assert_eq!(certificates.len(), 1, "{device}");
        let shown = server.json(&["device", "show", device, "--json"]);
        let recorded = shown["certificates"].as_array().unwrap().len();
        assert_eq!(recorded, 1, "{device}: {shown}");
    }
}

/// What simplereenroll answers to a device that presents what is in its store.
fn renew(server: &Server, device: &Device, name: &str) -> String {
    let body = STANDARD.encode(named(name));
    let url = format!(
        "https://localhost:{}/.well-known/est/simplereenroll",
        server.enrollment().port()
    );
    let output = Command::new("curl")
        // The server may live at another time than the one who looks at its certificate.
        .args([
            "--silent",
            "--show-error",
            "--include",
            "--insecure",
            "--max-time",
            "20",
        ])
        .arg("--key")
        .arg(device.key_file())
        .arg("--cert")
        .arg(device.certificate_file())
        .args([
            "--header",
            "content-type: application/pkcs10",
            "--data-binary",
            &body,
            &url,
        ])
        .output()
        .unwrap();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn only_ones_own_good_certificate_renews() {
    let server = Server::start(Setup::default());
    let [a, b, stopped, gone] = ["a", "b", "stopped", "gone"].map(|id| server.device(id));
    let refused = |device: &Device, name: &str, code: &str| {
        let answer = renew(&server, device, name);
        assert!(answer.contains(" 403 "), "{code}: {answer}");
        assert_eq!(code_of(&answer), code, "{answer}");
        assert!(metric(&server, &format!("outcome=\"{code}\"")) >= 1);
    };
    server.run(&["device", "suspend", "stopped"]);
    server.run(&["device", "revoke", "gone"]);
    let seq = metric(&server, "keybound_feed_applied_seq");
    refused(&a, "b", "name-mismatch");
    refused(&b, "a", "name-mismatch");
    refused(&stopped, "stopped", "suspended");
    refused(&gone, "gone", "revoked");

    let elsewhere = Server::start(Setup::default());
    let foreign = elsewhere.device("a");
    let alert = renew(&server, &foreign, "a");
    assert!(!alert.contains("HTTP/1.1 200"), "{alert}");
    // The other authority has the same name, and another key.
    assert!(alert.contains(" alert "), "{alert}");
    assert_eq!(metric(&server, "keybound_feed_applied_seq"), seq);
    let explained = server.run(&["explain", "gone"]);
    assert!(explained.contains("revoked"), "{explained}");
    assert!(renew(&server, &a, "a").contains(" 200 "));
}
