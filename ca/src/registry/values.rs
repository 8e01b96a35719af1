//! Between the columns of the database and the values of the domain.

use identity::{Class, DeviceId, Fingerprint, Index, Serial, Status, Timestamp};
use rusqlite::Row;
use rusqlite::types::Type;

use crate::pure::enroll::Standing;
use crate::pure::journal::{Action, Entry};

type Result<T> = std::result::Result<T, rusqlite::Error>;

/// SQLite has signed integers only; what we store in them never reaches 2^63.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).expect("times, indexes and sequence numbers stay below 2^63")
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|error| damaged(column, Type::Integer, error))
}

pub(super) fn timestamp(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    unsigned(row, column).map(Timestamp)
}

pub(super) fn index(row: &Row<'_>, column: usize) -> Result<Index> {
    unsigned(row, column).map(Index)
}

pub(super) fn optional<T>(
    row: &Row<'_>,
    column: usize,
    read: impl FnOnce(&Row<'_>, usize) -> Result<T>,
) -> Result<Option<T>> {
    if row.get_ref(column)? == rusqlite::types::ValueRef::Null {
        return Ok(None);
    }
    read(row, column).map(Some)
}

pub(super) fn fingerprint(row: &Row<'_>, column: usize) -> Result<Fingerprint> {
    row.get(column).map(Fingerprint)
}

pub(super) fn serial(row: &Row<'_>, column: usize) -> Result<Serial> {
    let bytes: [u8; 16] = row.get(column)?;
    Serial::from_der_content(&bytes)
        .ok_or_else(|| damaged(column, Type::Blob, "no serial of this CA"))
}

pub(super) fn status(row: &Row<'_>, column: usize) -> Result<Status> {
    row.get(column).map(Status::from_code)
}

/// A status in the journal: of a code that nobody assigned, the hash would be another's.
fn assigned_status(row: &Row<'_>, column: usize) -> Result<Status> {
    let code: u8 = row.get(column)?;
    let status = Status::from_code(code);
    if status.code() != code {
        return Err(damaged(column, Type::Integer, "no status of a certificate"));
    }
    Ok(status)
}

pub(super) fn class(row: &Row<'_>, column: usize) -> Result<Class> {
    row.get(column).map(Class)
}

pub(super) fn device_id(row: &Row<'_>, column: usize) -> Result<DeviceId> {
    let text: String = row.get(column)?;
    DeviceId::parse(&text).map_err(|error| damaged(column, Type::Text, error))
}

pub(super) fn standing(row: &Row<'_>, column: usize) -> Result<Standing> {
    match row.get::<_, i64>(column)? {
        0 => Ok(Standing::Good),
        1 => Ok(Standing::Suspended),
        2 => Ok(Standing::Revoked),
        _ => Err(damaged(column, Type::Integer, "no standing of a device")),
    }
}

pub(super) fn standing_code(standing: Standing) -> i64 {
    match standing {
        Standing::Good => 0,
        Standing::Suspended => 1,
        Standing::Revoked => 2,
    }
}

/// The columns that [`entry`] reads, in its order.
pub(super) const ENTRY_COLUMNS: &str =
    "seq, at, actor, action, subject, idx, status, certificate, reason, hash";

/// A journal entry and the hash beside it.
pub(super) fn entry(row: &Row<'_>) -> Result<(Entry, Fingerprint)> {
    let action: String = row.get(3)?;
    let entry = Entry {
        seq: unsigned(row, 0)?,
        at: timestamp(row, 1)?,
        actor: row.get(2)?,
        action: Action::parse(&action)
            .ok_or_else(|| damaged(3, Type::Text, "no action of the journal"))?,
        subject: row.get(4)?,
        index: optional(row, 5, index)?,
        status: optional(row, 6, assigned_status)?,
        certificate: optional(row, 7, fingerprint)?,
        reason: row.get(8)?,
    };
    Ok((entry, fingerprint(row, 9)?))
}

fn damaged(
    column: usize,
    kind: Type,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, error.into())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_journal_row_has_one_reading() {
        let connection = Connection::open_in_memory().expect("a database");
        let check = |row: &str, expected: bool| {
            let read = connection.query_row(&format!("SELECT {row}"), [], entry);
            assert_eq!(read.is_ok(), expected, "{row}");
        };
        let hash = "zeroblob(32)";
        let rest = format!("NULL, NULL, {hash}");
        check(
            &format!("1, 2, 'a', 'status-changed', 'b', 3, 0, {rest}"),
            true,
        );
        check(
            &format!("1, 2, 'a', 'status-changed', 'b', 3, 7, {rest}"),
            true,
        );
        for altered in [
            format!("1, 2, 'a', 'status-changed', 'b', 3, 8, {rest}"),
            format!("1, 2, 'a', 'status-changed', 'b', 3, 256, {rest}"),
            format!("-1, 2, 'a', 'status-changed', 'b', 3, 7, {rest}"),
            format!("1.0, 2, 'a', 'status-changed', 'b', 3, 7, {rest}"),
            format!("1, 2, x'61', 'status-changed', 'b', 3, 7, {rest}"),
            format!("1, 2, 'a', 'Status-changed', 'b', 3, 7, {rest}"),
            format!("1, 2, 'a', 'status-changed', 'b', '3', 7, {rest}"),
            "1, 2, 'a', 'status-changed', 'b', 3, 7, NULL, NULL, zeroblob(31)".to_owned(),
        ] {
            check(&altered, false);
        }
    }
}
