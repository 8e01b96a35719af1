//! What a route asks of those who take it, beside host and path.

use std::sync::Arc;

use identity::labels::Group;

use super::hop::TrustedGateway;
use super::rate::Rate;

/// The policy of a route. The default asks for a device's certificate and for nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Whether there must be a device's certificate.
    pub client: ClientMode,
    /// The device must be in one of these groups; an empty list admits nobody, `None` everybody.
    pub groups: Option<Vec<Group>>,
    /// The longest head, as [`super::request_head::head_length`] counts it.
    pub max_head: Option<u64>,
    /// The longest body in bytes.
    pub max_body: Option<u64>,
    /// The gateways that may speak for the devices behind them; each is asked for a device.
    pub via: Vec<Arc<TrustedGateway>>,
    /// How often a device may send a request.
    pub rate: Option<RateLimit>,
    /// Whether requests that ask for a WebSocket are refused.
    pub refuses_websockets: bool,
}

/// Whether there must be a device's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientMode {
    /// Without a good one, requests are refused.
    #[default]
    Require,
    /// If there is one it must be good; without one, requests pass and carry no identity.
    Request,
    /// Requests pass and carry no identity, whatever certificate there is.
    Anonymous,
    /// Everything is decided as for `Require` and recorded; what would be refused passes, and carries no identity.
    ReportOnly,
}

/// How often a device may send a request, and what is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How often.
    pub rate: Rate,
    /// Which requests count.
    pub scope: RateScope,
}

/// Which requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateScope {
    /// A device's requests on all routes with this scope. Requests without identity are not counted.
    Gateway,
    /// Those on this route, by device; without identity by address, IPv6 by /64.
    Route,
}
