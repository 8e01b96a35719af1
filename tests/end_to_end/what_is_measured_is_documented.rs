//! `docs/observability.md` has every metric with its labels, and `/metrics` has every metric of the page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::harness::pki::Pki;
use crate::harness::{Server, Setup, succeed};

type Metrics = BTreeMap<String, BTreeSet<String>>;

/// The metrics of the page: of tables' first columns, `name` or `name{label,label}`.
fn documented() -> Metrics {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md");
    let text = std::fs::read_to_string(page).unwrap();
    let mut metrics = Metrics::new();
    for line in text.lines() {
        let Some(name) = line.strip_prefix("| `keybound_") else {
            continue;
        };
        let (name, _) = name.split_once('`').unwrap();
        let (name, labels) = match name.split_once('{') {
            None => (name, ""),
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
        };
        let labels = labels.split(',').filter(|label| !label.is_empty());
        let labels = labels.map(str::to_owned).collect();
        let twice = metrics.insert(format!("keybound_{name}"), labels);
        assert_eq!(twice, None, "{name}");
    }
    metrics
}

/// The metrics of a scrape. Those of a histogram are one, and `le` is no label of its.
fn scraped(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let histograms: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram"))
        .collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .filter(|base| histograms.contains(base));
        let name = base.unwrap_or(name);
        let labels = if line[..line.find(' ').unwrap()].contains('{') {
            rest.split_once('}').unwrap().0
        } else {
            ""
        };
        let keys = labels
            .split("\",")
            .filter_map(|label| label.split_once("=\""))
            .map(|(key, _)| key.to_owned())
            .filter(|key| key != "le");
        metrics.entry(name.to_owned()).or_default().extend(keys);
    }
    metrics
}

#[test]
fn every_metric() {
    let directory = tempfile::tempdir().unwrap();
    // What is measured of another CA is there if there is one.
    let factory = Pki::new(directory.path(), "Factory CA");
    let crl = directory.path().join("factory.crl");
    std::fs::write(&crl, factory.list(&[])).unwrap();
    let file = directory.path().join("c.toml");
    let configuration = format!(
        "names = ['localhost']\n[gateway]\n[[gateway.anchor]]\nname = 'factory'\ncertificates = '{}'\ncrl = '{}'\nid_from = 'cn'\n",
        factory.path("ca.pem").display(),
        crl.display()
    );
    std::fs::write(&file, configuration).unwrap();
    let setup = Setup::default()
        .argument("--config")
        .argument(file.display().to_string());
    let server = Server::start_in(directory, setup);
    server.device("a");
    let url = format!("http://{}/metrics", server.health());
    let text = succeed(Command::new("curl").args(["--silent", &url]));
    let (documented, scraped) = (documented(), scraped(&text));
    assert_eq!(documented, scraped, "the page, and /metrics");
}
