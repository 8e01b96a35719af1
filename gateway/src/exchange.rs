//! What is told of a request, a tunnel or a stream once all of it has ended: for access logs and traces.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::record::Record;
use crate::trace::Trace;

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
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
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
    /// Whether somebody wants to hear of all of them; else only of those whose span is to be exported.
    pub exchanges: bool,
    /// Whether the trace contexts of devices are believed.
    pub trace: TraceMode,
    /// How many spans are exported, if any is.
    pub sample: Option<Sample>,
}

/// What becomes of the trace context (W3C) that a device sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceMode {
    /// It is passed on if it is sound.
    #[default]
    Pass,
    /// It is removed; where spans are exported, a new trace begins.
    Restart,
    /// It is removed, and none is sent.
    Off,
}

/// A share of all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(u64);

impl Sample {
    /// From 0 to 1.
    pub fn new(share: f64) -> Option<Self> {
        let whole = (1_u64 << 32) as f64;
        (0.0..=1.0)
            .contains(&share)
            .then_some(Self((share * whole).round() as u64))
    }

    /// Of so many.
    pub(crate) fn of_4_294_967_296(self) -> u64 {
        self.0
    }
}
