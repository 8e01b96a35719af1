//! The reading of journal rows for `crate::fuzzing`.

use identity::Fingerprint;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};

use super::values::{self, ENTRY_COLUMNS};
use crate::pure::journal::Entry;

/// A value as a damaged database may hold it.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating point number.
    Real(f64),
    /// A text, perhaps not UTF-8.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl ToSql for Stored {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>, rusqlite::Error> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Real(value) => ValueRef::Real(*value),
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A database in memory, for reading rows.
pub struct Journal(Connection);

impl Journal {
    /// An empty one.
    pub fn open() -> Option<Self> {
        Connection::open_in_memory().ok().map(Self)
    }

    /// A row with the columns of the journal, as the registry reads it.
    pub fn read(&self, row: &[Stored]) -> Option<(Entry, Fingerprint)> {
        let count = ENTRY_COLUMNS.split(',').count();
        let places: Vec<String> = (1..=count).map(|place| format!("?{place}")).collect();
        self.0
            .prepare_cached(&format!("SELECT {}", places.join(", ")))
            .ok()?
            .query_row(params_from_iter(row), values::entry)
            .ok()
    }
}
