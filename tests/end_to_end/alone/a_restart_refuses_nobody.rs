//! Sockets that outlive the process: while the server is restarted, whoever connects waits and is served.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::rig::{Key, Right, Target, certificate_in};
use crate::harness::{Server, Setup, eventually, figure, succeed};

/// Holds three listening sockets as a service manager would, and starts another process at SIGUSR1 once the old one
/// has ended.
const PARENT: &str = r#"
import fcntl, os, signal, socket, sys

def listening():
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", 0))
    one.listen(1024)
    return one

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
sockets = [listening() for _ in range(3)]

def start():
    process = os.fork()
    if process == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGTERM})
        aside = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 20) for one in sockets]
        for place, one in enumerate(aside):
            os.dup2(one, 3 + place)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="gateway:enrollment:health")
        os.execv(sys.argv[1], sys.argv[1:])
    return process

def end(process):
    os.kill(process, signal.SIGTERM)
    return os.waitpid(process, 0)[1]

process = start()
while signal.sigwait({signal.SIGUSR1, signal.SIGTERM}) == signal.SIGUSR1:
    if end(process) != 0:
        sys.exit(1)
    process = start()
sys.exit(1 if end(process) else 0)
"#;

fn start() -> Server {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("parent.py");
    std::fs::write(&script, PARENT).unwrap();
    let setup = Setup::default().wrapper(&["/usr/bin/python3", script.to_str().unwrap()]);
    Server::start_in(directory, setup)
}

#[test]
fn while_devices_connect() {
    let server = start();
    let target = Target::of(&server);
    let key = Key::new("a");
    let token = target.token("a").unwrap();
    let certificate = certificate_in(&target.est(&key, Right::Token(&token)).unwrap());
    let (ends, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let longest = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut longest = Duration::ZERO;
                    while !ends.load(Ordering::Relaxed) {
                        let started = Instant::now();
                        // Nothing is tried again: refused or cut off would fail here.
                        let reply = target.get(&key, &certificate).unwrap();
                        assert_eq!(reply.status, 200, "{reply:?}");
                        longest = longest.max(started.elapsed());
                        answered.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    longest
                })
            })
            .collect();
        for _ in 0..3 {
            let before = answered.load(Ordering::Relaxed);
            let gone = || !server.path("data/addresses.json").exists();
            succeed(
                std::process::Command::new("kill").args(["-USR1", &server.process().to_string()]),
            );
            eventually(Duration::from_secs(30), "the old process ends", gone);
            eventually(Duration::from_secs(30), "the new one serves", || !gone());
            eventually(Duration::from_secs(30), "devices are served", || {
                answered.load(Ordering::Relaxed) > before + 20
            });
        }
        ends.store(true, Ordering::Relaxed);
        let longest = clients.into_iter().map(|client| client.join().unwrap());
        longest.max().unwrap()
    });
    figure(
        "3 restarts with sockets handed over: requests on new connections, refused, longest wait",
        format!("{}, 0, {longest:.1?}", answered.load(Ordering::Relaxed)),
    );
    server.stop();
}

#[test]
fn a_socket_that_nobody_wants_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("parent.py");
    std::fs::write(&script, PARENT.replace("enrollment:", "elsewhere:")).unwrap();
    let data = directory.path().join("data");
    let output = std::process::Command::new("timeout")
        .args(["20", "/usr/bin/python3", script.to_str().unwrap()])
        .args([
            env!("CARGO_BIN_EXE_keybound"),
            "--data",
            data.to_str().unwrap(),
        ])
        .args(["up", "--enrollment-listen", "127.0.0.1:0"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut parent = output;
    let log = || std::fs::read_to_string(directory.path().join("log")).unwrap();
    eventually(Duration::from_secs(15), "the refusal", || {
        log().contains("was handed over, and nothing is to listen there")
    });
    succeed(std::process::Command::new("kill").arg(parent.id().to_string()));
    parent.wait().unwrap();
}

#[test]
fn the_service_manager_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let file = directory.path().join("c.toml");
    std::fs::write(&file, "").unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let next = |words: &str| {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < Duration::from_secs(10), "never {words}");
            let mut space = [0; 1024];
            let length = socket.recv(&mut space).unwrap();
            let told = String::from_utf8_lossy(&space[..length]).into_owned();
            if told.contains(words) {
                return told;
            }
        }
    };
    let setup = Setup::default()
        .argument("--config")
        .argument(file.display().to_string())
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", "400000");
    let server = Server::start_in(directory, setup);
    let ready = next("READY=1");
    assert!(ready.contains("STATUS=serving devices on port "), "{ready}");
    next("WATCHDOG=1");
    server.run(&["reload"]);
    let reloading = next("RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    next("READY=1");
    std::fs::write(&file, "x").unwrap();
    assert!(!server.keybound(&["reload"]).status.success());
    next("RELOADING=1");
    next("READY=1");
    let stopping = std::thread::spawn(move || server.stop());
    next("STOPPING=1");
    stopping.join().unwrap();
}
