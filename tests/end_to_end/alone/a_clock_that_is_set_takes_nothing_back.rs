//! The system's clock is set while the server runs, and between two runs.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::rig::{Key, Reply, Right, Target, certificate_in, exchange, registry};
use crate::harness::{Server, Setup, eventually, figure};

/// A clock that a test sets by writing its offset, in seconds, into a file.
struct Clock(PathBuf);

impl Clock {
    fn new(place: &tempfile::TempDir) -> Self {
        let clock = Self(place.path().join("clock"));
        clock.set(0);
        clock
    }

    fn set(&self, offset: i64) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{offset:+}\n")).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }

    fn setup(&self) -> Setup {
        let setup = Setup::default().clock("+0");
        let environment = setup
            .environment
            .into_iter()
            .filter(|(name, _)| name != "FAKETIME");
        Setup {
            environment: environment.collect(),
            ..Setup::default()
        }
        .environment("FAKETIME_TIMESTAMP_FILE", self.0.to_str().unwrap())
        .environment("FAKETIME_NO_CACHE", "1")
        // Somebody sets the clock on the wall; no time passes by that.
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

fn readiness(server: &Server) -> Value {
    let mut stream = std::net::TcpStream::connect(server.health()).unwrap();
    exchange(&mut stream, "GET /readyz HTTP/1.1\r\nhost: a\r\n", &[])
        .unwrap()
        .json()
}

fn metric(server: &Server, name: &str) -> Option<u64> {
    let mut stream = std::net::TcpStream::connect(server.health()).unwrap();
    let metrics = exchange(&mut stream, "GET /metrics HTTP/1.1\r\nhost: a\r\n", &[]).unwrap();
    let text = String::from_utf8(metrics.body).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn enroll(target: &Target, id: &str) -> (Key, Vec<u8>) {
    let key = Key::new(id);
    let token = target.token(id).unwrap();
    let reply = target.est(&key, Right::Token(&token)).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    (key, certificate_in(&reply))
}

/// A token that can be used for `seconds`.
fn short_token(target: &Target, id: &str, seconds: u64) -> String {
    let asked = json!({ "devices": [id], "life_seconds": seconds });
    let reply = target.admin("POST", "/v1/tokens", &asked).unwrap();
    reply.json()["results"][0]["made"]["token"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn revoke(target: &Target, id: &str) {
    let path = format!("/v1/devices/{id}/revoke");
    let reply = target
        .admin("POST", &path, &json!({ "reason": null, "wait": true }))
        .unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// The number and date of the first list that names `entries` certificates.
fn crl(target: &Target, entries: u64) -> (u64, String) {
    let mut found = (0, String::new());
    eventually(Duration::from_secs(10), "the list is signed", || {
        let reply = target.admin("GET", "/v1/ca/crl", &Value::Null).unwrap();
        if reply.status != 200 || reply.json()["entries"] != entries {
            return false;
        }
        let list = reply.json();
        let this_update = list["this_update"].as_str().unwrap().to_owned();
        found = (list["number"].as_u64().unwrap(), this_update);
        true
    });
    found
}

fn validity(certificate: &[u8]) -> (i64, i64) {
    let (_, x509) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let validity = x509.validity();
    (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    )
}

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_secs()).unwrap()
}

fn assert_refused(reply: &Reply, code: &str) {
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (403, code),
        "{reply:?}"
    );
}

fn assert_monotone(server: &Server) {
    let entries: i64 = registry(&server.path("data"))
        .query_row(
            "SELECT count(*) FROM journal j JOIN journal k ON k.seq = j.seq + 1 WHERE k.at < j.at",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(entries, 0, "the journal's time ran back");
}

#[test]
fn an_hour_back_while_it_runs() {
    let place = tempfile::tempdir().unwrap();
    let clock = Clock::new(&place);
    let server = Server::start(clock.setup());
    let target = Target::of(&server);
    let (old, certificate) = enroll(&target, "old");
    let (gone, gone_certificate) = enroll(&target, "gone");
    revoke(&target, "gone");
    let before = crl(&target, 1);
    let late = Key::new("late");
    let token = short_token(&target, "late", 1);
    sleep(Duration::from_millis(2_100));
    let expired = target.est(&late, Right::Token(&token)).unwrap();
    assert_eq!(expired.code(), "token-expired");
    assert_eq!(readiness(&server)["degraded"], false);

    clock.set(-3600);
    assert_eq!(target.get(&old, &certificate).unwrap().status, 200);
    assert_refused(&target.get(&gone, &gone_certificate).unwrap(), "revoked");
    assert_eq!(
        target.est(&late, Right::Token(&token)).unwrap().code(),
        "token-expired"
    );
    // What is made now is dated as if nobody had touched the clock.
    let (new, certificate) = enroll(&target, "new");
    let (not_before, not_after) = validity(&certificate);
    assert!(
        (not_before - (now() - 300)).abs() < 30 && (not_after - now() - 90 * 86_400).abs() < 30
    );
    assert_eq!(target.get(&new, &certificate).unwrap().status, 200);
    revoke(&target, "new");
    assert_refused(&target.get(&new, &certificate).unwrap(), "revoked");
    let after = crl(&target, 2);
    assert!(
        after.0 > before.0 && after.1 >= before.1,
        "{before:?} {after:?}"
    );
    assert_monotone(&server);
    eventually(Duration::from_secs(5), "it is told", || {
        let readiness = readiness(&server);
        readiness["ready"] == true
            && readiness["degraded"] == true
            && readiness["reasons"][0]
                .as_str()
                .is_some_and(|reason| reason.contains("set back by 60 min"))
    });
    eventually(Duration::from_secs(5), "it is logged", || {
        server.log().contains("clock was set back by 60 min")
    });

    clock.set(0);
    eventually(Duration::from_secs(5), "it is well again", || {
        readiness(&server)["degraded"] == false
    });
    let directory = server.stop();
    Server::start_in(directory, clock.setup()).stop();
}

#[test]
fn an_hour_back_between_two_runs() {
    let place = tempfile::tempdir().unwrap();
    let clock = Clock::new(&place);
    let server = Server::start(clock.setup());
    let target = Target::of(&server);
    let (gone, gone_certificate) = enroll(&target, "gone");
    revoke(&target, "gone");
    let before = crl(&target, 1);
    let directory = server.stop();

    // 59 minutes: what is told by an hour and more is another thing, below.
    clock.set(-59 * 60);
    let server = Server::start_in(directory, clock.setup());
    assert!(
        server
            .log()
            .contains("the system's clock is behind the newest entry of the journal")
    );
    let target = Target::of(&server);
    // By this clock nobody's time has come: a certificate of an hour later is refused, revoked or not.
    let reply = target.get(&gone, &gone_certificate);
    assert!(reply.is_err() || reply.unwrap().status == 403);
    let (_, certificate) = enroll(&target, "new");
    let (not_before, not_after) = validity(&certificate);
    assert!(not_before < now() - 59 * 60 && not_after - not_before == 90 * 86_400 + 300);
    revoke(&target, "new");
    let after = crl(&target, 2);
    assert!(
        after.0 > before.0 && after.1 >= before.1,
        "{before:?} {after:?}"
    );
    assert_monotone(&server);
    let directory = server.stop();

    clock.set(0);
    let server = Server::start_in(directory, clock.setup());
    let target = Target::of(&server);
    assert_refused(&target.get(&gone, &gone_certificate).unwrap(), "revoked");
    let last = crl(&target, 2);
    assert!(last.0 > after.0 && last.1 >= after.1, "{after:?} {last:?}");
    server.stop();
}

#[test]
fn a_month_ahead_while_it_runs_and_back() {
    let month = 30 * 86_400;
    let place = tempfile::tempdir().unwrap();
    let clock = Clock::new(&place);
    let server = Server::start(clock.setup());
    let target = Target::of(&server);
    let (old, certificate) = enroll(&target, "old");
    enroll(&target, "gone");
    revoke(&target, "gone");
    let before = crl(&target, 1);
    let token = target.token("waiting").unwrap();
    let waiting = Key::new("waiting");

    clock.set(month);
    assert_eq!(target.get(&old, &certificate).unwrap().status, 200);
    assert_eq!(
        target.est(&waiting, Right::Token(&token)).unwrap().code(),
        "token-expired"
    );
    let (early, of_the_future) = enroll(&target, "early");
    let (not_before, not_after) = validity(&of_the_future);
    assert!((not_before - (now() + month - 300)).abs() < 30);
    assert_eq!(not_after - not_before, 90 * 86_400 + 300);
    assert_eq!(target.get(&early, &of_the_future).unwrap().status, 200);
    enroll(&target, "gone-too");
    revoke(&target, "gone-too");
    let ahead = crl(&target, 2);
    assert!(ahead.0 > before.0 && ahead.1 > before.1, "{ahead:?}");
    clock.set(2 * 2 * month);
    assert_refused(&target.get(&old, &certificate).unwrap(), "expired");

    // The clock is believed again at once: it is not earlier than by the time that has passed.
    clock.set(0);
    assert_eq!(target.get(&old, &certificate).unwrap().status, 200);
    assert_refused(
        &target.get(&early, &of_the_future).unwrap(),
        "not-yet-valid",
    );
    assert_eq!(
        target.est(&waiting, Right::Token(&token)).unwrap().status,
        200
    );
    revoke(&target, "waiting");
    // Nobody could use a list that is dated in the future, so this one is dated back, with a greater number.
    let after = crl(&target, 3);
    assert!(after.0 > ahead.0, "{ahead:?} {after:?}");
    assert!(
        before.1 <= after.1 && after.1 < ahead.1,
        "{before:?} {ahead:?} {after:?}"
    );
    assert_monotone(&server);
    let directory = server.stop();
    Server::start_in(directory, clock.setup()).stop();
}

#[test]
fn a_clock_that_was_behind_at_the_start_and_is_set_right_and_wrong_again() {
    let place = tempfile::tempdir().unwrap();
    let clock = Clock::new(&place);
    clock.set(-2 * 3600);
    let server = Server::start(clock.setup());
    let target = Target::of(&server);
    let late = Key::new("late");
    let token = short_token(&target, "late", 30 * 60);

    // No alarm of setting it forward, once or twice.
    for offset in [0, 3600] {
        clock.set(offset);
        assert_eq!(readiness(&server)["degraded"], false);
        assert_eq!(metric(&server, "keybound_clock_set_back_seconds"), Some(0));
    }
    let refused = target.est(&late, Right::Token(&token)).unwrap();
    assert_eq!(refused.code(), "token-expired");

    // It is believed, as a moment of a wrong date must be, and does not go without notice.
    clock.set(-2 * 3600);
    assert_eq!(target.est(&late, Right::Token(&token)).unwrap().status, 200);
    eventually(Duration::from_secs(5), "it is told", || {
        let readiness = readiness(&server);
        let reason = readiness["reasons"][0].as_str().unwrap_or_default();
        readiness["ready"] == true
            && readiness["degraded"] == true
            && reason.contains("set back by 3 h")
            && reason.contains("what expired in between is valid again")
            && reason.contains("restart once it is right")
    });
    eventually(Duration::from_secs(5), "it is measured", || {
        metric(&server, "keybound_clock_set_back_seconds")
            .is_some_and(|seconds| (10_799..=10_801).contains(&seconds))
    });
    eventually(Duration::from_secs(5), "it is logged", || {
        server.log().contains("clock was set back by 3 h")
    });

    // A new process is told the right time from the start.
    let directory = server.stop();
    clock.set(0);
    let server = Server::start_in(directory, clock.setup());
    eventually(Duration::from_secs(5), "it is well", || {
        metric(&server, "keybound_registry_writable") == Some(1)
    });
    assert_eq!(readiness(&server)["degraded"], false);
    server.stop();
}

#[test]
fn what_has_expired_does_not_come_back_while_it_runs() {
    let life = 90 * 86_400;
    let place = tempfile::tempdir().unwrap();
    let clock = Clock::new(&place);
    let server = Server::start(clock.setup());
    let target = Target::of(&server);
    let (key, certificate) = enroll(&target, "device");
    let not_after = validity(&certificate).1;
    let directory = server.stop();

    // A few seconds before its end. Its own clock is right all the time.
    let offset = not_after - now() - 5;
    clock.set(offset);
    let server = Server::start_in(directory, clock.setup());
    let target = Target::of(&server);
    target.offset.store(offset, Ordering::Relaxed);
    assert_eq!(target.get(&key, &certificate).unwrap().status, 200);
    let next = Key::new("device");
    let right = Right::Certificate(&key, &certificate);
    eventually(Duration::from_secs(15), "it expires", || {
        target.get(&key, &certificate).unwrap().status == 403
    });
    assert_refused(&target.get(&key, &certificate).unwrap(), "expired");
    for back in [60, 3600, life] {
        clock.set(not_after - now() - back);
        assert_refused(&target.get(&key, &certificate).unwrap(), "expired");
        assert_refused(&target.est(&next, right).unwrap(), "expired");
    }
    // Something that the journal dates.
    target.token("another").unwrap();
    let directory = server.stop();

    // A new process knows no other clock than the system's: it says that this one contradicts the journal.
    clock.set(not_after - now() - 3600);
    let server = Server::start_in(directory, clock.setup());
    let log = server.log();
    assert!(
        log.contains("alarm") && log.contains("certificates that had expired may be valid again"),
        "{log}"
    );
    figure(
        "clocks that were set",
        "1 h back, 59 min back, 30 d ahead, 120 d ahead, back past an expiry",
    );
}
