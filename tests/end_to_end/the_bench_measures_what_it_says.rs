//! `tests/bench/run` stands on its load generator: every answer is checked, so that nobody wins by not doing the work.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Server, Setup, succeed, text};

fn program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_keybound")).with_file_name("keybound-bench")
}

/// The upstream of the bench.
struct Upstream {
    child: Child,
    address: String,
}

impl Upstream {
    fn start() -> Self {
        let mut child = Command::new(program())
            .arg("upstream")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("built by tests/run");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        Self {
            child,
            address: told["address"].as_str().unwrap().to_owned(),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Bench {
    _upstream: Upstream,
    server: Server,
}

impl Bench {
    fn start(devices: usize) -> Self {
        let upstream = Upstream::start();
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("keybound.toml");
        let address = &upstream.address;
        std::fs::write(
            &configuration,
            format!(
                "names = [\"localhost\", \"open.localhost\"]\n[gateway]\nrate = \"unlimited\"\n\
                 [[gateway.route]]\nupstream = \"http://{address}\"\n\
                 [[gateway.route]]\nhost = \"open.localhost\"\nclient = \"anonymous\"\nupstream = \"http://{address}\"\n"
            ),
        )
        .unwrap();
        let arguments = ["--config", configuration.to_str().unwrap()];
        let setup = arguments
            .into_iter()
            .fold(Setup::default(), Setup::argument);
        let server = Server::start_in(directory, setup);
        let requests = server.path("requests");
        succeed(
            Command::new(program())
                .arg("signing-requests")
                .arg(&requests)
                .arg(devices.to_string()),
        );
        let certificates = server.path("certificates");
        let folders = [requests.to_str().unwrap(), certificates.to_str().unwrap()];
        server.run(&["sign", "--dir", folders[0], "--out", folders[1]]);
        Self {
            _upstream: upstream,
            server,
        }
    }

    /// What a command of the load generator reports.
    fn run(&self, command: &str, arguments: &[&str]) -> Value {
        let output = Command::new(program())
            .arg(command)
            .args(["--gateway", &self.server.gateway().to_string()])
            .arg("--keys")
            .arg(self.server.path("requests"))
            .arg("--certificates")
            .arg(self.server.path("certificates"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = text(&output.stdout);
        assert!(
            output.status.success(),
            "{command} {arguments:?}: {}",
            text(&output.stderr)
        );
        serde_json::from_str(printed.lines().last().unwrap()).unwrap()
    }
}

fn done(report: &Value) -> u64 {
    assert_eq!(report["errors"], 0, "{report}");
    report["operations"].as_u64().unwrap()
}

#[test]
fn every_kind_of_load_passes_and_is_counted() {
    let bench = Bench::start(4);
    let short = ["--seconds", "0.2"];
    let warm = [&short[..], &["--warm", "4"]].concat();
    let handshakes = bench.run("handshakes", &warm);
    assert!(done(&handshakes) > 0);
    assert_eq!(handshakes["resumed"], 0);
    assert!(handshakes["handshake_bytes"].as_f64().unwrap() > 500.0);
    assert_eq!(done(&bench.run("handshakes", &["--once"])), 4);
    assert!(done(&bench.run("requests", &[&short[..], &["--connections", "3"]].concat())) > 0);
    assert!(done(&bench.run("streams", &short)) > 0);
    let megabyte = [&short[..], &["--length", "1000000"]].concat();
    for command in ["downloads", "uploads"] {
        let report = bench.run(command, &megabyte);
        assert_eq!(report["bytes"], done(&report) * 1_000_000);
    }
    for protocol in [&[][..], &["--http2"]] {
        let held = bench.run("idle", &[&["--connections", "6"], protocol].concat());
        assert_eq!(done(&held), 6);
    }
    let flood = bench.run("flood", &["--rate", "50", "--seconds", "1"]);
    let offered = flood["offered"].as_u64().unwrap();
    assert!((40..=50).contains(&offered), "{flood}");
    assert!(done(&flood["answered"]) > 0);

    let root = bench.server.root_file();
    let probe = bench.run("probe", &["--roots", root.to_str().unwrap()]);
    assert_eq!(probe["told"]["x-device-id"], "bench-000000", "{probe}");
    let trips = bench.run(
        "round-trips",
        &[
            "--delay",
            "20",
            "--count",
            "3",
            "--anonymous-name",
            "open.localhost",
        ],
    );
    for kind in ["with_certificate", "without_certificate"] {
        let (handshake, answer) = (&trips[kind]["handshake"], &trips[kind]["answer"]);
        // One for the handshake, and one for the request and its answer; less than another one for a busy machine.
        assert!((1.0..1.9).contains(&handshake.as_f64().unwrap()), "{trips}");
        assert!((2.0..2.9).contains(&answer.as_f64().unwrap()), "{trips}");
    }
}

#[test]
fn an_upstream_that_is_not_told_who_calls_is_an_error() {
    let bench = Bench::start(1);
    let nobody = [
        "--seconds",
        "0.1",
        "--warm",
        "0",
        "--name",
        "open.localhost",
    ];
    let report = bench.run("handshakes", &nobody);
    assert_eq!(report["operations"], 0, "{report}");
    let told = report["first_error"].as_str().unwrap();
    assert!(told.contains("was told \"\" of bench-000000"), "{told}");
}

#[test]
fn rows_have_names() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/run");
    let listed = succeed(Command::new(run).arg("--list"));
    for row in ["handshake ", "get ", "idle-http2 ", "round-trips "] {
        assert!(listed.lines().any(|line| line.starts_with(row)), "{listed}");
    }
}
