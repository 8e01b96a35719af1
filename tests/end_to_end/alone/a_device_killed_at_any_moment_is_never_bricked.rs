//! `keybound-device` is killed at random moments of `enroll` and `renew`. The same command again goes on.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::rig::{Random, Target};
use crate::harness::{Device, Server, Setup, count, figure, text};

/// Runs the command and kills it after `after`. Whether it was still running then.
fn killed(device: &Device, arguments: &[&str], after: Duration) -> bool {
    let program =
        std::path::Path::new(env!("CARGO_BIN_EXE_keybound")).with_file_name("keybound-device");
    let mut child = Command::new(program)
        .args(arguments)
        .arg("--keystore")
        .arg(format!("file:{}", device.store.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    let _ = child.kill();
    child.wait().unwrap().signal() == Some(9)
}

#[test]
fn while_it_enrolls_and_renews() {
    let rounds = count(25, 150);
    let mut random = Random::new("kill -9 of the device");
    let server = Server::start(Setup::default());
    let target = Target::of(&server);
    let url = server.url("/");
    let timed = |device: &Device, arguments: &[&str]| {
        let started = Instant::now();
        device.run(arguments);
        started.elapsed()
    };
    let device = |name: &str| Device {
        store: server.path(&format!("store-{name}")),
    };
    let example = device("example");
    let code = target.code("example").unwrap();
    let enrollment = timed(&example, &["enroll", &code]);
    let renewal = timed(&example, &["renew"]);

    let (mut kills, mut unfinished) = (0, 0);
    for round in 0..rounds {
        let id = format!("device-{round}");
        let device = device(&id);
        let code = target.code(&id).unwrap();
        // Up to three times in a row: what mends the first crash is cut off as well.
        for _ in 0..1 + random.below(3) {
            kills += usize::from(killed(
                &device,
                &["enroll", &code],
                random.duration(Duration::ZERO, enrollment),
            ));
        }
        unfinished += usize::from(!device.certificate_file().exists());
        let again = device.try_run(&["enroll", &code]);
        let said = text(&again.stderr);
        assert!(
            again.status.success() || said.contains("already holds a certificate"),
            "{id}: {said}"
        );
        device.run(&["request", &url]);

        for _ in 0..1 + random.below(3) {
            kills += usize::from(killed(
                &device,
                &["renew"],
                random.duration(Duration::ZERO, renewal),
            ));
        }
        // It is somebody at any moment, whether it has the new certificate by now or not.
        device.run(&["request", &url]);
        device.run(&["renew"]);
        device.run(&["request", &url]);
        let curl = device.curl(&server, &["--fail", &url]);
        assert!(curl.status.success(), "{id}: {}", text(&curl.stderr));
    }
    assert!(
        kills > rounds && unfinished > rounds / 5,
        "{kills} kills, {unfinished} unfinished"
    );
    figure("kill -9 of keybound-device: kills", kills);
    figure(
        "kill -9 of keybound-device: enrollments that had got no certificate",
        unfinished,
    );
}
