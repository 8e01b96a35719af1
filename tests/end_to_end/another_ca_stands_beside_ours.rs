//! A team that has its own CA and lists of revoked certificates, made by OpenSSL, puts Keybound in front with them: who
//! is let in, who is not any more, and what happens when a list cannot be used (I5).

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::anchor::{
    MISSING, SOON, again, anchor, is_told, metrics, ok, put, readiness, refused, serve, start,
    whole,
};
use crate::harness::client::{config_of, connect};
use crate::harness::pki::{Client, Pki};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, eventually, figure, succeed, text};

/// A long answer under way, watched by a task that ends with it.
async fn download(server: &Server, client: &Client) -> tokio::task::JoinHandle<()> {
    let config = config_of(&server.root_file(), Some(client.identity()), &["http/1.1"]);
    let mut stream = connect(server.gateway(), config).await;
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(text(&answer), "HTTP/1.1 200");
    tokio::spawn(async move {
        let mut bytes = [0; 1024];
        while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn its_devices_are_known_until_its_list_says_otherwise() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    // As in front of nginx: the root and the issuing CA in one file, and both lists in another.
    let root = Pki::new(&path, "Factory Root");
    let factory = root.below(&path, "Factory CA");
    let depot = Pki::new(&path, "Depot CA");
    let both = [
        fs::read(root.path("ca.pem")),
        fs::read(factory.path("ca.pem")),
    ]
    .map(Result::unwrap);
    fs::write(path.join("factory.pem"), both.concat()).unwrap();
    let lists = || [root.list(&[]), factory.list(&[])].concat();
    fs::write(path.join("factory.crl"), lists()).unwrap();
    depot.list(&[]);
    depot.openssl(&[
        "crl", "-in", "made.crl", "-outform", "DER", "-out", "der.crl",
    ]);
    let (crl, der) = (path.join("factory.crl"), depot.path("der.crl"));
    let anchors = anchor(
        "factory",
        &path.join("factory.pem"),
        &format!("'{}'", crl.display()),
        "'cn'",
    ) + &anchor(
        "depot",
        &depot.path("ca.pem"),
        &format!("['{}']", der.display()),
        "'uri-san'\nuri_prefix = 'urn:depot:'",
    );
    let (pump, fan) = (
        factory.client("/O=Factory/CN=pump"),
        factory.client("/CN=fan"),
    );
    let lift = depot.client_with(
        "/CN=pump",
        &[
            "-addext",
            "subjectAltName=URI:urn:depot:pump,DNS:any.example",
        ],
    );
    let server = start(directory, &upstream, &anchors);
    assert_eq!(readiness(&server)["degraded"], false, "{}", server.log());
    let ours = server.device("pump");

    for (client, id) in [
        (&pump, "factory:pump"),
        (&fan, "factory:fan"),
        (&lift, "depot:pump"),
    ] {
        upstream.forget();
        assert_eq!(client.asks(&server, "/"), ok(), "{id}");
        let seen = upstream.received();
        assert!(seen.contains(&format!("x-device-id: {id}\r\n")), "{seen}");
        assert!(
            seen.contains("client-cert: :") && seen.contains("x-forwarded-client-cert: "),
            "{seen}"
        );
    }
    let explained = server.run(&["explain", "factory:pump"]);
    assert!(
        explained.contains("anchor factory") && explained.contains("forwarded"),
        "{explained}"
    );
    assert!(
        server
            .run(&["explain", &pump.serial()])
            .contains("factory:pump")
    );
    // The registry knows nothing of them, nor do they become known to it.
    assert!(!server.run(&["device", "list"]).contains("fan"));
    let gauges = metrics(&server);
    for gauge in [
        "keybound_crl_entries{anchor=\"factory\"} 0",
        "keybound_crl_next_update_seconds{anchor=\"depot\"} 1",
        "keybound_anchor_not_after_seconds{anchor=\"factory\"} 1",
    ] {
        assert!(gauges.contains(gauge), "{gauge} in {gauges}");
    }

    // Clients that have several certificates are told which of them will do.
    let address = server.gateway().to_string();
    // Without a certificate the end of it is an alert.
    let told = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", "localhost"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let told = text(&told.stdout);
    for name in ["CN = Factory Root", "CN = Factory CA", "CN = Depot CA"] {
        assert!(told.contains(name), "{name} in {told}");
    }

    let (held, other) = (
        download(&server, &pump).await,
        download(&server, &fan).await,
    );
    factory.revoke(&pump.certificate);
    put(&crl, &lists());
    eventually(SOON, "the end of its connections", || held.is_finished());
    assert!(!other.is_finished());
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    assert_eq!(fan.asks(&server, "/"), ok());
    assert_eq!(lift.asks(&server, "/"), ok());
    let output = ours.curl(&server, &["--fail", &server.url("/")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(server.run(&["explain", "factory:pump"]).contains("revoked"));
    assert!(metrics(&server).contains("keybound_crl_entries{anchor=\"factory\"} 1"));

    // The issuing CA itself is withdrawn: so is everybody below it.
    root.revoke(&factory.path("ca.pem"));
    put(&crl, &lists());
    eventually(SOON, "the end of the other's connections", || {
        other.is_finished()
    });
    assert_eq!(fan.asks(&server, "/"), refused(403, "revoked"));

    // A reload that takes an anchor away, and one that would take ours for somebody else's.
    let held = download(&server, &lift).await;
    let config = server.path("c.toml");
    let before = fs::read_to_string(&config).unwrap();
    let ours = anchor("ours", &server.root_file(), "'none'", "'cn'");
    fs::write(&config, before.clone() + &ours).unwrap();
    let output = server.keybound(&["reload"]);
    assert!(
        text(&output.stderr).contains("a CA of this server itself"),
        "{}",
        text(&output.stderr)
    );
    assert!(!held.is_finished());
    let without = before
        .split("[[gateway.anchor]]\nname = 'depot'")
        .next()
        .unwrap();
    fs::write(&config, without).unwrap();
    assert!(server.run(&["reload"]).contains("anchor depot removed"));
    eventually(SOON, "the end of a removed anchor's connections", || {
        held.is_finished()
    });
    let output = lift.curl(&server, &[&server.url("/")]);
    assert!(!output.status.success(), "{}", text(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_used_leaves_the_last_good_one_in_force() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let namesake = Pki::new(&path.join("elsewhere"), "Factory CA");
    let depot = Pki::new(&path, "Depot CA");
    let (good, gone) = (factory.client("/CN=good"), factory.client("/CN=gone"));
    let crl = path.join("factory.crl");
    let older = factory.list(&[]);
    factory.revoke(&gone.certificate);
    // Times have whole seconds: the number alone tells these two apart.
    let current = factory.list(&[]);
    fs::write(&crl, &current).unwrap();
    let anchors = anchor(
        "factory",
        &factory.path("ca.pem"),
        &format!("'{}'", crl.display()),
        "'cn'",
    );
    let server = start(directory, &upstream, &anchors);
    assert_eq!(good.asks(&server, "/"), ok());
    assert_eq!(gone.asks(&server, "/"), refused(403, "revoked"));

    let held = download(&server, &good).await;
    let altered = {
        let mut der = pem::parse(&current).unwrap().into_contents();
        *der.last_mut().unwrap() ^= 1;
        der
    };
    let huge = path.join("huge");
    let file = fs::File::create(&huge).unwrap();
    file.set_len(1 << 30).unwrap();
    let ended = [
        "-crl_lastupdate",
        "20260101000000Z",
        "-crl_nextupdate",
        "20260102000000Z",
    ];
    let bad = [
        ("it is empty", vec![]),
        ("it is empty", b"\n\n".to_vec()),
        (
            "a part of it is missing",
            current[..current.len() - 60].to_vec(),
        ),
        (
            "a part of it is missing",
            pem::parse(&current).unwrap().contents()[..100].to_vec(),
        ),
        (
            "it is no list",
            b"<html>down for maintenance</html>".to_vec(),
        ),
        ("it is no list", fs::read(factory.path("ca.pem")).unwrap()),
        ("issuer is none of the CA certificates", depot.list(&[])),
        ("does not bear its issuer's signature", namesake.list(&[])),
        ("does not bear its issuer's signature", altered),
        ("it is older than the one in force", older),
        ("it is older than the one in force", factory.list(&ended)),
        ("it is a delta CRL", factory.list(&["-crlexts", "delta"])),
    ];
    let mut tried = 0;
    for (words, content) in bad {
        put(&crl, &content);
        tried += 1;
        let counted = format!("keybound_crl_failures_total{{anchor=\"factory\"}} {tried}\n");
        eventually(SOON, words, || metrics(&server).contains(&counted));
        assert!(is_told(&server, words), "{words}: {}", readiness(&server));
    }
    fs::rename(&huge, &crl).unwrap();
    eventually(SOON, "its size", || {
        is_told(&server, "it has more than 256 MiB")
    });
    fs::remove_file(&crl).unwrap();
    eventually(SOON, "its absence", || is_told(&server, "cannot be read"));
    fs::create_dir(&crl).unwrap();
    eventually(SOON, "a folder", || is_told(&server, "it is not a file"));
    fs::remove_dir(&crl).unwrap();
    // Nor does a reload take one.
    let output = server.keybound(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    put(&crl, &factory.list(&["-crlexts", "delta"]));
    assert!(text(&server.keybound(&["reload"]).stderr).contains("it is a delta CRL"));

    assert!(!held.is_finished(), "{}", server.log());
    assert_eq!(good.asks(&server, "/"), ok());
    assert_eq!(gone.asks(&server, "/"), refused(403, "revoked"));
    // One that can be used ends the alarm; and one that ends soon is an alarm before it ends.
    put(&crl, &factory.list(&[]));
    server.run(&["reload"]);
    eventually(SOON, "the end of the alarm", || {
        readiness(&server)["degraded"] == false
    });
    put(&crl, &factory.list(&["-crlsec", "6"]));
    eventually(SOON, "the alarm of one that ends soon", || {
        is_told(&server, "ends soon")
    });
    eventually(SOON, "its end", || held.is_finished());
    assert_eq!(good.asks(&server, "/"), refused(503, "crl-stale"));
    assert_eq!(gone.asks(&server, "/"), refused(403, "revoked"));
    assert!(is_told(&server, "should have been replaced"));
    put(&crl, &factory.list(&[]));
    eventually(SOON, "a newer one", || good.asks(&server, "/") == ok());
    assert_eq!(readiness(&server)["degraded"], false);
}

/// Half the new connections with a request took no longer.
async fn median(server: &Server, client: &Client) -> Duration {
    let config = config_of(&server.root_file(), Some(client.identity()), &["http/1.1"]);
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        let mut stream = connect(server.gateway(), config.clone()).await;
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(text(&answer), "HTTP/1.1 200");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_half_a_million_costs_a_connection_nothing() {
    const MANY: usize = 500_000;
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let factory = Pki::new(directory.path(), "Factory CA");
    let pump = factory.client("/CN=pump");
    let crl = directory.path().join("factory.crl");
    fs::write(&crl, factory.list(&[])).unwrap();
    let place = format!("'{}'", crl.display());
    let anchors = anchor("factory", &factory.path("ca.pem"), &place, "'cn'");
    let server = start(directory, &upstream, &anchors);
    let before = median(&server, &pump).await;

    let mut index = fs::read_to_string(factory.path("index.txt")).unwrap();
    for number in 0..MANY {
        let line = format!("R\t400101000000Z\t260101000000Z\t{number:039X}1\tunknown\t/CN=x\n");
        index.push_str(&line);
    }
    fs::write(factory.path("index.txt"), index).unwrap();
    let list = factory.list(&[]);
    let began = Instant::now();
    put(&crl, &list);
    let entries = format!("keybound_crl_entries{{anchor=\"factory\"}} {MANY}\n");
    eventually(SOON, "so many", || metrics(&server).contains(&entries));
    let taken = began.elapsed();
    let after = median(&server, &pump).await;
    figure(
        &format!(
            "a list of {MANY} revoked certificates ({} MB) is in force after",
            list.len() / 1_000_000
        ),
        format!("{:.2} s", taken.as_secs_f64()),
    );
    figure(
        "a new connection and a request of another CA's device, with an empty list and with that one, p50",
        format!(
            "{:.2} and {:.2} ms",
            before.as_secs_f64() * 1e3,
            after.as_secs_f64() * 1e3
        ),
    );
    // Nobody scans it: that would be tens of milliseconds.
    assert!(
        after < before * 2 + Duration::from_millis(5),
        "{before:?} {after:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_behind_a_url_are_asked_for_again() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let pump = factory.client("/CN=pump");
    let first = factory.list(&[]);
    let answer = Arc::new(Mutex::new(whole(&first)));
    let port = serve(Arc::clone(&answer)).await;
    let url = format!("'http://localhost:{port}/factory.crl'\nrefresh = '1s'");
    let anchors = anchor("factory", &factory.path("ca.pem"), &url, "'cn'");
    let server = start(directory, &upstream, &anchors);
    assert_eq!(pump.asks(&server, "/"), ok());

    let short = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n",
        &first[..],
    ]
    .concat();
    let moved = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    for (words, bad) in [
        ("redirects are not followed", moved.to_vec()),
        ("answers with 404", MISSING.to_vec()),
        ("is no HTTP, or ended before its end", short),
        (
            "is no HTTP, or ended before its end",
            b"nonsense\r\n\r\n".to_vec(),
        ),
        ("it is empty", whole(b"")),
    ] {
        *answer.lock().unwrap() = bad;
        eventually(SOON, words, || is_told(&server, words));
    }
    assert_eq!(pump.asks(&server, "/"), ok());
    let held = download(&server, &pump).await;
    factory.revoke(&pump.certificate);
    *answer.lock().unwrap() = whole(&factory.list(&[]));
    eventually(SOON, "the end of its connections", || held.is_finished());
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    assert_eq!(readiness(&server)["degraded"], false);
    // Whoever stands between may answer with an old one, and is not believed.
    *answer.lock().unwrap() = whole(&first);
    eventually(SOON, "an old one", || {
        is_told(&server, "older than the one in force")
    });
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    // Nor after a restart, at which nobody answers, or he does.
    let server = again(server.stop());
    eventually(SOON, "an old one after a restart", || {
        is_told(&server, "older than the one in force")
    });
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    *answer.lock().unwrap() = MISSING.to_vec();
    let server = again(server.kill());
    eventually(SOON, "none after a restart", || {
        is_told(&server, "answers with 404")
    });
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
}

const BASE: &str =
    "names = ['localhost']\n[ca]\n[gateway]\n[[gateway.route]]\nupstream = 'http://b'\n";

#[test]
fn mistakes_are_told_together_and_stop_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let factory = Pki::new(path, "Factory CA");
    let client = factory.client("/CN=a");
    fs::write(path.join("factory.crl"), factory.list(&[])).unwrap();
    fs::copy(factory.path("ca.pem"), path.join("ca.pem")).unwrap();
    fs::copy(&client.certificate, path.join("leaf.pem")).unwrap();
    let other = Pki::new(path, "Other CA");
    fs::write(path.join("other.crl"), other.list(&[])).unwrap();
    fs::copy(other.path("ca.pem"), path.join("other.pem")).unwrap();
    fs::write(path.join("ids.csv"), "fingerprint,id\nnonsense,a\n").unwrap();
    factory.certify_itself(
        "Factory CA",
        "20200101000000Z",
        "20210101000000Z",
        "ended.pem",
    );
    fs::copy(factory.path("ended.pem"), path.join("ended.pem")).unwrap();
    let check = |commands: &[&str], anchors: &str, words: &[&str]| {
        fs::write(path.join("c.toml"), format!("{BASE}{anchors}")).unwrap();
        for command in commands {
            let output = Command::new("timeout")
                .args([
                    "20",
                    env!("CARGO_BIN_EXE_keybound"),
                    command,
                    "--config",
                    "c.toml",
                ])
                .current_dir(path)
                .output()
                .unwrap();
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{told}");
            for words in words {
                assert!(told.contains(words), "{words:?} in {told}");
            }
        }
    };
    let passes = |anchors: &str| {
        fs::write(path.join("c.toml"), format!("{BASE}{anchors}")).unwrap();
        succeed(
            Command::new(env!("CARGO_BIN_EXE_keybound"))
                .args(["check", "--config", "c.toml"])
                .current_dir(path),
        );
    };
    let both = ["check", "serve"];
    check(
        &both,
        "[[gateway.anchor]]\n[[gateway.anchor]]\nname = 'Ours'\ncertificates = 'leaf.pem'\ncrl = ['none', 'a']\nid_from = 'dn'\n",
        &[
            "8 mistakes",
            "line 6: [[gateway.anchor]] has no name",
            "has no certificates",
            "has no crl; name the file or URL",
            "has no id_from",
            "line 8: the anchor's name \"Ours\" is refused",
            "line 9: certificates: leaf.pem: certificate 1 cannot be an anchor: it is no CA certificate",
            "line 10: crl is \"none\" and something else",
            "line 11: id_from = \"dn\" is not known",
        ],
    );
    let table = |certificates: &str, crl: &str, id_from: &str| {
        format!(
            "[[gateway.anchor]]\nname = 'factory'\ncertificates = '{certificates}'\ncrl = {crl}\nid_from = {id_from}\n"
        )
    };
    for (certificates, crl, id_from, words) in [
        (
            "ended.pem",
            "'none'",
            "'cn'",
            "line 8: certificates: ended.pem: certificate 1 cannot be an anchor: it has expired",
        ),
        (
            "none.pem",
            "'none'",
            "'cn'",
            "line 8: certificates: none.pem cannot be read",
        ),
        (
            "ca.pem",
            "'none.crl'",
            "'cn'",
            "line 9: crl: none.crl: it cannot be read",
        ),
        (
            "ca.pem",
            "'other.crl'",
            "'cn'",
            "line 9: crl: other.crl: its issuer is none of the CA certificates",
        ),
        (
            "ca.pem",
            "'ca.pem'",
            "'cn'",
            "line 9: crl: ca.pem: it is no list",
        ),
        ("ca.pem", "''", "'cn'", "line 9: crl is blank"),
        (
            "ca.pem",
            "'ftp://a/b'",
            "'cn'",
            "line 9: the URL \"ftp://a/b\" is refused",
        ),
        (
            "ca.pem",
            "'https://a/b'",
            "'cn'",
            "line 6: crl has an https:// URL, so crl_roots must name",
        ),
        (
            "ca.pem",
            "['factory.crl', 'factory.crl']",
            "'cn'",
            "line 9: crl has factory.crl twice",
        ),
        (
            "ca.pem",
            "'factory.crl'",
            "'uri-san'",
            "line 10: id_from = \"uri-san\" needs uri_prefix",
        ),
        (
            "ca.pem",
            "'factory.crl'",
            "'uri-san'\nuri_prefix = 'a b'",
            "line 11: uri_prefix = \"a b\" is no beginning of a URI",
        ),
        (
            "ca.pem",
            "'factory.crl'",
            "'cn'\ntable = 'ids.csv'",
            "line 11: table does not go with id_from = \"cn\"",
        ),
        (
            "ca.pem",
            "'factory.crl'",
            "'table'\ntable = 'ids.csv'",
            "line 11: table: ids.csv: line 2: its first field is no SHA-256",
        ),
        (
            "ca.pem",
            "'factory.crl'\nrefresh = '1s'",
            "'cn'",
            "line 10: refresh is for URLs",
        ),
    ] {
        check(
            &both,
            &table(certificates, crl, id_from),
            &["1 mistake\n", words],
        );
    }
    let twice = table("ca.pem", "'factory.crl'", "'cn'").repeat(2);
    check(
        &both,
        &twice,
        &[
            "line 11: this anchor is refused: another anchor has the name factory",
            "is of the same CA",
        ],
    );
    let gateway = "[[gateway.trusted_gateway]]\nname = 'Factory'\n";
    let named_alike = table("ca.pem", "'factory.crl'", "'cn'") + gateway;
    check(
        &both,
        &named_alike,
        &["line 7: a [[gateway.trusted_gateway]] has the name \"factory\", too"],
    );
    // What is behind a URL only a start finds out.
    let url = table("ca.pem", "'http://127.0.0.1:1/a'", "'cn'");
    check(
        &["serve"],
        &url,
        &["the anchor factory: crl: http://127.0.0.1:1/a: its host cannot be reached"],
    );
    // However it is written: what is kept of a URL is one file.
    let two = |first: &str, second: &str| {
        let other = table("other.pem", second, "'cn'").replace("factory", "depot");
        table("ca.pem", first, "'cn'") + &other
    };
    check(
        &both,
        &two(
            "'http://127.0.0.1/a'",
            "['http://127.0.0.1/b', 'http://127.0.0.1:80/a']",
        ),
        &[
            "1 mistake\n",
            "line 14: crl: another anchor has http://127.0.0.1/a, too",
        ],
    );
    passes(&two("'http://127.0.0.1/a'", "'http://127.0.0.1/b'"));
    // Nor does the example that the configuration file has in its comments.
    let example = include_str!("../../config/keybound.toml");
    let example = example.split("# [[gateway.anchor]]\n").nth(1).unwrap();
    let example: String = example
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap().to_owned() + "\n")
        .collect();
    let example = example
        .replace("/etc/keybound/factory-ca.pem", "ca.pem")
        .replace("/etc/keybound/pki-web.pem", "ca.pem")
        .replace("/etc/keybound/factory.crl", "factory.crl");
    passes(&format!("[[gateway.anchor]]\n{example}"));
    // Their twin has no mistake, either.
    fs::write(path.join("ids.csv"), format!("{},a\n", "0".repeat(64))).unwrap();
    let good = table("ca.pem", "'factory.crl'", "'table'\ntable = 'ids.csv'");
    passes(&good);
}
