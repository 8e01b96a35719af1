//! gRPC with its own library on both sides: a service in the clear and over TLS, and a device that calls it. What the gateway
//! refuses, the device hears as a status whose details begin with the code.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Device, Server, Setup, succeed};
use crate::nginx_is_an_upstream_over_tls_http2_and_a_socket::certificates;

/// A script of the peers, with their Python.
fn python(script: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("target/peers/bin/python"));
    command.arg(root.join("tests/peers").join(script));
    command
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    /// Its first line.
    fn start(command: &mut Command) -> (Self, BufReader<std::process::ChildStdout>, String) {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("installed by tests/run (tests/peers/install)");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        (Self(child), output, line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn calls(server: &Server, device: &Device, arguments: &[&str]) -> Command {
    let mut command = python("grpc_calls.py");
    command
        .arg(server.gateway().port().to_string())
        .args([
            server.root_file(),
            device.certificate_file(),
            device.key_file(),
        ])
        .args(arguments);
    command
}

#[test]
fn over_both_ways_to_a_service_and_to_none() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    certificates(folder, "services", &["calls.internal"]);
    let (service, _output, ports) = Running::start(python("grpc_service.py").args([
        folder.join("calls.internal.pem"),
        folder.join("calls.internal.key"),
    ]));
    let (plain, tls) = ports.trim().split_once(' ').unwrap();
    let at = folder.display();
    let configuration = folder.join("keybound.toml");
    std::fs::write(
        &configuration,
        format!(
            "[[gateway.upstream]]\nname = \"plain\"\nservers = [\"h2c://127.0.0.1:{plain}\"]\n\
             [[gateway.upstream]]\nname = \"tls\"\nservers = [\"https://127.0.0.1:{tls}\"]\n\
             roots = \"{at}/services.pem\"\nserver_name = \"calls.internal\"\n\
             [[gateway.route]]\npath = \"/plain.Calls/\"\nupstream = \"plain\"\n\
             [[gateway.route]]\npath = \"/tls.Calls/\"\nupstream = \"tls\"\n\
             [[gateway.route]]\npath = \"/insiders.Calls/\"\nupstream = \"plain\"\ngroups = [\"insiders\"]\n\
             [[gateway.route]]\npath = \"/small.Calls/\"\nupstream = \"plain\"\nmax_body = \"1KiB\"\n\
             [[gateway.route]]\npath = \"/down.Calls/\"\nupstream = \"h2c://127.0.0.1:1\"\n"
        ),
    )
    .unwrap();
    let configuration = configuration.to_str().unwrap();
    let server = Server::start(
        Setup::default()
            .argument("--config")
            .argument(configuration),
    );
    let device = server.device("thermostat-7");
    for name in ["plain.Calls", "tls.Calls"] {
        let heard = succeed(&mut calls(&server, &device, &["all", name]));
        assert_eq!(heard, "ok\n", "{name}");
    }
    for (name, expected) in [
        (
            "insiders.Calls",
            "PERMISSION_DENIED group-not-allowed: The device is in none of the groups",
        ),
        (
            "down.Calls",
            "UNAVAILABLE upstream-unreachable: No upstream of the route accepts",
        ),
        (
            "none.Calls",
            "UNIMPLEMENTED no-route: No route has this host and path",
        ),
    ] {
        let heard = succeed(&mut calls(&server, &device, &["ask", name]));
        assert!(heard.starts_with(expected), "{heard}");
    }
    let heard = succeed(&mut calls(
        &server,
        &device,
        &["send", "small.Calls", "2000"],
    ));
    assert!(heard.starts_with("UNKNOWN body-too-large: "), "{heard}");
    // The code is in what operators look at, too, with the status that it has for everybody.
    let told = server.run(&["explain", "thermostat-7"]);
    assert!(
        told.contains("group-not-allowed") && told.contains("403"),
        "{told}"
    );

    let (_held, mut held, begun) =
        Running::start(&mut calls(&server, &device, &["hold", "tls.Calls"]));
    assert_eq!(begun, "begun\n");
    server.run(&["device", "revoke", "thermostat-7"]);
    let mut end = String::new();
    held.read_to_string(&mut end).unwrap();
    assert!(
        end.starts_with("UNAVAILABLE ") || end.starts_with("CANCELLED "),
        "{end}"
    );
    let heard = succeed(&mut calls(&server, &device, &["ask", "plain.Calls"]));
    assert!(
        heard.starts_with("PERMISSION_DENIED revoked: The certificate was revoked."),
        "{heard}"
    );
    // The service heard that the call of the revoked device has ended.
    let other = server.device("thermostat-8");
    let ended = succeed(&mut calls(&server, &other, &["ended", "plain.Calls", "7"]));
    assert_eq!(ended, "ok\n");
    drop(service);
}
