//! A database that is not as it was left: altered, damaged, older, or another's. It is refused with a sentence that says
//! what to do, or everything in it is as it was.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // In a test a panic is the report, and figures are printed.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca::{Actor, Authority, OpenError, Options};
use http::Request;
use identity::certificate::Parsed;
use identity::feed::Sighting;
use identity::{DeviceId, LabelChange, Tag, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rusqlite::Connection;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DEVICES: [&str; 6] = [
    "active",
    "revoked",
    "suspended",
    "replaced",
    "waiting",
    "renewed",
];

fn open(data: &Path) -> Result<Authority, OpenError> {
    Authority::open(Options {
        directory: data.join("ca"),
        trust_domain: None,
        passphrase: None,
        device_certificate_life: 24 * HOUR * 90,
    })
}

fn id(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn operator() -> Actor {
    Actor::Operator("test".into())
}

fn csr() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

/// Enrolls with a token of its own, and is used once.
async fn enroll(authority: &Authority, device: &str) {
    let tokens = authority.new_tokens(&operator(), &[id(device)], HOUR).await;
    let token = tokens.unwrap().pop().unwrap().unwrap();
    let credentials = STANDARD.encode(format!("{device}:{}", token.expose()));
    let request = Request::post("/.well-known/est/simpleenroll")
        .header("authorization", format!("Basic {credentials}"))
        .header("content-type", "application/pkcs10")
        .body(Bytes::from(STANDARD.encode(csr())))
        .unwrap();
    let answer = ca::est::answer(authority, request, None).await;
    assert_eq!(answer.response.status(), 200, "{:?}", answer.decision);
    seen(authority, device).await;
}

/// Uses the newest certificate.
async fn seen(authority: &Authority, device: &str) {
    let record = authority
        .registry()
        .device(&id(device))
        .await
        .unwrap()
        .unwrap();
    let sighting = Sighting {
        index: record.certificates[0].index,
        device: id(device),
        at: Timestamp(1_800_000_000),
        address: [127, 0, 0, 1].into(),
    };
    authority.sighted(vec![sighting]).await.unwrap();
}

/// A registry with something of everything; its directory.
async fn lived_in() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    for device in ["active", "revoked", "suspended", "replaced", "renewed"] {
        enroll(&authority, device).await;
    }
    authority
        .sign(&operator(), &id("renewed"), &csr())
        .await
        .unwrap();
    seen(&authority, "renewed").await;
    for device in ["revoked", "waiting", "replaced"] {
        let tokens = authority.new_tokens(&operator(), &[id(device)], HOUR).await;
        tokens.unwrap().pop().unwrap().unwrap();
    }
    let reason = Some("lost");
    authority
        .revoke(&operator(), &id("revoked"), reason)
        .await
        .unwrap();
    authority
        .suspend(&operator(), &id("suspended"), None)
        .await
        .unwrap();
    for (device, groups) in [
        ("active", ["blue", "green"]),
        ("suspended", ["green", "red"]),
        ("revoked", ["blue", "green"]),
    ] {
        let change = LabelChange {
            add_groups: groups.iter().map(|group| tag(group)).collect(),
            set: [(tag("site"), "Berlin, hall 3".parse().unwrap())].into(),
            ..LabelChange::default()
        };
        authority
            .label(&operator(), &id(device), change, None)
            .await
            .unwrap();
    }
    authority
        .replace(&operator(), &id("replaced"), None)
        .await
        .unwrap();
    enroll(&authority, "replaced").await;
    authority.publish(async {}).await;
    drop(authority);
    closed(directory.path());
    directory
}

/// Waits until nobody has the database open any more and all of it is in one file: what is copied before that may be
/// torn. The writer ends on its own.
fn closed(data: &Path) {
    for _ in 0..1_000 {
        // Whoever only read it leaves its log behind; the last one who can write empties it.
        let _ = database(data).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if !data.join("ca/registry.sqlite-wal").exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{} stays open", data.display());
}

/// Opens what must be sound, once whoever had it has gone.
fn reopened(data: &Path) -> Authority {
    let mut tries = 0;
    loop {
        match open(data) {
            Err(OpenError::InUse { .. }) if tries < 200 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.unwrap_or_else(|error| panic!("{error}")),
        }
    }
}

fn copy(from: &Path) -> tempfile::TempDir {
    // Whoever closes the database removes files of it meanwhile.
    for _ in 0..100 {
        let to = tempfile::tempdir().unwrap();
        let mut copying = std::process::Command::new("cp");
        copying.arg("-a").arg(from.join("ca")).arg(to.path());
        if copying.output().unwrap().status.success() {
            return to;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} cannot be copied", from.display());
}

fn database(data: &Path) -> Connection {
    Connection::open(data.join("ca/registry.sqlite")).unwrap()
}

fn alter(data: &Path, sql: &str) -> usize {
    let connection = database(data);
    connection
        .execute_batch("PRAGMA foreign_keys = OFF")
        .unwrap();
    connection
        .execute(sql, [])
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Everything that decides, device by device.
async fn oracle(authority: &Authority) -> Vec<String> {
    let mut told = Vec::new();
    for device in DEVICES {
        let record = authority
            .registry()
            .device(&id(device))
            .await
            .unwrap()
            .unwrap();
        told.push(format!(
            "{device} {:?} {} {:?}",
            record.standing, record.open_tokens, record.labels
        ));
        for certificate in record.certificates {
            let identity = (
                certificate.index,
                certificate.serial,
                certificate.certificate,
            );
            told.push(format!("{identity:?} {:?}", certificate.status));
        }
        let history = authority
            .registry()
            .history(&id(device), 100)
            .await
            .unwrap();
        told.push(format!("{history:?}"));
    }
    told
}

#[tokio::test]
async fn an_untouched_copy_opens_and_says_the_same() {
    let directory = lived_in().await;
    let before = oracle(&reopened(directory.path())).await;
    closed(directory.path());
    let copy = copy(directory.path());
    assert_eq!(oracle(&reopened(copy.path())).await, before);
    assert!(before.iter().any(|line| line.contains("Suspended")));
}

/// Columns that nothing is decided by; the bounds of a range of indexes, of which only those that were used matter (tested
/// below); and those whose alteration by somebody who can write to the file cannot be noticed: who
/// can do that can also make a token of their own choice, up to the seal of the certificates, whose key is elsewhere.
const UNWATCHED: [&str; 10] = [
    "device.created_at",
    "device.last_seen_at",
    "device.last_seen_address",
    "certificate.changed_at",
    "token.hash",
    "token.created_at",
    "token.expires_at",
    "lease.lifetime",
    "lease.next",
    "lease.end",
];

#[tokio::test]
async fn no_column_that_decides_is_altered_unnoticed() {
    let directory = lived_in().await;
    let tables = [
        "journal",
        "device",
        "certificate",
        "certificate_der",
        "device_key",
        "token",
        "lease",
        "class",
        "label",
    ];
    let columns: Vec<(String, String, String)> = {
        let connection = database(directory.path());
        let mut columns = Vec::new();
        for table in tables {
            let mut statement = connection
                .prepare("SELECT name, type FROM pragma_table_info(?1)")
                .unwrap();
            let rows = statement
                .query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap();
            for row in rows {
                let (name, kind) = row.unwrap();
                columns.push((table.to_owned(), name, kind));
            }
        }
        columns
    };
    let mut refused = 0;
    for (table, column, kind) in &columns {
        let name = format!("{table}.{column}");
        // Every row for itself, or the first and the last few of a long table.
        let values = match kind.as_str() {
            "INTEGER" => vec![
                format!("{column} + 1"),
                format!("{column} - 1"),
                "NULL".into(),
                "0".into(),
                "1".into(),
            ],
            "TEXT" => vec![
                format!("{column} || 'x'"),
                format!("'other'"),
                "NULL".into(),
            ],
            _ => vec![
                "zeroblob(32)".into(),
                "NULL".into(),
                format!("{column} || x'00'"),
            ],
        };
        let rows: Vec<String> = {
            let connection = database(directory.path());
            let key = match table.as_str() {
                "token" => "hex(hash)",
                "device_key" => "hex(sha256)",
                "label" => "device",
                _ => "rowid",
            };
            let mut statement = connection
                .prepare(&format!("SELECT {key} || '' FROM {table}"))
                .unwrap();
            let rows = statement
                .query_map([], |row| row.get::<_, String>(0))
                .unwrap();
            let rows = rows.map(|row| format!("{key} || '' = '{}'", row.unwrap()));
            rows.collect()
        };
        assert!(!rows.is_empty(), "{table}");
        for row in rows.iter().step_by(1 + rows.len() / 8) {
            for value in &values {
                let copy = copy(directory.path());
                let connection = database(copy.path());
                connection
                    .execute_batch("PRAGMA foreign_keys = OFF")
                    .unwrap();
                let sql = format!(
                    "UPDATE {table} SET {column} = {value} WHERE {row} AND {column} IS NOT {value}"
                );
                // What the table itself does not take (NOT NULL, unique) cannot stand in it.
                if connection.execute(&sql, []).unwrap_or(0) == 0 {
                    continue;
                }
                drop(connection);
                let opened = open(copy.path()).map(|_| ());
                if UNWATCHED.contains(&name.as_str()) {
                    continue;
                }
                let error = match opened {
                    Err(error) => error.to_string(),
                    Ok(()) => panic!("not noticed: {sql}"),
                };
                assert!(
                    error.contains("restore the data directory from a backup"),
                    "{sql}: {error}"
                );
                refused += 1;
            }
        }
    }
    println!("figure: alterations of single values in the registry, each refused: {refused}");
    assert!(refused > 200, "{refused}");
}

#[tokio::test]
async fn what_was_added_removed_or_moved_is_noticed() {
    let directory = lived_in().await;
    for sql in [
        // The newest entry gone, with its traces.
        "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)",
        // A copy at the end.
        "INSERT INTO journal SELECT (SELECT max(seq) + 1 FROM journal), at, actor, action, subject, device, idx, status,
             certificate, reason, hash, labels FROM journal WHERE seq = 1",
        "UPDATE journal SET seq = seq + 1000000 WHERE seq > 5",
        // A token of one's own.
        "INSERT INTO token (hash, device, created_at, expires_at) SELECT randomblob(32), 1, 0, 1 << 40",
        "DELETE FROM token WHERE voided = 1",
        "DELETE FROM token",
        // A token that can be spent once more, and a void one that is good again.
        "UPDATE token SET spent_key = NULL, spent_index = NULL WHERE voided = 0",
        "UPDATE token SET voided = 0",
        "UPDATE device_key SET blocked = 0",
        "DELETE FROM device_key WHERE blocked = 1",
        // Indexes that would be given out again.
        "UPDATE lease SET next = 65536",
        "DELETE FROM lease",
        // A certificate that no revocation of its device would reach.
        "UPDATE certificate SET device = (SELECT number FROM device WHERE id = 'waiting')
         WHERE device = (SELECT number FROM device WHERE id = 'active')",
        "DELETE FROM certificate_der",
        // Groups of one's own, told by no entry: of a device, of a certificate, or of everybody in a class.
        "UPDATE device SET class = 1 WHERE id = 'renewed'",
        "UPDATE certificate SET class = 2 WHERE class = 1",
        "UPDATE certificate SET class = 0",
        "UPDATE class SET members = 'blue,green,red' WHERE number = 1",
        "INSERT INTO class (number, members) VALUES (3, 'red')",
        "DELETE FROM class WHERE number = 2",
        "DELETE FROM label",
        "INSERT INTO label (device, key, value) VALUES (77, 'site', 'nowhere')",
        "UPDATE journal SET labels = replace(labels, 'green', 'admin')",
        "UPDATE meta SET value = 'other.test' WHERE key = 'trust_domain'",
        "DELETE FROM meta WHERE key = 'trust_domain'",
        "DELETE FROM meta WHERE key = 'root'",
        "DELETE FROM meta WHERE key = 'head'",
        "UPDATE meta SET value = zeroblob(32) WHERE key = 'seal'",
        "DELETE FROM meta WHERE key = 'seal'",
    ] {
        let copy = copy(directory.path());
        assert!(alter(copy.path(), sql) > 0, "{sql}");
        let error = open(copy.path()).map(|_| ()).expect_err(sql).to_string();
        assert!(
            error.contains("restore the data directory") || error.contains("put back the files"),
            "{sql}: {error}"
        );
    }
}

/// One rule of those that hold between the tables: what only it notices, and how it names that.
struct Rule {
    names: &'static str,
    damage: &'static str,
}

const fn rule(names: &'static str, damage: &'static str) -> Rule {
    Rule { names, damage }
}

/// What is altered here is altered everywhere where another rule would see it.
const RULES: &[Rule] = &[
    // Another certificate's issuance; an entry of the certificate's own that is none.
    rule(
        "the entry by which a certificate was issued",
        "UPDATE certificate SET issued_seq = (SELECT issued_seq FROM certificate WHERE idx <> (SELECT max(idx) FROM certificate)
         ORDER BY idx DESC LIMIT 1) WHERE idx = (SELECT max(idx) FROM certificate)",
    ),
    rule(
        "the entry by which a certificate was issued",
        "UPDATE certificate SET issued_seq = (SELECT max(seq) FROM journal j WHERE j.idx = certificate.idx)",
    ),
    rule(
        "the device of an entry",
        "UPDATE journal SET device = NULL WHERE idx IS NOT NULL AND action = 'status-changed'",
    ),
    rule(
        "the device of an entry",
        "UPDATE journal SET device = (SELECT number FROM device WHERE id = 'active') WHERE action = 'device-suspended'",
    ),
    rule(
        "a device's id",
        "UPDATE device SET id = 'other' WHERE id = 'waiting'",
    ),
    rule(
        "a device's keys",
        "UPDATE device_key SET device = (SELECT number FROM device WHERE id = 'waiting') WHERE blocked = 0",
    ),
    rule("a device's keys", "UPDATE device_key SET blocked = 0"),
    // One that is missing and one that is too many; a void one that is good again.
    rule(
        "a device's tokens",
        "DELETE FROM token WHERE voided = 0 AND spent_index IS NULL",
    ),
    rule(
        "a device's tokens",
        "INSERT INTO token (hash, device, created_at, expires_at) SELECT randomblob(32), number, 0, 1 << 40 FROM device
         WHERE id = 'active'",
    ),
    rule("a device's tokens", "UPDATE token SET voided = 0"),
    rule(
        "what a token was spent for",
        "UPDATE token SET spent_key = zeroblob(32) WHERE spent_index IS NULL",
    ),
    // Spent for another device's certificate; for another key.
    rule(
        "what a token was spent for",
        "UPDATE token SET
             spent_index = (SELECT max(idx) FROM certificate c WHERE c.idx <> token.spent_index AND c.device <> token.device),
             spent_key = (SELECT key_sha256 FROM certificate c WHERE c.idx =
                 (SELECT max(idx) FROM certificate c WHERE c.idx <> token.spent_index AND c.device <> token.device))
         WHERE spent_index IS NOT NULL",
    ),
    rule(
        "what a token was spent for",
        "UPDATE token SET spent_key = zeroblob(32) WHERE spent_index IS NOT NULL",
    ),
    rule(
        "the tokens that were spent",
        "UPDATE token SET spent_key = NULL, spent_index = NULL",
    ),
    // Indexes that come again, that nobody leased, and a range that ends before it begins.
    rule(
        "the indexes that are used up",
        "UPDATE lease SET next = (SELECT max(idx) FROM certificate)",
    ),
    rule("the indexes that are used up", "DELETE FROM lease"),
    rule(
        "the indexes that are used up",
        "UPDATE lease SET next = end + 1",
    ),
    rule(
        "a class of groups",
        "INSERT INTO class (number, members) VALUES (3, 'red')",
    ),
    // Values that are none.
    rule("cannot be read", "UPDATE device SET created_at = -1"),
    rule("cannot be read", "UPDATE token SET expires_at = -1"),
    // Each certificate against what stands beside it. Its key is altered in all three places.
    rule(
        "about certificate",
        "UPDATE certificate_der SET der = CAST(substr(der, 1, length(der) - 1) || x'00' AS BLOB)
         WHERE hex(substr(der, -1)) <> '00'",
    ),
    rule("about certificate", CHANGED_KEYS),
    rule(
        "about certificate",
        "UPDATE certificate SET serial = zeroblob(16)",
    ),
    rule(
        "about certificate",
        "UPDATE certificate SET not_before = not_before - 1",
    ),
    rule("about certificate", "UPDATE device SET id = upper(id)"),
    rule(
        "about certificate",
        "UPDATE certificate SET changed_at = -1",
    ),
];

const CHANGED_KEYS: &str = "
    UPDATE token SET spent_key = zeroblob(32) WHERE spent_key =
        (SELECT key_sha256 FROM certificate ORDER BY idx LIMIT 1);
    UPDATE device_key SET sha256 = zeroblob(32) WHERE sha256 =
        (SELECT key_sha256 FROM certificate ORDER BY idx LIMIT 1);
    UPDATE certificate SET key_sha256 = zeroblob(32) WHERE idx = (SELECT min(idx) FROM certificate)";

#[tokio::test]
async fn each_rule_between_the_tables_notices_what_no_other_does() {
    let directory = lived_in().await;
    for Rule { names, damage } in RULES {
        let copy = copy(directory.path());
        let connection = database(copy.path());
        connection
            .execute_batch(&format!("PRAGMA foreign_keys = OFF; {damage}"))
            .unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert!(connection.total_changes() > 0, "{damage}");
        drop(connection);
        let error = open(copy.path()).map(|_| ()).expect_err(damage).to_string();
        assert!(error.contains(names), "{damage}: {error}");
    }
}

#[tokio::test]
async fn the_newest_entry_and_its_traces_taken_out_together_are_missed() {
    let directory = lived_in().await;
    // Somebody who knows the tables well undoes the last thing that was done, and sets the end to the entry before.
    let connection = database(directory.path());
    connection
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal);
             UPDATE meta SET value = (SELECT hash FROM journal ORDER BY seq DESC LIMIT 1) WHERE key = 'head';
             UPDATE certificate SET status = 1 WHERE idx =
                 (SELECT idx FROM certificate WHERE status = 2 ORDER BY issued_seq DESC LIMIT 1);",
        )
        .unwrap();
    drop(connection);
    let error = open(directory.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("seal"), "{error}");
    // Nor does it help to take the seal away.
    alter(directory.path(), "DELETE FROM meta WHERE key = 'seal'");
    let error = open(directory.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("seal"), "{error}");
}

#[tokio::test]
async fn random_damage_is_refused_or_changes_nothing() {
    let directory = lived_in().await;
    let before = oracle(&reopened(directory.path())).await;
    closed(directory.path());
    let sound = std::fs::read(directory.path().join("ca/registry.sqlite")).unwrap();
    let seed: u64 = std::env::var("KEYBOUND_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    let mut state = seed;
    let mut random = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    let rounds = if std::env::var_os("KEYBOUND_LONG").is_some() {
        500
    } else {
        40
    };
    let (mut refused, mut harmless) = (0, 0);
    for round in 0..rounds {
        let copy = copy(directory.path());
        let mut bytes = sound.clone();
        let mut changes = Vec::new();
        for _ in 0..=random(3) {
            let page = random(bytes.len() / 4096);
            let (at, length) = (random(4096), 1 + random(16));
            for place in page * 4096 + at..(page * 4096 + at + length).min(bytes.len()) {
                bytes[place] = random(256) as u8;
            }
            changes.push((page, at, length));
        }
        if round % 10 == 9 {
            let length = random(bytes.len());
            bytes.truncate(length);
            changes.push((0, length, 0));
        }
        std::fs::write(copy.path().join("ca/registry.sqlite"), &bytes).unwrap();
        match open(copy.path()) {
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("restore")
                        || error.contains("put back")
                        || error.contains("newer program"),
                    "{error}"
                );
                refused += 1;
            }
            Ok(authority) => {
                assert_eq!(
                    oracle(&authority).await,
                    before,
                    "seed {seed}, round {round}: {changes:?}"
                );
                harmless += 1;
            }
        }
    }
    println!(
        "figure: databases with random damage: {refused} refused, {harmless} where it hit nothing"
    );
    assert!(refused > 0 && harmless > 0, "{refused} {harmless}");
}

#[tokio::test]
async fn what_an_older_backup_does_not_know_is_unknown_and_its_indexes_are_not_mixed_up() {
    let directory = lived_in().await;
    let backup = copy(directory.path());
    let authority = reopened(directory.path());
    let lost = authority
        .sign(&operator(), &id("later"), &csr())
        .await
        .unwrap();
    authority
        .revoke(&operator(), &id("active"), None)
        .await
        .unwrap();
    drop(authority);
    let authority = reopened(backup.path());
    // A whole older copy is whole: what came after it is not in it, revocations too (SECURITY.md).
    assert!(authority.certificate(&lost.serial).await.unwrap().is_none());
    let record = authority
        .registry()
        .device(&id("active"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(format!("{:?}", record.standing), "Good");
    // An index may come again, but never a serial, and a fingerprint tells the certificates apart.
    let next = authority
        .sign(&operator(), &id("next"), &csr())
        .await
        .unwrap();
    assert_ne!(next.serial, lost.serial);
    assert!(authority.certificate(&lost.serial).await.unwrap().is_none());
    let known = authority.certificate(&next.serial).await.unwrap().unwrap();
    assert_eq!(known.certificate, identity::Fingerprint::of(&next.der));
    assert_ne!(
        known.certificate,
        Parsed::from_der(&lost.der)
            .unwrap()
            .leaf()
            .unwrap()
            .certificate
    );
}

#[tokio::test]
async fn another_cas_serial_key_or_database_is_noticed() {
    let (here, there) = (lived_in().await, lived_in().await);
    for (file, words) in [
        ("serial.key", "serial.key is another CA's"),
        ("registry.sqlite", "belongs to another CA"),
    ] {
        let mixed = copy(here.path());
        std::fs::copy(
            there.path().join("ca").join(file),
            mixed.path().join("ca").join(file),
        )
        .unwrap();
        let error = open(mixed.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words), "{file}: {error}");
    }
}

/// A registry with a newest part that is in its log alone, as a process leaves it that is killed: a revocation and more.
/// Also how it was before that.
async fn killed() -> (tempfile::TempDir, tempfile::TempDir) {
    let directory = lived_in().await;
    let before = copy(directory.path());
    let authority = reopened(directory.path());
    for device in ["one", "two", "three"] {
        enroll(&authority, device).await;
    }
    authority
        .revoke(&operator(), &id("active"), None)
        .await
        .unwrap();
    let after = copy(directory.path());
    let _ = std::fs::remove_file(after.path().join("ca/registry.sqlite-shm"));
    (before, after)
}

async fn standing(authority: &Authority) -> String {
    let record = authority.registry().device(&id("active")).await;
    format!("{:?}", record.unwrap().unwrap().standing)
}

#[tokio::test]
async fn a_registry_that_lost_its_newest_part_is_refused() {
    let (before, after) = killed().await;
    assert_eq!(
        standing(&reopened(copy(after.path()).path())).await,
        "Revoked"
    );

    let log = |data: &Path| data.join("ca/registry.sqlite-wal");
    let whole = std::fs::read(log(after.path())).unwrap();
    let frame = 24 + 4096;
    let frames = (whole.len() - 32) / frame;
    assert!(frames > 20, "{frames}");
    let mut damaged: Vec<(String, Vec<u8>)> = Vec::new();
    for back in [1, 2, 5, frames / 2, frames] {
        let place = 32 + (frames - back) * frame;
        // In the page itself, in the checksum beside it, and cut off.
        for at in [place + 100, place + 17] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            damaged.push((format!("byte {at}, frame {back} from the end"), bytes));
        }
        damaged.push((format!("cut at {place}"), whole[..place].to_vec()));
    }
    damaged.push(("empty".into(), Vec::new()));
    let mut refused = 0;
    for (what, bytes) in damaged {
        let copy = copy(after.path());
        std::fs::write(log(copy.path()), &bytes).unwrap();
        // The second time as the first: nothing was tidied away, and the witness still says what it said.
        for _ in 0..2 {
            refused += usize::from(is_refused(copy.path(), &what));
        }
        assert_eq!(std::fs::read(log(copy.path())).unwrap(), bytes, "{what}");
        // What belongs there is put back.
        std::fs::write(log(copy.path()), &whole).unwrap();
        assert_eq!(standing(&reopened(copy.path())).await, "Revoked", "{what}");
    }

    let removed = copy(after.path());
    std::fs::remove_file(log(removed.path())).unwrap();
    refused += usize::from(is_refused(removed.path(), "removed"));

    // An older database beside what was there.
    let older = copy(after.path());
    std::fs::remove_file(log(older.path())).unwrap();
    let database = "ca/registry.sqlite";
    std::fs::copy(before.path().join(database), older.path().join(database)).unwrap();
    refused += usize::from(is_refused(older.path(), "older"));
    // Whoever knows that there is nothing newer goes on with it, knowingly.
    std::fs::remove_file(older.path().join("ca/registry.head")).unwrap();
    assert_eq!(standing(&reopened(older.path())).await, "Good");
    println!(
        "figure: registries whose newest part was damaged or missing, each refused: {refused}"
    );
}

fn is_refused(data: &Path, what: &str) -> bool {
    let error = open(data).map(|_| ()).expect_err(what).to_string();
    let told = error.contains("registry ends at journal entry")
        && error.contains("put back both from the newest backup")
        && error.contains("ca/registry.head and start again");
    assert!(told, "{what}: {error}");
    true
}

#[tokio::test]
async fn a_copy_that_went_another_way_is_refused() {
    let (before, after) = killed().await;
    // The older copy goes on, for longer than the other one did.
    let authority = reopened(before.path());
    for device in ["four", "five", "six", "seven"] {
        enroll(&authority, device).await;
    }
    drop(authority);
    closed(before.path());
    let other = copy(before.path());
    let line = "ca/registry.head";
    std::fs::copy(after.path().join(line), other.path().join(line)).unwrap();
    let error = open(other.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("went another way"), "{error}");
    assert_eq!(standing(&reopened(before.path())).await, "Good");
}

#[tokio::test]
async fn without_a_witness_it_starts_and_has_one_again() {
    let (_, after) = killed().await;
    let line = std::fs::read(after.path().join("ca/registry.head")).unwrap();
    let other = lived_in().await;
    let of_another = std::fs::read(other.path().join("ca/registry.head")).unwrap();
    assert_eq!(line.len(), of_another.len());
    let mut altered = line.clone();
    altered[40] ^= 1;
    let long = vec![b'0'; 1 << 20];
    for content in [
        None,
        Some(Vec::new()),
        Some(line[..50].to_vec()),
        Some(altered),
        Some(long),
        Some(of_another),
    ] {
        let copy = copy(after.path());
        let file = copy.path().join("ca/registry.head");
        std::fs::remove_file(&file).unwrap();
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let authority = reopened(copy.path());
        assert!(authority.registry().is_witnessed());
        assert_eq!(standing(&authority).await, "Revoked");
        assert_eq!(std::fs::read(&file).unwrap(), line);
    }

    // Nor can it be made anew where something else is in its place: nothing stops for that, and it is told.
    let blocked = copy(after.path());
    let file = blocked.path().join("ca/registry.head");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let authority = reopened(blocked.path());
    assert!(!authority.registry().is_witnessed());
    enroll(&authority, "meanwhile").await;
    std::fs::remove_dir(&file).unwrap();
    enroll(&authority, "afterwards").await;
    assert!(authority.registry().is_witnessed());
    assert!(
        std::fs::read(&file)
            .unwrap()
            .starts_with(b"keybound-witness 1 ")
    );
}
