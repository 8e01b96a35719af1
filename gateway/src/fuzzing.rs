//! What the fuzz targets (`tests/fuzz`) see of this crate's inside. Only there with `--cfg fuzzing`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Uri};
use identity::chain::Anchors;
use identity::status::FingerprintKey;
use identity::{Class, SerialKey, Status, Timestamp};
use rustls_pki_types::CertificateDer;

use crate::exchange::Telemetry;
use crate::peer::{Credential, Peer};
use crate::presented::Evidence;
use crate::pure::authorize::{Asked, Snapshot, Standing, View, authorize};
use crate::pure::classes::Classes;
use crate::pure::dialects::{Dialect, Field, Proven, fields};
use crate::pure::framing::{Rest, Watcher};
use crate::pure::headers::{self, Hop};
use crate::pure::host::Host;
use crate::pure::identity_names::{FAMILIES, NAMES};
use crate::pure::route::{Route, RouteTable};
use crate::pure::tcp_route::TcpRouteTable;
use crate::pure::{path, request_head};
use crate::trace::Plan;

/// The watcher in front of HTTP/1.1.
pub struct Http1Watcher(Watcher);

/// What stands behind the clean bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Nothing.
    Nothing,
    /// The beginning of a head.
    IncompleteHead,
    /// Something that breaks the rule of this number in the order of the enum.
    Violation(u8),
}

impl Http1Watcher {
    /// Before the first request.
    #[allow(clippy::new_without_default)] // Only targets call it.
    pub fn new() -> Self {
        Self(Watcher::new())
    }

    /// How many of the bytes are clean, and what stands behind them.
    pub fn inspect(&mut self, bytes: &[u8], is_tunnel: bool) -> (usize, Behind) {
        let verdict = self.0.inspect(bytes, is_tunnel);
        let behind = match verdict.rest {
            Rest::Nothing => Behind::Nothing,
            Rest::IncompleteHead => Behind::IncompleteHead,
            Rest::Violation(violation) => Behind::Violation(violation as u8),
        };
        (verdict.clean, behind)
    }

    /// Whether the bytes seen end inside a body.
    pub fn is_in_body(&self) -> bool {
        self.0.is_in_body()
    }
}

/// What `clean_request` makes of headers; false if it refuses them.
pub fn clean_request(map: &mut HeaderMap) -> bool {
    headers::clean_request(map).is_ok()
}

/// What becomes of a trace context where no spans are exported; trace and span of the device, if it named sound ones.
pub fn pass_trace_context(map: &mut HeaderMap) -> Option<(u128, u64)> {
    let plan = Plan::of(map, &Telemetry::default());
    plan.apply(map);
    let trace = plan.trace()?;
    Some((trace.trace_id, trace.parent?))
}

/// What `clean_response` makes of headers.
pub fn clean_response(map: &mut HeaderMap) {
    headers::clean_response(map);
}

/// What `clean_request_trailers` makes of trailers; false if it refuses them.
pub fn clean_request_trailers(map: &mut HeaderMap) -> bool {
    headers::clean_request_trailers(map).is_ok()
}

/// What `clean_response_trailers` makes of trailers.
pub fn clean_response_trailers(map: &mut HeaderMap) {
    headers::clean_response_trailers(map);
}

/// The families of identity names, and the single ones.
pub fn identity_names() -> (&'static [&'static str], &'static [&'static str]) {
    (FAMILIES, NAMES)
}

/// A device that may call.
pub struct Caller {
    peer: Peer,
    view: View,
}

impl Caller {
    /// A device with this certificate, to whom `route` is open.
    pub fn new(certificate: &CertificateDer<'_>, route: Route) -> Option<Self> {
        Some(Self {
            peer: Peer {
                address: ([192, 0, 2, 1], 1).into(),
                server_name: route.host.clone(),
                credential: Credential::read(
                    Evidence {
                        certificate: certificate.clone().into_owned(),
                        intermediates: Vec::new(),
                        anchors: Anchors::new(std::slice::from_ref(certificate)).ok()?,
                        at: Timestamp(0),
                    },
                    &SerialKey::new(&[1; 16]),
                    &FingerprintKey::new(&[2; 32]),
                ),
            },
            view: View::new(
                Arc::new(Snapshot {
                    server_names: route.host.iter().cloned().collect(),
                    routes: RouteTable::new(vec![route]).ok()?,
                    tcp_routes: TcpRouteTable::default(),
                    without_sni: Vec::new(),
                }),
                &Classes::default(),
                Arc::default(),
            ),
        })
    }

    /// What `identify` adds to headers; false if the caller may not call.
    pub fn identify(
        &self,
        map: &mut HeaderMap,
        request_id: &HeaderValue,
        address: IpAddr,
        host: &HeaderValue,
    ) -> bool {
        let (Some(issued), Some(name)) = (self.peer.issued(), &self.peer.server_name) else {
            return false;
        };
        let Ok(asked) = Host::from_name(name) else {
            return false;
        };
        let asked = Asked {
            host: &asked,
            path: "/",
            websocket: false,
        };
        let standing = Standing {
            status: Status::Active,
            class: Class(0),
            fresh: true,
            finishing: false,
        };
        let now = issued.validity.not_before;
        let Ok(permit) = authorize(&self.peer, asked, &self.view, standing, now) else {
            return false;
        };
        let hop = Hop {
            request_id,
            forwarded_for: &headers::forwarded_for(address),
            host,
            assertion: None,
            far: None,
        };
        headers::identify(map, &permit, &hop).is_ok()
    }
}

/// What each dialect says of a certificate, in headers; nothing for those that cannot tell it.
pub fn dialects(certificate: &CertificateDer<'_>) -> Vec<(String, String)> {
    let proven = Proven {
        leaf: certificate,
        issuers: std::slice::from_ref(certificate),
    };
    let text = |(name, value): Field| Some((name.to_string(), value.to_str().ok()?.to_owned()));
    [
        Dialect::ClientCertChain,
        Dialect::Xfcc,
        Dialect::Nginx,
        Dialect::Traefik,
        Dialect::AwsAlb,
        Dialect::Cloudflare,
    ]
    .into_iter()
    .filter_map(|dialect| fields(dialect, proven).ok())
    .flatten()
    .filter_map(text)
    .collect()
}

/// The most eager reading of a path, if it is not refused.
pub fn most_eager_reading(path: &str) -> Option<Cow<'_, str>> {
    path::most_eager_reading(path).ok()
}

/// `host[:port]` in normal form, if it is a host.
pub fn host(authority: &str) -> Option<String> {
    Host::from_authority(authority)
        .ok()
        .map(|host| host.as_str().to_owned())
}

/// A DNS name or an IP address in normal form, if it is one.
pub fn host_name(name: &str) -> Option<String> {
    Host::from_name(name)
        .ok()
        .map(|host| host.as_str().to_owned())
}

/// The host that a request asks for, in normal form.
pub fn asked_host(method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = request_head::asked_host(method, uri, headers).ok()?;
    let host = request_head::normal_host(&host).ok()?;
    Some(host.as_str().to_owned())
}
