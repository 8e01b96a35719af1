//! `[[gateway.anchor]]` as written.

use super::reader::{Notes, Section};
use super::{Located, Place};

/// `[[gateway.anchor]]`
#[derive(Debug)]
pub(crate) struct AnchorTable {
    pub(crate) place: Place,
    pub(crate) name: Option<Located<String>>,
    pub(crate) certificates: Option<Located<String>>,
    pub(crate) crl: Option<Vec<Located<String>>>,
    pub(crate) crl_roots: Option<Located<String>>,
    pub(crate) refresh: Option<Located<String>>,
    pub(crate) id_from: Option<Located<String>>,
    pub(crate) uri_prefix: Option<Located<String>>,
    pub(crate) table: Option<Located<String>>,
}

impl AnchorTable {
    pub(super) fn read(mut section: Section<'_>, notes: &mut Notes<'_>) -> Self {
        let table = Self {
            place: section.place,
            name: section.string("name", notes),
            certificates: section.string("certificates", notes),
            crl: section.strings("crl", notes),
            crl_roots: section.string("crl_roots", notes),
            refresh: section.string("refresh", notes),
            id_from: section.string("id_from", notes),
            uri_prefix: section.string("uri_prefix", notes),
            table: section.string("table", notes),
        };
        section.finish(notes);
        table
    }
}
