//! `[gateway.access_log]` as written.

use super::reader::{Notes, Section};
use super::{Located, Place};

/// `[gateway.access_log]`
#[derive(Debug)]
pub(crate) struct AccessLogTable {
    pub(crate) place: Place,
    pub(crate) file: Option<Located<String>>,
    pub(crate) format: Option<Located<String>>,
}

impl AccessLogTable {
    pub(super) fn read(mut section: Section<'_>, notes: &mut Notes<'_>) -> Self {
        let table = Self {
            place: section.place,
            file: section.string("file", notes),
            format: section.string("format", notes),
        };
        section.finish(notes);
        table
    }
}
