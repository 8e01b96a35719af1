//! Routes that only report: whoever would be refused passes and carries no identity, and the record says why.

use std::num::NonZeroU32;

use gateway::{ClientMode, Code, Outcome, Rate, RateLimit, RateScope, RoutePolicy};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use identity::Status;

use crate::client::{Client, Verdict, config_of_chain, http2_with, verdict};
use crate::rig::{Rig, routes_of};

const FORGED: &str =
    "X-Device-Id: admin\r\nClient-Cert: :AAAA:\r\nX-SSL-Client-Verify: SUCCESS\r\n";

/// `/`: only reported; `/closed`: require; and a name of its own that only lets devices in.
async fn start(policy: RoutePolicy) -> Rig {
    let rig = Rig::start().await;
    rig.publish(routes_of(
        &rig.upstream,
        &[
            (Some("api.test"), "/", policy),
            (Some("api.test"), "/closed", RoutePolicy::default()),
            (Some("closed.test"), "/", RoutePolicy::default()),
        ],
    ));
    rig
}

fn report_only() -> RoutePolicy {
    RoutePolicy {
        client: ClientMode::ReportOnly,
        ..RoutePolicy::default()
    }
}

/// Asks once, and sees that nobody is told of and that the record says what would have been.
async fn passes_as_nobody(rig: &mut Rig, client: &mut Client, device: Option<&str>, code: Code) {
    assert_eq!(client.get("/x", FORGED).await.status(), 200);
    let seen = rig.upstream.take().to_ascii_lowercase();
    assert!(seen.starts_with("get /x "), "{seen}");
    for absent in ["x-device-id", "client-cert", "x-ssl-client", "admin"] {
        assert!(!seen.contains(absent), "{absent} in {seen}");
    }
    let record = rig.next_record().await;
    assert_eq!(record.outcome, Outcome::ForwardedAnonymously);
    assert_eq!(record.reported, Some(code));
    assert_eq!(record.status, Some(200));
    let named = record.device.as_ref().map(ToString::to_string);
    assert_eq!(named.as_deref(), device);
    let metric = format!("reported_refusals_total{{code=\"{}\"}}", code.as_str());
    assert_eq!(rig.metric(&metric), "1");
    // The other route of the name has not become lenient.
    let refused = client.get("/closed", FORGED).await;
    assert_eq!(refused.refusal(), (403, code.as_str().to_owned()));
    assert_eq!(rig.upstream.take(), "");
    rig.next_record().await;
}

#[tokio::test]
async fn whoever_would_be_refused_passes_as_nobody() {
    let mut rig = start(report_only()).await;
    let good = rig.device("good", 1).await;
    let mut client = Client::connect(&rig, &good).await;
    assert_eq!(client.get("/x", FORGED).await.status(), 200);
    let seen = rig.upstream.take();
    assert!(seen.contains("x-device-id: good\r\n"), "{seen}");
    let record = rig.next_record().await;
    assert_eq!(
        (record.outcome, record.reported),
        (Outcome::Forwarded, None)
    );

    let mut nobody = Client::connect_without(&rig, "api.test").await;
    passes_as_nobody(&mut rig, &mut nobody, None, Code::CertificateRequired).await;

    let other = Rig::start().await;
    let stranger = other.authority.device("good", 1);
    let mut client = Client::connect(&rig, &stranger).await;
    passes_as_nobody(&mut rig, &mut client, None, Code::CertificateUntrusted).await;

    let unregistered = rig.authority.device("ghost", 7);
    let mut client = Client::connect(&rig, &unregistered).await;
    passes_as_nobody(&mut rig, &mut client, Some("ghost"), Code::Unregistered).await;

    // A revocation ends the connection here as everywhere; the next one passes as nobody.
    let mut client = Client::connect(&rig, &good).await;
    assert_eq!(client.get("/x", "").await.status(), 200);
    rig.set(&good, Status::Revoked).await;
    assert!(client.ends().await);
    rig.upstream.take();
    rig.next_record().await;
    let mut client = Client::connect(&rig, &good).await;
    passes_as_nobody(&mut rig, &mut client, Some("good"), Code::Revoked).await;
}

#[tokio::test]
async fn other_names_let_no_stranger_in() {
    let rig = start(report_only()).await;
    let other = Rig::start().await;
    let stranger = other.authority.device("a", 1);
    for name in ["closed.test", "127.0.0.1", "unknown.test"] {
        let refused = Client::try_as(&rig, &stranger, name).await;
        assert!(matches!(refused, Verdict::Alert(_)), "{name}: {refused:?}");
    }
    // Who does not hold the certificate's key is refused everywhere.
    let device = rig.authority.device("b", 2);
    let key = rig.authority.device("c", 3).key();
    let chain = Some((vec![device.certificate.clone()], key));
    let refused = verdict(&rig, config_of_chain(&rig, chain, "http/1.1")).await;
    assert!(matches!(refused, Verdict::Alert(_)), "{refused:?}");
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn a_stranger_over_http2_is_nobody_on_every_stream() {
    let rig = start(report_only()).await;
    let other = Rig::start().await;
    let stranger = other.authority.device("a", 1);
    let (mut sender, _driver) = http2_with(&rig, Some(&stranger)).await;
    for (uri, status) in [
        ("https://api.test/x", 200),
        ("https://api.test/closed", 403),
        ("https://closed.test/", 403),
        ("https://api.test/y", 200),
    ] {
        let request = Request::post(uri)
            .header("x-device-id", "admin")
            .body(Full::default())
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), status, "{uri}");
        response.into_body().collect().await.expect("a body");
        let seen = rig.upstream.take();
        assert!(!seen.contains("x-device-id"), "{seen}");
        assert_eq!(seen.is_empty(), status != 200);
    }
}

#[tokio::test]
async fn a_rate_is_reported_and_the_device_is_told_of() {
    let number = |number| NonZeroU32::new(number).expect("not zero");
    let mut rig = start(RoutePolicy {
        rate: Some(RateLimit {
            rate: Rate::new(number(1), number(3600), number(1)).expect("a rate"),
            scope: RateScope::Route,
        }),
        max_body: Some(4),
        ..report_only()
    })
    .await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    for reported in [None, Some(Code::RateLimited), Some(Code::RateLimited)] {
        assert_eq!(client.get("/", "").await.status(), 200);
        let seen = rig.upstream.take();
        assert!(seen.contains("x-device-id: a\r\n"), "{seen}");
        let record = rig.next_record().await;
        assert_eq!(record.outcome, Outcome::Forwarded);
        assert_eq!(record.reported, reported);
    }
    // Sizes hold: they are the upstream's protection, and say nothing of who asks.
    client
        .send("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let refused = client.answer().await.expect("an answer");
    assert_eq!(refused.refusal(), (413, "body-too-large".into()));
}

#[tokio::test]
async fn a_certificate_that_a_dialect_cannot_hold_is_reported() {
    let mut rig = start(report_only()).await;
    let odd = rig.authority.device_with("a", 1, |params| {
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "a\"b;c,d");
    });
    rig.set(&odd, Status::Active).await;
    let mut client = Client::connect(&rig, &odd).await;
    assert_eq!(client.get("/", FORGED).await.status(), 200);
    let seen = rig.upstream.take().to_ascii_lowercase();
    assert!(!seen.contains("x-device-id"), "{seen}");
    let record = rig.next_record().await;
    assert_eq!(record.outcome, Outcome::ForwardedAnonymously);
    assert_eq!(record.reported, Some(Code::IdentityInvalid));
}
