//! Server certificates whose files could not be used, or were replaced by a reload that had read older ones, come to be in force
//! without anybody's help once nothing is wrong with them; until then there is an alarm, and no longer (I5).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::certificates_from_files_are_chosen_by_name_and_replaced::{
    Other, SOON, der, presented, put, readiness, table,
};
use crate::harness::anchor::{anchor, is_told, start_as_configured};
use crate::harness::pki::Pki;
use crate::harness::upstream::Upstream;
use crate::harness::{Device, Server, Setup, eventually};

fn configure(directory: &Path, upstream: &Upstream, more: &str) {
    let routes = format!(
        "names = ['localhost']\n[gateway]\n[[gateway.route]]\nupstream = 'http://{}'\n",
        upstream.address
    );
    fs::write(directory.join("c.toml"), routes + more).unwrap();
}

async fn presents_soon(
    server: &Server,
    device: &Device,
    name: &str,
    expected: &(String, String),
    what: &str,
) {
    let limit = Instant::now() + SOON;
    while presented(server, device, name).await != der(expected) {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_to_another_certificate_is_followed() {
    let upstream = Upstream::start().await;
    let other = Other::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    put(&path, "a", &other.certificate(&["a.example"], 300));
    put(
        &path,
        "b",
        &other.certificate(&["b.example", "moves.example"], 300),
    );
    configure(&path, &upstream, &(table(&path, "a") + &table(&path, "b")));
    let server = start_as_configured(directory, Setup::default());
    let device = server.device("a");
    let first = other.certificate(&["a.example", "moves.example"], 300);
    put(&path, "a", &first);
    eventually(SOON, "an alarm", || {
        is_told(&server, "has the name moves.example")
    });
    put(&path, "b", &other.certificate(&["b.example"], 300));
    presents_soon(&server, &device, "moves.example", &first, "it moves").await;
    assert_eq!(readiness(&server)["degraded"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_again_as_they_were_end_the_alarm() {
    let upstream = Upstream::start().await;
    let other = Other::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    for (folder, name) in [("good", "a.example"), ("bad", "b.example")] {
        fs::create_dir(path.join(folder)).unwrap();
        put(&path.join(folder), "a", &other.certificate(&[name], 300));
    }
    // As whoever switches whole folders does it.
    let switch = |folder: &str| {
        let _ = fs::remove_file(path.join("new"));
        symlink(path.join(folder), path.join("new")).unwrap();
        fs::rename(path.join("new"), path.join("now")).unwrap();
    };
    switch("good");
    let route = format!(
        "[[gateway.route]]\nhost = 'a.example'\nupstream = 'http://{}'\n",
        upstream.address
    );
    configure(&path, &upstream, &(route + &table(&path.join("now"), "a")));
    let server = start_as_configured(directory, Setup::default());
    assert_eq!(readiness(&server)["degraded"], false);
    switch("bad");
    eventually(SOON, "an alarm", || is_told(&server, "lacks a.example"));
    switch("good");
    eventually(SOON, "the alarm ends", || {
        readiness(&server)["degraded"] == false
    });
}

/// A list `factory.crl` hangs while there is `factory.hangs` beside it, so that a reload does, too, which has read the
/// certificates before.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_has_read_older_files_is_followed_by_the_newer_ones() {
    let upstream = Upstream::start().await;
    let other = Other::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    fs::write(path.join("factory.crl"), factory.list(&[])).unwrap();
    put(&path, "a", &other.certificate(&["a.example"], 300));
    let list = format!("'{}'", path.join("factory.crl").display());
    let anchor = anchor("factory", &factory.path("ca.pem"), &list, "'cn'");
    configure(&path, &upstream, &(anchor + &table(&path, "a")));
    let setup = Setup::default().environment("FAILPOINTS", "crl::read=return(hangs)");
    let server = start_as_configured(directory, setup);
    let device = server.device("a");
    fs::write(path.join("factory.hangs"), "").unwrap();
    let mut reload = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args(["--data", "data", "reload"])
        .current_dir(&path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It has read them.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(reload.try_wait().unwrap().is_none(), "it waits");
    let newer = other.certificate(&["a.example"], 300);
    put(&path, "a", &newer);
    presents_soon(&server, &device, "a.example", &newer, "by the watch").await;
    fs::remove_file(path.join("factory.hangs")).unwrap();
    assert!(reload.wait().unwrap().success());
    // Longer than it takes to look at them.
    tokio::time::sleep(Duration::from_secs(3)).await;
    presents_soon(&server, &device, "a.example", &newer, "after the reload").await;
    assert_eq!(readiness(&server)["degraded"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_hang_are_an_alarm_and_hold_up_no_other_certificate() {
    let upstream = Upstream::start().await;
    let other = Other::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    put(&path, "a", &other.certificate(&["a.example"], 300));
    put(&path, "b", &other.certificate(&["b.example"], 300));
    configure(&path, &upstream, &(table(&path, "a") + &table(&path, "b")));
    let setup = Setup::default().environment("FAILPOINTS", "certificate::read=return(hangs)");
    let server = start_as_configured(directory, setup);
    let device = server.device("a");
    fs::write(path.join("a.hangs"), "").unwrap();
    let [a, b] = ["a.example", "b.example"].map(|name| other.certificate(&[name], 300));
    put(&path, "a", &a);
    eventually(SOON, "an alarm", || is_told(&server, "has not ended"));
    put(&path, "b", &b);
    presents_soon(&server, &device, "b.example", &b, "the other one").await;
    assert!(is_told(&server, "has not ended"));
    fs::remove_file(path.join("a.hangs")).unwrap();
    presents_soon(&server, &device, "a.example", &a, "the one that hung").await;
    assert_eq!(readiness(&server)["degraded"], false);
}
