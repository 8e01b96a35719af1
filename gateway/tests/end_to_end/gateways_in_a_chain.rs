//! A gateway in front of this one speaks for the devices behind it: with its own certificate, and a signed assertion for each.

use std::sync::Arc;

use gateway::{
    ClientMode, Code, IdentityHeader, KeySet, Outcome, Route, RoutePolicy, RouteTable, Snapshot,
    TrustedGateway, Upstream,
};
use identity::{DeviceId, Name, SpiffeId, Status};

use crate::authority::Identity;
use crate::client::Client;
use crate::rig::{Rig, routes_of};

const AUDIENCE: &str = "https://*/";

/// The gateway in front: a rig of its own, whose upstream shows what it would send on.
struct Outer {
    rig: Rig,
    device: Identity,
}

impl Outer {
    async fn start() -> Self {
        let mut rig = Rig::start().await;
        let device = rig.device("thermostat-7", 1).await;
        rig.publish(with_forms(
            &rig,
            RoutePolicy::default(),
            vec![IdentityHeader::Assertion],
        ));
        Self { rig, device }
    }

    /// The header line that it sends for its device.
    async fn assertion(&self) -> String {
        self.rig.upstream.take();
        let mut client = Client::connect(&self.rig, &self.device).await;
        assert_eq!(client.get("/", "").await.status(), 200);
        let seen = self.rig.upstream.take();
        let line = seen
            .lines()
            .find(|line| line.starts_with("x-device-assertion: "));
        format!("{}\r\n", line.expect("an assertion"))
    }

    fn trusted(&self, device: &str) -> Arc<TrustedGateway> {
        let keys = self.rig.assertions.key_set();
        Arc::new(TrustedGateway {
            name: Name::parse("edge").expect("legal"),
            device: DeviceId::parse(device).expect("legal"),
            issuer: SpiffeId::parse("spiffe://keybound.test/gateway/a").expect("legal"),
            audience: AUDIENCE.into(),
            keys: KeySet::parse(keys.as_bytes()).expect("keys"),
        })
    }
}

fn with_forms(rig: &Rig, policy: RoutePolicy, identity: Vec<IdentityHeader>) -> Snapshot {
    let upstream = format!("http://{}", rig.upstream.address);
    let route = Route {
        host: None,
        path: "/".into(),
        upstream: Upstream::of(vec![upstream.parse().expect("an upstream")]),
        identity,
        policy,
    };
    Snapshot {
        routes: RouteTable::new(vec![route]).expect("routes"),
        ..routes_of(&rig.upstream, &[])
    }
}

/// The inner gateway, where the outer one is the device `edge-1`.
async fn inner(outer: &Outer, client: ClientMode) -> (Rig, Identity) {
    let mut rig = Rig::start().await;
    let edge = rig.device("edge-1", 1).await;
    let policy = RoutePolicy {
        client,
        via: vec![outer.trusted("Edge-1")],
        ..RoutePolicy::default()
    };
    let forms = vec![IdentityHeader::DeviceId, IdentityHeader::Assertion];
    rig.publish(with_forms(&rig, policy, forms));
    (rig, edge)
}

#[tokio::test]
async fn the_device_behind_is_told_and_so_is_the_way() {
    let outer = Outer::start().await;
    let (mut rig, edge) = inner(&outer, ClientMode::Require).await;
    let line = outer.assertion().await;
    let mut client = Client::connect(&rig, &edge).await;
    let forged = "X-Device-Id: admin\r\nX-Device-Via: nobody\r\n";
    for _ in 0..2 {
        assert_eq!(
            client.get("/", &format!("{line}{forged}")).await.status(),
            200
        );
        let seen = rig.upstream.take();
        assert!(
            seen.contains("\r\nx-device-id: edge:thermostat-7\r\n"),
            "{seen}"
        );
        let via = "\r\nx-device-via: spiffe://keybound.test/gateway/a\r\n";
        assert!(seen.contains(via), "{seen}");
        assert_eq!(seen.matches("x-device-").count(), 3, "{seen}");
        // Signed anew, by this gateway.
        assert!(seen.contains("\r\nx-device-assertion: "), "{seen}");
        assert!(!seen.contains(line.trim_end()), "{seen}");
        let record = rig.next_record().await;
        assert_eq!(record.outcome, Outcome::Forwarded);
        let device = record.device.as_ref().map(ToString::to_string);
        assert_eq!(device.as_deref(), Some("edge-1"));
        assert_eq!(record.on_behalf_of.as_deref(), Some("edge:thermostat-7"));
    }

    // Revoked, it speaks for nobody.
    rig.set(&edge, Status::Revoked).await;
    assert!(client.ends().await);
    let mut client = Client::connect(&rig, &edge).await;
    let refused = client.get("/", &line).await;
    assert_eq!(refused.refusal(), (403, "revoked".into()));
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn what_is_not_proven_is_not_told() {
    let outer = Outer::start().await;
    let (mut rig, edge) = inner(&outer, ClientMode::Require).await;
    let line = outer.assertion().await;
    let other_outer = Outer::start().await;
    let other = other_outer.assertion().await;
    let mut client = Client::connect(&rig, &edge).await;
    let twice = format!("{line}{line}");
    let altered = line.replace(".", "..");
    for lines in [
        "",
        &twice,
        &altered,
        &other,
        "X-Device-Assertion: \r\n",
        "X-Device-Id: a\r\n",
    ] {
        let refused = client.get("/", lines).await;
        assert_eq!(
            refused.refusal(),
            (403, "assertion-invalid".into()),
            "{lines}"
        );
        let outcome = rig.next_outcome().await;
        assert_eq!(outcome, Outcome::Refused(Code::AssertionInvalid));
        assert_eq!(rig.upstream.take(), "");
    }
    // Nobody but the gateway that made it may show it: it is stripped like every forged one.
    let device = rig.device("a", 2).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", &line).await.status(), 200);
    let seen = rig.upstream.take();
    assert!(seen.contains("\r\nx-device-id: a\r\n"), "{seen}");
    assert!(
        !seen.contains("thermostat") && !seen.contains("x-device-via"),
        "{seen}"
    );
    assert!(!seen.contains(line.trim_end()), "{seen}");
    assert_eq!(rig.next_record().await.on_behalf_of, None);
}

#[tokio::test]
async fn a_certificate_that_stayed_in_front_is_not_made_up() {
    let outer = Outer::start().await;
    let mut rig = Rig::start().await;
    let edge = rig.device("edge-1", 1).await;
    let policy = RoutePolicy {
        via: vec![outer.trusted("edge-1")],
        ..RoutePolicy::default()
    };
    rig.publish(with_forms(&rig, policy, IdentityHeader::ALL.to_vec()));
    let mut client = Client::connect(&rig, &edge).await;
    let refused = client.get("/", &outer.assertion().await).await;
    assert_eq!(refused.refusal(), (403, "identity-invalid".into()));
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn where_nothing_is_refused_it_passes_as_nobody() {
    let outer = Outer::start().await;
    let (mut rig, edge) = inner(&outer, ClientMode::ReportOnly).await;
    let mut client = Client::connect(&rig, &edge).await;
    assert_eq!(client.get("/", "X-Device-Id: a\r\n").await.status(), 200);
    let seen = rig.upstream.take();
    assert!(!seen.contains("x-device-"), "{seen}");
    let record = rig.next_record().await;
    assert_eq!(record.reported, Some(Code::AssertionInvalid));
    assert_eq!(
        client.get("/", &outer.assertion().await).await.status(),
        200
    );
    let seen = rig.upstream.take();
    assert!(
        seen.contains("x-device-id: edge:thermostat-7\r\n"),
        "{seen}"
    );
}
