//! Routes that open no WebSockets: however one is asked for, the upstream hears nothing of it.

use bytes::Bytes;
use gateway::{ClientMode, Code, Outcome, RoutePolicy};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use identity::{Problem, Status};

use crate::client::{Client, http2};
use crate::rig::{Rig, routes_of};

/// `/ws` and everything else opens them; below it are routes that do not.
async fn start() -> Rig {
    let rig = Rig::start().await;
    let plain = |client| RoutePolicy {
        client,
        refuses_websockets: true,
        ..RoutePolicy::default()
    };
    rig.publish(routes_of(
        &rig.upstream,
        &[
            (None, "/", RoutePolicy::default()),
            (None, "/ws/plain", plain(ClientMode::Require)),
            (None, "/ws/open", plain(ClientMode::Anonymous)),
            (None, "/ws/report", plain(ClientMode::ReportOnly)),
        ],
    ));
    rig
}

/// Everything is on one route, which opens none.
fn close(rig: &Rig) {
    let policy = RoutePolicy {
        refuses_websockets: true,
        ..RoutePolicy::default()
    };
    rig.publish(routes_of(&rig.upstream, &[(None, "/", policy)]));
}

const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn upgrade(client: &mut Client, path: &str, fields: &str) -> crate::client::Answer {
    client.get(path, &format!("{fields}{KEY}")).await
}

async fn connect(sender: &mut SendRequest<Full<Bytes>>, path: &str) -> (u16, String) {
    let request = Request::connect(format!("https://api.test{path}"))
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static("websocket"))
        .body(Full::default());
    let answer = sender.send_request(request.expect("a request")).await;
    let answer = answer.expect("an answer");
    let status = answer.status().as_u16();
    if status == 200 {
        // It is open, and has no end.
        return (status, String::new());
    }
    let body = answer.into_body().collect().await.expect("a body");
    let problem: Problem = serde_json::from_slice(&body.to_bytes()).expect("a problem");
    (status, problem.code)
}

fn refusal() -> (u16, String) {
    (403, "websocket-not-allowed".to_owned())
}

#[tokio::test]
async fn over_http1_in_every_spelling() {
    let mut rig = start().await;
    let device = rig.device("a", 1).await;
    for path in ["/ws/plain", "/ws/plain/x?y", "/ws/open"] {
        for fields in [
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            "connection: keep-alive,UPGRADE\r\nupgrade: WebSocket\r\n",
            "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
            "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
            "Connection: close\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        ] {
            let mut client = Client::connect(&rig, &device).await;
            let answer = upgrade(&mut client, path, fields).await;
            assert_eq!(answer.refusal(), refusal(), "{path} {fields:?}");
            let refused = Outcome::Refused(Code::WebsocketNotAllowed);
            assert_eq!(rig.next_outcome().await, refused);
            // Bytes that were meant for a tunnel are no requests.
            assert!(client.ends().await, "{fields:?}");
            assert_eq!(rig.upstream.take(), "", "{path} {fields:?}");
        }
    }
    let metric = "refusals_total{code=\"websocket-not-allowed\"}";
    assert_eq!(rig.metric(metric), "15");
    // What asks for none passes as on any route, and is not told of an upgrade.
    close(&rig);
    let mut client = Client::connect(&rig, &device).await;
    for fields in [
        "",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket/13\r\n",
    ] {
        assert_eq!(client.get("/x", fields).await.status(), 200, "{fields:?}");
        let seen = rig.upstream.take().to_ascii_lowercase();
        assert!(
            seen.starts_with("get /x ") && !seen.contains("upgrade"),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn over_http2_beside_other_streams() {
    let mut rig = start().await;
    let device = rig.device("a", 1).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    for path in ["/ws/plain", "/ws/open"] {
        assert_eq!(connect(&mut sender, path).await, refusal(), "{path}");
        let refused = Outcome::Refused(Code::WebsocketNotAllowed);
        assert_eq!(rig.next_outcome().await, refused);
        assert_eq!(rig.upstream.take(), "", "{path}");
    }
    // The connection goes on, and other routes open them.
    assert_eq!(connect(&mut sender, "/ws").await.0, 200);
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    assert!(rig.upstream.take().contains("upgrade: websocket\r\n"));
    // A reload closes the route for what is asked after it.
    close(&rig);
    assert_eq!(connect(&mut sender, "/ws").await, refusal());
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn whoever_is_not_let_in_hears_that_first() {
    let mut rig = start().await;
    let device = rig.device("a", 1).await;
    rig.set(&device, Status::Revoked).await;
    let mut client = Client::connect(&rig, &device).await;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let answer = upgrade(&mut client, "/ws/plain", fields).await;
    assert_eq!(answer.refusal(), (403, "revoked".to_owned()));
    let (mut sender, _driver) = http2(&rig, &device).await;
    let heard = connect(&mut sender, "/ws/plain").await;
    assert_eq!(heard, (403, "revoked".to_owned()));
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn a_route_that_only_reports_opens_them_and_tells_of_the_device() {
    let mut rig = start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let answer = upgrade(&mut client, "/ws/report", fields).await;
    assert_eq!(answer.status(), 101);
    client.send("ping").await;
    assert_eq!(client.exactly(4).await.as_deref(), Some("ping"));
    let (mut sender, _driver) = http2(&rig, &device).await;
    assert_eq!(connect(&mut sender, "/ws/report").await.0, 200);
    for _ in 0..2 {
        let record = rig.next_record().await;
        assert_eq!(record.outcome, Outcome::Forwarded);
        assert_eq!(record.reported, Some(Code::WebsocketNotAllowed));
    }
    let seen = rig.upstream.take();
    assert_eq!(seen.matches("\r\nx-device-id: a\r\n").count(), 2, "{seen}");
    let metric = "reported_refusals_total{code=\"websocket-not-allowed\"}";
    assert_eq!(rig.metric(metric), "2");
}
