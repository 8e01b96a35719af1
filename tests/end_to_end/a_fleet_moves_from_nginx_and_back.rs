//! The page on moving from nginx, followed line by line: a real nginx with a CA and list of its own, Keybound beside it and then in
//! its place, and nginx again. Envoy judges the configuration that is said to be its own.

use std::path::Path;

use crate::harness::page::{Page, step};

#[test]
fn the_page_is_followed_there_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin");
    let steps = Page::read("docs/from-nginx.md").follow(folder, &[peers], 90);
    for step in &steps {
        step.keeps_its_promise(folder);
        assert_eq!(step.status, 0, "{step:#?}");
    }
    // What the page says in words.
    let says = |what: &str, expected: &[&str], never: &str| {
        let step = step(&steps, what);
        let mut rest = step.printed.as_str();
        for one in expected {
            let Some((_, after)) = rest.split_once(one) else {
                panic!("{one:?} is not in {step:#?}");
            };
            rest = after;
        }
        assert!(!step.printed.contains(never), "{step:#?}");
    };
    let revoked = "\"status\":403,\"title\":\"Certificate revoked\"";
    says("python3 service.py", &["hello CN=pump-1"], "pump-2");
    says(
        "keybound explain",
        &["nobody", "reported revoked"],
        "hello CN=pump-2",
    );
    says(
        "sed -i 's/\"report-only",
        &["hello CN=pump-1", revoked],
        "pump-2",
    );
    says(
        "-revoke pump-3.pem",
        &["hello CN=pump-3", revoked, "hello CN=pump-3"],
        "nobody",
    );
    says("-s quit", &["hello CN=pump-1", revoked], "pump-3");
    says(
        "curl -s --cacert server-ca.pem https://localhost:8443/ > ready",
        &[
            "hello CN=pump-1",
            "The SSL certificate error",
            "hello CN=pump-4",
        ],
        "pump-3",
    );
}
