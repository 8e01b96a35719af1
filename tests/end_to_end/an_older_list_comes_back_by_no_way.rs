//! Nobody whom another CA has revoked is let in again by an older list of that CA (I4): not by a restart, not by a reload,
//! and not by way of lists of another kind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::Setup;
use crate::harness::anchor::{
    MISSING, SOON, again, anchor, configure, is_told, ok, put, readiness, refused, refused_start,
    serve, start, start_as_configured, whole,
};
use crate::harness::pki::Pki;
use crate::harness::upstream::Upstream;
use crate::harness::{eventually, keybound, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_no_older_file() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let (pump, fan) = (factory.client("/CN=pump"), factory.client("/CN=fan"));
    let crl = path.join("factory.crl");
    let older = factory.list(&[]);
    put(&crl, &older);
    let place = format!("'{}'", crl.display());
    let anchors = anchor("factory", &factory.path("ca.pem"), &place, "'cn'");
    let server = start(directory, &upstream, &anchors);
    assert_eq!(pump.asks(&server, "/"), ok());
    factory.revoke(&pump.certificate);
    let newer = factory.list(&[]);
    put(&crl, &newer);
    eventually(SOON, "its revocation", || {
        pump.asks(&server, "/") == refused(403, "revoked")
    });
    // The host is put back as it was yesterday, all but the data directory.
    let directory = server.kill();
    let marks = path.join("data/crl/in-force.json");
    assert!(fs::read_to_string(&marks).unwrap().contains("02\""));
    put(&crl, &older);
    let refusal = refused_start(&path);
    assert!(
        refusal.contains(
            "a list of the anchor factory is older than the one in force or one that was"
        ),
        "{refusal}"
    );
    let checked = fs::read_to_string(path.join("c.toml")).unwrap() + "[ca]\n";
    fs::write(path.join("checked.toml"), checked).unwrap();
    let check = |data: &str| {
        let output = Command::new(keybound())
            .args(["check", "--data", data, "--config", "checked.toml"])
            .current_dir(&path)
            .output()
            .unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{told}");
        told
    };
    let told = check("data");
    let words = "; a start would be refused, and a reload would change nothing";
    assert!(
        told.contains("the anchor factory is older") && told.contains(words),
        "{told}"
    );
    assert_eq!(check("elsewhere"), "");
    // Nor is it forgotten how new the lists were.
    let remembered = fs::read(&marks).unwrap();
    fs::write(&marks, &remembered[..remembered.len() / 2]).unwrap();
    put(&crl, &newer);
    let refusal = refused_start(&path);
    assert!(
        refusal.contains("data/crl/in-force.json, which says how new"),
        "{refusal}"
    );
    fs::write(&marks, &remembered).unwrap();
    let server = again(directory);
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    assert_eq!(fan.asks(&server, "/"), ok());

    // A CA that numbers anew: its lists are newer by their date alone. Whoever says that this is right is believed.
    fs::write(factory.path("crlnumber"), "01\n").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    put(&crl, &factory.list(&[]));
    eventually(SOON, "lower number", || {
        is_told(&server, "older than the one in force")
    });
    let directory = server.stop();
    let told = refused_start(&path);
    assert!(told.contains(" out of data/crl/in-force.json"), "{told}");
    assert!(!told.contains(", and remove "), "{told}");
    forget_as_told(&path, &told);
    let server = again(directory);
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
}

/// Does what a refused start says of a CA that numbers anew: takes out its one entry, and removes the file that is named.
fn forget_as_told(path: &Path, told: &str) {
    let marks = path.join("data/crl/in-force.json");
    let (_, told) = told.split_once("the entries with the authority ").unwrap();
    let (authority, told) = told.split_once(' ').unwrap();
    let entries = fs::read(&marks).unwrap();
    let mut entries: Vec<serde_json::Value> = serde_json::from_slice(&entries).unwrap();
    let before = entries.len();
    entries.retain(|entry| entry["authority"] != authority);
    assert_eq!(entries.len(), before - 1);
    fs::write(&marks, serde_json::to_vec(&entries).unwrap()).unwrap();
    if let Some((_, told)) = told.split_once(", and remove ") {
        let (file, _) = told.split_once(" beside it").unwrap();
        fs::remove_file(marks.with_file_name(file)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_numbers_anew_behind_a_url_is_taken_and_no_other_forgotten() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (factory, depot) = (Pki::new(&path, "Factory CA"), Pki::new(&path, "Depot CA"));
    let (pump, lift) = (factory.client("/CN=pump"), depot.client("/CN=lift"));
    let crl = path.join("depot.crl");
    let older = depot.list(&[]);
    depot.revoke(&lift.certificate);
    put(&crl, &depot.list(&[]));
    factory.list(&[]);
    let answer = Arc::new(Mutex::new(whole(&factory.list(&[]))));
    let port = serve(Arc::clone(&answer)).await;
    let url = format!("http://localhost:{port}/factory.crl");
    let from_url = format!("'{url}'\nrefresh = '1s'");
    let from_file = format!("'{}'", crl.display());
    let anchors = anchor("factory", &factory.path("ca.pem"), &from_url, "'cn'")
        + &anchor("depot", &depot.path("ca.pem"), &from_file, "'cn'");
    let server = start(directory, &upstream, &anchors);
    assert_eq!(pump.asks(&server, "/"), ok());
    fs::write(factory.path("crlnumber"), "01\n").unwrap();
    factory.revoke(&pump.certificate);
    *answer.lock().unwrap() = whole(&factory.list(&[]));
    eventually(SOON, "lower number", || {
        is_told(&server, "older than the one in force")
    });
    // What was kept goes first: from it a start would go on.
    let directory = server.stop();
    let server = again(directory);
    assert!(is_told(&server, "older than the one in force"));
    assert_eq!(pump.asks(&server, "/"), ok());
    let directory = server.stop();
    let name = identity::Fingerprint::of(url.as_bytes());
    let kept = path.join(format!("data/crl/{name}.crl"));
    fs::remove_file(&kept).unwrap();
    let told = refused_start(&path);
    assert!(!kept.exists());
    // It may be there again.
    fs::write(&kept, "").unwrap();
    forget_as_told(&path, &told);
    assert!(!kept.exists(), "{told}");
    let server = again(directory);
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    let _directory = server.stop();
    put(&crl, &older);
    let told = refused_start(&path);
    assert!(told.contains("the anchor depot is older"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reload_takes_one_by_way_of_another_kind() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let pump = factory.client("/CN=pump");
    let (crl, devices, cas) = (
        path.join("factory.crl"),
        path.join("devices.crl"),
        path.join("cas.crl"),
    );
    let yesterday = "-crl_lastupdate";
    let next_month = ["-crl_nextupdate", "20491231000000Z"];
    let oldest = factory.list(&[yesterday, "20260101000000Z", next_month[0], next_month[1]]);
    let older = factory.list(&[yesterday, "20260102000000Z", next_month[0], next_month[1]]);
    put(&crl, &older);
    factory.revoke(&pump.certificate);
    put(&devices, &factory.list(&["-crlexts", "about_devices"]));
    put(&cas, &factory.list(&["-crlexts", "about_cas"]));
    let full = format!("'{}'", crl.display());
    let split = format!("['{}', '{}']", devices.display(), cas.display());
    let with = |crl: &str| anchor("factory", &factory.path("ca.pem"), crl, "'cn'");
    let server = start(directory, &upstream, &with(&full));
    assert_eq!(pump.asks(&server, "/"), ok());
    // The CA begins to list CAs apart; then somebody writes the configuration back.
    configure(&path, &upstream, &with(&split));
    server.run(&["reload"]);
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    configure(&path, &upstream, &with(&full));
    for list in [&oldest, &older] {
        put(&crl, list);
        let output = server.keybound(&["reload"]);
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        assert!(told.contains("older than the one in force"), "{told}");
        assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    }
    // Nor when a reload has taken the CA out in between.
    configure(&path, &upstream, "");
    server.run(&["reload"]);
    configure(&path, &upstream, &with(&full));
    let told = text(&server.keybound(&["reload"]).stderr);
    assert!(told.contains("older than the one in force"), "{told}");
    put(&crl, &factory.list(&[]));
    server.run(&["reload"]);
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
}

/// Writing `x.json` hangs while there is a file `x.hangs` beside it.
fn slow_disk() -> Setup {
    Setup::default().environment("FAILPOINTS", "files::put=return(hangs)")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_is_in_force_before_it_is_written_how_new_it_is() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (factory, depot) = (Pki::new(&path, "Factory CA"), Pki::new(&path, "Depot CA"));
    let (pump, fan) = (factory.client("/CN=pump"), factory.client("/CN=fan"));
    let lift = depot.client("/CN=lift");
    let (crl, other) = (path.join("factory.crl"), path.join("depot.crl"));
    put(&crl, &factory.list(&[]));
    put(&other, &depot.list(&[]));
    let with = |name, ca: &Pki, crl: &Path| {
        let place = format!("'{}'", crl.display());
        anchor(name, &ca.path("ca.pem"), &place, "'cn'")
    };
    let anchors = with("factory", &factory, &crl) + &with("depot", &depot, &other);
    configure(&path, &upstream, &anchors);
    let server = start_as_configured(directory, slow_disk());
    assert_eq!(pump.asks(&server, "/"), ok());
    let (marks, hangs) = (
        path.join("data/crl/in-force.json"),
        path.join("data/crl/in-force.hangs"),
    );
    fs::write(&hangs, "").unwrap();
    factory.revoke(&pump.certificate);
    let older = factory.list(&[]);
    put(&crl, &older);
    // It was looked at, and is not waited for any longer than five seconds.
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(pump.asks(&server, "/"), ok());
    fs::remove_file(&hangs).unwrap();
    eventually(SOON, "its revocation", || {
        pump.asks(&server, "/") == refused(403, "revoked")
    });
    assert!(fs::read_to_string(&marks).unwrap().contains("02\""));

    // No revocation waits for a disk that does not answer, and it is told of.
    fs::write(&hangs, "").unwrap();
    factory.revoke(&fan.certificate);
    put(&crl, &factory.list(&[]));
    eventually(SOON, "a revocation in spite of the disk", || {
        fan.asks(&server, "/") == refused(403, "revoked")
    });
    eventually(SOON, "an alarm", || {
        is_told(
            &server,
            "in-force.json, so that a restart might take older ones: writing it has taken 5 s and has not ended",
        )
    });
    depot.revoke(&lift.certificate);
    put(&other, &depot.list(&[]));
    eventually(SOON, "the other CA's", || {
        lift.asks(&server, "/") == refused(403, "revoked")
    });
    fs::remove_file(&hangs).unwrap();
    eventually(SOON, "the end of the alarm", || {
        readiness(&server)["degraded"] == false
    });
    let _directory = server.kill();
    put(&crl, &older);
    let refusal = refused_start(&path);
    assert!(refusal.contains("the anchor factory is older"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_and_the_end_leave_nothing_unwritten() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let pump = factory.client("/CN=pump");
    let (first, second) = (path.join("first.crl"), path.join("second.crl"));
    let with = |crl: &Path| {
        let place = format!("'{}'", crl.display());
        anchor("factory", &factory.path("ca.pem"), &place, "'cn'")
    };
    put(&first, &factory.list(&[]));
    put(&second, &factory.list(&[]));
    let server = start(directory, &upstream, &with(&first));
    configure(&path, &upstream, &with(&second));
    server.run(&["reload"]);
    let directory = server.kill();
    let folder = path.join("data/crl");
    let remembered = || fs::read_to_string(folder.join("in-force.json")).unwrap();
    assert!(remembered().contains("02\""), "{}", remembered());

    let server = again(directory);
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    factory.revoke(&pump.certificate);
    put(&second, &factory.list(&[]));
    eventually(SOON, "its revocation", || {
        pump.asks(&server, "/") == refused(403, "revoked")
    });
    eventually(SOON, "an alarm", || {
        is_told(&server, "in force cannot be written to")
    });
    fs::remove_file(&folder).unwrap();
    let _directory = server.stop();
    assert!(remembered().contains("03\""), "{}", remembered());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_url_led_to_is_kept_before_it_is_remembered_how_new_it_is() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let pump = factory.client("/CN=pump");
    let older = factory.list(&[]);
    let answer = Arc::new(Mutex::new(whole(&older)));
    let port = serve(Arc::clone(&answer)).await;
    let url = format!("http://localhost:{port}/factory.crl");
    let place = format!("'{url}'\nrefresh = '1s'");
    let anchors = anchor("factory", &factory.path("ca.pem"), &place, "'cn'");
    configure(&path, &upstream, &anchors);
    let server = start_as_configured(directory, slow_disk());
    assert_eq!(pump.asks(&server, "/"), ok());
    let name = identity::Fingerprint::of(url.as_bytes());
    let kept = path.join(format!("data/crl/{name}.crl"));
    let hangs = path.join("data/crl/in-force.hangs");
    fs::write(&hangs, "").unwrap();
    factory.revoke(&pump.certificate);
    let newer = factory.list(&[]);
    *answer.lock().unwrap() = whole(&newer);
    eventually(Duration::from_secs(4), "what was kept", || {
        fs::read(&kept).unwrap() == newer
    });
    // A crash at any moment from now on leaves a start that needs nobody else.
    let directory = server.kill();
    fs::remove_file(&hangs).unwrap();
    *answer.lock().unwrap() = MISSING.to_vec();
    let server = again(directory);
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));

    // Where it is older all the same, whoever is refused is told that the URL may help.
    let directory = server.stop();
    put(&kept, &older);
    let told = refused_start(&path);
    let fault = format!("a URL that may have a newer one gave none: {url}: ");
    for words in [
        &fault,
        "See that it answers, or wait for it, and start again",
        "the entries with the authority ",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
    configure(&path, &upstream, "");
    let server = again(directory);
    configure(&path, &upstream, &anchors);
    let output = server.keybound(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains("the anchor factory is older") && told.contains(&fault),
        "{told}"
    );
    *answer.lock().unwrap() = whole(&newer);
    server.run(&["reload"]);
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
}
