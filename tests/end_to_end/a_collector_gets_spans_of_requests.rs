//! `[telemetry]`: a collector gets the spans of requests and streams, and nobody waits for it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::upstream::Upstream;
use crate::harness::{Device, Server, Setup, eventually, succeed, text};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector by the definition of the protocol.
struct Collector {
    child: Child,
    lines: BufReader<ChildStdout>,
    port: u64,
}

impl Collector {
    fn start(busy: u32) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(root.join("target/peers/bin/python"))
            .arg(root.join("tests/peers/collect_traces.py"))
            .arg(busy.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/peers/install installs it");
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut collector = Self {
            child,
            lines,
            port: 0,
        };
        collector.port = collector.next().as_u64().unwrap();
        collector
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A collector that others wrote, which tells its log what it was sent.
struct Rotel {
    child: Child,
    log: PathBuf,
    port: u16,
}

impl Rotel {
    fn start(folder: &Path) -> Self {
        let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/lib");
        let program = fs::read_dir(libraries)
            .expect("tests/peers/install installs it")
            .map(|version| {
                let packages = version.unwrap().path().join("site-packages");
                packages.join("rotel/rotel-agent")
            })
            .find(|program| program.exists());
        let free_port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let (port, another) = (free_port(), free_port());
        let log = folder.join("rotel.log");
        let child = Command::new(program.expect("tests/peers/install installs it"))
            .args(["start", "--exporter", "blackhole"])
            .args(["--debug-log", "traces", "--debug-log-verbosity", "detailed"])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{port}")])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{another}")])
            .arg("--pid-file")
            .arg(folder.join("rotel.pid"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let rotel = Self { child, log, port };
        eventually(Duration::from_secs(10), "the collector listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        rotel
    }

    /// What it was told, span by span.
    fn spans(&self) -> Vec<String> {
        let told = fs::read_to_string(&self.log).unwrap();
        told.split("Span #").skip(1).map(str::to_owned).collect()
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Scene {
    server: Server,
    device: Device,
    upstream: Upstream,
}

impl Scene {
    async fn start(telemetry: &str) -> Self {
        let upstream = Upstream::start().await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.toml");
        fs::write(&file, Self::config(&upstream, telemetry)).unwrap();
        let setup = Setup::default()
            .argument("--config")
            .argument(file.display().to_string());
        let server = Server::start_in(directory, setup);
        Self {
            device: server.device("a"),
            server,
            upstream,
        }
    }

    fn config(upstream: &Upstream, telemetry: &str) -> String {
        let upstream = upstream.address;
        format!(
            "[telemetry]\n{telemetry}\n[gateway]\n[[gateway.route]]\npath = '/v1/'\nupstream = 'http://{upstream}'\n"
        )
    }

    /// Sends a request, and gives back the `traceparent` that the upstream got.
    fn ask(&self, path: &str, arguments: &[&str]) -> Option<String> {
        self.upstream.forget();
        let url = self.server.url(path);
        let output = self
            .device
            .curl(&self.server, &[&[url.as_str()], arguments].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let received = self.upstream.received();
        let parent = received.split("traceparent: ").nth(1)?;
        parent.split("\r\n").next().map(str::to_owned)
    }

    fn health(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.server.health());
        succeed(Command::new("curl").args(["--silent", &url]))
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = self.health("/metrics");
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_gateways_span_between_the_devices_and_the_upstreams() {
    // Busy at first: the same spans come again.
    let mut collector = Collector::start(1);
    let scene = Scene::start(&format!("otlp = 'http://127.0.0.1:{}'", collector.port)).await;
    let traceparent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let headers = [
        "--header",
        traceparent.as_str(),
        "--header",
        "tracestate: a=1",
    ];
    let sent = scene.ask(
        "/v1/x?secret",
        &[&headers[..], &["--user-agent", "\"'\u{e9}"]].concat(),
    );
    assert!(scene.upstream.received().contains("tracestate: a=1\r\n"));
    let refused = scene.ask("/nowhere", &["--request", "ODD"]);
    assert_eq!(refused, None);
    let span = collector.next();
    assert_eq!(
        sent,
        Some(format!("00-{TRACE}-{}-01", span["span"].as_str().unwrap()))
    );
    let attributes = &span["attributes"];
    for (found, expected) in [
        (&span["service"], Value::from("keybound")),
        (&span["trace"], TRACE.into()),
        (&span["parent"], PARENT.into()),
        (&span["name"], "GET /v1/".into()),
        (&span["kind"], 2.into()),
        (&span["status"], 0.into()),
        (&attributes["http.request.method"], "GET".into()),
        (&attributes["http.route"], "/v1/".into()),
        (&attributes["url.path"], "/v1/x".into()),
        (&attributes["server.address"], "localhost".into()),
        (&attributes["client.address"], "127.0.0.1".into()),
        (&attributes["http.response.status_code"], 200.into()),
        (&attributes["http.response.body.size"], 3.into()),
        (&attributes["network.protocol.version"], "2".into()),
        (&attributes["user_agent.original"], "\"'\u{e9}".into()),
        (&attributes["keybound.device"], "a".into()),
    ] {
        assert_eq!(*found, expected, "{span}");
    }
    assert!(!span.to_string().contains("secret"), "{span}");
    let took = span["nanoseconds"].as_u64().unwrap();
    assert!(took > 0 && took < 10_000_000_000, "{span}");

    let span = collector.next();
    assert_eq!(
        (&span["name"], &span["parent"]),
        (&"HTTP".into(), &"".into())
    );
    assert_eq!(span["attributes"]["http.request.method"], "_OTHER");
    assert_eq!(span["attributes"]["keybound.outcome"], "no-route");
    assert_eq!(span["status"], 0, "the client's error");
    assert_ne!(span["trace"], TRACE);

    // What the device says is not believed any more.
    let telemetry = format!(
        "otlp = 'http://127.0.0.1:{}'\ntrace = 'restart'",
        collector.port
    );
    fs::write(
        scene.server.path("c.toml"),
        Scene::config(&scene.upstream, &telemetry),
    )
    .unwrap();
    assert!(scene.server.run(&["reload"]).contains("telemetry"));
    let sent = scene.ask("/v1/x", &headers).unwrap();
    assert!(!scene.upstream.received().contains("tracestate"));
    let started = Instant::now();
    // A stop sends what is left.
    scene.server.stop();
    assert!(started.elapsed() < Duration::from_secs(10));
    let span = collector.next();
    assert_ne!(span["trace"], TRACE);
    let (trace, span) = (
        span["trace"].as_str().unwrap(),
        span["span"].as_str().unwrap(),
    );
    assert_eq!(sent, format!("00-{trace}-{span}-03"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wrote_the_collector() {
    let folder = tempfile::tempdir().unwrap();
    let rotel = Rotel::start(folder.path());
    let scene = Scene::start(&format!("otlp = 'http://127.0.0.1:{}'", rotel.port)).await;
    let traceparent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let sent = scene.ask("/v1/x", &["--header", &traceparent]).unwrap();
    scene.ask("/nowhere", &[]);
    eventually(Duration::from_secs(10), "two spans", || {
        rotel.spans().len() == 2
    });
    let spans = rotel.spans();
    let ours = sent.split('-').nth(2).unwrap();
    for line in [
        &format!("    Trace ID       : {TRACE}"),
        &format!("    Parent ID      : {PARENT}"),
        &format!("    ID             : {ours}"),
        "    Name           : GET /v1/",
        "    Kind           : SPAN_KIND_SERVER",
        "    Status code    : STATUS_CODE_UNSET",
        "     -> http.response.status_code: Int(200)",
        "     -> url.path: Str(/v1/x)",
        "     -> keybound.device: Str(a)",
    ] {
        assert!(
            spans[0].lines().any(|told| told == line),
            "{line:?} in {}",
            spans[0]
        );
    }
    let time = |name: &str| {
        let line = spans[0].lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse::<u64>().unwrap()
    };
    let (began, ended) = (time("Start time: "), time("End time: "));
    assert!(
        began > 1_700_000_000_000_000_000 && began < ended,
        "{}",
        spans[0]
    );
    assert!(
        spans[1].contains("keybound.outcome: Str(no-route)"),
        "{}",
        spans[1]
    );
    assert_eq!(scene.metric("keybound_spans_lost_total"), 0);
    scene.server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn and_without_a_collector_devices_are_served_as_ever() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let scene = Scene::start(&format!("otlp = 'http://127.0.0.1:{port}/v1/traces'")).await;
    let started = Instant::now();
    for _ in 0..5 {
        assert!(scene.ask("/v1/", &[]).is_some());
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    eventually(Duration::from_secs(15), "spans are lost", || {
        scene.metric("keybound_spans_lost_total") >= 5
    });
    let readiness: Value = serde_json::from_str(&scene.health("/readyz")).unwrap();
    assert_eq!(
        (&readiness["ready"], &readiness["degraded"]),
        (&true.into(), &true.into())
    );
    let telemetry = "trace = 'pass'";
    fs::write(
        scene.server.path("c.toml"),
        Scene::config(&scene.upstream, telemetry),
    )
    .unwrap();
    scene.server.run(&["reload"]);
    let readiness: Value = serde_json::from_str(&scene.health("/readyz")).unwrap();
    assert_eq!(readiness["degraded"], false, "{readiness}");
    assert_eq!(scene.ask("/v1/", &[]), None);
    scene.server.stop();
}

/// Repeats what it reads, on every connection.
async fn echo() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = tcp.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_one_span_from_its_first_byte_to_its_last() {
    let mut collector = Collector::start(0);
    let broker = echo().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.toml");
    let config = format!(
        "[telemetry]\notlp = 'http://127.0.0.1:{}'\n[gateway]\n\
         [[gateway.tcp]]\nhost = 'localhost'\nupstream = 'tcp://{broker}'\nproxy_protocol = 'none'\n",
        collector.port
    );
    fs::write(&file, config).unwrap();
    let setup = Setup::default()
        .argument("--config")
        .argument(file.display().to_string());
    let server = Server::start_in(directory, setup);
    let device = server.device("a");
    let open = async || {
        let config = crate::harness::client::config(&server, &device, &[]);
        crate::harness::client::connect(server.gateway(), config).await
    };
    let said = async |words: &[u8]| {
        let mut tls = open().await;
        tls.write_all(words).await.unwrap();
        let mut back = vec![0; words.len()];
        tls.read_exact(&mut back).await.unwrap();
        assert_eq!(back, words);
        tls
    };

    let mut whole = said(b"ping").await;
    whole.shutdown().await.unwrap();
    assert_eq!(whole.read(&mut [0]).await.unwrap(), 0);
    let span = collector.next();
    let attributes = &span["attributes"];
    for (found, expected) in [
        (&span["name"], Value::from("TCP localhost")),
        (&span["parent"], "".into()),
        (&span["kind"], 2.into()),
        (&span["status"], 0.into()),
        (&attributes["keybound.tcp_route"], "localhost".into()),
        (&attributes["keybound.device"], "a".into()),
        (&attributes["keybound.received"], 4.into()),
        (&attributes["keybound.sent"], 4.into()),
        (&attributes["keybound.outcome"], "forwarded".into()),
        (&attributes["keybound.end"], "complete".into()),
        (
            &attributes["keybound.upstream"],
            format!("tcp://{broker}").into(),
        ),
        (&attributes["server.address"], "localhost".into()),
        (&attributes["client.address"], "127.0.0.1".into()),
        (&attributes["network.transport"], "tcp".into()),
        (&attributes["tls.protocol.version"], "1.3".into()),
        (&attributes["http.request.method"], Value::Null),
        (&attributes["error.type"], Value::Null),
    ] {
        assert_eq!(*found, expected, "{span}");
    }
    // By the id under which `explain` has it.
    let id = attributes["keybound.request_id"].as_str().unwrap();
    assert!(server.run(&["explain", id]).contains("forwarded"));
    let first = span["trace"].clone();

    let mut cut = said(b"a longer message").await;
    server.run(&["device", "revoke", "a"]);
    assert_ne!(cut.read(&mut [0]).await.unwrap_or(0), 1);
    let span = collector.next();
    assert_eq!(span["attributes"]["keybound.end"], "cut", "{span}");
    assert_eq!(span["attributes"]["keybound.received"], 16, "{span}");
    assert_eq!(span["status"], 0, "{span}");
    assert_ne!(span["trace"], first);

    let mut refused = open().await;
    let _ = refused.read(&mut [0]).await;
    let span = collector.next();
    assert_eq!(span["attributes"]["keybound.outcome"], "revoked", "{span}");
    assert_eq!(span["attributes"]["error.type"], "revoked", "{span}");
    assert_eq!(span["attributes"]["keybound.received"], 0, "{span}");
    assert_eq!(
        (&span["status"], &span["name"]),
        (&2.into(), &"TCP localhost".into())
    );
}
