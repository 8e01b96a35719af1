//! `[gateway.access_log]` and `[telemetry]` as written.

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

/// `[telemetry]`
#[derive(Debug)]
pub(crate) struct TelemetryTable {
    pub(crate) place: Place,
    pub(crate) trace: Option<Located<String>>,
    pub(crate) otlp: Option<Located<String>>,
    pub(crate) sample: Option<Located<String>>,
}

impl TelemetryTable {
    pub(super) fn read(mut section: Section<'_>, notes: &mut Notes<'_>) -> Self {
        let table = Self {
            place: section.place,
            trace: section.string("trace", notes),
            otlp: section.string("otlp", notes),
            sample: section.string("sample", notes),
        };
        section.finish(notes);
        table
    }
}
