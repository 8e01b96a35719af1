//! Standard output and standard error are a pipe that is full, or whose reader has gone.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::rig::{Key, Right, Target, certificate_in, exchange};
use crate::harness::{Device, Server, Setup, eventually, figure, text};

/// A pipe with a name; whoever holds the file is its reader, who never reads.
fn pipe(path: &Path) -> File {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

fn into(pipe: &Path) -> Setup {
    let script = format!("exec \"$@\" > '{}' 2>&1", pipe.display());
    Setup::default()
        .wrapper(&["bash", "-c", &script, "-"])
        // Every line that there is.
        .environment("KEYBOUND_LOG", "trace")
}

/// Enrolls, calls, revokes, calls: everything that causes lines. The slowest single step.
fn work(server: &Server, target: &Target, rounds: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    let mut step = |step: &mut dyn FnMut() -> u16, expected: u16| {
        let started = Instant::now();
        assert_eq!(step(), expected);
        slowest = slowest.max(started.elapsed());
    };
    static DEVICES: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..rounds {
        let number = DEVICES.fetch_add(1, Ordering::Relaxed);
        let key = Key::new(&format!("device-{number}"));
        let token = target.token(&key.id).unwrap();
        let mut certificate = Vec::new();
        step(
            &mut || {
                let reply = target.est(&key, Right::Token(&token)).unwrap();
                certificate = certificate_in(&reply);
                reply.status
            },
            200,
        );
        step(&mut || target.get(&key, &certificate).unwrap().status, 200);
        let revoke = serde_json::json!({ "reason": null, "wait": true });
        let path = format!("/v1/devices/{}/revoke", key.id);
        step(
            &mut || target.admin("POST", &path, &revoke).unwrap().status,
            200,
        );
        for _ in 0..5 {
            step(&mut || target.get(&key, &certificate).unwrap().status, 403);
        }
    }
    assert_eq!(health(server, "/readyz").0, 200);
    slowest
}

/// HTTP/2 is what is traced with the most lines.
fn cause_lines(server: &Server, device: &Device) {
    let url = server.url("/");
    let arguments = [
        &["--http2", "--fail", "--output", "/dev/null"][..],
        &[url.as_str(); 20],
    ]
    .concat();
    let output = device.curl(server, &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn health(server: &Server, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(server.health()).unwrap();
    let reply = exchange(
        &mut stream,
        &format!("GET {path} HTTP/1.1\r\nhost: a\r\n"),
        &[],
    )
    .unwrap();
    (reply.status, text(&reply.body))
}

fn lost(server: &Server) -> u64 {
    let (_, metrics) = health(server, "/metrics");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("keybound_log_lines_lost_total "));
    line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn because_the_pipe_is_full() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("pipe");
    let mut reader = pipe(&path);
    // All that a pipe takes.
    reader.write_all(&[b'\n'; 65_536]).unwrap();
    let server = Server::start(into(&path));
    let target = Target::of(&server);
    let slowest = work(&server, &target, 20);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let device = server.device("h2");
    eventually(Duration::from_secs(20), "lost lines are counted", || {
        cause_lines(&server, &device);
        lost(&server) > 0
    });
    let slowest = slowest.max(work(&server, &target, 20));
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    figure(
        "full log pipe: slowest operation, lines lost",
        format!("{slowest:?}, {}", lost(&server)),
    );
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn not_even_of_a_panic() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("pipe");
    let mut reader = pipe(&path);
    reader.write_all(&[b'\n'; 65_536]).unwrap();
    // As many as there are workers, and more.
    let panics = 40;
    let failpoint = format!("gateway::request={panics}*panic(injected)");
    let server = Server::start(into(&path).environment("FAILPOINTS", &failpoint));
    let target = Target::of(&server);
    let key = Key::new("unlucky");
    let token = target.token(&key.id).unwrap();
    let certificate = certificate_in(&target.est(&key, Right::Token(&token)).unwrap());
    for _ in 0..panics {
        let started = Instant::now();
        assert_eq!(target.get(&key, &certificate).unwrap().status, 500);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    let slowest = work(&server, &target, 5);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    server.stop();
}

#[test]
fn because_its_reader_has_gone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("pipe");
    let reader = pipe(&path);
    let server = Server::start(into(&path));
    drop(reader);
    let target = Target::of(&server);
    work(&server, &target, 5);
    assert!(lost(&server) > 0);
    server.stop();
}

#[test]
fn and_whoever_reads_again_is_told() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("pipe");
    let mut reader = pipe(&path);
    reader.write_all(&[b'\n'; 65_536]).unwrap();
    let server = Server::start(into(&path));
    let device = server.device("h2");
    eventually(Duration::from_secs(20), "lines are lost", || {
        cause_lines(&server, &device);
        lost(&server) > 0
    });
    let (told, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::{BufRead as _, BufReader};
        for line in BufReader::new(reader).split(b'\n') {
            if text(&line.unwrap()).contains("lines of the log were lost") {
                told.send(()).unwrap();
                return;
            }
        }
    });
    seen.recv_timeout(Duration::from_secs(10)).unwrap();
    server.stop();
}
