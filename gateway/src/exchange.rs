//! What is told of a request, a tunnel or a stream once all of it has ended: for access logs and traces.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::record::Record;

/// A request with its answer, a tunnel, or a stream of a TCP route, from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What was decided about it, as it was told when it was decided.
    pub record: Arc<Record>,
    /// When its head was there.
    pub began: SystemTime,
    /// From then until its answer was given to the connection, or its tunnel or stream had ended.
    pub duration: Duration,
    /// `HTTP/1.1` or the like; none for a stream.
    pub http_version: Option<&'static str>,
    /// `TLSv1.3` or `TLSv1.2`.
    pub tls_version: &'static str,
    /// As the client sent it, cut after 256 bytes; what is no UTF-8 in it is replaced.
    pub user_agent: Option<String>,
    /// The same.
    pub referer: Option<String>,
    /// The path of the route that it took.
    pub route: Option<String>,
    /// The server of the upstream that was asked last, as it was configured.
    pub upstream: Option<Arc<str>>,
    /// How long that one took to begin its answer, if it did.
    pub upstream_latency: Option<Duration>,
    /// Bytes from the client: of the request's body that were passed on, or of the tunnel or stream.
    pub received: u64,
    /// Bytes for the client: of the answer's body, or of the tunnel or stream.
    pub sent: u64,
    /// Why it ended.
    pub ending: Ending,
}

/// Why an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All of it was said.
    Complete,
    /// The client went away, or wanted no more.
    Client,
    /// The upstream broke off or paused for too long.
    Upstream,
    /// The gateway ended the connection: the registry said so, or the gateway stopped, or the certificate expired.
    Cut,
}

impl Ending {
    /// As access logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Client => "client-gone",
            Self::Upstream => "upstream-broken",
            Self::Cut => "cut",
        }
    }
}

/// What is told of exchanges, and to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// Whether somebody wants to hear of them.
    pub exchanges: bool,
}
