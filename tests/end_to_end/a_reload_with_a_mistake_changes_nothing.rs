//! `keybound reload` and SIGHUP put a configuration in force as a whole, or not at all (I5).

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::harness::upstream::Upstream;
use crate::harness::{Device, Server, Setup, eventually, succeed, text};

/// A configuration file beside the server's data.
fn write(directory: &Path, content: impl AsRef<[u8]>) {
    let unfinished = directory.join("c.toml.new");
    fs::write(&unfinished, content).unwrap();
    fs::rename(unfinished, directory.join("c.toml")).unwrap();
}

fn start(content: &str) -> Server {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), content);
    let file = directory.path().join("c.toml").display().to_string();
    let setup = Setup::default().argument("--config").argument(file);
    Server::start_in(directory, setup)
}

/// What `keybound reload` came to, and what it said.
fn reload(server: &Server) -> (Option<i32>, String) {
    let output = server.keybound(&["reload"]);
    let told = text(&[output.stdout, output.stderr].concat());
    (output.status.code(), told)
}

fn reloaded(server: &Server, content: &str) -> String {
    write(&server.path(""), content);
    let (code, told) = reload(server);
    assert_eq!(code, Some(0), "{told}");
    told
}

fn health(server: &Server, path: &str) -> String {
    let url = format!("http://{}{path}", server.health());
    succeed(std::process::Command::new("curl").args(["--silent", &url]))
}

fn readiness(server: &Server) -> serde_json::Value {
    serde_json::from_str(&health(server, "/readyz")).unwrap()
}

fn metric(server: &Server, name: &str) -> String {
    let metrics = health(server, "/metrics");
    let line = metrics.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
        .to_owned()
}

/// The status of a request.
fn status(server: &Server, device: &Device, path: &str) -> String {
    let output = device.curl(
        server,
        &[
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            &server.url(path),
        ],
    );
    text(&output.stdout)
}

fn routes(upstream: &Upstream, paths: &[&str]) -> String {
    let mut text = "[gateway]\n".to_owned();
    for path in paths {
        let upstream = upstream.address;
        text += &format!("[[gateway.route]]\npath = '{path}'\nupstream = 'http://{upstream}'\n");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_mistake() {
    let upstream = Upstream::start().await;
    let good = routes(&upstream, &["/a"]);
    let server = start(&good);
    let device = server.device("a");
    let directory = server.path("");
    let hash = metric(&server, "keybound_config_info");
    let loaded = metric(&server, "keybound_config_loaded_timestamp_seconds");
    let mut failures = 0;
    let mut check = |words: &[&str]| {
        let (code, told) = reload(&server);
        assert_eq!(code, Some(1), "{told}");
        for words in words {
            assert!(told.contains(words), "{words:?} in {told}");
        }
        assert!(told.contains("Nothing was changed."), "{told}");
        failures += 1;
        let readiness = readiness(&server);
        assert_eq!(
            (&readiness["ready"], &readiness["degraded"]),
            (&true.into(), &true.into()),
            "{readiness}"
        );
        let reason = readiness["reasons"][0].as_str().unwrap();
        assert!(reason.contains("was not reloaded"), "{reason}");
        let counted = metric(&server, "keybound_reload_failures_total");
        assert!(counted.ends_with(&format!(" {failures}")), "{counted}");
        assert_eq!(metric(&server, "keybound_config_info"), hash);
        assert_eq!(
            metric(&server, "keybound_config_loaded_timestamp_seconds"),
            loaded
        );
    };
    // Every one of them would let /b pass, if any of it were taken.
    let other = routes(&upstream, &["/b"]);
    let root = fs::read(server.root_file()).unwrap();
    fs::write(directory.join("truncated.pem"), &root[..root.len() / 2]).unwrap();
    fs::write(directory.join("empty.pem"), "").unwrap();
    let anchor = |file: &str| {
        let file = directory.join(file).display().to_string();
        format!(
            "{other}[[gateway.anchor]]\nname = 'f'\ncertificates = '{file}'\ncrl = 'none'\nid_from = 'cn'\n"
        )
    };
    for (content, words) in [
        (other.clone() + "= x\n", &["this is not TOML"][..]),
        (
            format!("dta = 'x'\n{other}"),
            &["1 mistake", "line 1: ", "no key \"dta\""],
        ),
        (
            other.clone() + "[[gateway.route]]\nhost = 'b'\nupstream = 'ftp://x'\n",
            &["2 mistakes", "line 6: ", "line 7: "],
        ),
        (
            format!("names = 5\n{other}"),
            &["names in the top level must be a list"],
        ),
        (
            other.replace("[gateway]", "[gateway]\nworkers = 7"),
            &["line 2: workers in [gateway]", "needs a restart"],
        ),
        (
            format!("trust_domain = 'else.where'\n{other}"),
            &["line 1: trust_domain", "needs a restart"],
        ),
        (
            format!("{other}[ca]\ndevice_certificate_days = 3\n"),
            &["line 6: device_certificate_days", "needs a restart"],
        ),
        (
            other.clone() + "[[gateway.certificate]]\ncertificate = '/nowhere'\nkey = '/nowhere'\n",
            &["line 6: /nowhere: it cannot be read"],
        ),
        (anchor("missing.pem"), &["missing.pem cannot be read"]),
        (anchor("empty.pem"), &["certificates: ", "empty.pem"]),
        (
            anchor("truncated.pem"),
            &["certificates: ", "truncated.pem"],
        ),
    ] {
        write(&directory, content);
        check(words);
        assert_eq!(status(&server, &device, "/a"), "200");
        assert_eq!(status(&server, &device, "/b"), "404");
    }
    write(&directory, [other.as_bytes(), b"# \xff\n"].concat());
    check(&["not UTF-8"]);
    let endless = fs::File::create(directory.join("c.toml")).unwrap();
    endless.set_len(1 << 30).unwrap();
    check(&["longer than 1048576 bytes"]);
    fs::remove_file(directory.join("c.toml")).unwrap();
    check(&["No such file"]);
    fs::create_dir(directory.join("c.toml")).unwrap();
    check(&["Is a directory"]);
    fs::remove_dir(directory.join("c.toml")).unwrap();
    // Nobody writes to it: reading it would take for ever.
    succeed(std::process::Command::new("mkfifo").arg(directory.join("c.toml")));
    check(&["could not be read within"]);
    fs::remove_file(directory.join("c.toml")).unwrap();
    assert_eq!(status(&server, &device, "/b"), "404");
    assert_eq!(status(&server, &device, "/a"), "200");

    // What was right all along is taken, and the alarm is over.
    let told = reloaded(&server, &other);
    assert!(told.contains("route any host /b added"), "{told}");
    assert!(told.contains("route any host /a removed"), "{told}");
    assert_eq!(status(&server, &device, "/b"), "200");
    assert_eq!(status(&server, &device, "/a"), "404");
    assert_eq!(readiness(&server)["degraded"], false);
    assert_ne!(metric(&server, "keybound_config_info"), hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_stay_in_force() {
    let upstream = Upstream::start().await;
    let server = start(&routes(&upstream, &["/a"]));
    // The ports of the flags go before those of the file, at the reload as at the start.
    let other = routes(&upstream, &["/a", "/b"]);
    let with_ports = other.replace("[gateway]", "[gateway]\nlisten = '127.0.0.1:1'");
    let told = reloaded(&server, &with_ports);
    assert!(
        told.contains("1 change\n  route any host /b added"),
        "{told}"
    );
    let told = reloaded(&server, &with_ports);
    assert!(told.contains("nothing is different"), "{told}");
    let answer = server.json(&["reload", "--json"]);
    assert_eq!(answer["changes"], serde_json::json!([]));
    write(&server.path(""), "x");
    let output = server.keybound(&["reload", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(answer["mistakes"].as_array().unwrap().len(), 1, "{answer}");

    // Where there is no file, there is nothing to be wrong.
    let plain = Server::start(Setup::default());
    let (code, told) = reload(&plain);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("nothing is different"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reloads_and_several_at_once() {
    let upstream = Upstream::start().await;
    let files = [routes(&upstream, &["/a"]), routes(&upstream, &["/b"])];
    let server = start(&files[0]);
    let device = server.device("a");
    for number in 1..=20 {
        let told = reloaded(&server, &files[number % 2]);
        assert!(told.contains("2 changes"), "{told}");
    }
    // While the file is replaced again and again, each reload takes one of the two.
    let directory = server.path("");
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            for number in 0..200 {
                write(&directory, &files[number % 2]);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let (code, told) = reload(&server);
                    assert_eq!(code, Some(0), "{told}");
                    assert!(
                        told.contains("2 changes") || told.contains("nothing is different"),
                        "{told}"
                    );
                }
            });
        }
        replacing.join().unwrap();
    });
    reloaded(&server, &files[1]);
    assert_eq!(status(&server, &device, "/b"), "200");
    assert_eq!(status(&server, &device, "/a"), "404");
    // A command that is broken off breaks nothing off.
    for _ in 0..10 {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keybound"))
            .args(["--data", server.path("data").to_str().unwrap(), "reload"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(3));
        command.kill().unwrap();
        command.wait().unwrap();
    }
    reloaded(&server, &files[0]);
    assert_eq!(status(&server, &device, "/a"), "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_does_the_same() {
    let upstream = Upstream::start().await;
    let server = start(&routes(&upstream, &["/a"]));
    let device = server.device("a");
    let hang_up = || {
        let process = server.process().to_string();
        succeed(std::process::Command::new("kill").args(["-HUP", &process]));
    };
    write(&server.path(""), routes(&upstream, &["/b"]));
    hang_up();
    let limit = Duration::from_secs(10);
    eventually(limit, "the new route", || {
        status(&server, &device, "/b") == "200"
    });
    write(&server.path(""), "[gateway");
    hang_up();
    eventually(limit, "the alarm", || {
        readiness(&server)["degraded"] == true
    });
    assert_eq!(status(&server, &device, "/b"), "200");
    assert!(server.log().contains("was not reloaded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_change_without_a_restart() {
    let upstream = Upstream::start().await;
    let server = start(&routes(&upstream, &["/"]));
    let device = server.device("a");
    let ask = |name: &str| {
        let port = server.gateway().port();
        let resolve = format!("{name}:{port}:127.0.0.1");
        let url = format!("https://{name}:{port}/");
        let arguments = [
            "--resolve",
            &resolve,
            "--write-out",
            "%{http_code}",
            "--output",
            "/dev/null",
            &url,
        ];
        let output = device.curl(&server, &arguments);
        (output.status.success(), text(&output.stdout))
    };
    assert!(!ask("api.example.com").0);
    let named = format!("names = ['api.example.com']\n{}", routes(&upstream, &["/"]));
    let told = reloaded(&server, &named);
    assert!(told.contains("names: api.example.com"), "{told}");
    assert_eq!(ask("api.example.com"), (true, "200".into()));
    assert!(!ask("localhost").0);
    // Codes name the server as it is called now, and what it is called now lasts.
    let code = server.run(&["token", "new", "--device", "b"]);
    assert!(!code.is_empty());
    let metric = metric(&server, "keybound_server_certificate_not_after_seconds");
    assert!(
        metric.contains("name=\"api.example.com\",source=\"ca\""),
        "{metric}"
    );
}
