//! The server is killed again and again while it enrolls, renews, revokes and signs, on one data directory. An
//! oracle outside remembers every answer; the registry and the gateway must agree with it to the end.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use identity::Fingerprint;
use serde_json::{Value, json};

use super::rig::{Key, Random, Reply, Right, Target, certificate_in, on_fixed_ports, registry};
use crate::harness::{Device, Server, Setup, count, figure, text};

/// What was answered, and what of it cannot be taken back.
#[derive(Default)]
struct Oracle {
    /// By the fingerprint of the key: whose it is, and the certificate that was answered.
    certificates: Mutex<HashMap<Fingerprint, (String, Vec<u8>)>>,
    revoked: Mutex<Vec<(Key, Vec<u8>)>>,
    /// Enrolled, renewed, and not to be revoked by anybody else.
    done: Mutex<Vec<(Key, Vec<u8>)>>,
    answered: AtomicUsize,
    /// Requests whose answer was lost, and which were sent again.
    lost: AtomicUsize,
    repeated: AtomicUsize,
    renewals_of_devices: AtomicUsize,
    signed_folders: AtomicUsize,
    stop: AtomicBool,
}

impl Oracle {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Repeats what a killed server did not answer until one answers it.
    fn until_answered(&self, mut ask: impl FnMut() -> io::Result<Reply>) -> Option<Reply> {
        while !self.stops() {
            match ask() {
                // After a start a long journal is followed first.
                Ok(reply) if reply.status == 503 => sleep(Duration::from_millis(10)),
                Ok(reply) => {
                    assert_eq!(reply.status, 200, "{reply:?}");
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    return Some(reply);
                }
                Err(_) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(10));
                }
            }
        }
        None
    }

    /// A certificate that was answered; asked again, it must be the same to the byte.
    fn certificate(&self, key: &Key, ask: impl Fn() -> io::Result<Reply>) -> Option<Vec<u8>> {
        let certificate = certificate_in(&self.until_answered(&ask)?);
        let told = (key.id.clone(), certificate.clone());
        let before = self
            .certificates
            .lock()
            .unwrap()
            .insert(key.fingerprint(), told);
        assert!(before.is_none());
        // Now and then as if the answer had been lost on its way.
        if key.csr[key.csr.len() - 1].is_multiple_of(4) {
            let again = certificate_in(&self.until_answered(&ask)?);
            assert_eq!(again, certificate, "{} got two certificates", key.id);
            self.repeated.fetch_add(1, Ordering::Relaxed);
        }
        Some(certificate)
    }
}

/// Enrolls devices and renews every second one.
fn enroll(oracle: &Oracle, target: &Target, name: &str) -> Option<()> {
    for number in 0.. {
        let first = Key::new(&format!("{name}-{number}"));
        let token = loop {
            if oracle.stops() {
                return None;
            }
            match target.token(&first.id) {
                Ok(token) => break token,
                Err(_) => sleep(Duration::from_millis(10)),
            }
        };
        let certificate =
            oracle.certificate(&first, || target.est(&first, Right::Token(&token)))?;
        let mut last = (first, certificate);
        if number % 2 == 0 {
            let next = Key::new(&last.0.id);
            let right = Right::Certificate(&last.0, &last.1);
            let certificate = oracle.certificate(&next, || target.est(&next, right))?;
            last = (next, certificate);
        }
        oracle.done.lock().unwrap().push(last);
        sleep(Duration::from_millis(5));
    }
    None
}

/// Revokes every other device that is done.
fn revoke(oracle: &Oracle, target: &Target) -> Option<()> {
    loop {
        let next = {
            let mut done = oracle.done.lock().unwrap();
            (done.len() > 1).then(|| done.swap_remove(0))
        };
        let Some((key, certificate)) = next else {
            if oracle.stops() {
                return None;
            }
            sleep(Duration::from_millis(20));
            continue;
        };
        let asked = json!({ "reason": "killed", "wait": key.id.ends_with('0') });
        let path = format!("/v1/devices/{}/revoke", key.id);
        oracle.until_answered(|| target.admin("POST", &path, &asked))?;
        oracle.revoked.lock().unwrap().push((key, certificate));
        sleep(Duration::from_millis(20));
    }
}

/// Signs folders, each again and again until it is done; now and then the command is killed, too.
fn sign(oracle: &Oracle, server_data: &Path, place: &Path) -> Option<()> {
    let mut random = Random::new("sign --dir");
    for folder in 0.. {
        let (requests, out) = (
            place.join(format!("requests-{folder}")),
            place.join(format!("certificates-{folder}")),
        );
        std::fs::create_dir_all(&requests).unwrap();
        let mut keys = Vec::new();
        for number in 0..FOLDER {
            let key = Key::new(&format!("unit-{folder}-{number}"));
            std::fs::write(requests.join(format!("{}.der", key.id)), &key.csr).unwrap();
            keys.push(key);
        }
        loop {
            if oracle.stops() {
                return None;
            }
            let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"))
                .arg("--data")
                .arg(server_data)
                .args(["sign", "--dir", requests.to_str().unwrap()])
                .args(["--out", out.to_str().unwrap()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            if random.below(3) == 0 {
                sleep(random.duration(Duration::ZERO, Duration::from_millis(300)));
                let _ = command.kill();
            }
            if command.wait().unwrap().success() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        let results = std::fs::read_to_string(out.join("results.csv")).unwrap();
        assert_eq!(results.matches(",issued,").count(), FOLDER, "{results}");
        for key in keys {
            let pem = std::fs::read(out.join(format!("{}.pem", key.id))).unwrap();
            let certificate = pem::parse(pem).unwrap().into_contents();
            let told = (key.id.clone(), certificate);
            oracle
                .certificates
                .lock()
                .unwrap()
                .insert(key.fingerprint(), told);
        }
        oracle.signed_folders.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(1_000));
    }
    None
}

/// The device's own program: one device after another enrolls and renews, whatever happens to the server.
fn devices(oracle: &Oracle, target: &Target, server_data: &Path, place: &Path) -> Option<()> {
    let until_done = |device: &Device, arguments: &[&str]| -> Option<()> {
        while !oracle.stops() {
            let output = device.try_run(arguments);
            match output.status.code() {
                Some(0) => return Some(()),
                // The server could not be reached.
                Some(3) => {}
                code => {
                    let said = text(&output.stderr);
                    // It broke off after the request had been read, or still follows its long journal.
                    let again = ["did not answer", "broke off", "(unavailable, HTTP 503)"];
                    let again = again.iter().any(|reason| said.contains(reason));
                    assert!(again, "{arguments:?} ended with {code:?}: {said}");
                }
            }
        }
        None
    };
    for number in 0.. {
        let device = Device {
            store: place.join(format!("device-{number}")),
        };
        let id = format!("device-{number}");
        let code = loop {
            if oracle.stops() {
                return None;
            }
            let output = Command::new(env!("CARGO_BIN_EXE_keybound"))
                .arg("--data")
                .arg(server_data)
                .args(["token", "new", "--device", &id])
                .output()
                .unwrap();
            if output.status.success() {
                break text(&output.stdout);
            }
        };
        until_done(&device, &["enroll", code.trim()])?;
        let url = format!("https://localhost:{}/", target.gateway.port());
        for _ in 0..3 {
            until_done(&device, &["request", &url])?;
            until_done(&device, &["renew"])?;
            oracle.renewals_of_devices.fetch_add(1, Ordering::Relaxed);
        }
    }
    None
}

/// What must hold after every start, before anything else is asked.
///
/// `revoked` devices had been revoked by the time of the kill: a revocation that is not waited for may be put in force
/// between a device's handshake and its request, and then ends the connection without an answer.
fn check_start(
    oracle: &Oracle,
    target: &Target,
    revoked: usize,
    crl: &mut (u64, u64),
    random: &mut Random,
) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let list = loop {
        let reply = target.admin("GET", "/v1/ca/crl", &Value::Null).unwrap();
        if reply.status == 200 {
            break reply.json();
        }
        assert!(Instant::now() < deadline, "no CRL: {reply:?}");
        sleep(Duration::from_millis(5));
    };
    let (number, entries) = (
        list["number"].as_u64().unwrap(),
        list["entries"].as_u64().unwrap(),
    );
    assert!(number > crl.0, "CRL {number} after CRL {}", crl.0);
    assert!(entries >= crl.1, "{entries} entries after {}", crl.1);
    *crl = (number, entries);

    let all = oracle.revoked.lock().unwrap();
    let revoked = &all[..revoked];
    if let Some(last) = revoked.last() {
        let place = usize::try_from(random.below(revoked.len() as u64)).unwrap();
        for (key, certificate) in [&revoked[place], last] {
            let reply = target.get(key, certificate).unwrap();
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (403, "revoked"),
                "{}",
                key.id
            );
        }
    }
    drop(all);
    let good = oracle.done.lock().unwrap().pop();
    if let Some((key, certificate)) = good {
        let reply = target.get(&key, &certificate).unwrap();
        assert_eq!(reply.status, 200, "{}: {reply:?}", key.id);
        oracle.done.lock().unwrap().insert(0, (key, certificate));
    }
}

/// What must hold in the registry at the end.
fn check_registry(oracle: &Oracle, data: &Path) {
    let registry = registry(data);
    let count = |sql: &str| -> i64 { registry.query_row(sql, [], |row| row.get(0)).unwrap() };
    let all = count("SELECT count(*) FROM certificate");
    assert_eq!(count("SELECT count(DISTINCT serial) FROM certificate"), all);
    assert_eq!(count("SELECT count(DISTINCT idx) FROM certificate"), all);
    assert_eq!(count("SELECT count(DISTINCT sha256) FROM certificate"), all);
    assert_eq!(
        count("SELECT count(DISTINCT idx) FROM journal WHERE action = 'certificate-issued'"),
        all
    );
    // A key was asked for with one request, so there is one certificate, however often it was asked for.
    assert_eq!(
        count("SELECT count(DISTINCT key_sha256) FROM certificate WHERE device IS NOT NULL"),
        count("SELECT count(*) FROM certificate WHERE device IS NOT NULL")
    );
    let mut statement = registry
        .prepare(
            "SELECT d.id, c.sha256, c.status, d.standing
             FROM certificate c JOIN device d ON d.number = c.device WHERE c.key_sha256 = ?1",
        )
        .unwrap();
    let revoked: HashSet<_> = {
        let revoked = oracle.revoked.lock().unwrap();
        revoked.iter().map(|(key, _)| key.id.clone()).collect()
    };
    let certificates = oracle.certificates.lock().unwrap();
    for (key, (id, der)) in certificates.iter() {
        let found: (String, [u8; 32], u8, u8) = statement
            .query_row([key.0], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .unwrap_or_else(|error| panic!("the certificate of {id} was answered: {error}"));
        assert_eq!((&found.0, found.1), (id, Fingerprint::of(der).0));
        if revoked.contains(id) {
            assert_eq!((found.2, found.3), (7, 2), "{id} was revoked");
        }
    }
    figure(
        "kill -9 of the server: certificates compared with the registry",
        certificates.len(),
    );
    figure(
        "kill -9 of the server: revocations still in force",
        revoked.len(),
    );
}

#[test]
fn while_devices_enroll_renew_are_revoked_and_folders_are_signed() {
    let kills = count(50, 1000);
    let started = Instant::now();
    let mut random = Random::new("kill -9");
    let setup = || on_fixed_ports(Setup::default());
    // The ports are chosen once.
    let arguments = setup().arguments;
    let setup = || Setup {
        arguments: arguments.clone(),
        ..Setup::default()
    };
    let place = tempfile::tempdir().unwrap();
    let mut server = Server::start(setup());
    let target = Target::of(&server);
    let data = server.path("data");
    let oracle = Arc::new(Oracle::default());
    let mut crl = (0, 0);
    let mut slowest_start = Duration::ZERO;

    let server = std::thread::scope(|scope| {
        // A failure in this thread ends the others, so that it is seen.
        let ends = EndsAll(&oracle);
        let (oracle, target, place, data) = (&*oracle, &target, place.path(), &data);
        let load = vec![
            scope.spawn(|| enroll(oracle, target, "a")),
            scope.spawn(|| enroll(oracle, target, "b")),
            scope.spawn(|| revoke(oracle, target)),
            scope.spawn(|| sign(oracle, data, place)),
            scope.spawn(|| devices(oracle, target, data, place)),
        ];
        for kill in 0..kills {
            sleep(random.duration(Duration::from_millis(20), Duration::from_millis(600)));
            for thread in &load {
                assert!(
                    !thread.is_finished(),
                    "a part of the load failed before kill {kill}"
                );
            }
            let revoked = oracle.revoked.lock().unwrap().len();
            let directory = server.kill();
            let start = Instant::now();
            server = Server::start_in(directory, setup());
            slowest_start = slowest_start.max(start.elapsed());
            check_start(oracle, target, revoked, &mut crl, &mut random);
        }
        drop(ends);
        for thread in load {
            thread.join().unwrap();
        }
        server
    });

    // Every acknowledged revocation is in the list that others check by.
    let wanted: HashSet<_> = {
        let revoked = oracle.revoked.lock().unwrap();
        revoked.iter().map(|(_, der)| serial(der)).collect()
    };
    crate::harness::eventually(
        Duration::from_secs(30),
        "the CRL names every revoked one",
        || {
            let der = pem::parse(server.run(&["ca", "crl"]))
                .unwrap()
                .into_contents();
            let (_, list) = x509_parser::parse_x509_crl(&der).unwrap();
            let named: HashSet<_> = list
                .iter_revoked_certificates()
                .map(|entry| entry.raw_serial().to_vec())
                .collect();
            wanted.is_subset(&named)
        },
    );
    let directory = server.stop();
    check_registry(&oracle, &data);
    // And it starts once more: every journal entry is verified then.
    Server::start_in(directory, setup()).stop();

    let (lost, repeated) = (&oracle.lost, &oracle.repeated);
    figure("kill -9 of the server: kills", kills);
    figure(
        "kill -9 of the server: operations answered",
        oracle.answered.load(Ordering::Relaxed),
    );
    figure(
        "kill -9 of the server: answers lost and asked for again",
        lost.load(Ordering::Relaxed),
    );
    figure(
        "kill -9 of the server: answers repeated to the byte",
        repeated.load(Ordering::Relaxed),
    );
    figure(
        "kill -9 of the server: folders signed, renewals by keybound-device",
        format!(
            "{}, {}",
            oracle.signed_folders.load(Ordering::Relaxed),
            oracle.renewals_of_devices.load(Ordering::Relaxed)
        ),
    );
    figure(
        "kill -9 of the server: slowest start",
        format!("{slowest_start:?}"),
    );
    figure(
        "kill -9 of the server: whole test",
        format!("{:?}", started.elapsed()),
    );
    assert!(oracle.answered.load(Ordering::Relaxed) > 5 * kills);
    assert!(oracle.signed_folders.load(Ordering::Relaxed) > 0);
}

fn serial(der: &[u8]) -> Vec<u8> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    certificate.raw_serial().to_vec()
}

struct EndsAll<'a>(&'a Oracle);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

const FOLDER: usize = 300;
