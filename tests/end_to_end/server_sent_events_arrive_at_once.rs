//! Server-sent events of a service with Python's HTTP server, read with curl over HTTP/1.1 and HTTP/2: each arrives when it
//! is sent, and a revocation ends the stream on both sides.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::harness::{Device, Server, Setup, eventually, figure, text};

/// A process that ends with the test, and the lines that it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.expect("installed by tests/run");
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line. It has to come although nothing is sent after it.
    fn next(&self) -> String {
        let line = self.lines.recv_timeout(SOON);
        line.expect("a line that was sent").trim().to_owned()
    }

    /// Has the service send an event.
    fn say(&mut self, event: &str) {
        let mut input = self.child.stdin.as_ref().unwrap();
        writeln!(input, "{event}").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output).lines();
        while let Some(Ok(line)) = output.next() {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A stream of events over one version of HTTP, whose head was read.
fn open(server: &Server, device: &Device, version: &str) -> Running {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--no-buffer", "--include", version])
        .args(["--max-time", "60", "--cacert"])
        .arg(server.root_file())
        .arg("--key")
        .arg(device.key_file())
        .arg("--cert")
        .arg(device.certificate_file())
        .arg(server.url("/events"));
    let stream = Running::start(&mut curl);
    let spoken = match version {
        "--http2" => "HTTP/2 200",
        _ => "HTTP/1.1 200 OK",
    };
    assert_eq!(stream.next(), spoken);
    let mut head = String::new();
    while !head.ends_with("\n\n") {
        head = head + &stream.next() + "\n";
    }
    assert!(head.contains("content-type: text/event-stream\n"), "{head}");
    stream
}

fn event(stream: &Running) -> String {
    let line = stream.next();
    assert_eq!(stream.next(), "");
    line
}

#[test]
fn over_both_versions_until_the_device_is_revoked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut service = Running::start(
        Command::new(root.join("target/peers/bin/python")).arg(root.join("tests/peers/events.py")),
    );
    let address = format!("127.0.0.1:{}", service.next());
    let server = Server::start(Setup::upstream(address.parse().unwrap()));
    let other = server.device("other");
    let others = [
        open(&server, &other, "--http1.1"),
        open(&server, &other, "--http2"),
    ];
    for stream in &others {
        assert_eq!(event(stream), "data: hello other");
    }
    for (version, name) in [("--http1.1", "first"), ("--http2", "second")] {
        let device = server.device(name);
        let mut stream = open(&server, &device, version);
        assert_eq!(event(&stream), format!("data: hello {name}"));
        let mut slowest = Duration::ZERO;
        for number in 0..20 {
            let began = Instant::now();
            service.say(&format!("{name} {number}"));
            for stream in others.iter().chain([&stream]) {
                assert_eq!(event(stream), format!("data: {name} {number}"));
            }
            slowest = slowest.max(began.elapsed());
        }
        let took = slowest.as_millis();
        figure(
            "server-sent events through the gateway: slowest of 20",
            format!("{took} ms ({version})"),
        );

        let began = Instant::now();
        let receipt = server.json(&["device", "revoke", name, "--json"]);
        assert_eq!(receipt["receipt"]["closed"], 1, "{receipt}");
        let mut end = None;
        eventually(Duration::from_secs(1), "the end of the stream", || {
            end = stream.child.try_wait().unwrap();
            end.is_some()
        });
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        // It was cut, and did not end as if that were all.
        assert!(!end.unwrap().success(), "{version}: {end:?}");
        assert_eq!(service.next(), format!("gone {name}"));
        let refused = device.curl(&server, &[version, &server.url("/events")]);
        let refused = text(&refused.stdout);
        assert!(refused.contains("revoked"), "{refused}");

        service.say("go on");
        for stream in &others {
            assert_eq!(event(stream), "data: go on");
        }
        assert!(stream.lines.try_recv().is_err());
    }
}

const SOON: Duration = Duration::from_secs(5);
