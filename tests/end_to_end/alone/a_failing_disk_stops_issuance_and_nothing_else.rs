//! The registry's disk fails: syncs report errors, writes find no room, the disk is really full. Nothing is issued or
//! revoked then, everybody is told so, devices that exist are served; and when the disk is well, so is the CA.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::rig::{Key, Reply, Right, Strace, Target, certificate_in, exchange, registry};
use crate::harness::{Server, Setup, eventually, figure, text};

/// A server, one device that is enrolled, and one that is to be revoked.
struct Scene {
    server: Server,
    target: Target,
    device: Key,
    certificate: Vec<u8>,
}

impl Scene {
    fn new(server: Server) -> Self {
        let target = Target::of(&server);
        let device = Key::new("device");
        let token = target.token("device").unwrap();
        let certificate = certificate_in(&target.est(&device, Right::Token(&token)).unwrap());
        let scene = Self {
            server,
            target,
            device,
            certificate,
        };
        scene.serves();
        // The sighting is on the disk before the disk fails.
        eventually(Duration::from_secs(5), "the certificate is active", || {
            scene
                .server
                .run(&["device", "show", "device"])
                .contains(" active")
        });
        eventually(Duration::from_secs(5), "ready", || {
            scene.health("/readyz").status == 200
        });
        scene
    }

    fn serves(&self) {
        let reply = self.target.get(&self.device, &self.certificate).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    fn health(&self, path: &str) -> Reply {
        let mut stream = std::net::TcpStream::connect(self.server.health()).unwrap();
        exchange(
            &mut stream,
            &format!("GET {path} HTTP/1.1\r\nhost: a\r\n"),
            &[],
        )
        .unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        let text = text(&self.health("/metrics").body);
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("keybound_{name} ")));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn certificates(&self) -> i64 {
        registry(&self.server.path("data"))
            .query_row("SELECT count(*) FROM certificate", [], |row| row.get(0))
            .unwrap()
    }

    /// What everybody is told while the disk fails.
    fn refuses(&self, key: &Key, token: &str) {
        let before = self.certificates();
        let next = Key::new("device");
        let renewal = Right::Certificate(&self.device, &self.certificate);
        for (key, right) in [(key, Right::Token(token)), (&next, renewal)] {
            let reply = self.target.est(key, right).unwrap();
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (503, "unavailable"),
                "{reply:?}"
            );
            assert!(reply.head.contains("application/problem+json"), "{reply:?}");
            assert!(!text(&reply.body).contains("MII"));
        }
        for arguments in [
            &["device", "revoke", "device"][..],
            &["token", "new", "--device", "another"],
            // It would change nothing.
            &["device", "suspend", "nobody"],
        ] {
            let output = self.server.keybound(arguments);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            let said = text(&output.stderr);
            assert!(
                said.contains("registry cannot be used"),
                "{arguments:?}: {said}"
            );
            assert!(output.stdout.is_empty());
        }
        self.serves();
        eventually(
            Duration::from_secs(10),
            "it is not ready, and says why",
            || {
                let reply = self.health("/readyz");
                reply.status == 503
                    && reply.json()["degraded"] == true
                    && text(&reply.body).contains("registry cannot be written")
            },
        );
        // It does not take an attempt that writes nothing for a sign that the disk is well.
        for _ in 0..6 {
            assert_eq!(self.metric("registry_writable"), 0);
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(self.metric("registry_faults_total") > 0);
        assert_eq!(self.certificates(), before);
    }

    /// Without anybody's help.
    fn recovers(&self, key: &Key, token: &str) {
        eventually(Duration::from_secs(20), "it is ready again", || {
            self.health("/readyz").status == 200
        });
        assert_eq!(self.metric("registry_writable"), 1);
        let reply = self.target.est(key, Right::Token(token)).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        let (certificate, again) = (
            certificate_in(&reply),
            certificate_in(&self.target.est(key, Right::Token(token)).unwrap()),
        );
        assert_eq!(certificate, again);
        let found: i64 = registry(&self.server.path("data"))
            .query_row(
                "SELECT count(*) FROM certificate WHERE sha256 = ?1",
                [identity::Fingerprint::of(&certificate).0],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(found, 1);
        assert_eq!(self.target.get(key, &certificate).unwrap().status, 200);
        self.serves();
    }

    fn ends(self) {
        self.server.run(&["device", "revoke", "device"]);
        let reply = self.target.get(&self.device, &self.certificate).unwrap();
        assert_eq!(reply.code(), "revoked");
        // It is verified from end to end at the next start.
        let directory = self.server.stop();
        Server::start_in(directory, Setup::default()).stop();
    }
}

#[test]
fn when_syncs_and_writes_report_errors() {
    let scene = Scene::new(Server::start(Setup::default()));
    let faults: &[(&str, &[&str])] = &[
        (
            "every sync fails",
            &["inject=fsync:error=EIO", "inject=fdatasync:error=EIO"],
        ),
        ("no room for a write", &["inject=pwrite64:error=ENOSPC"]),
        ("writes that write nothing", &["inject=pwrite64:retval=0"]),
        ("writes fail", &["inject=pwrite64:error=EIO"]),
        (
            "it cannot be opened again",
            &["inject=fsync:error=EIO", "inject=openat:error=EROFS"],
        ),
    ];
    for (number, (fault, injections)) in faults.iter().enumerate() {
        println!("{fault}");
        let key = Key::new(&format!("new-{number}"));
        let token = scene.target.token(&key.id).unwrap();
        let expressions = [&["trace=fsync,fdatasync,pwrite64,openat"], *injections].concat();
        let strace = Strace::attach(&scene.server, &expressions);
        scene.refuses(&key, &token);
        let log = strace.end();
        assert!(
            log.iter().any(|line| line.contains("(INJECTED)")),
            "{fault}"
        );
        scene.recovers(&key, &token);
    }
    figure("injected faults of the disk", faults.len());
    scene.ends();
}

#[test]
fn and_an_attempt_that_writes_nothing_does_not_make_it_well() {
    let scene = Scene::new(Server::start(Setup::default()));
    let key = Key::new("new");
    let token = scene.target.token("new").unwrap();
    // The log is empty, so that opening it again after a failure writes nothing that could fail as well.
    let registry = registry(&scene.server.path("data"));
    eventually(Duration::from_secs(5), "an empty log", || {
        let emptied = registry.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        emptied == Ok(0)
    });
    drop(registry);
    let trace = "trace=pwrite64";
    let strace = Strace::attach(&scene.server, &[trace, "inject=pwrite64:error=ENOSPC"]);
    scene.refuses(&key, &token);
    assert!(strace.end().iter().any(|line| line.contains("(INJECTED)")));
    let log = scene.server.log();
    assert!(log.contains("the registry was opened and checked again"));
    assert!(!log.contains("the registry can be written again"));
    scene.recovers(&key, &token);
    scene.ends();
}

#[test]
fn and_after_one_failed_sync_the_registry_is_read_again_before_it_is_believed() {
    let scene = Scene::new(Server::start(Setup::default()));
    let key = Key::new("new");
    let token = scene.target.token("new").unwrap();
    let trace = "trace=fsync,fdatasync,pwrite64,openat,ftruncate";
    let strace = Strace::attach(&scene.server, &[trace, "inject=fsync:error=EIO:when=1"]);
    assert_eq!(
        scene.target.est(&key, Right::Token(&token)).unwrap().code(),
        "unavailable"
    );
    scene.recovers(&key, &token);
    let log = strace.end();
    let after = |from: usize, what: &[&str]| {
        log[from..]
            .iter()
            .position(|line| what.iter().all(|part| line.contains(part)))
            .map(|place| from + place)
            .unwrap_or_else(|| panic!("{what:?} after {}", log[from..].join("\n")))
    };
    let failed = after(0, &["fsync(", "registry.sqlite-wal>", "(INJECTED)"]);
    // SQLite uses the database's descriptor again; the log is opened anew.
    let opened = after(failed, &["openat(", "registry.sqlite-wal\""]);
    // What the log held is in the database itself, synced, before the log is used again.
    let synced = after(opened, &["fsync(", "registry.sqlite>", "= 0"]);
    let emptied = after(synced, &["ftruncate(", "registry.sqlite-wal>"]);
    after(emptied, &["fsync(", "registry.sqlite-wal>", "= 0"]);
    assert!(
        scene
            .server
            .log()
            .contains("the registry was opened and checked again")
    );

    // Altered while the disk fails: the check finds it, and nothing is issued.
    let key = Key::new("newer");
    let token = scene.target.token("newer").unwrap();
    let data = scene.server.path("data");
    let strace = Strace::attach(&scene.server, &["trace=fsync", "inject=fsync:error=EIO"]);
    assert_eq!(
        scene.target.est(&key, Right::Token(&token)).unwrap().code(),
        "unavailable"
    );
    let alter = |sql: &str| {
        eventually(Duration::from_secs(5), sql, || {
            registry(&data).execute(sql, []).is_ok()
        });
    };
    alter("UPDATE journal SET subject = subject || '-' WHERE seq = (SELECT max(seq) FROM journal)");
    strace.end();
    std::thread::sleep(Duration::from_millis(2500));
    scene.refuses(&key, &token);
    assert!(scene.server.log().contains("the journal was altered"));
    alter(
        "UPDATE journal SET subject = rtrim(subject, '-') WHERE seq = (SELECT max(seq) FROM journal)",
    );
    scene.recovers(&key, &token);
    scene.ends();
}

#[test]
fn and_a_registry_that_lost_what_was_answered_is_not_taken_for_it() {
    let scene = Scene::new(Server::start(Setup::default()));
    let folder = scene.server.path("data").join("ca");
    // Whole, and older than what is answered next.
    let older = scene.server.path("older.sqlite");
    registry(&scene.server.path("data"))
        .execute("VACUUM INTO ?1", [older.to_str().unwrap()])
        .unwrap();
    let key = Key::new("new");
    let token = scene.target.token("new").unwrap();
    let strace = Strace::attach(&scene.server, &["trace=fsync", "inject=fsync:error=EIO"]);
    let reply = scene.target.est(&key, Right::Token(&token)).unwrap();
    assert_eq!(reply.code(), "unavailable");
    // Nobody has it open to write while the disk fails; who reads goes on with what is moved away.
    let aside = scene.server.path("aside");
    std::fs::create_dir(&aside).unwrap();
    let parts = [
        "registry.sqlite",
        "registry.sqlite-wal",
        "registry.sqlite-shm",
    ];
    for part in parts {
        let _ = std::fs::rename(folder.join(part), aside.join(part));
    }
    std::fs::copy(&older, folder.join(parts[0])).unwrap();
    strace.end();
    std::thread::sleep(Duration::from_millis(2500));
    for (key, right) in [
        (&key, Right::Token(&token)),
        (
            &Key::new("device"),
            Right::Certificate(&scene.device, &scene.certificate),
        ),
    ] {
        let reply = scene.target.est(key, right).unwrap();
        assert_eq!((reply.status, reply.code()), (503, "unavailable".into()));
    }
    assert_eq!(scene.metric("registry_writable"), 0);
    scene.serves();
    for part in parts {
        let _ = std::fs::remove_file(folder.join(part));
        let _ = std::fs::rename(aside.join(part), folder.join(part));
    }
    scene.recovers(&key, &token);
    scene.ends();
}

#[test]
fn when_it_is_full() {
    let disk = SmallDisk::mount();
    let directory = tempfile::tempdir_in(&disk.path).unwrap();
    let scene = Scene::new(Server::start_in(directory, Setup::default()));
    let key = Key::new("new");
    let token = scene.target.token("new").unwrap();
    let filler = disk.path.join("filler");
    // Somebody takes every block that becomes free: what a refusal gives back as well.
    let fills = AtomicBool::new(true);
    let answered = std::thread::scope(|scope| {
        scope.spawn(|| {
            let options = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&filler);
            let mut file = options.unwrap();
            // Slowly at first, so that some are answered while there is little room.
            while fills.load(Ordering::Relaxed) && file.write_all(&[1; 4096]).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            while fills.load(Ordering::Relaxed) {
                if file.write_all(&[1; 4096]).is_err() && file.write_all(&[1; 16]).is_err() {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        let _ends = Ends(&fills);
        let mut answered = Vec::new();
        let mut refused_in_a_row = 0;
        for number in 0..400 {
            let key = Key::new(&format!("last-{number}"));
            let asked = serde_json::json!({ "devices": [key.id], "life_seconds": 3600 });
            let made = scene.target.admin("POST", "/v1/tokens", &asked).unwrap();
            let token = made.json()["results"][0]["made"]["token"]
                .as_str()
                .map(str::to_owned);
            let reply = token.map(|token| scene.target.est(&key, Right::Token(&token)).unwrap());
            match reply.filter(|reply| reply.status == 200) {
                Some(reply) => {
                    answered.push(certificate_in(&reply));
                    refused_in_a_row = 0;
                }
                None => refused_in_a_row += 1,
            }
            if refused_in_a_row == 20 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(refused_in_a_row, 20);
        scene.refuses(&key, &token);
        answered
    });
    std::fs::remove_file(&filler).unwrap();
    scene.recovers(&key, &token);
    let registry = registry(&scene.server.path("data"));
    for certificate in &answered {
        let found: i64 = registry
            .query_row(
                "SELECT count(*) FROM certificate WHERE sha256 = ?1",
                [identity::Fingerprint::of(certificate).0],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(found, 1);
    }
    drop(registry);
    assert!(!answered.is_empty(), "nothing was tried");
    figure(
        "certificates answered on the last blocks of a full disk",
        answered.len(),
    );
    scene.ends();
    disk.unmount();
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A file system of a few megabytes.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount() -> Self {
        let path = tempfile::tempdir().unwrap().keep();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(
            mounted.success(),
            "this test mounts a file system, and so needs root"
        );
        Self { path }
    }

    fn unmount(self) {}
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path: &Path = &self.path;
        // Whatever a failed test still runs there keeps nobody from unmounting it.
        let _ = Command::new("umount").arg("--lazy").arg(path).status();
        let _ = std::fs::remove_dir(path);
    }
}
