//! Routes that let requests pass without a certificate: those never carry an identity, and no others are let through.

use bytes::Bytes;
use gateway::{ClientMode, Code, Outcome, RoutePolicy, Snapshot};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use identity::Status;
use rustls::AlertDescription;

use crate::client::{Client, Verdict, config, http2_with, verdict};
use crate::identity_names::{Name, judge};
use crate::rig::{Rig, routes_of};

/// `/`: require, `/request`, `/open`: anonymous; and `/closed` at a host of its own.
async fn start() -> Rig {
    let rig = Rig::start().await;
    let client = |client| RoutePolicy {
        client,
        ..RoutePolicy::default()
    };
    let snapshot: Snapshot = routes_of(
        &rig.upstream,
        &[
            (None, "/", RoutePolicy::default()),
            (Some("api.test"), "/request", client(ClientMode::Request)),
            (Some("api.test"), "/open", client(ClientMode::Anonymous)),
            (Some("closed.test"), "/", RoutePolicy::default()),
        ],
    );
    rig.publish(snapshot);
    rig
}

const FORGED: &str = "X-Device-Id: admin\r\nClient-Cert: :AAAA:\r\nX-SSL-Client-Verify: SUCCESS\r\n\
    X-Forwarded-Client-Cert: Hash=1\r\nConnection: X-Device-Id\r\n";

fn carries_no_identity(seen: &str) {
    let seen = seen.to_ascii_lowercase();
    // Of all names by which somebody may learn who calls, those of the hop alone.
    let hop = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-request-id",
    ];
    let lines = seen
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    for (name, _) in lines.filter(|(name, _)| !hop.contains(name)) {
        assert_eq!(judge(name), Name::Ordinary, "{name} in {seen}");
    }
    assert!(!seen.contains("admin"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n"), "{seen}");
    assert!(seen.contains("x-request-id: "), "{seen}");
}

#[tokio::test]
async fn a_request_without_certificate_carries_no_identity_and_reaches_no_other_route() {
    let mut rig = start().await;
    let mut client = Client::connect_without(&rig, "api.test").await;
    for path in ["/open/x", "/request/x", "/open"] {
        assert_eq!(client.get(path, FORGED).await.status(), 200);
        let seen = rig.upstream.take();
        assert!(seen.starts_with(&format!("GET {path} ")), "{seen}");
        carries_no_identity(&seen);
        let record = rig.next_record().await;
        assert_eq!(record.outcome, Outcome::ForwardedAnonymously);
        assert_eq!((&record.device, record.serial), (&None, None));
        assert_eq!(record.address.ip().to_string(), "127.0.0.1");
        // The next one on the same connection is judged for itself.
        let refused = client.get("/", FORGED).await;
        assert_eq!(refused.refusal(), (403, "certificate-required".into()));
        assert_eq!(
            rig.next_outcome().await,
            Outcome::Refused(Code::CertificateRequired)
        );
        for disguised in ["X_Device_Id: admin\r\n", "Client.Cert: x\r\n"] {
            let refused = client.get(path, disguised).await;
            assert_eq!(refused.refusal(), (400, "identity-header-spelling".into()));
            rig.next_record().await;
        }
    }
    for path in ["/open/../secret", "/open/%2e%2e/secret", "/OPEN", "//open"] {
        let status = client.get(path, "").await.status();
        assert!(matches!(status, 400 | 403), "{path}: {status}");
    }
    assert_eq!(rig.upstream.take(), "");
    assert_eq!(rig.metric("anonymous_requests_total"), "9");
    assert!(rig.sightings.try_recv().is_err());
}

#[tokio::test]
async fn http2_is_held_to_the_same() {
    let mut rig = start().await;
    let (mut sender, _driver) = http2_with(&rig, None).await;
    for (uri, status) in [
        ("https://api.test/open", 200),
        ("https://api.test/request", 200),
        ("https://api.test/", 403),
        ("https://closed.test/open", 421),
        ("https://api.test/open/again", 200),
    ] {
        let request = Request::post(uri)
            .header("x-device-id", "admin")
            .header("client-cert", ":AAAA:")
            .body(Full::new(Bytes::from_static(b"hello")))
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), status, "{uri}");
        response.into_body().collect().await.expect("a body");
        let seen = rig.upstream.take();
        if status == 200 {
            carries_no_identity(&seen);
        } else {
            assert_eq!(seen, "");
        }
    }
    let record = rig.next_record().await;
    assert_eq!(record.outcome, Outcome::ForwardedAnonymously);
}

#[tokio::test]
async fn a_device_is_told_of_where_it_is_asked_for_and_must_be_good() {
    let mut rig = start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/request", FORGED).await.status(), 200);
    let seen = rig.upstream.take();
    assert!(seen.contains("x-device-id: a\r\n"), "{seen}");
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    assert_eq!(client.get("/open", FORGED).await.status(), 200);
    carries_no_identity(&rig.upstream.take());
    let record = rig.next_record().await;
    assert_eq!(record.outcome, Outcome::ForwardedAnonymously);
    assert_eq!((&record.device, record.serial), (&None, None));

    rig.set(&device, Status::Revoked).await;
    assert!(client.ends().await);
    // It does not become nobody.
    let mut client = Client::connect(&rig, &device).await;
    let refused = client.get("/request", "").await;
    assert_eq!(refused.refusal(), (403, "revoked".into()));
    assert_eq!(rig.upstream.take(), "");
    // Where nobody looks, nobody looks.
    assert_eq!(client.get("/open", "").await.status(), 200);
    carries_no_identity(&rig.upstream.take());
    let unregistered = rig.authority.device("b", 2);
    let mut client = Client::connect(&rig, &unregistered).await;
    let refused = client.get("/request", "").await;
    assert_eq!(refused.refusal(), (403, "unregistered".into()));
}

#[tokio::test]
async fn other_names_ask_for_a_certificate_in_the_handshake() {
    let rig = start().await;
    for name in ["closed.test", "127.0.0.1", "unknown.test"] {
        let refused = Client::try_without(&rig, name).await;
        assert_eq!(
            refused,
            Verdict::Alert(AlertDescription::CertificateRequired),
            "{name}"
        );
    }
    // A stranger's certificate is refused here as anywhere.
    let other = Rig::start().await;
    let stranger = other.authority.device("a", 1);
    let config = config(&rig, Some(&stranger), "http/1.1");
    assert!(matches!(verdict(&rig, config).await, Verdict::Alert(_)));
    let mut client = Client::connect_without(&rig, "api.test").await;
    client
        .send("GET /open HTTP/1.1\r\nHost: closed.test\r\n\r\n")
        .await;
    let refused = client.answer().await.expect("an answer");
    assert_eq!(refused.refusal(), (421, "host-mismatch".into()));
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn addresses_share_no_limit_with_devices() {
    let mut rig = Rig::start_with(gateway::Limits {
        max_connections_per_device: 1,
        max_connections_per_address: 2,
        ..gateway::Limits::default()
    })
    .await;
    let open = RoutePolicy {
        client: ClientMode::Request,
        ..RoutePolicy::default()
    };
    rig.publish(routes_of(&rig.upstream, &[(None, "/", open)]));
    let device = rig.device("a", 1).await;
    let mut of_device = Client::connect(&rig, &device).await;
    assert_eq!(of_device.get("/", "").await.status(), 200);
    let mut first = Client::connect_without(&rig, "api.test").await;
    assert_eq!(first.get("/", "").await.status(), 200);
    let mut second = Client::connect_without(&rig, "api.test").await;
    assert_eq!(second.get("/", "").await.status(), 200);
    assert_eq!(first.get("/", "").await.status(), 200);
    let mut third = Client::connect_without(&rig, "api.test").await;
    assert_eq!(third.get("/", "").await.status(), 200);
    assert!(first.ends().await);
    assert_eq!(second.get("/", "").await.status(), 200);
    assert_eq!(of_device.get("/", "").await.status(), 200);
}
