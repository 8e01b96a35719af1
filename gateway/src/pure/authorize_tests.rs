//! Long, because one decision is tried here in all its orders.

use identity::labels::Group;

use super::*;
use crate::peer::tests::peer;
use crate::pure::identity_header::IdentityHeader;
use crate::pure::route_policy::RoutePolicy;

const NOW: Timestamp = Timestamp(1_000);
const GOOD: Standing = Standing {
    status: Status::Active,
    class: Class(0),
    fresh: true,
    finishing: false,
};

fn snapshot() -> Snapshot {
    let route = |path: &str, policy| Route {
        host: None,
        path: path.into(),
        upstream: crate::Upstream::of(vec!["http://127.0.0.1:1".parse().expect("legal")]),
        identity: vec![IdentityHeader::DeviceId],
        policy,
    };
    let client = |client| RoutePolicy {
        client,
        ..RoutePolicy::default()
    };
    let plain = |client| RoutePolicy {
        client,
        refuses_websockets: true,
        ..RoutePolicy::default()
    };
    let groups = |names: &[&str]| RoutePolicy {
        groups: Some(
            names
                .iter()
                .map(|name| Group::parse(name).expect("legal"))
                .collect(),
        ),
        ..RoutePolicy::default()
    };
    Snapshot {
        routes: RouteTable::new(vec![
            route("/v1", RoutePolicy::default()),
            route("/request", client(ClientMode::Request)),
            route("/open", client(ClientMode::Anonymous)),
            route("/blue", groups(&["blue", "green"])),
            route("/nobody", groups(&[])),
            route("/report", client(ClientMode::ReportOnly)),
            route("/plain", plain(ClientMode::Require)),
            route("/plain/open", plain(ClientMode::Anonymous)),
            route("/plain/report", plain(ClientMode::ReportOnly)),
            route(
                "/report/blue",
                RoutePolicy {
                    client: ClientMode::ReportOnly,
                    ..groups(&["blue"])
                },
            ),
            route(
                "/request/blue",
                RoutePolicy {
                    client: ClientMode::Request,
                    ..groups(&["blue"])
                },
            ),
        ])
        .expect("routes"),
        tcp_routes: TcpRouteTable::default(),
        server_names: vec!["api.example.com".into(), "*.wild.example".into()],
        without_sni: vec!["127.0.0.1".into(), "localhost".into()],
    }
}

/// Class 1 is in blue, class 2 in red.
fn view() -> View {
    let definition = |class, group| ClassDefinition {
        class: Class(class),
        groups: [Group::parse(group).expect("legal")].into(),
    };
    let mut classes = Classes::default();
    classes.define(&definition(2, "red"));
    // The other one becomes known later.
    View::new(Arc::new(snapshot()), &classes, Arc::default()).extended(&[&definition(1, "blue")])
}

#[derive(Clone, Copy)]
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
    let permitted = decide(peer(case.validity, case.server_name), &case);
    let route = permitted.map(|(route, is_device)| {
        assert!(is_device);
        route
    });
    assert_eq!(route, expected.map(str::to_owned));
}

/// The path of the route, and whether there is a device.
fn decide(peer: Peer, case: &Case) -> Result<(String, bool), Denial> {
    let view = view();
    let asked = Asked {
        host: &Host::from_authority(case.host).expect("a host"),
        path: case.path,
        websocket: false,
    };
    authorize(&peer, asked, &view, case.standing, NOW)
        .map(|permit| (permit.route().path.clone(), permit.device().is_some()))
}

fn anonymous(case: &Case) -> Result<(String, bool), Denial> {
    let mut peer = peer(case.validity, case.server_name);
    peer.credential = Credential::Anonymous;
    // What the table says of nobody is that it knows nobody.
    let standing = Standing {
        status: Status::Unknown,
        ..case.standing
    };
    decide(peer, &Case { standing, ..*case })
}

#[test]
fn without_a_certificate_only_where_the_route_says_so() {
    let check = |path, expected: Result<&str, Denial>| {
        let decided = anonymous(&Case { path, ..PASSES });
        assert_eq!(
            decided,
            expected.map(|route| (route.to_owned(), false)),
            "{path}"
        );
    };
    check("/v1/x", Err(Denial::CertificateRequired));
    check("/blue", Err(Denial::CertificateRequired));
    check("/nobody", Err(Denial::CertificateRequired));
    check("/request", Ok("/request"));
    check("/open/x", Ok("/open"));
    // Nobody is in no group.
    check("/request/blue", Err(Denial::GroupNotAllowed));
    check("/else", Err(Denial::NoRoute));
    check("/open/../v1", Err(Denial::Path(PathFault::DotSegment)));
    let elsewhere = Case {
        host: "other.example",
        path: "/open",
        ..PASSES
    };
    assert_eq!(anonymous(&elsewhere), Err(Denial::HostMismatch));
}

#[test]
fn a_certificate_that_is_there_must_be_good_where_it_is_looked_at() {
    let check = |path, standing, validity, expected: Result<bool, Denial>| {
        let case = Case {
            path,
            standing,
            validity,
            ..PASSES
        };
        let decided = decide(peer(case.validity, case.server_name), &case);
        assert_eq!(decided.map(|(_, is_device)| is_device), expected, "{path}");
    };
    let revoked = Standing {
        status: Status::Revoked,
        ..GOOD
    };
    check("/request", GOOD, PASSES.validity, Ok(true));
    check("/request", revoked, PASSES.validity, Err(Denial::Revoked));
    check("/request", GOOD, (900, 999), Err(Denial::Expired));
    // Here nobody looks at it, and nobody is told of it.
    check("/open", GOOD, PASSES.validity, Ok(false));
    check("/open", revoked, (900, 999), Ok(false));
    let unreadable = |path| {
        let mut peer = peer(PASSES.validity, PASSES.server_name);
        peer.credential = Credential::Unreadable(ReadError::NoName);
        decide(peer, &Case { path, ..PASSES }).map(|(_, is_device)| is_device)
    };
    let invalid = Denial::IdentityInvalid(ReadError::NoName);
    assert_eq!(unreadable("/request"), Err(invalid));
    assert_eq!(unreadable("/open"), Ok(false));
}

#[test]
fn groups() {
    let check = |path, class, expected| {
        let standing = Standing {
            class: Class(class),
            ..GOOD
        };
        super::tests::check(
            Case {
                path,
                standing,
                ..PASSES
            },
            expected,
        );
    };
    check("/blue", 1, Ok("/blue"));
    check("/blue", 2, Err(Denial::GroupNotAllowed));
    check("/blue", 0, Err(Denial::GroupNotAllowed));
    // Of a class that nobody defined nothing is known.
    check("/blue", 3, Err(Denial::GroupNotAllowed));
    check("/blue", u16::MAX, Err(Denial::GroupNotAllowed));
    check("/request/blue", 1, Ok("/request/blue"));
    check("/request/blue", 2, Err(Denial::GroupNotAllowed));
    check("/v1", 2, Ok("/v1"));
    for class in 0..4 {
        check("/nobody", class, Err(Denial::GroupNotAllowed));
    }
}

#[test]
fn names_that_admit_without_certificate() {
    let check = |routes: &[(Option<&str>, ClientMode)], expected: &[(&str, Clients)]| {
        let routes = routes
            .iter()
            .enumerate()
            .map(|(number, (host, client))| Route {
                host: host.map(str::to_owned),
                path: format!("/{number}"),
                upstream: crate::Upstream::of(vec!["http://127.0.0.1:1".parse().expect("legal")]),
                identity: vec![],
                policy: RoutePolicy {
                    client: *client,
                    ..RoutePolicy::default()
                },
            });
        let snapshot = Snapshot {
            routes: RouteTable::new(routes.collect()).expect("routes"),
            ..snapshot()
        };
        let expected = expected.iter();
        assert_eq!(
            snapshot.clients_by_name(),
            expected
                .map(|(name, clients)| ((*name).to_owned(), *clients))
                .collect()
        );
    };
    use ClientMode::{Anonymous, ReportOnly, Request, Require};
    use Clients::{Any, Optional};
    let everywhere = [("*.wild.example", Optional), ("api.example.com", Optional)];
    check(&[(None, Require), (Some("api.example.com"), Require)], &[]);
    check(
        &[(None, Request), (Some("api.example.com"), Require)],
        &everywhere,
    );
    check(&[(None, Anonymous)], &everywhere);
    check(
        &[
            (None, Require),
            (Some("A.wild.example."), Anonymous),
            (Some("a.wild.example"), Request),
            (Some("api.example.com"), Require),
        ],
        &[("a.wild.example", Optional)],
    );
    // Strangers get through the handshake where something is only reported, and nowhere else.
    check(
        &[
            (Some("api.example.com"), Request),
            (Some("api.example.com"), ReportOnly),
            (Some("api.example.com"), Anonymous),
            (Some("b.wild.example"), Request),
        ],
        &[("api.example.com", Any), ("b.wild.example", Optional)],
    );
}

#[test]
fn a_route_that_only_reports_tells_of_good_devices_alone() {
    let view = view();
    let ask = |credential: Option<Credential>, path: &str, standing, now| {
        let mut peer = peer((500, 1_500), Some("api.example.com"));
        if let Some(credential) = credential {
            peer.credential = credential;
        }
        let host = Host::from_name("api.example.com").expect("legal");
        let asked = Asked {
            host: &host,
            path,
            websocket: false,
        };
        authorize(&peer, asked, &view, standing, Timestamp(now))
            .map(|permit| (permit.device().is_some(), permit.reported()))
    };
    let bad = |status| Standing { status, ..GOOD };
    let untrusted = || Credential::Untrusted(HandshakeFault::UnknownIssuer);
    assert_eq!(ask(None, "/report", GOOD, 1_000), Ok((true, None)));
    for (credential, standing, now, denial) in [
        (None, bad(Status::Revoked), 1_000, Denial::Revoked),
        (None, bad(Status::Unknown), 1_000, Denial::Unregistered),
        (None, GOOD, 1_501, Denial::Expired),
        (None, GOOD, 499, Denial::NotYetValid),
        (
            Some(Credential::Anonymous),
            GOOD,
            1_000,
            Denial::CertificateRequired,
        ),
        (
            Some(untrusted()),
            GOOD,
            1_000,
            Denial::Untrusted(HandshakeFault::UnknownIssuer),
        ),
        (
            Some(Credential::Unreadable(ReadError::NoName)),
            GOOD,
            1_000,
            Denial::IdentityInvalid(ReadError::NoName),
        ),
    ] {
        assert_eq!(
            ask(credential, "/report", standing, now),
            Ok((false, Some(denial)))
        );
    }
    // Of a class in no group of the route.
    assert_eq!(
        ask(None, "/report/blue", GOOD, 1_000),
        Ok((false, Some(Denial::GroupNotAllowed)))
    );
    // What has nothing to do with who asks is refused here, too; and no other route becomes lenient.
    assert_eq!(
        ask(None, "/report/../v1", GOOD, 1_000).err(),
        Some(Denial::Path(PathFault::DotSegment))
    );
    for path in ["/v1", "/request"] {
        assert_eq!(
            ask(Some(untrusted()), path, GOOD, 1_000).err(),
            Some(Denial::Untrusted(HandshakeFault::UnknownIssuer))
        );
    }
}

#[test]
fn a_route_without_websockets() {
    let view = view();
    let ask = |path: &str, status, websocket| {
        let peer = peer((500, 1_500), Some("api.example.com"));
        let host = Host::from_name("api.example.com").expect("legal");
        let asked = Asked {
            host: &host,
            path,
            websocket,
        };
        let standing = Standing { status, ..GOOD };
        authorize(&peer, asked, &view, standing, NOW)
            .map(|permit| (permit.device().is_some(), permit.reported()))
    };
    let (active, revoked) = (Status::Active, Status::Revoked);
    let refused = Denial::WebSocketNotAllowed;
    // Requests pass everywhere, and WebSockets where nothing was said of them.
    assert_eq!(ask("/plain", active, false), Ok((true, None)));
    assert_eq!(ask("/plain/open", active, false), Ok((false, None)));
    assert_eq!(ask("/plain/report", active, false), Ok((true, None)));
    assert_eq!(ask("/v1", active, true), Ok((true, None)));
    assert_eq!(ask("/open", active, true), Ok((false, None)));
    // Refused whoever asks, but not before it is known who that is.
    assert_eq!(ask("/plain", active, true), Err(refused));
    assert_eq!(ask("/plain/open", active, true), Err(refused));
    assert_eq!(ask("/plain", revoked, true), Err(Denial::Revoked));
    // Only reported: the device is told of, if it is good.
    let told = ask("/plain/report", active, true);
    assert_eq!(told, Ok((true, Some(refused))));
    let told = ask("/plain/report", revoked, true);
    assert_eq!(told, Ok((false, Some(Denial::Revoked))));
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
            finishing: true,
            ..GOOD
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
            ..GOOD
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
            ..GOOD
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
    assert_eq!(
        decide(peer, &PASSES),
        Err(Denial::IdentityInvalid(ReadError::NoName))
    );
}
