//! The database file: making it, opening it, bringing it up to date, and distrusting it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use identity::{Fingerprint, TrustDomain};
use rusqlite::config::DbConfig;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::{derived, read, told, values, witness};
use crate::pure::journal::Head;
use crate::pure::seal::{SealKey, Sum};
use crate::pure::witness::Witness;

/// Migrations, oldest first. A released one is never changed; the next one is added.
const MIGRATIONS: &[&str] = &[include_str!("0001.sql"), include_str!("0002.sql")];

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
    /// The tag over the certificates is not one of this CA.
    #[error(
        "the seal of the registry's certificates does not fit: they were altered, or serial.key is another CA's; restore the data directory from a backup"
    )]
    Seal,
    /// It ends before an entry that was durable.
    #[error(
        "the registry ends at journal entry {ends}, and {} says that entry {witnessed} was written: its database or the -wal \
         file beside it is damaged, is missing or is an older one; put back both from the newest backup. Only if it is known \
         that there is no newer one, remove {} and start again, and then revoke again what was revoked after entry {ends}",
        .file.display(), .file.display()
    )]
    Older {
        /// Its last entry.
        ends: u64,
        /// The entry that was durable.
        witnessed: u64,
        /// Where that is written down.
        file: PathBuf,
    },
    /// Another entry stands in the place of one that was durable.
    #[error(
        "journal entry {seq} of the registry is not the one that {} says was written: the database is a copy that went \
         another way; put back the one that belongs here from the newest backup. Only if it is known that this one is to go \
         on, remove {} and start again, and then revoke again what the other one had revoked",
        .file.display(), .file.display()
    )]
    OtherPast {
        /// The entry's number.
        seq: u64,
        /// Where its hash is written down.
        file: PathBuf,
    },
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
    /// The check of the journal did not come to an end.
    #[error(
        "the check of the registry's journal did not come to an end; the server's log says why"
    )]
    Unfinished,
    /// Somebody reads it for so long that its log cannot be emptied.
    #[error("the registry is being read; it is tried again")]
    Busy,
    /// The writer thread could not be started.
    #[error("the registry's thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// A registry that was opened for writing.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) trust_domain: TrustDomain,
    pub(super) state: State,
    /// Whether [`check`] has to follow before anything is written: so far the seal alone was checked.
    pub(super) unchecked: bool,
}

/// Where the journal ends, and the sum over the certificates as of then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) head: Head,
    pub(super) sum: Sum,
}

pub(super) fn create(
    path: &Path,
    trust_domain: &TrustDomain,
    root: &Fingerprint,
    key: &SealKey,
) -> Result<(), RegistryFault> {
    let mut connection = Connection::open(path)?;
    configure(&connection)?;
    migrate(&mut connection)?;
    // There is never a registry without a seal: taking it away must not make one that is believed.
    connection.execute(
        "INSERT INTO meta (key, value) VALUES ('root', ?1), ('trust_domain', ?2), ('seal', ?3)",
        params![
            root.0,
            trust_domain.as_str(),
            key.tag(&Sum::default(), &Head::START)
        ],
    )?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Opens for writing, and checks everything that a start must not take on trust.
///
/// A journal of more than [`FOLLOWED_FIRST`] entries is left to a [`check`] that follows, if the seal proves that the
/// table of certificates is as it was left. `witness` is an entry that is known to be durable.
pub(super) fn open(
    path: &Path,
    root: &Fingerprint,
    key: &SealKey,
    witness: Option<Witness>,
) -> Result<Opened, RegistryFault> {
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    // What is refused stays as it was found: closing it must not empty its log, of which a damaged part may be left.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    configure(&connection)?;
    migrate(&mut connection)?;
    let trust_domain = check_owner(&connection, root)?;
    let state = State {
        head: end(&connection)?,
        sum: sum(path, &connection, key)?,
    };
    let tag: Option<Vec<u8>> = meta(&connection, "seal")?;
    let sealed = tag.is_some_and(|tag| key.verify(&state.sum, &state.head, &tag));
    let unchecked = sealed && state.head.seq > FOLLOWED_FIRST;
    if !unchecked {
        check(&connection)?;
    }
    // Looked at last: if the journal is whole, it says which certificate was altered.
    if !sealed {
        return Err(RegistryFault::Seal);
    }
    // A registry that lost its newest part is whole.
    if let Some(witness) = witness {
        let entry = hash_of_entry(&connection, witness.seq)?;
        witness::compare(path, &witness, &state.head, entry)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(Opened {
        connection,
        trust_domain,
        state,
        unchecked,
    })
}

/// The file itself, the journal from its first entry to its last, and the tables against what it says; at the same
/// time on another thread, the tables against each other.
pub(super) fn check(connection: &Connection) -> Result<(), RegistryFault> {
    let path = connection
        .path()
        .map(Path::new)
        .ok_or(RegistryFault::Unfinished)?;
    // A quick_check does not notice an index that lost a row: a device that cannot be found cannot be revoked.
    let verdict: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(RegistryFault::Damaged(verdict));
    }
    std::thread::scope(|scope| {
        let derived = scope.spawn(|| {
            let reader = reader(path)?;
            widen(&reader)?;
            // All of it as of one moment: devices may be revoked meanwhile.
            let transaction = reader.unchecked_transaction()?;
            derived::check(&transaction, &trust_domain(&transaction)?)
        });
        told::check(connection)?;
        derived.join().unwrap_or(Err(RegistryFault::Unfinished))
    })
}

/// Lets a connection that looks everything up remember more of the file, until it is closed.
pub(super) fn widen(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "cache_size", -CHECKING_CACHE_KIB)
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

/// The journal's last entry, which must be the one whose hash is written down: without it, a chain that lost its
/// newest entries would be whole.
fn end(connection: &Connection) -> Result<Head, RegistryFault> {
    let sql = format!(
        "SELECT {} FROM journal ORDER BY seq DESC LIMIT 1",
        values::ENTRY_COLUMNS
    );
    let last = connection
        .query_row(&sql, [], values::entry)
        .optional()?
        .map_or(Head::START, |(entry, hash)| Head {
            seq: entry.seq,
            at: entry.at,
            hash,
        });
    let written: Option<[u8; 32]> = meta(connection, "head")?;
    if written.map_or(Head::START.hash, Fingerprint) != last.hash {
        return Err(RegistryFault::Journal { after: last.seq });
    }
    Ok(last)
}

/// The hash that stands beside an entry, if there is one with this number.
fn hash_of_entry(
    connection: &Connection,
    seq: u64,
) -> Result<Option<Fingerprint>, rusqlite::Error> {
    // No entry has a number that the database cannot hold.
    let Ok(seq) = i64::try_from(seq) else {
        return Ok(None);
    };
    connection
        .query_row("SELECT hash FROM journal WHERE seq = ?1", [seq], |row| {
            values::fingerprint(row, 0)
        })
        .optional()
}

/// The sum over all certificates and classes. Devices wait for it: two threads read one half each.
fn sum(path: &Path, connection: &Connection, key: &SealKey) -> Result<Sum, rusqlite::Error> {
    let middle = read::middle_of_certificates(connection)?;
    std::thread::scope(|scope| {
        let upper = scope.spawn(move || read::sum(&reader(path)?, middle..=i64::MAX, key));
        let mut sum = read::sum(connection, i64::MIN..=middle.saturating_sub(1), key)?;
        // The other half panics where this one would have.
        let upper = upper.join().unwrap_or(Err(rusqlite::Error::InvalidQuery))?;
        sum.join(&upper);
        read::add_classes(connection, key, &mut sum)?;
        Ok(sum)
    })
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
    let owner: Option<[u8; 32]> = meta(connection, "root")?;
    if owner != Some(root.0) {
        return Err(RegistryFault::OtherCa);
    }
    trust_domain(connection)
}

fn trust_domain(connection: &Connection) -> Result<TrustDomain, RegistryFault> {
    match meta::<String>(connection, "trust_domain")? {
        Some(text) => {
            TrustDomain::parse(&text).map_err(|error| RegistryFault::Damaged(error.to_string()))
        }
        None => Err(RegistryFault::Damaged("it has no trust domain".into())),
    }
}

fn meta<T: FromSql>(connection: &Connection, key: &str) -> Result<Option<T>, rusqlite::Error> {
    connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
            row.get(0)
        })
        .optional()
}

/// Up to so many journal entries a start follows before anything else: it takes a fraction of a second.
const FOLLOWED_FIRST: u64 = 50_000;

const CHECKING_CACHE_KIB: i64 = 64 * 1024;
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
        create(&path, &domain, &root, &SealKey::derive(b"secret")).expect("created");
        let key = SealKey::derive(b"secret");
        let opened = open(&path, &root, &key, None).expect("opened");
        assert_eq!(
            (opened.trust_domain, opened.state.head),
            (domain, Head::START)
        );
        let other = open(&path, &Fingerprint([2; 32]), &key, None).map(|_| ());
        assert!(matches!(other, Err(RegistryFault::OtherCa)));
    }

    #[test]
    fn a_newer_registry_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("registry.sqlite");
        let domain = TrustDomain::parse("keybound.local").expect("legal");
        let root = Fingerprint([1; 32]);
        create(&path, &domain, &root, &SealKey::derive(b"secret")).expect("created");
        let connection = Connection::open(&path).expect("opened");
        connection
            .pragma_update(None, "user_version", 99)
            .expect("written");
        let newer = open(&path, &root, &SealKey::derive(b"secret"), None).map(|_| ());
        assert!(matches!(newer, Err(RegistryFault::Newer { found: 99, .. })));
    }
}
