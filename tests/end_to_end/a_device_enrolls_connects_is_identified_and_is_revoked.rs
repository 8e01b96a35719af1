//! The walk of the README, step by step.

use crate::harness::{Server, Setup, text};

#[test]
fn the_walk() {
    let server = Server::start(Setup::default());
    let device = server.device("thermostat-7");
    let url = server.url("/hello");

    let answer = device.run(&["request", &url]);
    assert!(
        answer.to_lowercase().contains("x-device-id: thermostat-7"),
        "{answer}"
    );
    let again = device.run(&["request", "/hello"]);
    assert!(again.contains("thermostat-7"), "{again}");

    let receipt = server.run(&["device", "revoke", "thermostat-7", "--reason", "lost"]);
    assert!(receipt.contains("1 of 1 gateways"), "{receipt}");

    let refused = device.try_run(&["request", &url]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("revoked"),
        "{}",
        text(&refused.stderr)
    );

    let explained = server.run(&["explain", "thermostat-7"]);
    assert!(
        explained.contains("revoked") && explained.contains("lost"),
        "{explained}"
    );
    let again = server.run(&["device", "revoke", "thermostat-7"]);
    assert!(again.contains("already"), "{again}");
}

#[test]
fn a_refusal_names_its_code_and_says_that_it_is_keybounds() {
    let server = Server::start(Setup::default());
    let device = server.device("a");
    server.run(&["device", "suspend", "a"]);
    let answer = device.curl(&server, &["--include", &server.url("/")]);
    let answer = text(&answer.stdout);
    for expected in [
        "403",
        "application/problem+json",
        "proxy-status: keybound; error=http_request_denied; details=\"suspended\"",
        "\"code\":\"suspended\"",
    ] {
        assert!(
            answer.contains(expected),
            "{expected:?} is not in\n{answer}"
        );
    }
    let request_id = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id: "))
        .expect("an answer has its request's id");
    let explained = server.run(&["explain", request_id.trim()]);
    assert!(explained.contains("suspended"), "{explained}");

    server.run(&["device", "restore", "a"]);
    let answer = device.curl(&server, &["--include", &server.url("/")]);
    assert!(
        text(&answer.stdout).contains("200"),
        "{}",
        text(&answer.stdout)
    );
}

#[test]
fn a_replaced_device_enrolls_with_a_new_key_under_the_same_id() {
    let server = Server::start(Setup::default());
    let old = server.device("a");
    let replaced = server.json(&["device", "replace", "a", "--json"]);
    let new = crate::harness::Device {
        store: server.path("new-store"),
    };
    new.run(&["enroll", replaced["code"].as_str().unwrap()]);
    let url = server.url("/");
    new.run(&["request", &url]);
    let refused = old.try_run(&["request", &url]);
    assert!(
        text(&refused.stderr).contains("revoked"),
        "{}",
        text(&refused.stderr)
    );
}

/// A renewal was cut off after its certificate had come; then the device was revoked and replaced.
#[test]
fn an_old_renewal_is_not_taken_for_a_new_enrollment() {
    let server = Server::start(Setup::default());
    let device = server.device("a");
    let cut_off = crate::harness::Device {
        store: server.path("cut-off"),
    };
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        crate::harness::succeed(std::process::Command::new("cp").arg("-a").args([from, to]));
    };
    copy(&device.store, &cut_off.store);
    device.run(&["renew"]);
    copy(&device.store.join("2"), &cut_off.store.join("2"));
    let replaced = server.json(&["device", "replace", "a", "--json"]);
    let code = replaced["code"].as_str().unwrap();
    cut_off.run(&["enroll", "--replace", code]);
    cut_off.run(&["request", &server.url("/")]);
}
