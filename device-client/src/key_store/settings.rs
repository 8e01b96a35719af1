//! `store.json`: what a key store remembers beside key, certificate and roots.

use identity::{DeviceId, ServerAddress};
use serde::{Deserialize, Serialize};

/// Whose store it is, and which servers it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The device.
    pub device: DeviceId,
    /// The enrollment server, for renewals.
    pub server: ServerAddress,
    /// The gateway that the first successful request went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<ServerAddress>,
}
