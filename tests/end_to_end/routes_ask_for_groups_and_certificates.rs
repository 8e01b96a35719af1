//! Groups, client modes and limits, from the configuration and `keybound device label` to the answer that curl gets.

use std::path::Path;
use std::process::{Command, Stdio};

use tokio_tungstenite::tungstenite::Error;

use crate::harness::client::{config, connect};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, text};

/// A server with a route per policy.
fn start(upstream: &Upstream) -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keybound.toml");
    let route = |host: &str, path: &str, keys: &str| {
        format!(
            "[[gateway.route]]\nhost = {host:?}\npath = {path:?}\nupstream = \"http://{}\"\n{keys}\n",
            upstream.address
        )
    };
    let routes = [
        route("localhost", "/", ""),
        route("localhost", "/blue", "groups = [\"blue\", \"green\"]"),
        route("localhost", "/open", "client = \"anonymous\""),
        route("localhost", "/maybe", "client = \"request\""),
        route("localhost", "/rare", "rate = \"1/h\"\nburst = 2"),
        route(
            "localhost",
            "/small",
            "max_body = \"10B\"\nmax_head = \"1KiB\"",
        ),
        route("closed.test", "/", ""),
        route("reported.test", "/", "client = \"report-only\""),
    ];
    let written = format!(
        "names = [\"localhost\", \"closed.test\", \"reported.test\"]\n[gateway]\n{}",
        routes.concat()
    );
    std::fs::write(&file, written).unwrap();
    let setup = Setup::default()
        .argument("--config")
        .argument(file.to_str().unwrap());
    (Server::start(setup), directory)
}

/// Status and code of the answer to a device's request.
fn status(output: &std::process::Output) -> String {
    let answer = text(&output.stdout);
    let status = answer.lines().next().unwrap_or_default();
    let status = status.split(' ').nth(1).unwrap_or_default();
    let code = answer.split("\"code\":\"").nth(1).unwrap_or_default();
    let code = code.split('"').next().unwrap_or_default();
    format!("{status} {code}").trim_end().to_owned()
}

/// curl without a certificate.
fn stranger(server: &Server, arguments: &[&str]) -> std::process::Output {
    Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--max-time", "20"])
        .arg("--cacert")
        .arg(server.root_file())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_command_to_the_next_request() {
    let upstream = Upstream::start().await;
    let (server, _kept) = start(&upstream);
    let device = server.device("thermostat-7");
    server.device("other");
    let get = |path: &str| status(&device.curl(&server, &["--include", &server.url(path)]));
    assert_eq!(get("/"), "200");
    assert_eq!(get("/blue"), "403 group-not-allowed");
    let explained = server.run(&["explain", "thermostat-7"]);
    assert!(explained.contains("device label"), "{explained}");

    let receipt = server.run(&[
        "device",
        "label",
        "thermostat-7",
        "--group",
        "blue",
        "--group",
        "cold",
        "--label",
        "site=Berlin, hall 3",
        "--reason",
        "moved",
    ]);
    assert!(receipt.contains("labelled: 1 of 1 gateways"), "{receipt}");
    assert_eq!(get("/blue"), "200");
    assert_eq!(get("/blue/x"), "200");
    let shown = server.run(&["device", "show", "thermostat-7"]);
    for expected in [
        "groups       blue, cold",
        "label        site = Berlin, hall 3",
        "device-labelled",
        "moved",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
    }
    let json = server.json(&["device", "show", "thermostat-7", "--json"]);
    assert_eq!(json["groups"], serde_json::json!(["blue", "cold"]));
    assert_eq!(json["labels"]["site"], "Berlin, hall 3");
    let listed = server.json(&["device", "list", "--group", "blue", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["id"], "thermostat-7");
    let listed = server.run(&["device", "list"]);
    assert!(
        listed.contains("blue, cold") && listed.contains("other"),
        "{listed}"
    );
    let again = server.run(&["device", "label", "thermostat-7", "--group", "blue"]);
    assert!(again.contains("labelled so already"), "{again}");

    for wrong in [
        &["device", "label", "thermostat-7"][..],
        &["device", "label", "thermostat-7", "--group", "Blue"],
        &["device", "label", "thermostat-7", "--label", "site"],
        &["device", "label", "thermostat-7", "--label", "site="],
        &["device", "list", "--group", "a b"],
    ] {
        assert_eq!(server.keybound(wrong).status.code(), Some(2), "{wrong:?}");
    }
    let unknown = server.keybound(&["device", "label", "nobody", "--group", "blue"]);
    assert_eq!(unknown.status.code(), Some(1));

    // A restart knows it, a renewed certificate has it, and it can be taken away.
    device.run(&["renew"]);
    assert_eq!(get("/blue"), "200");
    server.run(&[
        "device",
        "label",
        "thermostat-7",
        "--no-group",
        "blue",
        "--no-label",
        "site",
    ]);
    assert_eq!(get("/blue"), "403 group-not-allowed");
    assert_eq!(get("/"), "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_gets_as_far_as_the_routes_say() {
    let upstream = Upstream::start().await;
    let (server, _kept) = start(&upstream);
    let forged = ["-H", "X-Device-Id: admin", "-H", "Client-Cert: :AAAA:"];
    let ask = |path: &str, more: &[&str]| {
        let url = server.url(path);
        status(&stranger(
            &server,
            &[&forged[..], more, &[url.as_str()]].concat(),
        ))
    };
    for version in ["--http1.1", "--http2"] {
        upstream.forget();
        assert_eq!(ask("/open", &[version]), "200");
        assert_eq!(ask("/maybe", &[version]), "200");
        let received = upstream.received().to_ascii_lowercase();
        assert_eq!(received.matches("x-request-id: ").count(), 2, "{received}");
        for absent in ["x-device-id", "client-cert", "admin"] {
            assert!(!received.contains(absent), "{received}");
        }
        upstream.forget();
        assert_eq!(ask("/", &[version]), "403 certificate-required");
        assert_eq!(ask("/blue", &[version]), "403 certificate-required");
        assert_eq!(
            ask("/open", &[version, "-H", "Host: closed.test"]),
            "421 host-mismatch"
        );
        assert_eq!(upstream.received(), "");
    }
    // At the other name, the handshake fails already.
    let port = server.gateway().port();
    let resolve = format!("closed.test:{port}:127.0.0.1");
    let refused = stranger(
        &server,
        &[
            "--resolve",
            &resolve,
            &format!("https://closed.test:{port}/"),
        ],
    );
    assert!(!refused.status.success());
    assert_eq!(upstream.received(), "");

    // A device is told of at /maybe, and once it is revoked it is nobody's equal.
    let device = server.device("a");
    let get = |path: &str| status(&device.curl(&server, &["--include", &server.url(path)]));
    assert_eq!(get("/maybe"), "200");
    assert!(
        upstream
            .received()
            .to_ascii_lowercase()
            .contains("x-device-id: a\r\n")
    );
    upstream.forget();
    assert_eq!(get("/open"), "200");
    assert!(
        !upstream
            .received()
            .to_ascii_lowercase()
            .contains("x-device-id")
    );
    server.run(&["device", "revoke", "a"]);
    upstream.forget();
    assert_eq!(get("/maybe"), "403 revoked");
    assert_eq!(upstream.received(), "");
    let explained = server.run(&["explain", "127.0.0.1"]);
    assert!(explained.contains("forwarded-anonymously"), "{explained}");
}

/// A certificate and its key that no CA of ours knows, as curl takes them.
fn self_made(directory: &Path) -> [String; 4] {
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (key, certificate) = (file("stranger.key"), file("stranger.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=a"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    ["--cert".into(), certificate, "--key".into(), key]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_be_refused_is_reported_and_passes_as_nobody() {
    let upstream = Upstream::start().await;
    let (server, kept) = start(&upstream);
    let device = server.device("a");
    let url = server.url("/").replace("localhost", "reported.test");
    let port = server.gateway().port();
    let resolve = format!("reported.test:{port}:127.0.0.1");
    let get = [
        "--include",
        "--resolve",
        &resolve,
        "-H",
        "X-Device-Id: admin",
        &url,
    ];
    assert_eq!(status(&device.curl(&server, &get)), "200");
    let told = |upstream: &Upstream| upstream.received().to_ascii_lowercase();
    assert!(told(&upstream).contains("x-device-id: a\r\n"));

    server.run(&["device", "revoke", "a"]);
    upstream.forget();
    assert_eq!(status(&device.curl(&server, &get)), "200");
    let self_made = self_made(kept.path());
    let mut with_another: Vec<&str> = self_made.iter().map(String::as_str).collect();
    with_another.extend(get);
    assert_eq!(status(&stranger(&server, &with_another)), "200");
    assert_eq!(status(&stranger(&server, &get)), "200");
    let received = told(&upstream);
    assert_eq!(received.matches("x-request-id: ").count(), 3, "{received}");
    assert!(!received.contains("x-device-id"), "{received}");

    let explained = server.run(&["explain", "127.0.0.1"]);
    for code in ["revoked", "certificate-untrusted", "certificate-required"] {
        let expected = format!("forwarded-anonymously, reported {code}, HTTP 200");
        assert!(explained.contains(&expected), "{explained}");
    }
    let explained = server.run(&["explain", "a"]);
    assert!(explained.contains("reported revoked"), "{explained}");
    // Under another name the stranger is refused as ever.
    let elsewhere = server.url("/open");
    let mut arguments: Vec<&str> = self_made.iter().map(String::as_str).collect();
    arguments.push(&elsewhere);
    assert!(!stranger(&server, &arguments).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_routes() {
    let upstream = Upstream::start().await;
    let (server, _kept) = start(&upstream);
    let device = server.device("a");
    let curl = |path: &str, more: &[&str]| {
        let url = server.url(path);
        device.curl(&server, &[&["--include"], more, &[url.as_str()]].concat())
    };
    let statuses: Vec<String> = (0..3).map(|_| status(&curl("/rare", &[]))).collect();
    assert_eq!(statuses, ["200", "200", "429 rate-limited"]);
    let refused = text(&curl("/rare", &[]).stdout).to_ascii_lowercase();
    let after = refused.split("retry-after: ").nth(1).unwrap();
    let seconds: u64 = after.split("\r\n").next().unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&seconds), "{seconds}");
    assert_eq!(status(&curl("/", &[])), "200");
    upstream.forget();
    // Over HTTP/2, curl 7.88 may lose an answer that comes before it has sent its body.
    assert_eq!(
        status(&curl("/small", &["--http1.1", "-d", "0123456789a"])),
        "413 body-too-large"
    );
    let long = format!("X-Long: {}", "x".repeat(1024));
    assert_eq!(
        status(&curl("/small", &["-H", &long])),
        "431 head-too-large"
    );
    assert_eq!(upstream.received(), "");
    assert_eq!(status(&curl("/", &["-H", &long])), "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_closed_to_websockets_until_a_reload_opens_it() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keybound.toml");
    let write = |keys: &str| {
        let route = format!(
            "[[gateway.route]]\nupstream = \"http://{}\"",
            upstream.address
        );
        std::fs::write(&file, format!("[gateway]\n{route}\n{keys}\n")).unwrap();
    };
    write("websocket = false");
    let setup = Setup::default().argument("--config");
    let server = Server::start(setup.argument(file.to_str().unwrap()));
    let device = server.device("thermostat-7");
    let open = async || {
        let config = config(&server, &device, &["http/1.1"]);
        let tls = connect(server.gateway(), config).await;
        tokio_tungstenite::client_async("wss://localhost/socket", tls).await
    };
    upstream.forget();
    let Err(Error::Http(answer)) = open().await else {
        panic!("it was opened");
    };
    assert_eq!(answer.status(), 403);
    let details = answer.headers()["proxy-status"].to_str().unwrap();
    assert!(details.contains("websocket-not-allowed"), "{details}");
    assert_eq!(upstream.received(), "");
    let explained = server.run(&["explain", "thermostat-7"]);
    assert!(explained.contains("websocket = false"), "{explained}");
    // What is no WebSocket passes.
    assert_eq!(device.run(&["request", &server.url("/")]), "ok\n");
    write("websocket = true");
    let told = server.run(&["reload"]);
    assert!(told.contains("route any host / changed"), "{told}");
    open().await.expect("opened");
}
