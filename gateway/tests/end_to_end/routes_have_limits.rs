//! Limits of routes: how often a device may ask, and how long heads and bodies may be.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use gateway::{ClientMode, Code, Outcome, Rate, RateLimit, RateScope, RoutePolicy};
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::client::{Client, http2};
use crate::rig::{Rig, routes_of};

/// One request per minute after a burst, so that a slow machine changes nothing.
fn limit(burst: u32, scope: RateScope) -> RoutePolicy {
    let number = |n| NonZeroU32::new(n).expect("not zero");
    let rate = Rate::new(number(1), number(60), number(burst)).expect("a rate");
    RoutePolicy {
        rate: Some(RateLimit { rate, scope }),
        ..RoutePolicy::default()
    }
}

fn retry_after(answer: &crate::client::Answer) -> u64 {
    let after = answer.head.split("retry-after: ").nth(1).expect("a time");
    let digits = after.split("\r\n").next().unwrap_or_default();
    digits.parse().expect("seconds")
}

#[tokio::test]
async fn a_device_is_held_to_its_rate_over_all_its_connections() {
    let mut rig = Rig::start().await;
    rig.publish(routes_of(
        &rig.upstream,
        &[
            (None, "/", limit(4, RateScope::Gateway)),
            (None, "/same", limit(4, RateScope::Gateway)),
            (None, "/own", limit(2, RateScope::Route)),
            (None, "/free", RoutePolicy::default()),
        ],
    ));
    let device = rig.device("a", 1).await;
    let other = rig.device("b", 2).await;
    let mut client = Client::connect(&rig, &device).await;
    let mut second = Client::connect(&rig, &device).await;
    for client in [&mut client, &mut second] {
        assert_eq!(client.get("/", "").await.status(), 200);
        assert_eq!(client.get("/same", "").await.status(), 200);
    }
    for _ in 0..4 {
        rig.next_record().await;
    }
    let refused = second.get("/", "").await;
    assert_eq!(refused.refusal(), (429, "rate-limited".into()));
    assert!((50..=60).contains(&retry_after(&refused)), "{refused:?}");
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::RateLimited)
    );
    assert_eq!(client.get("/same", "").await.status(), 429);
    // Connecting anew gains nothing, with whichever certificate of the device.
    drop((client, second));
    rig.upstream.take();
    let renewed = rig.device("a", 3).await;
    for identity in [&device, &renewed] {
        let mut client = Client::connect(&rig, identity).await;
        assert_eq!(client.get("/", "").await.status(), 429);
        assert_eq!(rig.upstream.take(), "");
    }
    // A route's own limit is counted for itself, and other devices for themselves.
    let mut client = Client::connect(&rig, &device).await;
    let statuses = [
        client.get("/own", "").await.status(),
        client.get("/own", "").await.status(),
        client.get("/own", "").await.status(),
        client.get("/free", "").await.status(),
    ];
    assert_eq!(statuses, [200, 200, 429, 200]);
    let mut client = Client::connect(&rig, &other).await;
    assert_eq!(client.get("/", "").await.status(), 200);
    // What is refused for another reason costs nothing.
    assert_eq!(client.get("/nowhere/../x", "").await.status(), 400);
    // The limit stays what it was when the routes are replaced.
    rig.publish(routes_of(
        &rig.upstream,
        &[
            (None, "/own", limit(2, RateScope::Route)),
            (None, "/new", limit(2, RateScope::Route)),
        ],
    ));
    let mut client = Client::connect(&rig, &device).await;
    let statuses = [
        client.get("/own", "").await.status(),
        client.get("/new", "").await.status(),
    ];
    assert_eq!(statuses, [429, 200]);
}

#[tokio::test]
async fn a_device_may_ask_again_when_it_was_told() {
    let mut rig = Rig::start().await;
    let number = |n| NonZeroU32::new(n).expect("not zero");
    let rate = Rate::new(number(1), number(1), number(1)).expect("a rate");
    let policy = RoutePolicy {
        rate: Some(RateLimit {
            rate,
            scope: RateScope::Gateway,
        }),
        ..RoutePolicy::default()
    };
    rig.publish(routes_of(&rig.upstream, &[(None, "/", policy)]));
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", "").await.status(), 200);
    let refused = client.get("/", "").await;
    assert_eq!((refused.status(), retry_after(&refused)), (429, 1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.get("/", "").await.status(), 200);
}

#[tokio::test]
async fn without_identity_an_address_is_held_to_the_routes_own_rate() {
    let rig = Rig::start().await;
    let anonymous = |policy| RoutePolicy {
        client: ClientMode::Anonymous,
        ..policy
    };
    rig.publish(routes_of(
        &rig.upstream,
        &[
            (None, "/", anonymous(limit(1, RateScope::Gateway))),
            (None, "/own", anonymous(limit(1, RateScope::Route))),
        ],
    ));
    let mut statuses = Vec::new();
    for path in ["/", "/", "/own", "/own"] {
        let mut client = Client::connect_without(&rig, "api.test").await;
        statuses.push(client.get(path, "").await.status());
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
}

#[tokio::test]
async fn long_heads_and_bodies_reach_no_upstream() {
    let mut rig = Rig::start().await;
    let policy = RoutePolicy {
        max_head: Some(200),
        max_body: Some(10),
        ..RoutePolicy::default()
    };
    rig.publish(routes_of(
        &rig.upstream,
        &[(None, "/", policy), (None, "/free", RoutePolicy::default())],
    ));
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let long = format!("X-Long: {}\r\n", "x".repeat(200));
    assert_eq!(client.get("/", "").await.status(), 200);
    assert_eq!(client.get("/free", &long).await.status(), 200);
    rig.upstream.take();
    let refused = client.get("/", &long).await;
    assert_eq!(refused.refusal(), (431, "head-too-large".into()));
    assert_eq!(rig.upstream.take(), "");

    let post = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: api.test\r\nContent-Length: {length}\r\n\r\n")
    };
    client.send(&format!("{}0123456789", post("/", 10))).await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    client
        .send(&format!("{}0123456789a", post("/free", 11)))
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    rig.upstream.take();
    // Refused by its length: no byte of the body was sent, and none is waited for.
    client.send(&post("/", 11)).await;
    let refused = client.answer().await.expect("an answer");
    assert_eq!(refused.refusal(), (413, "body-too-large".into()));
    assert!(client.ends().await);
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn a_body_without_length_is_cut_when_it_is_too_long() {
    let mut rig = Rig::start().await;
    let policy = RoutePolicy {
        max_body: Some(10),
        ..RoutePolicy::default()
    };
    rig.publish(routes_of(&rig.upstream, &[(None, "/", policy)]));
    let device = rig.device("a", 1).await;
    let chunked = "POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    // Byte by byte, and the one too many in a chunk that also ends the body.
    for body in [
        "5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n",
        "b\r\n0123456789a\r\n0\r\n\r\n",
    ] {
        let mut client = Client::connect(&rig, &device).await;
        client.send(&format!("{chunked}{body}")).await;
        let refused = client.answer().await.expect("an answer");
        assert_eq!(refused.refusal(), (413, "body-too-large".into()));
        rig.upstream.wait_for_open(0).await;
        let seen = rig.upstream.take();
        assert!(!seen.contains("0\r\n\r\n"), "{seen}");
        assert!(!seen.contains("789a"), "{seen}");
    }
    // One that is just not too long is passed on whole.
    let mut client = Client::connect(&rig, &device).await;
    client
        .send(&format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    assert!(rig.upstream.take().ends_with("0\r\n\r\n"));
    // Over HTTP/2.
    let (mut sender, _driver) = http2(&rig, &device).await;
    let request = Request::post("https://api.test/")
        .body(Full::new(Bytes::from_static(b"0123456789a")))
        .expect("a request");
    let refused = sender.send_request(request).await.expect("an answer");
    assert_eq!(refused.status(), 413);
    let body = refused.into_body().collect().await.expect("a body");
    assert!(String::from_utf8_lossy(&body.to_bytes()).contains("body-too-large"));
    assert_eq!(rig.upstream.take(), "");
}
