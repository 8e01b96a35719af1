//! SIGKILL and start: a large fleet is served within two seconds, and issuance soon after.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca::{Actor, Authority, Options};
use futures_util::stream::{self, StreamExt};
use identity::DeviceId;
use identity::feed::Sighting;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};

use crate::harness::{self, Server, Setup};

/// Enrolls `count` devices on an operator's word, each with a token that stays open and one connection.
fn register(data: &Path, count: usize) {
    let options = Options {
        directory: data.join("ca"),
        trust_domain: None,
        passphrase: None,
        device_certificate_life: Duration::from_secs(90 * 24 * 60 * 60),
    };
    let authority = Arc::new(Authority::open(options).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let operator = Actor::Operator("the test".into());
    runtime.block_on(async {
        let ids: Vec<DeviceId> = (0..count)
            .map(|number| DeviceId::parse(&format!("meter-{number:07}")).unwrap())
            .collect();
        for some in ids.chunks(256) {
            let tokens = authority
                .new_tokens(&operator, some, Duration::from_secs(3600))
                .await;
            assert!(tokens.unwrap().iter().all(Result::is_ok));
        }
        let sightings: Vec<Sighting> = stream::iter(ids)
            .map(|id| {
                let (authority, operator) = (Arc::clone(&authority), operator.clone());
                tokio::spawn(async move {
                    let csr = request(id.as_str());
                    let issued = authority.sign(&operator, &id, &csr).await.unwrap();
                    Sighting {
                        index: issued.index,
                        device: id,
                        at: identity::Timestamp(1_800_000_000),
                        address: [127, 0, 0, 1].into(),
                    }
                })
            })
            .buffer_unordered(512)
            .map(Result::unwrap)
            .collect()
            .await;
        for some in sightings.chunks(256) {
            authority.sighted(some.to_vec()).await.unwrap();
        }
    });
}

fn request(name: &str) -> Vec<u8> {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.serialize_request(&key).unwrap().der().to_vec()
}

fn database(directory: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.join("data/ca/registry.sqlite")).unwrap()
}

/// The end of the check is logged, a moment later known to the writer, and within a second to whoever watches.
fn followed(server: &Server) -> bool {
    logged(server) && !health(server).contains("being checked")
}

fn logged(server: &Server) -> bool {
    server.log().contains("the journal is as it was written")
}

const LONGEST_CHECK: Duration = Duration::from_secs(300);

fn health(server: &Server) -> String {
    let output = std::process::Command::new("curl")
        .args(["--silent", &format!("http://{}/readyz", server.health())])
        .output()
        .unwrap();
    harness::text(&output.stdout)
}

/// Runs the server, which must end with exit code 1; what it said.
fn ends_by_itself(directory: &Path) -> String {
    let output = std::process::Command::new("timeout")
        .args(["600", env!("CARGO_BIN_EXE_keybound"), "--data"])
        .arg(directory.join("data"))
        .args(["up", "--gateway-listen", "127.0.0.1:0"])
        .args(["--enrollment-listen", "127.0.0.1:0"])
        .args(["--health-listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    let told = harness::text(&[output.stdout, output.stderr].concat());
    assert_eq!(output.status.code(), Some(1), "{told}");
    told
}

#[test]
fn a_large_fleet_is_served_soon_after_a_crash() {
    let devices = harness::count(20_000, 1_000_000);
    let directory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    register(&directory.path().join("data"), devices);
    harness::figure(
        &format!("registering {devices} devices, each with token, certificate and first use"),
        format_args!("{:.0?}", began.elapsed()),
    );

    let server = Server::start_in(directory, Setup::default());
    harness::eventually(LONGEST_CHECK, "the journal was followed", || {
        followed(&server)
    });
    let (kept, revoked) = (server.device("kept"), server.device("revoked"));
    kept.run(&["request", &server.url("/")]);
    revoked.run(&["request", &server.url("/")]);
    server.run(&["device", "revoke", "revoked", "--reason", "test"]);
    let directory = server.kill();

    let began = Instant::now();
    // Its own certificate has to be made anew: that does not wait for the end of the check either.
    std::fs::remove_file(directory.path().join("data/gateway/server.pem")).unwrap();
    let server = Server::start_in(directory, Setup::default());
    kept.run(&["request", &server.url("/")]);
    let served = began.elapsed();
    harness::figure(
        &format!("SIGKILL to the first answer with {devices} devices registered"),
        format_args!("{served:.2?}"),
    );
    assert!(served < Duration::from_secs(2), "served after {served:?}");
    let refused = revoked.try_run(&["request", &server.url("/")]);
    assert!(harness::text(&refused.stderr).contains("revoked"));
    // To revoke does not have to wait until the journal was followed; everything else that is written does.
    server.run(&["device", "revoke", "meter-0000001", "--reason", "test"]);
    harness::figure(
        &format!("SIGKILL to the first revocation in force with {devices} devices registered"),
        format_args!("{:.2?}", began.elapsed()),
    );
    // Whoever asks for something else meanwhile is told at once, and so is whoever watches.
    let readiness = health(&server);
    let token = server.keybound(&["token", "new", "--device", "early"]);
    if !logged(&server) {
        assert!(readiness.contains("being checked"), "{readiness}");
        assert!(!token.status.success());
        let told = harness::text(&token.stderr);
        assert!(told.contains("still being checked"), "{told}");
        server.run(&["ca", "crl"]);
    }
    harness::eventually(LONGEST_CHECK, "the journal was followed", || {
        followed(&server)
    });
    server.device("another");
    harness::figure(
        &format!("SIGKILL to the first new certificate with {devices} devices registered"),
        format_args!("{:.2?}", began.elapsed()),
    );
    assert_eq!(
        server.json(&["device", "show", "revoked", "--json"])["status"],
        "revoked"
    );

    // Altered while it did not run: a certificate's row is noticed before anybody is served.
    let directory = server.stop();
    let alter = |sql: &str| {
        assert_eq!(database(directory.path()).execute(sql, []).unwrap(), 1);
    };
    alter(
        "UPDATE certificate SET status = 2 WHERE status = 7 AND device = (SELECT number FROM device WHERE id = 'revoked')",
    );
    let told = ends_by_itself(directory.path());
    assert!(told.contains("disagree about certificate"), "{told}");
    assert!(!told.contains("running"), "{told}");
    alter(
        "UPDATE certificate SET status = 7 WHERE status = 2 AND device = (SELECT number FROM device WHERE id = 'revoked')",
    );

    // An old entry of the journal is noticed while devices are served; nothing is issued, and the server ends.
    let reason =
        "(SELECT seq FROM journal WHERE action = 'token-created' AND subject = 'meter-0000777')";
    alter(&format!(
        "UPDATE journal SET at = at - 1 WHERE seq = {reason}"
    ));
    let told = ends_by_itself(directory.path());
    assert!(told.contains("the journal was altered"), "{told}");
}
