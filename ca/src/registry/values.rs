//! Between the columns of the database and the values of the domain.

use std::collections::BTreeSet;

use identity::{
    Class, DeviceId, Fingerprint, Group, Index, LabelValue, Serial, Status, Tag, Timestamp,
};
use rusqlite::Row;
use rusqlite::types::Type;

use crate::pure::enroll::Standing;
use crate::pure::journal::{Action, Entry, Labelled};

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

/// Groups as they are stored: in their order, with commas between them.
pub(super) fn members(groups: &BTreeSet<Group>) -> String {
    let groups: Vec<&str> = groups.iter().map(Group::as_str).collect();
    groups.join(",")
}

/// The groups that are stored so; none if there is no text.
pub(super) fn groups(row: &Row<'_>, column: usize) -> Result<BTreeSet<Group>> {
    let Some(text) = row.get::<_, Option<String>>(column)? else {
        return Ok(BTreeSet::new());
    };
    let read: std::result::Result<BTreeSet<Group>, _> = text.split(',').map(Group::parse).collect();
    match read {
        Ok(groups) if members(&groups) == text => Ok(groups),
        Ok(_) => Err(damaged(column, Type::Text, "no set of groups")),
        Err(error) => Err(damaged(column, Type::Text, error)),
    }
}

pub(super) fn label(row: &Row<'_>, key: usize, value: usize) -> Result<(Tag, LabelValue)> {
    let text: String = row.get(key)?;
    let label_key = Tag::parse(&text).map_err(|error| damaged(key, Type::Text, error))?;
    let text: String = row.get(value)?;
    let label_value =
        LabelValue::parse(&text).map_err(|error| damaged(value, Type::Text, error))?;
    Ok((label_key, label_value))
}

fn labelled(row: &Row<'_>, column: usize) -> Result<Labelled> {
    let text: String = row.get(column)?;
    Labelled::from_text(&text)
        .ok_or_else(|| damaged(column, Type::Text, "no groups and labels of a device"))
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
    "seq, at, actor, action, subject, idx, status, certificate, reason, labels, hash";

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
        labelled: optional(row, 9, labelled)?,
    };
    // Each of the two says that the other is there.
    if (entry.action == Action::DeviceLabelled) != entry.labelled.is_some() {
        return Err(damaged(9, Type::Text, "labels of another action"));
    }
    Ok((entry, fingerprint(row, 10)?))
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
        let rest = format!("NULL, NULL, NULL, {hash}");
        check(
            &format!("1, 2, 'a', 'status-changed', 'b', 3, 0, {rest}"),
            true,
        );
        check(
            &format!("1, 2, 'a', 'status-changed', 'b', 3, 7, {rest}"),
            true,
        );
        let labels = r#"'1 {"groups":["a"],"labels":{}}'"#;
        check(
            &format!("1, 2, 'a', 'device-labelled', 'b', NULL, NULL, NULL, NULL, {labels}, {hash}"),
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
            "1, 2, 'a', 'status-changed', 'b', 3, 7, NULL, NULL, NULL, zeroblob(31)".to_owned(),
            format!("1, 2, 'a', 'device-labelled', 'b', NULL, NULL, {rest}"),
            format!("1, 2, 'a', 'status-changed', 'b', 3, 7, NULL, NULL, {labels}, {hash}"),
        ] {
            check(&altered, false);
        }
    }
}
