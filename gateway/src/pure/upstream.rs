//! An upstream as it was configured: its servers, and how to talk to them.

use std::sync::Arc;
use std::time::Duration;

use super::upstream_address::UpstreamAddress;
use crate::upstream::UpstreamTls;

/// The servers that stand in for each other behind a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What it is called in the configuration and in metrics; `None` for a route's own list of servers.
    pub name: Option<String>,
    /// Where they are; never empty in a [`RouteTable`](super::route::RouteTable).
    pub servers: Vec<UpstreamAddress>,
    /// How TLS is spoken with those whose address says `https`; they need it.
    pub tls: Option<UpstreamTls>,
    /// How to find out which of them are healthy; `None` learns it from requests alone.
    pub health_check: Option<HealthCheck>,
    /// How long they may take; `None` for the gateway's own limits.
    pub timeouts: Option<UpstreamTimeouts>,
    /// Open connections to each of the servers, per worker.
    pub max_connections: usize,
}

/// How long upstreams may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// To accept a connection, the TLS handshake included, or to have one free.
    pub connect: Duration,
    /// To begin an answer, since the request's body last moved.
    pub first_byte: Duration,
    /// Between two parts of an answer's body, while the device takes them.
    pub idle: Duration,
}

/// A request that healthy servers answer with 2xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for: a path, with a query if need be.
    pub path: String,
    /// The Host of the request; `None` for the server's own address.
    pub host: Option<String>,
    /// The time between two checks; each is up to a tenth earlier or later.
    pub every: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// A server is healthy again after so many good checks in a row.
    pub healthy_after: u32,
    /// A server is unhealthy after so many bad checks in a row.
    pub unhealthy_after: u32,
}

impl Upstream {
    /// Servers without a name, with which nothing was agreed.
    pub fn of(servers: Vec<UpstreamAddress>) -> Arc<Self> {
        Arc::new(Self {
            name: None,
            servers,
            tls: None,
            health_check: None,
            timeouts: None,
            max_connections: DEFAULT_MAX_CONNECTIONS,
        })
    }

    /// Open connections to each server, per worker, where nothing else is said.
    pub const DEFAULT_MAX_CONNECTIONS: usize = DEFAULT_MAX_CONNECTIONS;
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(300),
        }
    }
}

/// More than this, a server in front of whatever takes so many does better.
const DEFAULT_MAX_CONNECTIONS: usize = 1024;
