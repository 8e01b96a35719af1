//! The five minutes of the README, copied line by line into a shell, on the ports that it names.

use std::process::{Command, Stdio};

use crate::harness::text;

/// The lines of the shell blocks under a heading.
fn shell_lines(readme: &str, heading: &str) -> String {
    let section = readme.split(heading).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section
        .split("```sh\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

#[test]
fn the_walk_from_start_to_revocation() {
    let directory = tempfile::tempdir().unwrap();
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let walk = shell_lines(
        &std::fs::read_to_string(readme).unwrap(),
        "## Five minutes\n",
    );
    assert!(walk.contains("keybound up"), "{walk}");
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_keybound"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let script = format!("{walk}\nkill -TERM %1\nwait\n");
    let output = Command::new("timeout")
        .args(["60", "bash", "-m", "-c", &script])
        .current_dir(&directory)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (printed, complaints) = (text(&output.stdout), text(&output.stderr));
    let shown = printed.matches("X-Device-Id: thermostat-7").count();
    assert_eq!(
        shown, 2,
        "by keybound-device and by curl:\n{printed}\n{complaints}"
    );
    assert!(
        printed.contains("thermostat-7 revoked: 1 of 1 gateways"),
        "{printed}"
    );
    assert!(complaints.contains("(revoked, HTTP 403)"), "{complaints}");
    let explained = printed.split("thermostat-7 is revoked").nth(1).unwrap();
    assert!(explained.contains("lost in transit"), "{explained}");
}
