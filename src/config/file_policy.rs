//! What was written about limits, the policy of routes and gateways in front.

use super::reader::{Notes, Section};
use super::{Located, Place};

/// The limits in `[gateway]`.
#[derive(Debug, Default)]
pub(crate) struct LimitKeys {
    pub(crate) max_connections_per_device: Option<Located<i64>>,
    pub(crate) max_requests_per_device: Option<Located<i64>>,
    pub(crate) max_connections_per_address: Option<Located<i64>>,
    pub(crate) max_requests_per_address: Option<Located<i64>>,
    pub(crate) rate: Option<Located<String>>,
    pub(crate) burst: Option<Located<i64>>,
}

/// The policy in `[[gateway.route]]`.
#[derive(Debug, Default)]
pub(crate) struct PolicyKeys {
    pub(crate) client: Option<Located<String>>,
    pub(crate) groups: Option<Vec<Located<String>>>,
    pub(crate) via: Option<Vec<Located<String>>>,
    pub(crate) max_head: Option<Located<String>>,
    pub(crate) max_body: Option<Located<String>>,
    pub(crate) rate: Option<Located<String>>,
    pub(crate) burst: Option<Located<i64>>,
    pub(crate) websocket: Option<bool>,
}

/// `[[gateway.trusted_gateway]]`
#[derive(Debug)]
pub(crate) struct TrustedGatewayTable {
    pub(crate) place: Place,
    pub(crate) name: Option<Located<String>>,
    pub(crate) device: Option<Located<String>>,
    pub(crate) issuer: Option<Located<String>>,
    pub(crate) audience: Option<Located<String>>,
    pub(crate) key_set: Option<Located<String>>,
}

impl TrustedGatewayTable {
    pub(super) fn read(mut section: Section<'_>, notes: &mut Notes<'_>) -> Self {
        let table = Self {
            place: section.place,
            name: section.string("name", notes),
            device: section.string("device", notes),
            issuer: section.string("issuer", notes),
            audience: section.string("audience", notes),
            key_set: section.string("key_set", notes),
        };
        section.finish(notes);
        table
    }
}

impl LimitKeys {
    pub(super) fn read(section: &mut Section<'_>, notes: &mut Notes<'_>) -> Self {
        Self {
            max_connections_per_device: section.integer("max_connections_per_device", notes),
            max_requests_per_device: section.integer("max_requests_per_device", notes),
            max_connections_per_address: section.integer("max_connections_per_address", notes),
            max_requests_per_address: section.integer("max_requests_per_address", notes),
            rate: section.string("rate", notes),
            burst: section.integer("burst", notes),
        }
    }
}

impl PolicyKeys {
    pub(super) fn read(section: &mut Section<'_>, notes: &mut Notes<'_>) -> Self {
        Self {
            client: section.string("client", notes),
            groups: section.strings("groups", notes),
            via: section.strings("via", notes),
            max_head: section.string("max_head", notes),
            max_body: section.string("max_body", notes),
            rate: section.string("rate", notes),
            burst: section.integer("burst", notes),
            websocket: section.boolean("websocket", notes),
        }
    }
}
