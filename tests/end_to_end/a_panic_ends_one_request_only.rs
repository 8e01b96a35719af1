//! A bug that panics hits the request that found it. The peer is told, the log and the metrics tell it, and everything
//! else goes on.

use std::process::Command;

use crate::harness::{Server, Setup, succeed, text};

fn metrics(server: &Server) -> String {
    succeed(Command::new("curl").args(["-sS", &format!("http://{}/metrics", server.health())]))
}

#[test]
fn in_the_path_of_a_request() {
    let server = Server::start(
        Setup::default().environment("FAILPOINTS", "gateway::request=2*panic(injected)"),
    );
    let device = server.device("a");
    for _ in 0..2 {
        let answer = device.curl(&server, &["--include", &server.url("/")]);
        let answer = text(&answer.stdout);
        assert!(
            answer.contains(" 500 ") && answer.contains("\"code\":\"internal-error\""),
            "{answer}"
        );
        assert!(answer.contains("error=proxy_internal_error"), "{answer}");
    }
    device.run(&["request", &server.url("/")]);
    let told = metrics(&server);
    assert!(told.contains("keybound_gateway_panics_total 2\n"), "{told}");
    assert!(server.log().contains("injected") && server.log().contains("a request hit a bug"));
    assert!(server.run(&["explain", "a"]).contains("internal-error"));
    // Status, index and pool still work.
    server.run(&["device", "revoke", "a"]);
    let refused = device.try_run(&["request", &server.url("/")]);
    assert!(text(&refused.stderr).contains("revoked"), "{refused:?}");
}

#[test]
fn in_the_path_of_an_enrollment() {
    let server =
        Server::start(Setup::default().environment("FAILPOINTS", "ca::est=2*panic(injected)"));
    let url = format!(
        "https://localhost:{}/.well-known/est/cacerts",
        server.enrollment().port()
    );
    let ask = |include: &str| {
        let output = Command::new("curl")
            .args(["-sS", include, "--cacert"])
            .arg(server.root_file())
            .arg(&url)
            .output()
            .unwrap();
        text(&output.stdout)
    };
    for _ in 0..2 {
        let answer = ask("--include");
        assert!(
            answer.contains(" 500 ") && answer.contains("\"code\":\"internal-error\""),
            "{answer}"
        );
    }
    assert!(ask("--include").contains(" 200 "));
    // The whole of it still works, tokens and registry included.
    server.device("a").run(&["request", &server.url("/")]);
    let told = metrics(&server);
    assert!(told.contains("outcome=\"internal-error\"} 2\n"), "{told}");
    assert!(server.log().contains("a request for enrollment hit a bug"));
    assert!(
        server
            .run(&["explain", "127.0.0.1"])
            .contains("internal-error")
    );
}

#[test]
fn in_a_handshake() {
    // One at the gateway and one at enrollment, wherever a certificate is looked at first.
    let server = Server::start(
        Setup::default().environment("FAILPOINTS", "gateway::verifier=1*panic(injected)"),
    );
    let device = server.device("a");
    let hit = device.try_run(&["request", &server.url("/")]);
    assert!(!hit.status.success(), "{hit:?}");
    device.run(&["request", &server.url("/")]);
    assert!(metrics(&server).contains("keybound_gateway_panics_total 1\n"));
    assert!(server.log().contains("a connection was ended by a bug"));
    device.run(&["renew"]);
}

#[test]
fn in_a_handshake_for_renewal() {
    let server = Server::start(Setup::default());
    let directory = {
        let device = server.device("a");
        device.run(&["request", &server.url("/")]);
        server.stop()
    };
    let server = Server::start_in(
        directory,
        Setup::default().environment("FAILPOINTS", "gateway::verifier=1*panic(injected)"),
    );
    let device = crate::harness::Device {
        store: server.path("store-a"),
    };
    let certificate = |port: u16| {
        Command::new("curl")
            .args(["-sS", "--cacert"])
            .arg(server.root_file())
            .arg("--key")
            .arg(device.key_file())
            .arg("--cert")
            .arg(device.certificate_file())
            .arg(format!("https://localhost:{port}/.well-known/est/cacerts"))
            .output()
            .unwrap()
    };
    let port = server.enrollment().port();
    assert!(!certificate(port).status.success());
    assert!(certificate(port).status.success());
    assert!(server.log().contains("a connection was ended by a bug"));
}
