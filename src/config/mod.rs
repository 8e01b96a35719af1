//! The configuration: what was written ([`file::ConfigFile`]) and what is true ([`Config`]) are two types.
//!
//! Flags of `up` are written into the same [`file::ConfigFile`], so that one check judges both.

mod anchor;
mod certificate_files;
pub(crate) mod changes;
mod check;
mod check_anchor;
mod check_certificate;
mod check_gateway;
mod check_hop;
mod check_policy;
mod check_tcp;
mod check_telemetry;
mod check_upstream;
mod crl;
mod crl_url;
pub(crate) mod file;
mod file_anchor;
pub(crate) mod file_policy;
mod file_telemetry;
mod file_upstream;
pub(crate) mod pem_files;
mod reader;
mod telemetry;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gateway::{RateLimit, Route, TcpRoute};
use identity::TrustDomain;
use ipnet::IpNet;

pub(crate) use anchor::{AnchorConfig, Crl};
pub(crate) use certificate_files::{CertificateFiles, FileStamp, FilesFault, Stamp};
pub(crate) use check::{Purpose, check};
pub(crate) use crl::{CrlPlace, CrlSource, ReadFault, read_lists};
pub(crate) use crl_url::CrlUrl;
pub(crate) use telemetry::{AccessLogSettings, Collector, Destination, Format, TelemetryConfig};

/// A configuration without mistakes.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The directory of everything that must survive.
    pub(crate) data: PathBuf,
    /// Wanted for the CA; absent means whatever it has.
    pub(crate) trust_domain: Option<TrustDomain>,
    /// DNS names and IP addresses of the server certificate, in lower case; never empty.
    pub(crate) names: Vec<String>,
    /// How long device certificates live.
    pub(crate) device_certificate_life: Duration,
    /// The gateway's role.
    pub(crate) gateway: Option<GatewayConfig>,
    /// Where devices enroll.
    pub(crate) enrollment: Option<Vec<SocketAddr>>,
    /// Where health and metrics are.
    pub(crate) health: Option<Vec<SocketAddr>>,
    /// What traces are told of requests.
    pub(crate) telemetry: TelemetryConfig,
}

/// The gateway's role.
#[derive(Clone, Debug)]
pub(crate) struct GatewayConfig {
    pub(crate) listen: Vec<SocketAddr>,
    /// Threads of the data plane; absent means one per core.
    pub(crate) workers: Option<usize>,
    /// Hosts that clients without SNI may ask for.
    pub(crate) without_sni: Vec<String>,
    /// Devices are refused when the registry was not heard of for so long.
    pub(crate) max_staleness: Duration,
    /// Certificates of the server that others made, by what they are read from.
    pub(crate) certificates: Vec<CertificateFiles>,
    /// Other CAs whose devices may connect.
    pub(crate) anchors: Vec<AnchorConfig>,
    /// Bounds on what one device or address may hold.
    pub(crate) limits: GatewayLimits,
    /// How often a device may send a request on routes that say nothing else.
    pub(crate) rate: Option<RateLimit>,
    /// Empty only for `up`, which then adds its built-in upstream.
    pub(crate) routes: Vec<Route>,
    pub(crate) tcp_routes: Vec<TcpRoute>,
    /// Load balancers that say, by the PROXY protocol, for whom they connect.
    pub(crate) proxies: Vec<IpNet>,
    /// Where a line is written for each request that has ended, if anywhere.
    pub(crate) access_log: Option<AccessLogSettings>,
}

impl Config {
    /// The names of all certificates that the gateway has: the hosts that routes can be for.
    pub(crate) fn server_names(&self) -> Vec<String> {
        let gateway = self.gateway.as_ref();
        let certificates = gateway.map_or(&[][..], |gateway| &gateway.certificates);
        names_with(&self.names, certificates)
    }
}

/// A route's host that no certificate has; there is none in a configuration that was checked.
pub(crate) fn uncovered_host(config: &Config) -> Option<&str> {
    let names = config.server_names();
    let routes = config.gateway.iter().flat_map(|gateway| &gateway.routes);
    let streams = config
        .gateway
        .iter()
        .flat_map(|gateway| &gateway.tcp_routes);
    let mut hosts = routes
        .filter_map(|route| route.host.as_deref())
        .chain(streams.map(|route| route.host.as_str()));
    hosts.find(|host| !names.iter().any(|name| values::covers(name, host)))
}

/// The names of the server's own certificate, and those of others.
fn names_with(own: &[String], certificates: &[CertificateFiles]) -> Vec<String> {
    let mut names = own.to_vec();
    for name in certificates.iter().flat_map(|files| &files.read.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Bounds on what one device, or one address without a certificate, may hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GatewayLimits {
    pub(crate) connections_per_device: usize,
    pub(crate) requests_per_device: usize,
    pub(crate) connections_per_address: usize,
    pub(crate) requests_per_address: usize,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        let limits = gateway::Limits::default();
        Self {
            connections_per_device: limits.max_connections_per_device,
            requests_per_device: limits.max_requests_per_device,
            connections_per_address: limits.max_connections_per_address,
            requests_per_address: limits.max_requests_per_address,
        }
    }
}

/// Something wrong with a configuration, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mistake {
    pub(crate) place: Place,
    pub(crate) sentence: String,
}

/// Where something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// A command line flag.
    Flag(&'static str),
    /// Nowhere: something is missing.
    Nowhere,
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Located<T> {
    pub(crate) place: Place,
    pub(crate) value: T,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Line(line) => write!(f, "line {line}: {}", self.sentence),
            Place::Flag(flag) => write!(f, "{flag}: {}", self.sentence),
            Place::Nowhere => f.write_str(&self.sentence),
        }
    }
}

/// Where everything is kept when nothing else is said.
pub(crate) const DEFAULT_DATA: &str = "./keybound-data";
