//! The database file: making it, opening it, bringing it up to date, and distrusting it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use identity::{Fingerprint, Index, Status, TrustDomain};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::values;
use crate::pure::enroll::Standing;
use crate::pure::journal::{Action, Entry, Head};

/// Migrations, oldest first. A released one is never changed; the next one is added.
const MIGRATIONS: &[&str] = &[include_str!("0001.sql")];

/// Why the registry cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum RegistryFault {
    /// The database refuses.
    #[error(
        "the registry database cannot be used: {0}; restore the data directory from a backup, or free the disk"
    )]
    Database(#[from] rusqlite::Error),
    /// SQLite finds its own file damaged.
    #[error("the registry database is damaged: {0}; restore the data directory from a backup")]
    Damaged(String),
    /// The journal does not continue where it should.
    #[error(
        "the journal was altered, or entries are missing or out of order, after entry {after}; restore the data directory from a backup"
    )]
    Journal {
        /// The last entry that is as it was written.
        after: u64,
    },
    /// A table says something else than the journal.
    #[error(
        "the registry's tables and its journal disagree about {0}; restore the data directory from a backup"
    )]
    Contradiction(String),
    /// The registry of another CA.
    #[error(
        "the registry belongs to another CA than the root certificate beside it; put back the files that belong together"
    )]
    OtherCa,
    /// Made by a newer version.
    #[error(
        "the registry has schema version {found}, and this program knows {known}; use the newer program"
    )]
    Newer {
        /// The version in the file.
        found: usize,
        /// The newest version known here.
        known: usize,
    },
    /// The writer thread could not be started.
    #[error("the registry's thread cannot be started: {0}")]
    Thread(std::io::Error),
}

pub(super) fn create(
    path: &Path,
    trust_domain: &TrustDomain,
    root: &Fingerprint,
) -> Result<(), RegistryFault> {
    let mut connection = Connection::open(path)?;
    configure(&connection)?;
    migrate(&mut connection)?;
    connection.execute(
        "INSERT INTO meta (key, value) VALUES ('root', ?1), ('trust_domain', ?2)",
        params![root.0, trust_domain.as_str()],
    )?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Opens for writing, and checks everything that a start must not take on trust.
pub(super) fn open(
    path: &Path,
    root: &Fingerprint,
) -> Result<(Connection, TrustDomain, Head), RegistryFault> {
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    configure(&connection)?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(RegistryFault::Damaged(verdict));
    }
    migrate(&mut connection)?;
    let trust_domain = check_owner(&connection, root)?;
    let head = verify(&connection)?;
    Ok((connection, trust_domain, head))
}

/// A connection that cannot write.
pub(super) fn reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Follows the journal from the first entry to the last, and compares the tables with what it says.
fn verify(connection: &Connection) -> Result<Head, RegistryFault> {
    let sql = format!("SELECT {} FROM journal ORDER BY seq", values::ENTRY_COLUMNS);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut head = Head::START;
    let mut told = Told::default();
    while let Some(row) = rows.next()? {
        let journal = RegistryFault::Journal { after: head.seq };
        let Ok((entry, hash)) = values::entry(row) else {
            return Err(journal);
        };
        head = head.advance(&entry, &hash).ok_or(journal)?;
        told.follow(&entry);
    }
    // The newest entry's removal would leave a shorter chain that is whole; the head is written down too.
    let written: Option<[u8; 32]> = connection
        .query_row("SELECT value FROM meta WHERE key = 'head'", [], |row| {
            row.get(0)
        })
        .optional()?;
    if written.map_or(Head::START.hash, Fingerprint) != head.hash {
        return Err(RegistryFault::Journal { after: head.seq });
    }
    told.compare(connection)?;
    Ok(head)
}

/// What the journal tells: the last word on every certificate, and on every device that there is one on.
#[derive(Default)]
struct Told {
    certificates: HashMap<Index, (Status, Option<Fingerprint>)>,
    standings: HashMap<String, Standing>,
}

impl Told {
    fn follow(&mut self, entry: &Entry) {
        if let (Some(index), Some(status)) = (entry.index, entry.status) {
            let certificate = self.certificates.entry(index).or_insert((status, None));
            certificate.0 = status;
            certificate.1 = certificate.1.or(entry.certificate);
        }
        let standing = match entry.action {
            Action::DeviceRevoked => Standing::Revoked,
            Action::DeviceSuspended => Standing::Suspended,
            Action::DeviceRestored | Action::DeviceReplaced => Standing::Good,
            Action::TokenCreated | Action::CertificateIssued | Action::StatusChanged => return,
        };
        self.standings
            .insert(entry.subject.to_ascii_lowercase(), standing);
    }

    fn compare(&self, connection: &Connection) -> Result<(), RegistryFault> {
        let mut found = 0;
        let mut statement = connection.prepare("SELECT idx, status, sha256 FROM certificate")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let index = values::index(row, 0)?;
            let recorded = (values::status(row, 1)?, Some(values::fingerprint(row, 2)?));
            if self.certificates.get(&index) != Some(&recorded) {
                return Err(RegistryFault::Contradiction(format!("certificate {index}")));
            }
            found += 1;
        }
        if found != self.certificates.len() {
            return Err(RegistryFault::Contradiction("a missing certificate".into()));
        }
        let mut found = 0;
        let mut statement = connection.prepare("SELECT folded, standing FROM device")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let folded: String = row.get(0)?;
            let told = self.standings.get(&folded);
            if told.copied().unwrap_or(Standing::Good) != values::standing(row, 1)? {
                return Err(RegistryFault::Contradiction(format!("device {folded}")));
            }
            found += usize::from(told.is_some());
        }
        if found != self.standings.len() {
            return Err(RegistryFault::Contradiction("a missing device".into()));
        }
        Ok(())
    }
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Every commit is on the disk before it is answered.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 10_000)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), RegistryFault> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let found = found as usize;
    let known = MIGRATIONS.len();
    if found > known {
        return Err(RegistryFault::Newer { found, known });
    }
    for (version, migration) in (1..).zip(MIGRATIONS).skip(found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

fn check_owner(connection: &Connection, root: &Fingerprint) -> Result<TrustDomain, RegistryFault> {
    let meta = |key: &str| -> Result<_, rusqlite::Error> {
        connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
                row.get::<_, rusqlite::types::Value>(0)
            })
            .optional()
    };
    let owner = meta("root")?;
    if owner != Some(rusqlite::types::Value::Blob(root.0.to_vec())) {
        return Err(RegistryFault::OtherCa);
    }
    match meta("trust_domain")? {
        Some(rusqlite::types::Value::Text(text)) => {
            TrustDomain::parse(&text).map_err(|error| RegistryFault::Damaged(error.to_string()))
        }
        _ => Err(RegistryFault::Damaged("it has no trust domain".into())),
    }
}

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_opened_by_its_own_ca_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("registry.sqlite");
        let domain = TrustDomain::parse("keybound.local").expect("legal");
        let root = Fingerprint([1; 32]);
        create(&path, &domain, &root).expect("created");
        let (_, opened, head) = open(&path, &root).expect("opened");
        assert_eq!((opened, head), (domain, Head::START));
        let other = open(&path, &Fingerprint([2; 32])).map(|_| ());
        assert!(matches!(other, Err(RegistryFault::OtherCa)));
    }

    #[test]
    fn a_newer_registry_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("registry.sqlite");
        let domain = TrustDomain::parse("keybound.local").expect("legal");
        let root = Fingerprint([1; 32]);
        create(&path, &domain, &root).expect("created");
        let connection = Connection::open(&path).expect("opened");
        connection
            .pragma_update(None, "user_version", 99)
            .expect("written");
        let newer = open(&path, &root).map(|_| ());
        assert!(matches!(newer, Err(RegistryFault::Newer { found: 99, .. })));
    }
}
