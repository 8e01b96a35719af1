//! `keybound-device` as people and scripts use it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use identity::{DeviceId, EnrollmentCode, Fingerprint, Token};

use crate::server::{Server, TOKEN};

struct Device {
    store: PathBuf,
}

impl Device {
    async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "").await
    }

    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keybound-device"));
        command.args(arguments).arg("--keystore").arg(&self.store);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let run = move || {
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // A command that reads no input may be gone already.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }
}

fn code(server: &Server) -> String {
    EnrollmentCode {
        server: server.address(),
        device: DeviceId::parse("a").unwrap(),
        token: Token::new(TOKEN),
        root: Fingerprint::of(&server.authority.root),
    }
    .expose()
}

fn check(output: &Output, exit: i32, out: &[&str], err: &[&str]) {
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let shown = format!("{}\n{stdout}\n{stderr}", output.status);
    assert_eq!(output.status.code(), Some(exit), "{shown}");
    for expected in out {
        assert!(
            stdout.contains(expected),
            "{expected:?} is missing\n{shown}"
        );
    }
    for expected in err {
        assert!(
            stderr.contains(expected),
            "{expected:?} is missing\n{shown}"
        );
    }
}

#[tokio::test]
async fn the_walk() {
    let server = Server::start().await;
    let device = Device {
        store: server.path("store"),
    };
    check(
        &device.run(&["status"]).await,
        1,
        &[],
        &["keybound-device enroll CODE"],
    );
    check(
        &device.run(&["enroll", &code(&server)]).await,
        0,
        &["a is enrolled", "Renewal"],
        &[],
    );
    let again = device.run(&["enroll", &code(&server)]).await;
    check(
        &again,
        1,
        &[],
        &["already holds a certificate for a", "renew"],
    );

    let hello = device.run(&["request", &server.url("/hello")]).await;
    check(&hello, 0, &["GET /hello"], &[]);
    let again = device
        .run(&["request", "/again", "-i", "-d", "x", "-H", "A: b"])
        .await;
    check(
        &again,
        0,
        &["HTTP/1.1 200 OK\r\n", "POST /again", "\"a\": \"b\""],
        &[],
    );
    let body = device
        .run_with_input(&["request", "/", "-X", "PUT", "-d", "@-"], "in")
        .await;
    check(&body, 0, &["PUT / ", " in\n"], &[]);

    let refused = device.run(&["request", "/revoked"]).await;
    check(
        &refused,
        1,
        &["\"code\":\"revoked\""],
        &[
            "refused: Refused (revoked, HTTP 403)",
            "keybound explain 0123",
        ],
    );
    let forbidden = device.run(&["request", "/forbidden"]).await;
    check(
        &forbidden,
        1,
        &["the service says no"],
        &["the service behind", "403"],
    );

    check(
        &device.run(&["renew", "--if-due"]).await,
        0,
        &["Nothing to do"],
        &[],
    );
    check(&device.run(&["renew"]).await, 0, &["a has a new key"], &[]);
    let status = device.run(&["status", "--json"]).await;
    check(&status, 0, &[], &[]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["device"], "a");
    assert_eq!(status["state"], "valid");
    assert_eq!(status["gateway"], server.address().to_string());
    assert_eq!(status["certificate"]["not_after"], "2045-01-01T00:00:00Z");
}

#[tokio::test]
async fn secrets_come_from_standard_input_and_files_and_are_not_repeated() {
    let server = Server::start().await;
    let stdin = Device {
        store: server.path("from-stdin"),
    };
    let enrolled = stdin
        .run_with_input(&["enroll", "-", "--json"], &code(&server))
        .await;
    check(&enrolled, 0, &["\"device\": \"a\""], &[]);

    let flags = Device {
        store: server.path("from-flags"),
    };
    let (roots, token) = (server.path("root.pem"), server.path("token"));
    std::fs::write(&roots, server.authority.root_pem()).unwrap();
    std::fs::write(&token, format!("{}\n", Token::new(TOKEN).expose())).unwrap();
    let (roots, token) = (roots.to_str().unwrap(), token.to_str().unwrap());
    let url = server.url("/");
    let arguments = [
        "enroll",
        "--server",
        &url,
        "--roots",
        roots,
        "--device",
        "a",
        "--token-file",
        token,
    ];
    check(&flags.run(&arguments).await, 0, &["a is enrolled"], &[]);

    let damaged = code(&server).replace("kb1", "kb0");
    let refused = stdin.run(&["enroll", &damaged]).await;
    check(&refused, 2, &[], &["another version"]);
    let secret = Token::new(TOKEN).expose();
    for output in [&enrolled, &refused] {
        let shown = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        assert!(!String::from_utf8_lossy(&shown).contains(&secret));
    }
}

#[tokio::test]
async fn exit_codes_tell_usage_from_reachability() {
    let server = Server::start().await;
    let device = Device {
        store: server.path("store"),
    };
    check(&device.run(&["enroll"]).await, 2, &[], &["Usage"]);
    check(
        &device.run(&["request", "http://a/"]).await,
        2,
        &[],
        &["https"],
    );
    let wrong_root = EnrollmentCode {
        root: Fingerprint::of(b"another"),
        ..code(&server).parse().unwrap()
    };
    let wrong_root = device.run(&["enroll", &wrong_root.expose()]).await;
    check(
        &wrong_root,
        3,
        &[],
        &["in between", "The token was not sent"],
    );
    check(&device.run(&["enroll", &code(&server)]).await, 0, &[], &[]);
    let absent = device.run(&["request", "https://localhost:1/"]).await;
    check(&absent, 3, &[], &["could not be reached"]);
    let completions = device.run(&["completions", "bash"]).await;
    check(&completions, 0, &["keybound-device"], &[]);
}
