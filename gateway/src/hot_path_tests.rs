//! What deciding about a request and rewriting its head costs, in instructions and allocations, which valgrind counts: the
//! same numbers in every run, however busy the machine is. What exceeds a bound was added to every request.
#![allow(clippy::print_stdout)] // Figures; tests/run lists them.

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use identity::feed::StatusChange;
use identity::status::FingerprintKey;
use identity::{Class, Fingerprint, Index, Status};

use crate::peer::{Peer, tests::peer};
use crate::pure::authorize::{Asked, Snapshot, Standing, authorize};
use crate::pure::headers::{self, Hop};
use crate::pure::identity_header::IdentityHeader;
use crate::pure::path::check_query;
use crate::pure::rate::Rate;
use crate::pure::request_head::{asked_host, normal_host};
use crate::pure::route::{LimitId, Route, RouteTable};
use crate::pure::route_policy::RoutePolicy;
use crate::pure::tcp_route::TcpRouteTable;
use crate::rate_limits::{Bucket, Caller, RateLimits};
use crate::request::random_request_id;
use crate::shared::{Policy, now};
use crate::status_table::StatusTable;
use crate::trace::Plan;
use crate::{Telemetry, Upstream};

/// With rustc 1.95 and the release profile without LTO, as `tests/run` has them, 3 in 100 are left for other processors and
/// their copies of libc's functions.
const MOST_INSTRUCTIONS: u64 = 17_200;
const MOST_ALLOCATIONS: u64 = 7;

/// What the process that valgrind runs has to do: one of the two below, and how many times.
const WORK: &str = "KEYBOUND_HOT_PATH";
const HEADS: &str = "heads";
const REQUESTS: &str = "requests";

#[test]
fn a_request_costs_so_many_instructions() {
    if let Ok(work) = std::env::var(WORK) {
        return do_as_told(&work);
    }
    // Without optimisation nobody would count.
    if cfg!(debug_assertions) {
        return;
    }
    let counting = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let instructions = of_each(&counting, "Collected : ", 20_000);
    let allocations = of_each(&["--tool=memcheck"], "total heap usage: ", 2_000);
    println!("figure: instructions to decide a request and rewrite its head: {instructions}");
    println!("figure: allocations for it: {allocations}");
    assert!(allocations <= MOST_ALLOCATIONS, "{allocations}");
    assert!(instructions <= MOST_INSTRUCTIONS, "{instructions}");
}

/// What valgrind counts for each of so many requests: both processes begin in the same way, and copy as many heads.
fn of_each(tool: &[&str], before: &str, rounds: u64) -> u64 {
    let counted = [REQUESTS, HEADS].map(|what| count(tool, before, &format!("{what} {rounds}")));
    let [requests, heads] = counted;
    // What differs between two starts is little, to either side.
    (requests - heads + rounds / 2) / rounds
}

/// The number that valgrind tells of a process with this work.
fn count(tool: &[&str], before: &str, work: &str) -> u64 {
    let thread = std::thread::current();
    let output = Command::new("valgrind")
        .args(tool)
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", thread.name().expect("a test")])
        .env(WORK, work)
        .output()
        .expect("tests/run installs valgrind");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let (_, number) = told.split_once(before).expect("a count");
    let number = number.split_whitespace().next().unwrap_or_default();
    number.replace(',', "").parse().expect("a number")
}

fn do_as_told(work: &str) {
    let (what, rounds) = work.split_once(' ').expect("two words");
    let rounds: u64 = rounds.parse().expect("a number");
    let scene = Scene::new();
    for round in 0..rounds {
        let head = scene.head.clone();
        match what {
            HEADS => drop(black_box(head)),
            REQUESTS => {
                // As fast as a device may.
                let instant = scene.begun + Duration::from_millis(10 * round);
                drop(black_box(scene.decide(head, instant)));
            }
            _ => panic!("{WORK}={work}"),
        }
    }
}

/// A device's connection, and what the gateway has at hand for it.
struct Scene {
    peer: Peer,
    status: StatusTable,
    policy: Policy,
    telemetry: ArcSwap<Telemetry>,
    rates: RateLimits,
    bucket: Arc<Bucket>,
    uri: Uri,
    head: HeaderMap,
    forwarded_for: HeaderValue,
    begun: Instant,
}

impl Scene {
    fn new() -> Self {
        let begun = Instant::now();
        let peer = peer((0, 1 << 40), Some("api.example.com"));
        let issued = peer.issued().expect("a device's");
        let day = Duration::from_secs(24 * 60 * 60);
        let status = StatusTable::new(FingerprintKey::new(&[0; 32]), day);
        let change = StatusChange {
            seq: 1,
            index: Index(1),
            certificate: Fingerprint::of(b"certificate"),
            tbs: Fingerprint::of(b"tbs"),
            status: Status::Active,
            class: Class(0),
        };
        status.set(&change).expect("room");
        status.heartbeat(begun);
        let found = status.status(issued.index, issued.fingerprint);
        assert_eq!(found, Status::Active);
        let rates = RateLimits::new();
        let caller = Caller::Device(peer.name().expect("a device's"));
        Self {
            bucket: rates.bucket(caller, LimitId::of_gateway(), begun),
            policy: Policy::new(snapshot(), Arc::default()),
            telemetry: ArcSwap::default(),
            uri: Uri::from_static("/v1/readings?from=2026-11-26"),
            head: head(),
            forwarded_for: headers::forwarded_for(peer.address.ip()),
            peer,
            status,
            rates,
            begun,
        }
    }

    /// The steps of `request::forward` and what stands before it, in their order.
    fn decide(&self, mut headers: HeaderMap, instant: Instant) -> HeaderMap {
        let request_id = random_request_id();
        let plan = Plan::of(&headers, &self.telemetry.load());
        let host = asked_host(&Method::POST, &self.uri, &headers).expect("one host");
        let normal = normal_host(&host).expect("a host");
        let asked = Asked {
            host: &normal,
            path: self.uri.path(),
            websocket: false,
        };
        let issued = self.peer.issued().expect("a device's");
        let standing = Standing {
            status: self.status.status(issued.index, issued.fingerprint),
            class: self.status.class(issued.index),
            fresh: self.status.is_fresh(instant),
            finishing: false,
        };
        let decided = authorize(&self.peer, asked, &self.policy.in_force(), standing, now());
        let permit = decided.expect("a permit");
        let rate = rate();
        let taken = self.rates.take(&self.bucket, &rate, instant);
        taken.expect("not too many");
        headers::clean_request(&mut headers).expect("nothing odd");
        let hop = Hop {
            request_id: &request_id,
            forwarded_for: &self.forwarded_for,
            host: &host,
            assertion: None,
            far: None,
        };
        headers::identify(&mut headers, &permit, &hop).expect("told");
        plan.apply(&mut headers);
        check_query(self.uri.query().unwrap_or_default()).expect("a query");
        headers
    }
}

fn rate() -> Rate {
    let number = |n| std::num::NonZeroU32::new(n).expect("not zero");
    Rate::new(number(200), number(1), number(1_000)).expect("a rate")
}

/// A handful of routes, the one that is asked for among them.
fn snapshot() -> Snapshot {
    let route = |path: &str| Route {
        host: Some("api.example.com".into()),
        path: path.into(),
        upstream: Upstream::of(vec!["http://127.0.0.1:1".parse().expect("legal")]),
        identity: vec![IdentityHeader::DeviceId, IdentityHeader::ClientCert],
        policy: RoutePolicy::default(),
    };
    let routes = ["/", "/v1/", "/v1/firmware/", "/v2/"].map(route);
    Snapshot {
        routes: RouteTable::new(routes.into()).expect("routes"),
        tcp_routes: TcpRouteTable::default(),
        server_names: vec!["api.example.com".into()],
        without_sni: vec![],
    }
}

/// What a device's HTTP library sends.
fn head() -> HeaderMap {
    [
        ("host", "api.example.com"),
        ("user-agent", "thermostat/2.11 (linux; armv7l)"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("content-type", "application/json"),
        ("content-length", "42"),
        ("connection", "keep-alive"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ]
    .into_iter()
    .map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    })
    .collect()
}
