//! The gateway: a reverse proxy that knows which device is calling.
//!
//! It ends the device's TLS, decides on each request by the device's certificate and what the registry says
//! of it, and tells the upstream who is calling in headers that nobody else can write. What the registry
//! revokes is cut at once, idle connections and tunnels included.
//!
//! A library: whoever starts a [`Gateway`] feeds it the registry's changes, and reads its records, sightings
//! and metrics. It does not know the certificate authority.

mod answer_body;
mod assertion;
mod audit;
mod code;
mod connection;
mod connections;
mod exchange;
mod feed;
mod foreign;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gateway;
mod guarded_io;
mod handle;
mod histogram;
mod hops;
#[cfg(test)]
mod hot_path_tests;
mod identity_headers;
mod lately;
mod lifetime;
mod limits;
mod metrics;
mod outbox;
mod pace;
mod peer;
mod presented;
mod proxied;
mod pure;
mod random;
mod rate_limits;
#[cfg(test)]
mod read_by_others;
mod record;
mod refusal;
mod request;
mod shared;
mod splice;
mod status_table;
pub mod tls;
mod tls_io;
mod trace;
mod tunnel;
mod turnstile;
mod upstream;
mod websocket;
mod worker;

pub use assertion::{AssertionSigner, SignerFault};
pub use code::Code;
pub use connections::OpenConnection;
pub use exchange::{Ending, Exchange, Sample, Telemetry, TraceMode};
pub use feed::Applied;
pub use gateway::{Bound, DEGRADED_AFTER, Gateway, Limits, Options, StartFault};
pub use identity_headers::{identity_header_families, identity_header_names, is_identity_header};
pub use pure::authorize::Snapshot;
pub use pure::foreign::{ForeignAnchor, ForeignAnchors, ForeignFault, Revocation, Voucher};
pub use pure::hop::{HopFault, KeySet, KeySetFault, TrustedGateway};
pub use pure::host::HostFault;
pub use pure::identity_header::IdentityHeader;
pub use pure::path::PathFault;
pub use pure::rate::Rate;
pub use pure::route::{Route, RouteFault, RouteFaultKind, RouteTable};
pub use pure::route_policy::{ClientMode, RateLimit, RateScope, RoutePolicy};
pub use pure::tcp_route::{
    StreamAddress, StreamAddressFault, TcpRoute, TcpRouteFault, TcpRouteFaultKind, TcpRouteTable,
};
pub use pure::upstream::{HealthCheck, Upstream, UpstreamTimeouts};
pub use pure::upstream_address::{Scheme, UpstreamAddress, UpstreamAddressFault};
pub use record::{Outcome, Record, Unregistered};
pub use trace::Trace;
pub use upstream::{Http2, UpstreamTls, UpstreamTlsFault};
