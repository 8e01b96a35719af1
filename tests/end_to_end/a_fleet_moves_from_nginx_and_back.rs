//! The page on moving from nginx, followed line by line: a real nginx with a CA and list of its own, Keybound beside it and then in
//! its place, and nginx again; also with a root above the CA. The Envoy that is said to do the same takes the same devices.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::harness::page::{Page, step};
use crate::harness::pki::{Client, Pki};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, eventually, succeed};

const PAGE: &str = "docs/from-nginx.md";

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin")
}

#[test]
fn the_page_is_followed_there_and_back() {
    there_and_back(&Page::read(PAGE));
}

/// The changes are those that the page says.
#[test]
fn and_with_a_root_above_the_ca() {
    let page = Page::read(PAGE);
    let section = page.section("If a root stands above your CA");
    let blocks = section.blocks();
    let [("bash", pair), ("bash", list), ("nginx", depth)] = blocks[..] else {
        panic!("other blocks than before: {blocks:?}");
    };
    let mut made = list.lines();
    let (Some(new), Some(roots)) = (made.next(), made.next()) else {
        panic!("{list}");
    };
    let first = |line: &str| line.replace("factory.crl.new", "factory.crl");
    let (on, _) = depth.split_once(";\n").unwrap();
    let one = "openssl req -x509 $ec -days 3650 -subj \"/CN=Factory CA\" -keyout factory-ca.key -out factory-ca.pem\n";
    // One of the devices sends its CA along.
    let sends = "cat factory-issuing.pem >> pump-1.pem";
    let changed = page
        .with(one, &format!("{}\n", pair.trim_end()))
        .with(
            &format!("\n{}\n", first(new)),
            &format!("\n{}\n{}\n{sends}\n", first(new), first(roots)),
        )
        .with(
            &format!("-revoke pump-3.pem\n{new}\n"),
            &format!("-revoke pump-3.pem\n{new}\n{roots}\n"),
        )
        .with(
            &format!("{on};\n    ssl_crl"),
            &format!("{}\n    ssl_crl", depth.trim_end()),
        );
    there_and_back(&changed);
}

fn there_and_back(page: &Page) {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let steps = page.follow(folder, &[peers()], 90);
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

struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The page's Envoy on another port, in front of `upstream`. Its files are in `folder`.
fn envoy(folder: &Path, upstream: &Upstream) -> (Envoy, u16) {
    let page = Page::read(PAGE);
    let blocks = page.blocks();
    let yaml = blocks
        .iter()
        .find(|(_, content)| content.starts_with("# file: envoy.yaml\n"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut yaml = yaml.unwrap().1.to_owned();
    for (on_the_page, here) in [(8443, port), (8080, upstream.address.port())] {
        let written = format!("port_value: {on_the_page} ");
        assert_eq!(yaml.matches(&written).count(), 1, "{yaml}");
        yaml = yaml.replace(&written, &format!("port_value: {here} "));
    }
    std::fs::write(folder.join("envoy.yaml"), yaml).unwrap();
    let child = Command::new(peers().join("envoy"))
        .current_dir(folder)
        .args(["-c", "envoy.yaml", "--use-dynamic-base-id"])
        .args(["--concurrency", "1", "--log-level", "warning"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("envoy.log")).unwrap())
        .spawn()
        .expect("installed by tests/run (tests/peers/install)");
    let envoy = Envoy(child);
    eventually(Duration::from_secs(20), "Envoy listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    (envoy, port)
}

/// What an upstream was told of the client in `X-Forwarded-Client-Cert`: the value of each key, without quotes.
fn told(upstream: &Upstream) -> Vec<(String, String)> {
    let received = upstream.received();
    let name = "x-forwarded-client-cert: ";
    assert_eq!(received.matches(name).count(), 1, "{received}");
    let value = received.split(name).nth(1).unwrap();
    let value = value.split("\r\n").next().unwrap();
    let pairs = value.split(';').map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_envoy_takes_the_same_devices_and_tells_the_same_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let factory = Pki::new(folder, "Factory CA");
    let stranger = Pki::new(folder, "Another CA").client("/CN=pump-1");
    let [good, revoked] = ["/CN=pump-1", "/CN=pump-2"].map(|subject| factory.client(subject));
    factory.revoke(&revoked.certificate);
    std::fs::copy(factory.path("ca.pem"), folder.join("factory-ca.pem")).unwrap();
    std::fs::write(folder.join("factory.crl"), factory.list(&[])).unwrap();
    succeed(
        Command::new("openssl")
            .current_dir(folder)
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args([
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=localhost",
            ])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-keyout", "server.key", "-out", "server.pem"]),
    );
    let upstream = Upstream::start().await;
    let (_envoy, port) = envoy(folder, &upstream);
    let url = format!("https://localhost:{port}/");
    let forged = "X-Forwarded-Client-Cert: Subject=\"CN=admin\"";
    let ask = |client: Option<&Client>| -> Output {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20", "--header"])
            .args([forged, "--cacert"])
            .arg(folder.join("server.pem"));
        if let Some(client) = client {
            curl.arg("--key").arg(&client.key);
            curl.arg("--cert").arg(&client.certificate);
        }
        curl.arg(&url).output().unwrap()
    };
    for nobody in [Some(&revoked), Some(&stranger), None] {
        let answer = ask(nobody);
        assert!(!answer.status.success(), "{answer:?}");
    }
    assert_eq!(upstream.received(), "");
    let answer = ask(Some(&good));
    assert_eq!(answer.stdout, b"ok\n", "{answer:?}");
    let by_envoy = told(&upstream);

    let anchor = "[[gateway.anchor]]\nname = 'factory'\nid_from = 'cn'\n";
    let [ca, crl] = ["factory-ca.pem", "factory.crl"].map(|name| folder.join(name));
    let config = format!(
        "[gateway]\n{anchor}certificates = '{}'\ncrl = '{}'\n\
         [[gateway.route]]\nupstream = 'http://{}'\nidentity = ['xfcc']\n",
        ca.display(),
        crl.display(),
        upstream.address
    );
    let file = folder.join("keybound.toml");
    std::fs::write(&file, config).unwrap();
    let setup = Setup::default().argument("--config");
    let server = Server::start(setup.argument(file.display().to_string()));
    upstream.forget();
    assert_eq!(revoked.asks(&server, "/"), (403, "revoked".to_owned()));
    let answer = good.curl(&server, &["--header", forged, &server.url("/")]);
    assert_eq!(answer.stdout, b"ok\n", "{answer:?}");
    let by_keybound = told(&upstream);
    for key in ["Hash", "Cert", "Subject"] {
        let find = |told: &[(String, String)]| {
            let found = told.iter().find(|(name, _)| name == key);
            found
                .unwrap_or_else(|| panic!("{key} in {told:?}"))
                .1
                .clone()
        };
        assert_eq!(find(&by_envoy), find(&by_keybound), "{key}");
    }
    assert!(by_envoy.contains(&("Subject".to_owned(), "CN=pump-1".to_owned())));
}
