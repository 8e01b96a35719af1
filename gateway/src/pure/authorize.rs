//! The decision on one request: who may have it forwarded, and where to.

use identity::{ReadError, Status, Timestamp};

use super::host::Host;
use super::path::PathFault;
use super::route::{Route, RouteTable};
use super::tcp_route::{TcpRoute, TcpRouteTable};
use crate::peer::{Credential, Issued, Peer};

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

/// What a request asks for, as far as the decision needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The host, in normal form.
    pub(crate) host: &'a Host<'a>,
    /// The path, byte for byte, without the query.
    pub(crate) path: &'a str,
}

/// What the registry says of a certificate, as far as this gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The status in the table.
    pub(crate) status: Status,
    /// Whether the table is recent enough to let anybody pass.
    pub(crate) fresh: bool,
    /// Whether the certificate was retired while this connection was open, which may finish its work.
    pub(crate) finishing: bool,
}

/// The proof that a request may be forwarded. Only [`authorize`] makes one.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    device: &'a Issued,
    route: &'a Route,
}

impl<'a> Permit<'a> {
    /// Whose request it is.
    pub(crate) fn device(&self) -> &'a Issued {
        self.device
    }

    /// The route that it takes.
    pub(crate) fn route(&self) -> &'a Route {
        self.route
    }
}

/// The proof that a stream may be forwarded. Only [`authorize_stream`] makes one.
#[derive(Debug)]
pub(crate) struct StreamPermit<'a> {
    device: &'a Issued,
    route: &'a TcpRoute,
}

impl<'a> StreamPermit<'a> {
    /// Whose stream it is.
    pub(crate) fn device(&self) -> &'a Issued {
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
}

/// Decides on one request. The checks stand in the order of DESIGN: validity, status, host, route.
pub(crate) fn authorize<'a>(
    peer: &'a Peer,
    asked: Asked<'_>,
    snapshot: &'a Snapshot,
    standing: Standing,
    now: Timestamp,
) -> Result<Permit<'a>, Denial> {
    let device = vouch(peer, standing, now)?;
    check_host(peer, asked.host, snapshot)?;
    let host_is_served = snapshot
        .server_names
        .iter()
        .any(|name| names(name, asked.host));
    let route = snapshot
        .routes
        .find(asked.host, host_is_served, asked.path)
        .map_err(Denial::Path)?
        .ok_or(Denial::NoRoute)?;
    Ok(Permit { device, route })
}

/// Decides on a stream whose handshake named the host of a TCP route.
pub(crate) fn authorize_stream<'a>(
    peer: &'a Peer,
    route: &'a TcpRoute,
    standing: Standing,
    now: Timestamp,
) -> Result<StreamPermit<'a>, Denial> {
    let device = vouch(peer, standing, now)?;
    Ok(StreamPermit { device, route })
}

/// The device that is there, if its certificate is good now.
fn vouch(peer: &Peer, standing: Standing, now: Timestamp) -> Result<&Issued, Denial> {
    let device = match &peer.credential {
        Credential::Issued(issued) => issued,
        Credential::Unreadable(rule) => return Err(Denial::IdentityInvalid(*rule)),
    };
    if now < device.validity.not_before {
        return Err(Denial::NotYetValid);
    }
    if now > device.validity.not_after {
        return Err(Denial::Expired);
    }
    check_standing(standing)?;
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
    if let Some(parent) = name.strip_prefix("*.") {
        return host
            .as_str()
            .split_once('.')
            .is_some_and(|(_, rest)| Host::from_name(parent).is_ok_and(|p| p.as_str() == rest));
    }
    Host::from_name(name).is_ok_and(|name| name == *host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::tests::peer;
    use crate::pure::identity_header::IdentityHeader;

    const NOW: Timestamp = Timestamp(1_000);
    const GOOD: Standing = Standing {
        status: Status::Active,
        fresh: true,
        finishing: false,
    };

    fn snapshot() -> Snapshot {
        Snapshot {
            routes: RouteTable::new(vec![Route {
                host: None,
                path: "/v1".into(),
                upstream: crate::Upstream::of(vec!["http://127.0.0.1:1".parse().expect("legal")]),
                identity: vec![IdentityHeader::DeviceId],
            }])
            .expect("routes"),
            tcp_routes: TcpRouteTable::default(),
            server_names: vec!["api.example.com".into(), "*.wild.example".into()],
            without_sni: vec!["127.0.0.1".into(), "localhost".into()],
        }
    }

    struct Case {
        validity: (u64, u64),
        standing: Standing,
        server_name: Option<&'static str>,
        host: &'static str,
        path: &'static str,
    }

    const PASSES: Case = Case {
        validity: (900, 1_100),
        standing: GOOD,
        server_name: Some("api.example.com"),
        host: "API.example.com:8443",
        path: "/v1/x",
    };

    fn check(case: Case, expected: Result<&str, Denial>) {
        let peer = peer(case.validity, case.server_name);
        let snapshot = snapshot();
        let asked = Asked {
            host: &Host::from_authority(case.host).expect("a host"),
            path: case.path,
        };
        let permit = authorize(&peer, asked, &snapshot, case.standing, NOW);
        assert_eq!(
            permit
                .as_ref()
                .map(|permit| permit.route().path.as_str())
                .map_err(|denial| *denial),
            expected
        );
    }

    fn with_status(status: Status) -> Case {
        Case {
            standing: Standing { status, ..GOOD },
            ..PASSES
        }
    }

    #[test]
    fn a_good_device_passes() {
        check(PASSES, Ok("/v1"));
        check(with_status(Status::Pending), Ok("/v1"));
        check(
            Case {
                validity: (1_000, 1_000),
                ..PASSES
            },
            Ok("/v1"),
        );
    }

    #[test]
    fn each_status_has_its_denial() {
        check(with_status(Status::Unknown), Err(Denial::Unregistered));
        check(with_status(Status::Retired), Err(Denial::Retired));
        check(with_status(Status::Suspended), Err(Denial::Suspended));
        check(with_status(Status::Restricted), Err(Denial::Restricted));
        check(with_status(Status::Quarantined), Err(Denial::Quarantined));
        check(with_status(Status::Revoked), Err(Denial::Revoked));
    }

    #[test]
    fn only_retirement_lets_an_open_connection_finish() {
        for code in 0..16 {
            let status = Status::from_code(code);
            let standing = Standing {
                status,
                fresh: true,
                finishing: true,
            };
            assert_eq!(
                check_standing(standing).is_ok(),
                status.passes() || status == Status::Retired,
                "{status}"
            );
        }
    }

    #[test]
    fn a_stale_table_lets_nobody_pass_and_forgets_no_revocation() {
        for code in 0..16 {
            let status = Status::from_code(code);
            let standing = Standing {
                status,
                fresh: false,
                finishing: false,
            };
            let expected = match status {
                Status::Unknown | Status::Pending | Status::Active => Denial::RegistryStale,
                Status::Retired => Denial::Retired,
                Status::Suspended => Denial::Suspended,
                Status::Restricted => Denial::Restricted,
                Status::Quarantined => Denial::Quarantined,
                Status::Revoked => Denial::Revoked,
            };
            assert_eq!(check_standing(standing), Err(expected));
        }
    }

    #[test]
    fn hosts() {
        let host = |server_name, host| Case {
            server_name,
            host,
            ..PASSES
        };
        check(
            host(Some("api.example.com"), "other.example"),
            Err(Denial::HostMismatch),
        );
        check(host(Some("API.EXAMPLE.COM."), "api.example.com"), Ok("/v1"));
        check(host(Some("a.wild.example"), "a.wild.example"), Ok("/v1"));
        check(
            host(Some("b.a.wild.example"), "b.a.wild.example"),
            Err(Denial::NoRoute),
        );
        check(
            host(Some("wild.example"), "wild.example"),
            Err(Denial::NoRoute),
        );
        check(
            host(Some("other.example"), "other.example"),
            Err(Denial::NoRoute),
        );
        check(host(None, "api.example.com"), Err(Denial::HostMismatch));
        check(host(None, "127.0.0.1:8443"), Err(Denial::NoRoute));
    }

    #[test]
    fn the_order_of_the_checks() {
        // Everything is wrong; each line repairs what the line before was refused for.
        let all_wrong = || Case {
            validity: (2_000, 900),
            standing: Standing {
                status: Status::Revoked,
                fresh: false,
                finishing: false,
            },
            server_name: Some("x.example"),
            host: "y.example",
            path: "/nowhere/..",
        };
        check(all_wrong(), Err(Denial::NotYetValid));
        let case = || Case {
            validity: (900, 999),
            ..all_wrong()
        };
        check(case(), Err(Denial::Expired));
        let case = || Case {
            validity: (900, 1_000),
            ..all_wrong()
        };
        check(case(), Err(Denial::Revoked));
        let standing = Standing {
            fresh: false,
            ..GOOD
        };
        check(Case { standing, ..case() }, Err(Denial::RegistryStale));
        let case = || Case {
            standing: GOOD,
            ..case()
        };
        check(case(), Err(Denial::HostMismatch));
        let case = || Case {
            server_name: PASSES.server_name,
            host: PASSES.host,
            ..case()
        };
        check(case(), Err(Denial::Path(PathFault::DotSegment)));
        check(
            Case {
                path: "/nowhere",
                ..case()
            },
            Err(Denial::NoRoute),
        );
        check(
            Case {
                path: PASSES.path,
                ..case()
            },
            Ok("/v1"),
        );
    }

    #[test]
    fn an_unreadable_identity_is_refused_whatever_else_holds() {
        let mut peer = peer(PASSES.validity, PASSES.server_name);
        peer.credential = Credential::Unreadable(ReadError::NoName);
        let snapshot = snapshot();
        let asked = Asked {
            host: &Host::from_authority(PASSES.host).expect("a host"),
            path: PASSES.path,
        };
        let permit = authorize(&peer, asked, &snapshot, GOOD, NOW);
        assert_eq!(
            permit.map(|_| ()),
            Err(Denial::IdentityInvalid(ReadError::NoName))
        );
    }
}
