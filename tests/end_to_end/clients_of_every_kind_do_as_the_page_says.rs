//! The page of client snippets, followed line by line: enrollment by OpenSSL and curl, requests by curl, s_client, Python, Java and,
//! in a long run, Go.

use std::path::Path;

use crate::harness::page::{Page, step};

#[test]
fn enrollment_and_requests() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin");
    let steps = Page::read("docs/clients.md").follow(folder, &[peers], 90);
    for step in &steps {
        step.keeps_its_promise(folder);
        assert_eq!(step.status, 0, "{step:#?}");
    }
    let says = |what: &str, expected: &str| {
        let step = step(&steps, what);
        assert!(step.printed.contains(expected), "{step:#?}");
    };
    let device = "X-Device-Id: thermostat-7\n";
    says(
        "keybound sign",
        "URI:spiffe://keybound.local/device/thermostat-7",
    );
    says("simplereenroll", "X-Device-Id: thermostat-8\n");
    says("curl --cacert", device);
    says("openssl s_client", device);
    says("python3 standard.py", device);
    says("python3 with_requests.py", device);
    says("java Hello.java", device);
    says("java Hello.java", "200 HTTP_2");
    if steps.iter().any(|step| step.commands.contains("go run")) {
        says("go run", device);
    }
    says("device revoke", "\"code\":\"revoked\"");
}
