//! Nobody whom another CA has revoked is let in again by an older list of that CA (I4): not by a restart, not by a reload,
//! and not by way of lists of another kind.

use std::fs;

use crate::harness::anchor::{
    SOON, again, anchor, configure, is_told, ok, put, refused, refused_start, start,
};
use crate::harness::pki::Pki;
use crate::harness::upstream::Upstream;
use crate::harness::{eventually, text};

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
    // As it is written with the next look at the latest.
    let marks = path.join("data/crl/in-force.json");
    let told = || fs::read_to_string(&marks).unwrap();
    eventually(SOON, "what is remembered", || told().contains("02\""));

    // The host is put back as it was yesterday, all but the data directory.
    let directory = server.kill();
    put(&crl, &older);
    let refusal = refused_start(&path);
    assert!(
        refusal.contains(
            "a list of the anchor factory is older than the one in force or one that was"
        ),
        "{refusal}"
    );
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
    assert!(refused_start(&path).contains("remove the folder data/crl"));
    fs::remove_dir_all(path.join("data/crl")).unwrap();
    let server = again(directory);
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
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
