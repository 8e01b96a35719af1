//! A reload that a disk holds up holds up no revocation, and nobody who asks for another one.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::anchor::{
    SOON, anchor, configure, is_told, ok, put, readiness, refused, start_as_configured,
};
use crate::harness::pki::Pki;
use crate::harness::upstream::Upstream;
use crate::harness::{Setup, eventually, keybound, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_waits_for_a_disk_holds_up_no_list_and_no_other_reload() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let (pump, fan) = (factory.client("/CN=pump"), factory.client("/CN=fan"));
    let lift = factory.client("/CN=lift");
    let crl = path.join("factory.crl");
    put(&crl, &factory.list(&[]));
    let place = format!("'{}'", crl.display());
    let anchors = anchor("factory", &factory.path("ca.pem"), &place, "'cn'");
    configure(&path, &upstream, &anchors);
    let slow_disk = Setup::default().environment("FAILPOINTS", "files::put=return(hangs)");
    let server = start_as_configured(directory, slow_disk);
    assert_eq!(pump.asks(&server, "/"), ok());

    // A certificate for another name is kept before it serves.
    let hangs = path.join("data/gateway/server.hangs");
    fs::write(&hangs, "").unwrap();
    let file = path.join("c.toml");
    let renamed = fs::read_to_string(&file).unwrap();
    let renamed = renamed.replace("names = ['localhost']", "names = ['localhost', 'other']");
    fs::write(&file, renamed).unwrap();
    let began = Instant::now();
    let reloading = Command::new(keybound())
        .args(["--data", path.join("data").to_str().unwrap(), "reload"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    factory.revoke(&pump.certificate);
    put(&crl, &factory.list(&[]));
    eventually(SOON, "a revocation", || {
        pump.asks(&server, "/") == refused(403, "revoked")
    });
    assert_eq!(fan.asks(&server, "/"), ok());
    // Nor does what asks for the name of the server wait.
    assert!(!server.run(&["token", "new", "--device", "b"]).is_empty());
    let again = server.keybound(&["reload"]);
    assert_eq!(again.status.code(), Some(1));
    let told = text(&again.stderr);
    let words = "another reload has been under way for 15 s";
    assert!(told.contains(words), "{told}");
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "{:?}",
        began.elapsed()
    );
    eventually(Duration::from_secs(40), "an alarm", || {
        is_told(&server, "A reload has waited 30 s for the disk")
    });
    factory.revoke(&fan.certificate);
    put(&crl, &factory.list(&[]));
    eventually(SOON, "another revocation", || {
        fan.asks(&server, "/") == refused(403, "revoked")
    });

    // It ends when it can, and takes back nothing that came meanwhile.
    fs::remove_file(&hangs).unwrap();
    let output = reloading.wait_with_output().unwrap();
    let told = text(&output.stdout);
    assert!(told.contains("names: localhost, other"), "{told}");
    assert_eq!(readiness(&server)["degraded"], false);
    for revoked in [&pump, &fan] {
        assert_eq!(revoked.asks(&server, "/"), refused(403, "revoked"));
    }
    assert_eq!(lift.asks(&server, "/"), ok());
    server.run(&["reload"]);
}
