//! What is told of requests, tunnels and streams once they have ended, and what is counted.

use std::time::Duration;

use gateway::{Code, Ending, Exchange, Outcome};
use identity::Status;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use crate::client::{Client, http2};
use crate::rig::Rig;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";

async fn next(rig: &mut Rig) -> Exchange {
    timeout(Duration::from_secs(10), rig.exchanges.recv())
        .await
        .expect("an exchange in time")
        .expect("an exchange")
}

#[tokio::test]
async fn a_request_is_told_when_its_answer_has_ended() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let long = "x".repeat(1_000);
    client
        .send(&format!(
            "POST /cert/x?secret HTTP/1.1\r\nHost: api.test\r\nUser-Agent: {long}\r\nReferer: \u{e9}\r\nContent-Length: 5\r\n\r\nhello"
        ))
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    let told = next(&mut rig).await;
    let record = rig.next_record().await;
    assert_eq!(told.record, record);
    assert_eq!(record.outcome, Outcome::Forwarded);
    assert_eq!(
        (told.received, told.sent, told.ending),
        (5, 2, Ending::Complete)
    );
    assert_eq!(
        (told.http_version, told.tls_version),
        (Some("HTTP/1.1"), "TLSv1.3")
    );
    assert_eq!(told.user_agent.as_deref(), Some(&long[..256]));
    assert_eq!(told.referer.as_deref(), Some("\u{e9}"));
    assert_eq!(told.route.as_deref(), Some("/cert"));
    let upstream = format!("http://{}", rig.upstream.address);
    assert_eq!(told.upstream.as_deref(), Some(upstream.as_str()));
    assert!(told.upstream_latency.expect("an answer") <= told.duration);

    // A refusal is whole, and asks nobody.
    assert_eq!(client.get("/a/../b", "").await.status(), 400);
    let told = next(&mut rig).await;
    assert_eq!(told.record.outcome, Outcome::Refused(Code::PathRefused));
    assert_eq!(
        (told.upstream, told.received, told.ending),
        (None, 0, Ending::Complete)
    );
    assert!(told.sent > 50, "{}", told.sent);

    // Over HTTP/2, without a byte of body.
    let (mut sender, _driving) = http2(&rig, &device).await;
    let head = http::Request::head("https://api.test/")
        .body(http_body_util::Full::<bytes::Bytes>::default())
        .expect("legal");
    sender.send_request(head).await.expect("an answer");
    let told = next(&mut rig).await;
    assert_eq!(told.http_version, Some("HTTP/2.0"));
    assert_eq!((told.sent, told.ending), (0, Ending::Complete));
}

#[tokio::test]
async fn how_an_exchange_ended_is_told() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    // Nobody waits for the answer.
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("GET /hang HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    sleep(Duration::from_millis(100)).await;
    assert!(rig.exchanges.try_recv().is_err());
    drop(client);
    let told = next(&mut rig).await;
    assert_eq!(
        (told.record.outcome, told.record.status),
        (Outcome::Abandoned, None)
    );
    assert_eq!(told.ending, Ending::Client);

    // Or for its end.
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/slow", "").await.status(), 200);
    client.exactly(2_000).await.expect("some of it");
    drop(client);
    let told = next(&mut rig).await;
    assert_eq!(
        (told.record.outcome, told.ending),
        (Outcome::Forwarded, Ending::Client)
    );
    assert!(told.sent >= 2_000, "{}", told.sent);

    // Nobody answers, but somebody was asked.
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/close", "").await.status(), 502);
    let told = next(&mut rig).await;
    let upstream = format!("http://{}", rig.upstream.address);
    assert_eq!(told.upstream.as_deref(), Some(upstream.as_str()));
    assert_eq!(
        (told.upstream_latency, told.ending),
        (None, Ending::Complete)
    );

    // A tunnel, which its device ends.
    assert_eq!(client.get("/ws", UPGRADE).await.status(), 101);
    client.send("ping").await;
    assert_eq!(client.exactly(4).await.as_deref(), Some("ping"));
    assert!(rig.exchanges.try_recv().is_err());
    client.tls.shutdown().await.expect("said goodbye");
    let told = next(&mut rig).await;
    assert_eq!(told.record.status, Some(101));
    assert_eq!(
        (told.received, told.sent, told.ending),
        (4, 4, Ending::Complete)
    );

    // One that the registry ends, and an answer.
    let mut socket = Client::connect(&rig, &device).await;
    assert_eq!(socket.get("/ws", UPGRADE).await.status(), 101);
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/slow", "").await.status(), 200);
    rig.set(&device, Status::Revoked).await;
    for _ in 0..2 {
        assert_eq!(next(&mut rig).await.ending, Ending::Cut);
    }
}

#[tokio::test]
async fn what_is_done_is_counted() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(rig.metric("requests_open"), "0");
    client
        .send("GET /hang HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.metric("requests_open"), "1");
    assert_eq!(rig.metric("handshake_duration_seconds_count"), "1");
    assert_eq!(rig.metric("request_duration_seconds_count"), "0");
    drop(client);
    next(&mut rig).await;
    assert_eq!(rig.metric("requests_open"), "0");
    assert_eq!(rig.metric("request_duration_seconds_count"), "1");
    assert_eq!(
        rig.metric("request_duration_seconds_bucket{le=\"0.05\"}"),
        "0"
    );

    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/sized", "").await.body.len(), 32 * 1024);
    assert_eq!(rig.metric("requests_total{status=\"2xx\"}"), "1");
    assert_eq!(client.get("/close", "").await.status(), 502);
    let number = |name: &str| -> u64 { rig.metric(name).parse().expect("a number") };
    assert!(number("sent_bytes_total") > 32 * 1024);
    assert!(number("received_bytes_total") > 100);
    let server = format!(
        "{{upstream=\"\",server=\"http://{}\"}}",
        rig.upstream.address
    );
    assert_eq!(
        rig.full_metric(&format!("keybound_upstream_healthy{server}")),
        "1"
    );
    assert_eq!(
        rig.full_metric(&format!("keybound_upstream_failures_total{server}")),
        "1"
    );
    assert_eq!(
        rig.full_metric("keybound_upstream_latency_seconds_count{upstream=\"\"}"),
        "1"
    );
    let connected = rig.metric("upstream_connections_total");
    assert_eq!(
        rig.metric("upstream_connect_duration_seconds_count"),
        connected
    );
}
