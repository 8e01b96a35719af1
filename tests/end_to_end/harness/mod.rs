//! A running `keybound`, its devices, and upstreams that remember what they received.

pub mod anchor;
pub mod client;
pub mod enrollment;
pub mod page;
pub mod pki;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// `keybound up` in a directory of its own, on ports of its own.
pub struct Server {
    directory: tempfile::TempDir,
    child: Child,
    addresses: Value,
}

/// How to start a [`Server`].
#[derive(Default)]
pub struct Setup {
    /// More arguments for `keybound up`.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// What becomes `keybound`, e.g. a shell that sets a limit first.
    pub wrapper: Vec<String>,
}

impl Setup {
    pub fn upstream(address: std::net::SocketAddr) -> Self {
        Self::default()
            .argument("--upstream")
            .argument(format!("http://{address}"))
    }

    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A system clock that is off, e.g. `+91d`, by libfaketime.
    pub fn clock(self, offset: &str) -> Self {
        let library = std::fs::read_dir("/usr/lib")
            .unwrap()
            .map(|entry| entry.unwrap().path().join("faketime/libfaketime.so.1"))
            .find(|library| library.exists())
            .expect("tests/run installs libfaketime");
        self.environment("LD_PRELOAD", library.to_str().unwrap())
            .environment("FAKETIME", offset)
    }

    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }
}

impl Server {
    pub fn start(setup: Setup) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), setup)
    }

    pub fn start_in(directory: tempfile::TempDir, setup: Setup) -> Self {
        let data = directory.path().join("data");
        // A process that was killed leaves its file behind.
        let file = data.join("addresses.json");
        let _ = std::fs::remove_file(&file);
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let program = [
            setup.wrapper.as_slice(),
            &[keybound().display().to_string()],
        ]
        .concat();
        let file = data.join("addresses.json");
        // Left by a server that was killed; this one's is waited for.
        let _ = std::fs::remove_file(&file);
        let listen = ["--gateway-listen", "--enrollment-listen", "--health-listen"];
        let chosen = |flag: &&&str| !setup.arguments.iter().any(|argument| argument == **flag);
        let child = Command::new(&program[0])
            .args(&program[1..])
            .args(["--data", data.to_str().unwrap(), "up"])
            .args(
                listen
                    .iter()
                    .filter(chosen)
                    .flat_map(|flag| [*flag, "127.0.0.1:0"]),
            )
            .args(&setup.arguments)
            .envs(setup.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self {
            directory,
            child,
            addresses: Value::Null,
        };
        let started = Instant::now();
        while server.addresses.is_null() {
            let exited = server.child.try_wait().unwrap();
            assert!(
                exited.is_none() && started.elapsed() < Duration::from_secs(20),
                "keybound up did not start ({exited:?}):\n{}",
                server.log()
            );
            if let Ok(text) = std::fs::read(&file) {
                server.addresses = serde_json::from_slice(&text).unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Ends the process as an operator would, and gives back its directory.
    pub fn stop(mut self) -> tempfile::TempDir {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        let status = self.child.wait().unwrap();
        assert!(
            status.success(),
            "keybound up ended with {status}:\n{}",
            self.log()
        );
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// Ends the process as a power cut would, and gives back its directory.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// Its process, for what the kernel counts.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A path in the server's temporary directory, for whatever a test puts beside the data.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn gateway(&self) -> std::net::SocketAddr {
        self.address("gateway")
    }

    pub fn enrollment(&self) -> std::net::SocketAddr {
        self.address("enrollment")
    }

    pub fn health(&self) -> std::net::SocketAddr {
        self.address("health")
    }

    fn address(&self, role: &str) -> std::net::SocketAddr {
        self.addresses[role].as_str().unwrap().parse().unwrap()
    }

    /// The URL of a path behind the gateway, by its name.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.gateway().port())
    }

    /// Runs `keybound` against this server.
    pub fn keybound(&self, arguments: &[&str]) -> Output {
        Command::new(keybound())
            .arg("--data")
            .arg(self.path("data"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// [`Self::keybound`], which must succeed; what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.keybound(arguments);
        assert!(
            output.status.success(),
            "keybound {arguments:?}: {}\n{}{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.log()
        );
        text(&output.stdout)
    }

    /// The same, with what it printed read as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(arguments)).unwrap()
    }

    /// Enrolls a device as its owner would.
    pub fn device(&self, id: &str) -> Device {
        let code = self.run(&["token", "new", "--device", id]);
        let device = Device {
            store: self.path(&format!("store-{id}")),
        };
        device.run(&["enroll", code.trim()]);
        device
    }

    /// The root certificate in a file.
    pub fn root_file(&self) -> PathBuf {
        let file = self.path("root.pem");
        std::fs::write(&file, self.run(&["ca", "root"])).unwrap();
        file
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- keybound's log ---\n{}", self.log());
        }
    }
}

/// `keybound-device` with a key store of its own.
pub struct Device {
    pub store: PathBuf,
}

impl Device {
    pub fn key_file(&self) -> PathBuf {
        self.store.join("key.pem")
    }

    pub fn certificate_file(&self) -> PathBuf {
        self.store.join("certificate.pem")
    }

    pub fn try_run(&self, arguments: &[&str]) -> Output {
        Command::new(keybound().with_file_name("keybound-device"))
            .args(arguments)
            .arg("--keystore")
            .arg(format!("file:{}", self.store.display()))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(
            output.status.success(),
            "keybound-device {arguments:?}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// curl with this device's key and certificate, as the files are.
    pub fn curl(&self, server: &Server, arguments: &[&str]) -> Output {
        self.curl_with_input(server, arguments, Stdio::null())
    }

    /// [`Self::curl`], with something on its standard input.
    pub fn curl_with_input(
        &self,
        server: &Server,
        arguments: &[&str],
        input: impl Into<Stdio>,
    ) -> Output {
        Command::new("curl")
            .stdin(input)
            .args(["--silent", "--show-error", "--max-time", "20"])
            .arg("--cacert")
            .arg(server.root_file())
            .arg("--key")
            .arg(self.key_file())
            .arg("--cert")
            .arg(self.certificate_file())
            .args(arguments)
            .output()
            .unwrap()
    }
}

/// Runs a command that must succeed; what it printed on both streams.
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let printed = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{printed}",
        output.status
    );
    printed
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How much of something to try: `tests/run` or `tests/run --long`.
pub fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("KEYBOUND_LONG").is_some() {
        long
    } else {
        short
    }
}

/// Something measured; `tests/run` lists them at its end.
pub fn figure(what: &str, value: impl std::fmt::Display) {
    println!("figure: {what}: {value}");
}

/// Waits until `condition` holds, and fails after `limit`.
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port on which nobody listens, for a program that cannot choose one.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub fn keybound() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_keybound"))
}
