//! Queries. Each sees one state of the database.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use identity::feed::{Batch, ClassDefinition, StatusChange};
use identity::{
    Class, DeviceId, DeviceLabels, Fingerprint, Group, Index, LabelValue, Serial, Status, Tag,
    Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::mpsc;

use super::records::{
    CertificateRecord, DeviceFilter, DevicePage, DeviceRecord, DeviceSummary, Withdrawn,
};
use super::values::{self, ENTRY_COLUMNS, integer};
use crate::pure::enroll::{CertificateFacts, Facts, Requester, TokenFacts};
use crate::pure::journal::{Entry, Labelled};
use crate::pure::seal::{self, SealKey, Sum};

type Result<T> = std::result::Result<T, rusqlite::Error>;

/// What the enrollment rules need to know about a request.
pub(super) fn facts(
    connection: &Connection,
    requester: &Requester,
    key: &Fingerprint,
    now: Timestamp,
) -> Result<Facts> {
    let device = connection
        .prepare_cached("SELECT id, standing, number FROM device WHERE folded = ?1")?
        .query_row([requester.device().folded()], |row| {
            Ok((
                values::device_id(row, 0)?,
                values::standing(row, 1)?,
                row.get::<_, i64>(2)?,
            ))
        })
        .optional()?;
    let owner = connection
        .prepare_cached(
            "SELECT d.id, k.blocked FROM device_key k JOIN device d ON d.number = k.device
             WHERE k.sha256 = ?1",
        )?
        .query_row([key.0], |row| {
            Ok((values::device_id(row, 0)?, row.get::<_, bool>(1)?))
        })
        .optional()?;
    let (token, presented) = match requester {
        Requester::Operator { .. } => (None, None),
        Requester::Token { hash, .. } => (token(connection, hash)?, None),
        Requester::Certificate { index, .. } => (None, certificate_facts(connection, *index)?),
    };
    let same_key = match &device {
        Some((_, _, number)) => connection
            .prepare_cached(
                "SELECT idx, sha256, status, issued_seq FROM certificate
                 WHERE device = ?1 AND key_sha256 = ?2 AND status IN (1, 2) AND not_after >= ?3
                 ORDER BY issued_seq DESC LIMIT 1",
            )?
            .query_row(params![number, key.0, integer(now.0)], facts_of)
            .optional()?,
        None => None,
    };
    Ok(Facts {
        device: device.map(|(id, standing, _)| (id, standing)),
        key_blocked: owner.as_ref().is_some_and(|(_, blocked)| *blocked),
        key_owner: owner.map(|(id, _)| id),
        token,
        presented,
        same_key,
    })
}

fn token(connection: &Connection, hash: &Fingerprint) -> Result<Option<TokenFacts>> {
    connection
        .prepare_cached(
            "SELECT d.id, t.expires_at, t.voided, t.spent_key, t.spent_index
             FROM token t JOIN device d ON d.number = t.device WHERE t.hash = ?1",
        )?
        .query_row([hash.0], |row| {
            let key = values::optional(row, 3, values::fingerprint)?;
            let index = values::optional(row, 4, values::index)?;
            Ok(TokenFacts {
                device: values::device_id(row, 0)?,
                expires_at: values::timestamp(row, 1)?,
                voided: row.get(2)?,
                spent: key.zip(index),
            })
        })
        .optional()
}

fn certificate_facts(connection: &Connection, index: Index) -> Result<Option<CertificateFacts>> {
    let Ok(index) = i64::try_from(index.0) else {
        return Ok(None);
    };
    connection
        .prepare_cached(
            "SELECT idx, sha256, status, issued_seq FROM certificate
             WHERE idx = ?1 AND device IS NOT NULL",
        )?
        .query_row([index], facts_of)
        .optional()
}

fn facts_of(row: &Row<'_>) -> Result<CertificateFacts> {
    Ok(CertificateFacts {
        index: values::index(row, 0)?,
        certificate: values::fingerprint(row, 1)?,
        status: values::status(row, 2)?,
        issued_seq: values::unsigned(row, 3)?,
    })
}

pub(super) fn head(connection: &Connection) -> Result<u64> {
    connection
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM journal")?
        .query_row([], |row| values::unsigned(row, 0))
}

pub(super) fn changes_after(connection: &Connection, after: u64, limit: usize) -> Result<Batch> {
    let transaction = connection.unchecked_transaction()?;
    let mut statement = transaction.prepare_cached(
        "SELECT j.seq, c.idx, c.sha256, c.tbs_sha256, j.status, c.class
         FROM journal j LEFT JOIN certificate c ON c.idx = j.idx AND c.device IS NOT NULL
         WHERE j.seq > ?1 ORDER BY j.seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![integer(after), integer(limit as u64)])?;
    let mut batch = Batch {
        after,
        upto: after,
        classes: Vec::new(),
        changes: Vec::new(),
    };
    while let Some(row) = rows.next()? {
        batch.upto = values::unsigned(row, 0)?;
        if let (Some(index), Some(status)) = (
            values::optional(row, 1, values::index)?,
            values::optional(row, 4, values::status)?,
        ) {
            batch.changes.push(StatusChange {
                seq: batch.upto,
                index,
                certificate: values::fingerprint(row, 2)?,
                tbs: values::fingerprint(row, 3)?,
                status,
                class: values::class(row, 5)?,
            });
        }
    }
    batch.classes = definitions(&transaction, &batch.changes, &mut HashSet::new())?;
    Ok(batch)
}

/// What the classes of these changes stand for, except those in `told`, which grows.
fn definitions(
    connection: &Connection,
    changes: &[StatusChange],
    told: &mut HashSet<Class>,
) -> Result<Vec<ClassDefinition>> {
    let mut definitions = Vec::new();
    for class in changes.iter().map(|change| change.class) {
        if class != Class::default() && told.insert(class) {
            let groups = connection
                .prepare_cached("SELECT members FROM class WHERE number = ?1")?
                .query_row([class.0], |row| values::groups(row, 0))?;
            definitions.push(ClassDefinition { class, groups });
        }
    }
    Ok(definitions)
}

pub(super) fn snapshot(
    connection: &Connection,
    ending_after: Timestamp,
    batches: &mpsc::Sender<Batch>,
) -> Result<u64> {
    // One read transaction: changes that are committed meanwhile are not seen, so none is seen too early.
    let transaction = connection.unchecked_transaction()?;
    let head = head(&transaction)?;
    let mut statement = transaction.prepare_cached(
        "SELECT idx, sha256, tbs_sha256, status, class FROM certificate
         WHERE device IS NOT NULL AND not_after >= ?1 ORDER BY idx",
    )?;
    let mut rows = statement.query([integer(ending_after.0)])?;
    let mut changes = Vec::new();
    let mut told = HashSet::new();
    let mut send = |changes: Vec<StatusChange>| {
        let batch = Batch {
            after: 0,
            upto: head,
            classes: definitions(&transaction, &changes, &mut told)?,
            changes,
        };
        Ok::<_, rusqlite::Error>(batches.blocking_send(batch).is_ok())
    };
    while let Some(row) = rows.next()? {
        changes.push(StatusChange {
            seq: head,
            index: values::index(row, 0)?,
            certificate: values::fingerprint(row, 1)?,
            tbs: values::fingerprint(row, 2)?,
            status: values::status(row, 3)?,
            class: values::class(row, 4)?,
        });
        if changes.len() == SNAPSHOT_BATCH && !send(std::mem::take(&mut changes))? {
            return Ok(head);
        }
    }
    send(changes)?;
    Ok(head)
}

/// What of a certificate's row is sealed, as columns in the order of [`sealed`].
pub(super) const SEALED_COLUMNS: &str =
    "idx, sha256, tbs_sha256, not_after, status, class, device IS NOT NULL";

pub(super) fn sealed(row: &Row<'_>) -> Result<seal::Row> {
    Ok(seal::Row {
        index: values::index(row, 0)?,
        certificate: values::fingerprint(row, 1)?,
        tbs: values::fingerprint(row, 2)?,
        not_after: values::timestamp(row, 3)?,
        status: values::status(row, 4)?,
        class: values::class(row, 5)?,
        of_device: row.get(6)?,
    })
}

/// The sum over the rows of certificates with these indexes.
pub(super) fn sum(
    connection: &Connection,
    indexes: RangeInclusive<i64>,
    key: &SealKey,
) -> Result<Sum> {
    let sql = format!("SELECT {SEALED_COLUMNS} FROM certificate WHERE idx BETWEEN ?1 AND ?2");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([indexes.start(), indexes.end()])?;
    let mut sum = Sum::default();
    while let Some(row) = rows.next()? {
        sum.add(key, &sealed(row)?);
    }
    Ok(sum)
}

/// Adds what every class stands for.
pub(super) fn add_classes(connection: &Connection, key: &SealKey, sum: &mut Sum) -> Result<()> {
    let mut statement = connection.prepare("SELECT number, members FROM class")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        sum.add_class(key, values::class(row, 0)?, &row.get::<_, String>(1)?);
    }
    Ok(())
}

/// A device's groups and labels, and its class.
pub(super) fn labelled(connection: &Connection, number: i64) -> Result<Labelled> {
    let (class, groups) = connection
        .prepare_cached(
            "SELECT d.class, c.members FROM device d LEFT JOIN class c ON c.number = d.class
             WHERE d.number = ?1",
        )?
        .query_row([number], |row| {
            Ok((values::class(row, 0)?, values::groups(row, 1)?))
        })?;
    let labels: BTreeMap<Tag, LabelValue> = connection
        .prepare_cached("SELECT key, value FROM label WHERE device = ?1")?
        .query_map([number], |row| values::label(row, 0, 1))?
        .collect::<Result<_>>()?;
    Ok(Labelled {
        class,
        labels: DeviceLabels { groups, labels },
    })
}

/// An index with about as many certificates before it as from it on.
pub(super) fn middle_of_certificates(connection: &Connection) -> Result<i64> {
    connection.query_row(
        "SELECT coalesce(min(idx) + (max(idx) - min(idx)) / 2, 0) FROM certificate",
        [],
        |row| row.get(0),
    )
}

pub(super) fn device(connection: &Connection, folded: &str) -> Result<Option<DeviceRecord>> {
    let transaction = connection.unchecked_transaction()?;
    let found = transaction
        .prepare_cached(
            "SELECT d.number, d.id, d.standing, d.created_at, d.last_seen_at, d.last_seen_address,
                    (SELECT count(*) FROM token t
                     WHERE t.device = d.number AND t.voided = 0 AND t.spent_key IS NULL)
             FROM device d WHERE d.folded = ?1",
        )?
        .query_row([folded], |row| {
            let record = DeviceRecord {
                id: values::device_id(row, 1)?,
                standing: values::standing(row, 2)?,
                created_at: values::timestamp(row, 3)?,
                last_seen_at: values::optional(row, 4, values::timestamp)?,
                last_seen_address: row.get(5)?,
                open_tokens: values::unsigned(row, 6)?,
                labels: DeviceLabels::default(),
                certificates: Vec::new(),
            };
            Ok((row.get::<_, i64>(0)?, record))
        })
        .optional()?;
    let Some((number, mut record)) = found else {
        return Ok(None);
    };
    record.labels = labelled(&transaction, number)?.labels;
    let sql = format!("{CERTIFICATE_QUERY} WHERE c.device = ?1 ORDER BY c.issued_seq DESC");
    record.certificates = transaction
        .prepare_cached(&sql)?
        .query_map([number], certificate_record)?
        .collect::<Result<_>>()?;
    Ok(Some(record))
}

pub(super) fn devices(connection: &Connection, filter: &DeviceFilter) -> Result<DevicePage> {
    let prefix = filter
        .prefix
        .as_ref()
        .map(|prefix| prefix.to_ascii_lowercase())
        .unwrap_or_default();
    let after = filter
        .after
        .as_ref()
        .map(DeviceId::folded)
        .unwrap_or_default();
    let mut statement = connection.prepare_cached(
        "SELECT d.id, d.standing, d.created_at, d.last_seen_at, d.last_seen_address, c.status, c.not_after,
                s.members
         FROM device d LEFT JOIN class s ON s.number = d.class LEFT JOIN certificate c ON c.idx =
              (SELECT n.idx FROM certificate n WHERE n.device = d.number
               ORDER BY n.issued_seq DESC LIMIT 1)
         WHERE d.folded > ?1 AND substr(d.folded, 1, length(?2)) = ?2
           AND (?3 IS NULL OR d.standing = ?3)
           AND (?5 IS NULL OR instr(',' || s.members || ',', ',' || ?5 || ',') > 0)
         ORDER BY d.folded LIMIT ?4",
    )?;
    let mut devices: Vec<DeviceSummary> = statement
        .query_map(
            params![
                after,
                prefix,
                filter.standing.map(values::standing_code),
                integer(filter.limit as u64 + 1),
                filter.group.as_ref().map(Group::as_str),
            ],
            |row| {
                let status = values::optional(row, 5, values::status)?;
                let not_after = values::optional(row, 6, values::timestamp)?;
                Ok(DeviceSummary {
                    id: values::device_id(row, 0)?,
                    standing: values::standing(row, 1)?,
                    created_at: values::timestamp(row, 2)?,
                    last_seen_at: values::optional(row, 3, values::timestamp)?,
                    last_seen_address: row.get(4)?,
                    newest: status.zip(not_after),
                    groups: values::groups(row, 7)?,
                })
            },
        )?
        .collect::<Result<_>>()?;
    let more = devices.len() > filter.limit;
    devices.truncate(filter.limit);
    Ok(DevicePage { devices, more })
}

pub(super) fn certificate(
    connection: &Connection,
    index: Index,
    serial: Option<Serial>,
) -> Result<Option<CertificateRecord>> {
    let Ok(index) = i64::try_from(index.0) else {
        return Ok(None);
    };
    let sql = format!("{CERTIFICATE_QUERY} WHERE c.idx = ?1");
    let record = connection
        .prepare_cached(&sql)?
        .query_row([index], certificate_record)
        .optional()?;
    Ok(record.filter(|record| serial.is_none_or(|serial| serial == record.serial)))
}

pub(super) fn certificate_der(connection: &Connection, index: Index) -> Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT der FROM certificate_der WHERE idx = ?1")?
        .query_row([integer(index.0)], |row| row.get(0))
        .optional()
}

pub(super) fn history(connection: &Connection, folded: &str, limit: usize) -> Result<Vec<Entry>> {
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM journal
         WHERE device = (SELECT number FROM device WHERE folded = ?1)
         ORDER BY seq DESC LIMIT ?2"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![folded, integer(limit as u64)], |row| {
            values::entry(row).map(|(entry, _)| entry)
        })?
        .collect()
}

/// Device certificates that are withdrawn and have not expired.
pub(super) fn withdrawn(connection: &Connection, now: Timestamp) -> Result<Vec<Withdrawn>> {
    connection
        .prepare_cached(
            "SELECT serial, changed_at, status FROM certificate
             WHERE status IN (4, 6, 7) AND device IS NOT NULL AND not_after >= ?1",
        )?
        .query_map([integer(now.0)], |row| {
            Ok(Withdrawn {
                serial: values::serial(row, 0)?,
                since: values::timestamp(row, 1)?,
                on_hold: values::status(row, 2)? != Status::Revoked,
            })
        })?
        .collect()
}

const CERTIFICATE_QUERY: &str =
    "SELECT c.idx, d.id, c.serial, c.sha256, c.key_sha256, c.not_before, c.not_after, c.status, c.changed_at, c.tbs_sha256
     FROM certificate c LEFT JOIN device d ON d.number = c.device";

fn certificate_record(row: &Row<'_>) -> Result<CertificateRecord> {
    Ok(CertificateRecord {
        index: values::index(row, 0)?,
        device: values::optional(row, 1, values::device_id)?,
        serial: values::serial(row, 2)?,
        certificate: values::fingerprint(row, 3)?,
        key: values::fingerprint(row, 4)?,
        not_before: values::timestamp(row, 5)?,
        not_after: values::timestamp(row, 6)?,
        status: values::status(row, 7)?,
        changed_at: values::timestamp(row, 8)?,
        tbs: values::fingerprint(row, 9)?,
    })
}

/// Large enough that sending costs nothing, small enough to be applied while the next is read.
const SNAPSHOT_BATCH: usize = 8192;
