//! MQTT through a TCP route: Mosquitto's own clients and broker, and HAProxy between gateway and broker to read the
//! PROXY protocol, as Mosquitto does not. HAProxy reads the address, the authority and the unique id; the SSL TLVs, which it
//! does not read, are the gateway's own test's to follow (`gateway/tests/end_to_end/tcp_routes.rs`).

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::{Device, Running, Server, Setup, eventually, free_port, text};

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap();
    command
        .env("PATH", format!("{path}:/usr/sbin"))
        .stdin(Stdio::null());
    command
}

fn listens(name: &str, port: u16) {
    eventually(Duration::from_secs(10), name, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

fn broker(directory: &Path) -> (Running, u16) {
    let port = free_port();
    let configuration = directory.join("mosquitto.conf");
    std::fs::write(
        &configuration,
        format!("listener {port} 127.0.0.1\nallow_anonymous true\n"),
    )
    .unwrap();
    let child = program("mosquitto")
        .arg("-c")
        .arg(configuration)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    listens("mosquitto listens", port);
    (running, port)
}

/// Reads the PROXY protocol, writes down what it was told, and hands the stream on.
fn reader(directory: &Path, broker: u16) -> (Running, u16) {
    let port = free_port();
    let configuration = directory.join("haproxy.cfg");
    std::fs::write(
        &configuration,
        format!(
            "global\n log stdout format raw local0\n\
             defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n log global\n\
             frontend mqtt\n bind 127.0.0.1:{port} accept-proxy\n \
             log-format \"told %ci %[fc_pp_authority] %[fc_pp_unique_id]\"\n default_backend broker\n\
             backend broker\n server broker 127.0.0.1:{broker}\n"
        ),
    )
    .unwrap();
    let log = std::fs::File::create(directory.join("haproxy.log")).unwrap();
    let child = program("haproxy")
        .args(["-db", "-f"])
        .arg(configuration)
        .stdout(log)
        .spawn()
        .unwrap();
    let running = Running(child);
    listens("HAProxy listens", port);
    (running, port)
}

/// One of Mosquitto's clients, with the device's key and certificate.
fn client(name: &str, server: &Server, device: &Device, arguments: &[&str]) -> Command {
    let mut command = program(name);
    command
        .args(["-h", "localhost", "-p"])
        .arg(server.gateway().port().to_string())
        .arg("--cafile")
        .arg(server.root_file())
        .arg("--key")
        .arg(device.key_file())
        .arg("--cert")
        .arg(device.certificate_file())
        .args(["--tls-alpn", "mqtt", "-q", "1"])
        .args(arguments);
    command
}

fn published(server: &Server, device: &Device, message: &str) -> Output {
    client("mosquitto_pub", server, device, &["-t", "t", "-m", message])
        .output()
        .unwrap()
}

#[test]
fn and_a_revoked_one_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let (_broker, broker) = broker(directory.path());
    let (_reader, reader) = reader(directory.path(), broker);
    let configuration = directory.path().join("keybound.toml");
    std::fs::write(
        &configuration,
        format!(
            "[[gateway.tcp]]\nhost = \"localhost\"\nupstream = \"tcp://127.0.0.1:{reader}\"\nalpn = [\"mqtt\"]\n"
        ),
    )
    .unwrap();
    let server = Server::start(
        Setup::default()
            .argument("--config")
            .argument(configuration.to_str().unwrap()),
    );
    let [sensor, watcher] = ["sensor", "watcher"].map(|id| server.device(id));

    let subscription = client("mosquitto_sub", &server, &watcher, &["-t", "t", "-W", "60"])
        .stdout(std::fs::File::create(directory.path().join("received")).unwrap())
        .spawn()
        .unwrap();
    let _subscription = Running(subscription);
    let received = || std::fs::read_to_string(directory.path().join("received")).unwrap();
    // A message that comes before the subscription is nobody's.
    eventually(Duration::from_secs(20), "a message arrives", || {
        assert!(published(&server, &sensor, "21.5").status.success());
        received().contains("21.5")
    });

    let log = || std::fs::read_to_string(directory.path().join("haproxy.log")).unwrap();
    let explained = server.json(&["explain", "sensor", "--json"]).to_string();
    eventually(
        Duration::from_secs(5),
        "HAProxy wrote down whom it was told of",
        || {
            log().lines().any(|line| {
            let words: Vec<_> = line.split(' ').collect();
            // The id is the one under which the gateway recorded the stream.
            matches!(words[..], ["told", "127.0.0.1", "localhost", id] if explained.contains(id))
        })
        },
    );

    let receipt = server.run(&["device", "revoke", "watcher"]);
    assert!(receipt.contains("1 connection"), "{receipt}");
    assert!(
        server
            .run(&["device", "revoke", "sensor"])
            .contains("1 of 1")
    );
    let refused = published(&server, &sensor, "99.9");
    assert!(!refused.status.success(), "{}", text(&refused.stdout));
    assert!(!received().contains("99.9"));
    let explained = server.run(&["explain", "sensor"]);
    assert!(explained.contains("revoked"), "{explained}");
}
