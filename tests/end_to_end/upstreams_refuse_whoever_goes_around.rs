//! The page on going around the gateway, followed line by line, and what `keybound doctor spoof` says of services that are not on it.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::page::{Page, step};
use crate::harness::{Server, Setup, eventually, text};

/// Where Python has PyJWT.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin")
}

#[test]
fn the_page_closes_the_hole() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    // For others to look at: what is closed to them is closed by the page.
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let own = Path::new(env!("CARGO_BIN_EXE_keybound"));
    std::fs::create_dir(folder.join("bin")).unwrap();
    std::fs::copy(own, folder.join("bin/keybound")).unwrap();
    let page = Page::read("docs/upstreams-and-spoofing.md");
    let steps = page.follow(folder, &[folder.join("bin"), peers()], 90);
    for step in &steps {
        step.keeps_its_promise(folder);
    }
    let says = |what: &str, status: i32, expected: &str| {
        let step = step(&steps, what);
        assert_eq!(step.status, status, "{step:#?}");
        assert!(step.printed.contains(expected), "{step:#?}");
    };
    says("python3 whoami.py 8080", 0, "\nthermostat-7\n");
    says("curl -s -H", 0, "thermostat-7\n");
    says(
        "spoof --gateway https://localhost:8443 --upstream http://127.0.0.1:8080",
        1,
        "reflected",
    );
    says("mkdir -m 0700 private", 0, "\nthermostat-7\n");
    says("nginx -p", 0, "\nthermostat-7\n");
    says("verified.py 2>", 0, "\nthermostat-7\n");
    if steps.iter().any(|step| step.commands.contains("as root")) {
        says("setpriv", 0, "is closed to strangers");
        says("nft -f", 2, "cannot be reached");
    }
}

/// A service in Python on a port of its own.
struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    /// `verdict` is an expression over `headers`, the dictionary of what was received, that gives status and body.
    fn start(verdict: &str) -> Self {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let program = format!(
            "
import http.server
class Service(http.server.BaseHTTPRequestHandler):
    wbufsize = -1
    asked = 0
    def do_GET(self):
        Service.asked += 1
        asked = Service.asked
        headers = {{name.lower(): value for name, value in self.headers.items()}}
        status, body = {verdict}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', {}), Service).serve_forever()
",
            address.port()
        );
        let child = Command::new("python3")
            .args(["-c", &program])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually(Duration::from_secs(10), "the service listens", || {
            std::net::TcpStream::connect(address).is_ok()
        });
        Self { child, address }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The doctor's exit code and JSON report.
pub fn spoof(arguments: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args(["doctor", "spoof", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), report)
}

/// In which versions of HTTP somebody was asked.
pub fn versions(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|one| one["http"].as_str().unwrap()).collect()
}

/// `header spelling effect` of what was believed.
pub fn believed(report: &Value) -> Vec<String> {
    let trials = report["findings"].as_array().into_iter().flatten();
    trials
        .flat_map(|finding| finding["trials"].as_array().unwrap())
        .filter(|trial| trial["believed"] == true)
        .map(|trial| {
            let word = |key: &str| trial[key].as_str().unwrap().to_owned();
            format!("{} {} {}", word("header"), word("spelling"), word("effect"))
        })
        .collect()
}

#[test]
fn each_way_of_believing_is_seen() {
    let check = |verdict: &str, more: &[&str], code: i32, expected: &[&str]| {
        let service = Service::start(verdict);
        let url = format!("http://{}", service.address);
        let (exit, report) = spoof(&[&["--upstream", &url], more].concat());
        assert_eq!(believed(&report), expected, "{verdict}");
        assert_eq!(
            (exit, &report["believed"]),
            (code, &Value::Bool(code == 1)),
            "{verdict}"
        );
    };
    check("(200, 'hello')", &[], 0, &[]);
    // An answer of its own to each request is no effect of anything.
    check("(200, str(asked))", &[], 0, &[]);
    check("(500, 'nothing works')", &[], 0, &[]);
    // Who repeats where a request came from does not decide by it.
    check("(200, headers.get('x-request-id', ''))", &[], 0, &[]);
    check(
        "(200 if headers.get('x-real-ip') == '127.0.0.1' else 403, '')",
        &[],
        1,
        &["x-real-ip exact changed-the-answer"],
    );
    // One header alone does not convince it, those of its dialect do.
    check(
        "(200, 'in') if headers.get('x-ssl-client-verify') == 'SUCCESS' and 'x-ssl-client-s-dn' in headers else (403, 'out')",
        &[],
        1,
        &["nginx, together exact changed-the-answer"],
    );
    // It knows its devices, and only says so of them.
    let known =
        "(200, 'welcome') if headers.get('x_device_id') == 'thermostat-7' else (200, 'go away')";
    check(known, &[], 0, &[]);
    check(
        known,
        &["--as", "thermostat-7"],
        1,
        &["x-device-id underscores changed-the-answer"],
    );
    // It reads the certificate, and signs nobody's name under it.
    check(
        "(200, headers.get('client-cert', '')[:80])",
        &[],
        1,
        &[
            "client-cert exact reflected",
            "rfc9440, together exact reflected",
        ],
    );
}

#[test]
fn what_does_not_answer_proves_nothing() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for url in [
        format!("http://{nobody}"),
        "unix:/nowhere/socket".to_owned(),
    ] {
        let (exit, report) = spoof(&["--upstream", &url]);
        assert_eq!((exit, report), (2, Value::Null), "{url}");
    }
    for wrong in [
        &["--upstream", "ftp://127.0.0.1"][..],
        &["--gateway", "http://127.0.0.1"],
        &["--upstream", "http://127.0.0.1", "--path", "x"],
        &[],
    ] {
        assert_eq!(spoof(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn the_built_in_upstream_and_the_gateway() {
    let server = Server::start(Setup::default());
    let device = server.device("thermostat-7");
    let store = device.store.to_str().unwrap();
    let gateway = server.url("").trim_end_matches('/').to_owned();
    let (exit, report) = spoof(&["--gateway", &gateway, "--keystore", store]);
    assert_eq!((exit, believed(&report).len()), (0, 0), "{report}");
    assert_eq!(versions(&report), ["1.1", "2"]);
    for finding in report["findings"].as_array().unwrap() {
        let trials = finding["trials"].as_array().unwrap();
        assert!(trials.len() > 100, "{finding}");
        for trial in trials {
            let expected = match trial["spelling"].as_str().unwrap() {
                "exact" => "no-effect",
                _ => "refused-by-the-gateway",
            };
            assert_eq!(trial["effect"], expected, "{trial}");
        }
    }
    // Strangers do not pass the gateway's own door.
    let (exit, report) = spoof(&["--upstream", &gateway]);
    assert_eq!((exit, &versions(&report)[..]), (0, &["1.1", "2"][..]));
    for finding in report["findings"].as_array().unwrap() {
        let closed = finding["closed"].as_str().unwrap();
        assert!(closed.contains("certificate"), "{closed}");
    }
    // The device has to be one.
    server.run(&["device", "revoke", "thermostat-7"]);
    let output = server.keybound(&[
        "doctor",
        "spoof",
        "--gateway",
        &gateway,
        "--keystore",
        store,
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("revoked"), "{output:?}");

    // Around the gateway everything is shown, so everything that names somebody is reflected.
    let welcome = server.log();
    let upstream = welcome.split("upstream    ").nth(1).unwrap();
    let upstream = upstream.split(',').next().unwrap();
    let (exit, report) = spoof(&["--upstream", upstream]);
    assert_eq!(exit, 1, "{report}");
    let believed = believed(&report);
    for expected in [
        "x-device-id exact reflected",
        "x-device-id underscores reflected",
        "client-cert exact reflected",
        "x-forwarded-client-cert dots reflected",
        "traefik, together exact reflected",
        "x-device-assertion exact reflected",
        "x-ssl-client-cert exact reflected",
    ] {
        assert!(
            believed.iter().any(|one| one == expected),
            "{expected}: {believed:#?}"
        );
    }
}
