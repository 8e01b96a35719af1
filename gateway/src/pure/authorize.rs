//! The decision on one request: who may have it forwarded, and where to.

use std::collections::HashMap;
use std::sync::Arc;

use identity::feed::ClassDefinition;
use identity::{Class, ReadError, Status, Timestamp};

use super::classes::{ClassSet, Classes, is_any_of};
use super::foreign::ForeignAnchors;
use super::hop::TrustedGateway;
use super::host::Host;
use super::path::PathFault;
use super::route::{LimitId, Placed, Route, RouteTable};
use super::route_policy::ClientMode;
use super::tcp_route::{TcpRoute, TcpRouteTable};
use crate::peer::{Credential, Device, Peer};
use crate::tls::{Clients, HandshakeFault};

/// What is decided by, beside the peer and its status. Swapped whole; one is taken per request.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The routes.
    pub routes: RouteTable,
    /// The TCP routes: nothing else is served under their names.
    pub tcp_routes: TcpRouteTable,
    /// The DNS names and IP addresses of the server certificate: the hosts of routes without a host.
    pub server_names: Vec<String>,
    /// The hosts that a client may ask for which sent no server name in its handshake.
    pub without_sni: Vec<String>,
}

impl Snapshot {
    /// The server names with which a client may go without a certificate, or with any, because some route that it can
    /// reach lets requests pass so: in lower case, without a dot at the end; `*.` stands for one label. Without a name, it
    /// may not.
    pub fn clients_by_name(&self) -> HashMap<String, Clients> {
        let mut names = HashMap::new();
        for placed in self.routes.all() {
            let clients = match placed.route.policy.client {
                ClientMode::Require => continue,
                ClientMode::Request | ClientMode::Anonymous => Clients::Optional,
                ClientMode::ReportOnly => Clients::Any,
            };
            let reached = match &placed.route.host {
                Some(host) => std::slice::from_ref(host),
                None => &self.server_names[..],
            };
            for name in reached {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                if self.tcp_routes.find(&name).is_none() {
                    let most = names.entry(name).or_insert(clients);
                    if clients == Clients::Any {
                        *most = clients;
                    }
                }
            }
        }
        names
    }

    fn serves(&self, host: &Host<'_>) -> bool {
        self.server_names.iter().any(|name| names(name, host))
    }
}

/// A snapshot, and which classes each of its routes admits. Made anew when routes or classes change.
#[derive(Debug, Default)]
pub(crate) struct View {
    snapshot: Arc<Snapshot>,
    /// By the route's number; `None` where groups do not matter.
    admitted: Box<[Option<ClassSet>]>,
    /// Other CAs, and what they have withdrawn.
    foreign: Arc<ForeignAnchors>,
}

impl View {
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        classes: &Classes,
        foreign: Arc<ForeignAnchors>,
    ) -> Self {
        let mut admitted = vec![None; snapshot.routes.len()];
        for placed in snapshot.routes.all() {
            let groups = placed.route.policy.groups.as_deref();
            admitted[placed.number] = groups.map(|groups| classes.in_any_of(groups));
        }
        Self {
            snapshot,
            admitted: admitted.into(),
            foreign,
        }
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn foreign(&self) -> &Arc<ForeignAnchors> {
        &self.foreign
    }

    /// The same with other anchors of other CAs.
    pub(crate) fn believing(&self, foreign: Arc<ForeignAnchors>) -> Self {
        Self {
            snapshot: Arc::clone(&self.snapshot),
            admitted: self.admitted.clone(),
            foreign,
        }
    }

    /// The same with classes that were not known; what is known already is not looked at again.
    pub(crate) fn extended(&self, definitions: &[&ClassDefinition]) -> Self {
        let mut admitted = self.admitted.clone();
        for placed in self.snapshot.routes.all() {
            let groups = placed.route.policy.groups.as_deref();
            if let (Some(groups), Some(set)) = (groups, &mut admitted[placed.number]) {
                for definition in definitions {
                    set.set(definition.class, is_any_of(groups, &definition.groups));
                }
            }
        }
        Self {
            snapshot: Arc::clone(&self.snapshot),
            admitted,
            foreign: Arc::clone(&self.foreign),
        }
    }

    /// Nobody without a class is in a group.
    fn admits(&self, placed: &Placed, class: Option<Class>) -> bool {
        match self.admitted.get(placed.number) {
            Some(None) => true,
            Some(Some(admitted)) => class.is_some_and(|class| admitted.contains(class)),
            None => false,
        }
    }
}

/// What a request asks for, as far as the decision needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The host, in normal form.
    pub(crate) host: &'a Host<'a>,
    /// The path, byte for byte, without the query.
    pub(crate) path: &'a str,
    /// Whether it asks for a WebSocket, over HTTP/1.1 or HTTP/2.
    pub(crate) websocket: bool,
}

/// What the registry says of a certificate, as far as this gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The status in the table.
    pub(crate) status: Status,
    /// The class in the table: the groups that the device is in.
    pub(crate) class: Class,
    /// Whether the table is recent enough to let anybody pass.
    pub(crate) fresh: bool,
    /// Whether the certificate was retired while this connection was open, which may finish its work.
    pub(crate) finishing: bool,
}

/// The proof that a request may be forwarded. Only [`authorize`] makes one. It keeps its route and nothing else of the
/// view: a request may last, and what it was decided by, lists of revoked certificates among it, is large.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    device: Option<Device<'a>>,
    placed: Arc<Placed>,
    reported: Option<Denial>,
}

impl<'a> Permit<'a> {
    /// Whose request it is; `None` if it passes without identity.
    pub(crate) fn device(&self) -> Option<Device<'a>> {
        self.device
    }

    /// Why it would be refused, if its route did not let it pass so that this can be reported.
    pub(crate) fn reported(&self) -> Option<Denial> {
        self.reported
    }

    /// Whether nothing is refused on the route for who asks, or how often, but only reported.
    pub(crate) fn only_reports(&self) -> bool {
        self.placed.route.policy.client == ClientMode::ReportOnly
    }

    /// The same permit for nobody, for a device that cannot be told of, on a route that only reports.
    pub(crate) fn without_device(&self) -> Option<Self> {
        self.only_reports().then_some(Self {
            device: None,
            placed: Arc::clone(&self.placed),
            reported: self.reported,
        })
    }

    /// The gateway that asks, if it is one that speaks for the devices behind it on this route.
    pub(crate) fn speaker(&self) -> Option<&Arc<TrustedGateway>> {
        // Nobody whom another CA names has a gateway's id.
        let Device::Issued(device) = self.device? else {
            return None;
        };
        let mut via = self.placed.route.policy.via.iter();
        // Ids are the same whatever the case of their letters.
        let id = device.device.as_str();
        via.find(|gateway| gateway.device.as_str().eq_ignore_ascii_case(id))
    }

    /// The route that it takes.
    pub(crate) fn route(&self) -> &Route {
        &self.placed.route
    }

    /// The route's own limit on requests.
    pub(crate) fn limit(&self) -> LimitId {
        self.placed.limit
    }
}

/// The proof that a stream may be forwarded. Only [`authorize_stream`] makes one.
#[derive(Debug)]
pub(crate) struct StreamPermit<'a> {
    device: Device<'a>,
    route: &'a TcpRoute,
}

impl<'a> StreamPermit<'a> {
    /// Whose stream it is.
    pub(crate) fn device(&self) -> Device<'a> {
        self.device
    }

    /// The route that it takes.
    pub(crate) fn route(&self) -> &'a TcpRoute {
        self.route
    }
}

/// Why a request may not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The certificate does not say who its holder is, by this rule.
    IdentityInvalid(ReadError),
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate is not valid any more.
    Expired,
    /// The certificate is not in the registry.
    Unregistered,
    /// A newer certificate of the device is in use.
    Retired,
    /// An operator stopped the device.
    Suspended,
    /// The device was set aside.
    Quarantined,
    /// The route does not admit restricted devices.
    Restricted,
    /// The certificate was withdrawn.
    Revoked,
    /// This gateway has not heard from the registry for too long.
    RegistryStale,
    /// Another host than the handshake named.
    HostMismatch,
    /// The path can be read in more than one way.
    Path(PathFault),
    /// No route has this host and path.
    NoRoute,
    /// The route asks for a certificate, and there is none.
    CertificateRequired,
    /// There is a certificate, and no anchor vouches for it.
    Untrusted(HandshakeFault),
    /// The device is in none of the route's groups.
    GroupNotAllowed,
    /// The route opens no WebSockets.
    WebSocketNotAllowed,
    /// The anchor that vouched for the certificate is none any more, or calls the device otherwise.
    AnchorRemoved,
    /// The certificate of the CA that vouches for the certificate is not valid now.
    AnchorExpired,
    /// No list of revoked certificates speaks for the certificate's issuer.
    CrlMissing,
    /// The list that speaks for the certificate's issuer should have been replaced by now.
    CrlStale,
}

/// Decides on one request. The checks stand in the order of DESIGN: validity, status, host, route, the route's policy.
///
/// Only where the route wants to know nobody is no certificate looked at; so the route is looked for first, and what was
/// found out is told in its turn. Where it only reports, whoever is not let through as a device passes as nobody.
pub(crate) fn authorize<'a>(
    peer: &'a Peer,
    asked: Asked<'_>,
    view: &View,
    standing: Standing,
    now: Timestamp,
) -> Result<Permit<'a>, Denial> {
    let permit = admitted(peer, asked, view, standing, now)?;
    check_websocket(permit, asked)
}

/// Last, so that nobody who is not let in learns what a route opens. A route that only reports opens it all the same, and
/// tells of the device.
fn check_websocket<'a>(permit: Permit<'a>, asked: Asked<'_>) -> Result<Permit<'a>, Denial> {
    if !asked.websocket || !permit.route().policy.refuses_websockets {
        return Ok(permit);
    }
    if !permit.only_reports() {
        return Err(Denial::WebSocketNotAllowed);
    }
    let reported = permit.reported.or(Some(Denial::WebSocketNotAllowed));
    Ok(Permit { reported, ..permit })
}

/// Decides who asks, and on which route.
fn admitted<'a>(
    peer: &'a Peer,
    asked: Asked<'_>,
    view: &View,
    standing: Standing,
    now: Timestamp,
) -> Result<Permit<'a>, Denial> {
    let routed = find_route(peer, asked, view);
    if let Ok(placed) = routed
        && placed.route.policy.client == ClientMode::Anonymous
    {
        let device = None;
        return Ok(Permit {
            device,
            placed: Arc::clone(placed),
            reported: None,
        });
    }
    let decided = identified(peer, routed, view, standing, now);
    match (decided, routed) {
        (Err(denial), Ok(placed)) if placed.route.policy.client == ClientMode::ReportOnly => {
            Ok(Permit {
                device: None,
                placed: Arc::clone(placed),
                reported: Some(denial),
            })
        }
        (decided, _) => decided,
    }
}

/// Decides where certificates matter.
fn identified<'a>(
    peer: &'a Peer,
    routed: Result<&Arc<Placed>, Denial>,
    view: &View,
    standing: Standing,
    now: Timestamp,
) -> Result<Permit<'a>, Denial> {
    let device = match &peer.credential {
        Credential::Issued(_)
        | Credential::Foreign(_)
        | Credential::Unreadable(_)
        | Credential::Untrusted(_) => Some(vouch(peer, view, standing, now)?),
        Credential::Anonymous => None,
    };
    let placed = routed?;
    match placed.route.policy.client {
        ClientMode::Require | ClientMode::ReportOnly if device.is_none() => {
            return Err(Denial::CertificateRequired);
        }
        ClientMode::Require
        | ClientMode::Request
        | ClientMode::Anonymous
        | ClientMode::ReportOnly => {}
    }
    // Groups are the registry's: a device of another CA is in none.
    let class = match device {
        Some(Device::Issued(_)) => Some(standing.class),
        Some(Device::Foreign(_)) | None => None,
    };
    if !view.admits(placed, class) {
        return Err(Denial::GroupNotAllowed);
    }
    Ok(Permit {
        device,
        placed: Arc::clone(placed),
        reported: None,
    })
}

fn find_route<'a>(
    peer: &Peer,
    asked: Asked<'_>,
    view: &'a View,
) -> Result<&'a Arc<Placed>, Denial> {
    let snapshot = &view.snapshot;
    check_host(peer, asked.host, snapshot)?;
    snapshot
        .routes
        .find(asked.host, snapshot.serves(asked.host), asked.path)
        .map_err(Denial::Path)?
        .ok_or(Denial::NoRoute)
}

/// Decides on a stream whose handshake named the host of a TCP route.
pub(crate) fn authorize_stream<'a>(
    peer: &'a Peer,
    route: &'a TcpRoute,
    view: &View,
    standing: Standing,
    now: Timestamp,
) -> Result<StreamPermit<'a>, Denial> {
    let device = vouch(peer, view, standing, now)?;
    Ok(StreamPermit { device, route })
}

/// The device that is there, if its certificate is good now.
fn vouch<'a>(
    peer: &'a Peer,
    view: &View,
    standing: Standing,
    now: Timestamp,
) -> Result<Device<'a>, Denial> {
    let device = match &peer.credential {
        Credential::Issued(issued) => Device::Issued(issued),
        Credential::Foreign(foreign) => Device::Foreign(foreign),
        Credential::Unreadable(rule) => return Err(Denial::IdentityInvalid(*rule)),
        Credential::Untrusted(fault) => return Err(Denial::Untrusted(*fault)),
        Credential::Anonymous => return Err(Denial::CertificateRequired),
    };
    if now < device.validity().not_before {
        return Err(Denial::NotYetValid);
    }
    if now > device.validity().not_after {
        return Err(Denial::Expired);
    }
    match device {
        Device::Issued(_) => check_standing(standing)?,
        Device::Foreign(foreign) => view.foreign.check(&foreign.lineage, now)?,
    }
    Ok(device)
}

/// A revocation holds however old it is; that nothing happened since is only believed of a fresh table.
fn check_standing(standing: Standing) -> Result<(), Denial> {
    match standing.status {
        Status::Revoked => return Err(Denial::Revoked),
        Status::Quarantined => return Err(Denial::Quarantined),
        Status::Suspended => return Err(Denial::Suspended),
        Status::Restricted => return Err(Denial::Restricted),
        Status::Retired if !standing.finishing => return Err(Denial::Retired),
        Status::Unknown if standing.fresh => return Err(Denial::Unregistered),
        Status::Unknown => return Err(Denial::RegistryStale),
        Status::Retired | Status::Pending | Status::Active => {}
    }
    if standing.fresh {
        Ok(())
    } else {
        Err(Denial::RegistryStale)
    }
}

fn check_host(peer: &Peer, host: &Host<'_>, snapshot: &Snapshot) -> Result<(), Denial> {
    let agrees = match peer.server_name.as_deref() {
        Some(name) => names(name, host),
        None => snapshot.without_sni.iter().any(|name| names(name, host)),
    };
    if agrees {
        Ok(())
    } else {
        Err(Denial::HostMismatch)
    }
}

/// Whether `name`, as it stands in a certificate, a handshake or the configuration, names `host`. A
/// wildcard is one whole label (RFC 9525, section 6.3).
fn names(name: &str, host: &Host<'_>) -> bool {
    // As nearly always. The host is in normal form, so a wildcard is not equal to it.
    if name == host.as_str() {
        return true;
    }
    if let Some(parent) = name.strip_prefix("*.") {
        return host
            .as_str()
            .split_once('.')
            .is_some_and(|(_, rest)| Host::from_name(parent).is_ok_and(|p| p.as_str() == rest));
    }
    Host::from_name(name).is_ok_and(|name| name == *host)
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
