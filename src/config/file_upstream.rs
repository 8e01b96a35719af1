//! `[[gateway.upstream]]` as written.

use super::reader::{Notes, Section};
use super::{Located, Place};

/// `[[gateway.upstream]]`
#[derive(Debug)]
pub(crate) struct UpstreamTable {
    pub(crate) place: Place,
    pub(crate) name: Option<Located<String>>,
    pub(crate) servers: Option<Vec<Located<String>>>,
    pub(crate) roots: Option<Located<String>>,
    pub(crate) certificate: Option<Located<String>>,
    pub(crate) key: Option<Located<String>>,
    pub(crate) server_name: Option<Located<String>>,
    pub(crate) http2: Option<Located<String>>,
    pub(crate) connect_timeout: Option<Located<String>>,
    pub(crate) first_byte_timeout: Option<Located<String>>,
    pub(crate) idle_timeout: Option<Located<String>>,
    pub(crate) max_connections: Option<Located<i64>>,
    pub(crate) health_check: Option<HealthCheckTable>,
}

/// `health_check`, or `[gateway.upstream.health_check]`
#[derive(Debug)]
pub(crate) struct HealthCheckTable {
    pub(crate) place: Place,
    pub(crate) path: Option<Located<String>>,
    pub(crate) host: Option<Located<String>>,
    pub(crate) every: Option<Located<String>>,
    pub(crate) timeout: Option<Located<String>>,
    pub(crate) healthy_after: Option<Located<i64>>,
    pub(crate) unhealthy_after: Option<Located<i64>>,
}

impl UpstreamTable {
    pub(super) fn read(mut section: Section<'_>, notes: &mut Notes<'_>) -> Self {
        let table = Self {
            place: section.place,
            name: section.string("name", notes),
            servers: section.strings("servers", notes),
            roots: section.string("roots", notes),
            certificate: section.string("certificate", notes),
            key: section.string("key", notes),
            server_name: section.string("server_name", notes),
            http2: section.string("http2", notes),
            connect_timeout: section.string("connect_timeout", notes),
            first_byte_timeout: section.string("first_byte_timeout", notes),
            idle_timeout: section.string("idle_timeout", notes),
            max_connections: section.integer("max_connections", notes),
            health_check: section
                .section("health_check", "health_check", notes)
                .map(|section| HealthCheckTable::read(section, notes)),
        };
        section.finish(notes);
        table
    }
}

impl HealthCheckTable {
    fn read(mut section: Section<'_>, notes: &mut Notes<'_>) -> Self {
        let table = Self {
            place: section.place,
            path: section.string("path", notes),
            host: section.string("host", notes),
            every: section.string("every", notes),
            timeout: section.string("timeout", notes),
            healthy_after: section.integer("healthy_after", notes),
            unhealthy_after: section.integer("unhealthy_after", notes),
        };
        section.finish(notes);
        table
    }
}
