//! What was written about limits and the policy of routes.

use super::Located;
use super::reader::{Notes, Section};

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
    pub(crate) max_head: Option<Located<String>>,
    pub(crate) max_body: Option<Located<String>>,
    pub(crate) rate: Option<Located<String>>,
    pub(crate) burst: Option<Located<i64>>,
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
            max_head: section.string("max_head", notes),
            max_body: section.string("max_body", notes),
            rate: section.string("rate", notes),
            burst: section.integer("burst", notes),
        }
    }
}
