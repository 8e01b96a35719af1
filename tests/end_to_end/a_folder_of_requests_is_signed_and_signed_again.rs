//! The factory's first need: a folder of requests in, a folder of certificates and a result per line out.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Instant, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use crate::harness::{Server, Setup, text};

const REQUESTS: usize = 10_000;

fn write_request(folder: &Path, id: &str) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap();
    std::fs::write(folder.join(format!("{id}.csr")), request.pem().unwrap()).unwrap();
}

fn files(folder: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "pem")
        })
        .map(|entry| {
            let metadata = entry.metadata().unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, (metadata.len(), metadata.modified().unwrap()))
        })
        .collect()
}

#[test]
fn ten_thousand_requests() {
    let server = Server::start(Setup::default());
    let (requests, certificates) = (server.path("requests"), server.path("certificates"));
    std::fs::create_dir(&requests).unwrap();
    for number in 0..REQUESTS {
        write_request(&requests, &format!("unit-{number:05}"));
    }
    let arguments = [
        "sign",
        "--dir",
        requests.to_str().unwrap(),
        "--out",
        certificates.to_str().unwrap(),
    ];
    let started = Instant::now();
    server.run(&arguments);
    println!("{REQUESTS} requests signed in {:?}", started.elapsed());
    let first = files(&certificates);
    assert_eq!(first.len(), REQUESTS);
    let results = std::fs::read_to_string(certificates.join("results.csv")).unwrap();
    let issued = results
        .lines()
        .filter(|line| line.starts_with("unit-"))
        .count();
    assert_eq!(issued, REQUESTS, "{}", &results[..results.len().min(500)]);

    let head = |server: &Server| server.json(&["device", "show", "unit-00042", "--json"]);
    let before = head(&server);
    server.run(&arguments);
    assert_eq!(files(&certificates), first);
    assert_eq!(head(&server), before);

    // A file that was lost comes back the same; a bad request is reported and spoils nothing.
    let lost = certificates.join("unit-00042.pem");
    let content = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    std::fs::write(requests.join("bad.csr"), "no request").unwrap();
    let output = server.keybound(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(std::fs::read(&lost).unwrap(), content);
    let results = std::fs::read_to_string(certificates.join("results.csv")).unwrap();
    let bad = results
        .lines()
        .find(|line| line.starts_with("bad,"))
        .unwrap();
    assert!(bad.contains("csr-malformed"), "{bad}");
}
