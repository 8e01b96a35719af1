//! A data directory in which a file is missing, damaged, another's or open to others: the start is refused before
//! anything listens and says which file and what to do, or the file is one that is made anew.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Server, Setup, succeed, text};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Missing,
    Empty,
    CutShort,
    Garbage,
    NotText,
    OfAnother,
    Directory,
    LinkToNowhere,
    LinkToItself,
    Gigabyte,
    OpenToReaders,
    OpenToWriters,
}

const HARMS: [Harm; 12] = [
    Harm::Missing,
    Harm::Empty,
    Harm::CutShort,
    Harm::Garbage,
    Harm::NotText,
    Harm::OfAnother,
    Harm::Directory,
    Harm::LinkToNowhere,
    Harm::LinkToItself,
    Harm::Gigabyte,
    Harm::OpenToReaders,
    Harm::OpenToWriters,
];

impl Harm {
    fn done_to(self, file: &Path, of_another: &Path) {
        let content = fs::read(file).unwrap();
        if !matches!(self, Self::OpenToReaders | Self::OpenToWriters) {
            fs::remove_file(file).unwrap();
        }
        let write = |bytes: &[u8]| {
            fs::write(file, bytes).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        };
        let open = |mode| fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        match self {
            Self::Missing => {}
            Self::Empty => write(b""),
            Self::CutShort => write(&content[..content.len() / 2]),
            Self::Garbage => write(b"hello\n"),
            Self::NotText => write(&[0xff; 500]),
            Self::OfAnother => write(&fs::read(of_another).unwrap()),
            Self::Directory => fs::create_dir(file).unwrap(),
            Self::LinkToNowhere => symlink("nowhere", file).unwrap(),
            Self::LinkToItself => symlink(file, file).unwrap(),
            Self::Gigabyte => {
                write(b"");
                fs::File::options()
                    .write(true)
                    .open(file)
                    .unwrap()
                    .set_len(1 << 30)
                    .unwrap();
            }
            Self::OpenToReaders => open(0o644),
            Self::OpenToWriters => open(0o620),
        }
    }
}

/// A data directory that was used, and closed.
fn lived_in() -> tempfile::TempDir {
    let server = Server::start(Setup::default());
    server.device("a").run(&["request", &server.url("/")]);
    let directory = server.stop();
    // The newest of the database lies beside it until it is moved there.
    let database = directory.path().join("data/ca/registry.sqlite");
    let database = rusqlite::Connection::open(database).unwrap();
    let moved = database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
        row.get::<_, i64>(0)
    });
    assert_eq!(moved.unwrap(), 0);
    directory
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    succeed(
        Command::new("cp")
            .arg("-a")
            .arg(from.join("data"))
            .arg(to.path()),
    );
    to
}

/// Starts on a port that is taken: whatever is said instead of that was found out before anything listened.
fn refusal(directory: &Path) -> String {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_keybound"), "--data", "data", "up"])
        .args(["--gateway-listen", &address])
        .args([
            "--enrollment-listen",
            "127.0.0.1:0",
            "--health-listen",
            "127.0.0.1:0",
        ])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(!directory.join("data/addresses.json").is_file());
    told
}

#[test]
fn no_file_of_the_ca_is_trusted_or_replaced() {
    let (here, there) = (lived_in(), lived_in());
    let mut tried = 0;
    for file in [
        "root.pem",
        "root.key",
        "device-ca.pem",
        "device-ca.key",
        "infrastructure-ca.pem",
        "infrastructure-ca.key",
        "serial.key",
        "registry.sqlite",
    ] {
        for harm in HARMS {
            // Certificates are for everybody to read, and the database has no secret; only the directory's owner gets to them.
            if matches!(harm, Harm::OpenToReaders | Harm::OpenToWriters) && !file.ends_with(".key")
            {
                continue;
            }
            let copy = copy(here.path());
            let path = copy.path().join("data/ca").join(file);
            harm.done_to(&path, &there.path().join("data/ca").join(file));
            let started = Instant::now();
            let told = refusal(copy.path());
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{file} {harm:?}"
            );
            let named = if file == "registry.sqlite" {
                "registry"
            } else {
                file
            };
            assert!(
                told.contains(named) || told.contains(file.trim_end_matches(".key")),
                "{file} {harm:?}: {told}"
            );
            let advice = ["restore", "put back", "run chmod 600"]
                .iter()
                .any(|advice| told.contains(advice));
            assert!(advice, "{file} {harm:?}: {told}");
            assert!(!told.contains("in use"), "{file} {harm:?}: {told}");
            tried += 1;
        }
    }
    // The other twin: nothing harmed, and the port is what is wrong.
    assert!(refusal(copy(here.path()).path()).contains("in use"));
    println!(
        "figure: files of the CA that are not as they were left, each refused by name: {tried}"
    );
}

#[test]
fn the_servers_own_certificate_is_made_anew() {
    let (here, there) = (lived_in(), lived_in());
    for harm in HARMS {
        let copy = copy(here.path());
        let file = copy.path().join("data/gateway/server.pem");
        harm.done_to(&file, &there.path().join("data/gateway/server.pem"));
        if harm == Harm::Directory {
            let told = refusal(copy.path());
            assert!(
                told.contains("gateway/server.pem cannot be written"),
                "{told}"
            );
            continue;
        }
        let server = Server::start_in(copy, Setup::default());
        let kept = fs::symlink_metadata(server.path("data/gateway/server.pem")).unwrap();
        assert!(
            kept.is_file() && kept.permissions().mode() & 0o777 == 0o600,
            "{harm:?}"
        );
        server
            .device(&format!("b-{}", harm as u8))
            .run(&["request", &server.url("/")]);
    }
}

#[test]
fn what_was_written_down_of_the_journals_end_is_made_anew() {
    let (here, there) = (lived_in(), lived_in());
    for harm in HARMS {
        let copy = copy(here.path());
        let file = copy.path().join("data/ca/registry.head");
        harm.done_to(&file, &there.path().join("data/ca/registry.head"));
        let server = Server::start_in(copy, Setup::default());
        server.run(&["device", "list"]);
        let log = server.log();
        let told = log.contains("alarm") && log.contains("was written down of the journal's end");
        let said = !matches!(harm, Harm::OpenToReaders | Harm::OpenToWriters);
        assert_eq!(told, said, "{harm:?}: {log}");
        let directory = server.stop();
        let kept = fs::symlink_metadata(directory.path().join("data/ca/registry.head")).unwrap();
        if harm == Harm::Directory {
            assert!(kept.is_dir() && log.contains("the journal's end cannot be written down"));
            continue;
        }
        assert!(
            kept.is_file() && kept.permissions().mode() & 0o777 == 0o600,
            "{harm:?}"
        );
        let server = Server::start_in(directory, Setup::default());
        assert!(!server.log().contains("alarm"), "{harm:?}");
        server.stop();
    }
}

#[test]
fn a_server_key_that_is_not_the_certificates_is_made_anew() {
    let (here, there) = (lived_in(), lived_in());
    let copy = copy(here.path());
    let file = copy.path().join("data/gateway/server.pem");
    let (own, other) = (
        fs::read_to_string(&file).unwrap(),
        fs::read_to_string(there.path().join("data/gateway/server.pem")).unwrap(),
    );
    let certificates = own.find("-----BEGIN CERTIFICATE").unwrap();
    let key = other.find("-----BEGIN CERTIFICATE").unwrap();
    fs::write(&file, format!("{}{}", &other[..key], &own[certificates..])).unwrap();
    let server = Server::start_in(copy, Setup::default());
    server.device("b").run(&["request", &server.url("/")]);
}

#[test]
fn a_directory_without_its_ca_does_not_get_another_one() {
    let here = lived_in();
    let gone = copy(here.path());
    fs::remove_dir_all(gone.path().join("data/ca")).unwrap();
    let told = refusal(gone.path());
    assert!(
        told.contains("put back its folder ca from a backup"),
        "{told}"
    );
    assert!(!gone.path().join("data/ca").exists());

    // A disk that is not mounted.
    let unmounted = copy(here.path());
    fs::remove_dir_all(unmounted.path().join("data/ca")).unwrap();
    fs::remove_dir_all(unmounted.path().join("data/gateway")).unwrap();
    symlink("/nowhere/ca", unmounted.path().join("data/ca")).unwrap();
    let told = refusal(unmounted.path());
    assert!(told.contains("root.pem cannot be read"), "{told}");
    assert!(
        fs::symlink_metadata(unmounted.path().join("data/ca"))
            .unwrap()
            .is_symlink()
    );

    let a_file = copy(here.path());
    fs::remove_dir_all(a_file.path().join("data/ca")).unwrap();
    fs::write(a_file.path().join("data/ca"), "").unwrap();
    assert!(refusal(a_file.path()).contains("root.pem cannot be read"));
}

#[test]
fn the_small_files_and_the_directory_itself() {
    let here = lived_in();
    for (name, words) in [
        ("addresses.json", "addresses.json cannot be used"),
        ("lock", "lock cannot be opened"),
    ] {
        // As a directory it is in the way.
        let blocked = copy(here.path());
        let path = blocked.path().join("data").join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        let told = refusal(blocked.path());
        assert!(told.contains(words), "{told}");
        // As whatever file it is replaced, or its content does not matter.
        let garbage = copy(here.path());
        fs::write(garbage.path().join("data").join(name), [0xff; 100]).unwrap();
        Server::start_in(garbage, Setup::default()).run(&["device", "list"]);
    }
    let open = copy(here.path());
    fs::set_permissions(open.path().join("data"), fs::Permissions::from_mode(0o770)).unwrap();
    let told = refusal(open.path());
    assert!(
        told.contains("writable by others (mode 770)") && told.contains("chmod go-w"),
        "{told}"
    );

    let file = tempfile::tempdir().unwrap();
    fs::write(file.path().join("data"), "").unwrap();
    assert!(refusal(file.path()).contains("data cannot be used"));
    let link = tempfile::tempdir().unwrap();
    symlink("data", link.path().join("data")).unwrap();
    assert!(refusal(link.path()).contains("data cannot be used"));
}

/// Back ends trust this very key, so another one in its place would be noticed by them and not here.
#[test]
fn the_key_of_assertions_is_not_replaced() {
    let here = lived_in();
    let at = |directory: &Path| directory.join("data/gateway/assertion-key.pem");
    let cut = copy(here.path());
    let whole = fs::read(at(here.path())).unwrap();
    fs::write(at(cut.path()), &whole[..whole.len() / 2]).unwrap();
    let told = refusal(cut.path());
    assert!(told.contains("assertion-key.pem is damaged"), "{told}");

    let open = copy(here.path());
    fs::set_permissions(at(open.path()), fs::Permissions::from_mode(0o604)).unwrap();
    let told = refusal(open.path());
    assert!(
        told.contains("can be read or written by others (mode 604)"),
        "{told}"
    );

    let gone = copy(here.path());
    fs::remove_file(at(gone.path())).unwrap();
    let server = Server::start_in(gone, Setup::default());
    assert_ne!(fs::read(at(server.path("").as_path())).unwrap(), whole);
}

#[test]
fn a_second_process_is_turned_away_until_the_first_has_ended() {
    let server = Server::start(Setup::default());
    let device = server.device("a");
    let directory = server.path("data").parent().unwrap().to_owned();
    for _ in 0..3 {
        let output = Command::new("timeout")
            .args(["20", env!("CARGO_BIN_EXE_keybound"), "--data", "data", "up"])
            .args([
                "--gateway-listen",
                "127.0.0.1:0",
                "--enrollment-listen",
                "127.0.0.1:0",
                "--health-listen",
                "127.0.0.1:0",
            ])
            .current_dir(&directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains(
                "another process uses data; stop it, or choose another directory with --data"
            ),
            "{told}"
        );
    }
    // It disturbed nothing.
    assert!(server.path("data/addresses.json").exists());
    device.run(&["request", &server.url("/")]);
    server.run(&["device", "list"]);

    // While the first is being killed the second is turned away or serves, and then serves what there was.
    let mut server = server;
    for round in 0..3 {
        let directory = server.kill();
        server = Server::start_in(directory, Setup::default());
        let id = format!("b-{round}");
        let device = server.device(&id);
        device.run(&["request", &server.url("/")]);
        let listed = server.run(&["device", "list"]);
        assert!(listed.contains("b-0") && listed.contains(&id), "{listed}");
    }
}
