//! What happens between two steps, with a failpoint between them. One test: failpoints are global.

#[path = "end_to_end/authority.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod authority;
#[path = "end_to_end/client.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod client;
#[path = "end_to_end/rig.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod rig;
#[path = "end_to_end/upstream.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod upstream;

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use identity::Status;
use tokio::io::AsyncWriteExt as _;

use crate::client::{Client, http2};
use crate::rig::Rig;

#[tokio::test]
async fn steps_in_between() {
    let mut rig = Rig::start().await;
    a_revocation_before_the_index_is_seen_by_the_status(&mut rig).await;
    no_revocation_falls_between_index_and_status(&mut rig).await;
    a_panic_hits_only_its_request(&mut rig).await;
    a_panic_ends_one_stream_of_its_connection(&mut rig).await;
    a_panic_in_the_verifier_ends_that_handshake(&mut rig).await;
}

async fn a_revocation_before_the_index_is_seen_by_the_status(rig: &mut Rig) {
    let device = rig.device("c", 3).await;
    fail::cfg("gateway::accepted", "pause").expect("a failpoint");
    let mut client = Client::connect(rig, &device).await;
    client
        .send("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    // The connection is not in the index yet, so nothing is cut: only the status can stop the request.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let acknowledgement = rig.set(&device, Status::Revoked).await;
    assert_eq!(acknowledgement.cuts.len(), 0);
    fail::remove("gateway::accepted");
    let answer = client.answer().await.expect("the refusal");
    assert_eq!(answer.refusal(), (403, "revoked".into()));
    assert_eq!(rig.upstream.take(), "");
}

async fn no_revocation_falls_between_index_and_status(rig: &mut Rig) {
    let device = rig.device("a", 1).await;
    fail::cfg("gateway::entered", "pause").expect("a failpoint");
    // The worker stops after it entered the connection in the index, before any status is read.
    let mut client = Client::connect(rig, &device).await;
    for _ in 0..200 {
        if rig.gateway.connections(device.index).len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client
        .send("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    let acknowledgement = rig.set(&device, Status::Revoked).await;
    assert_eq!(acknowledgement.cuts.len(), 1);
    assert_eq!(acknowledgement.cuts[0].lingering, 1);
    fail::remove("gateway::entered");
    assert!(client.ends().await);
    assert_eq!(rig.upstream.take(), "");
}

async fn a_panic_hits_only_its_request(rig: &mut Rig) {
    let device = rig.device("b", 2).await;
    let mut hit = Client::connect(rig, &device).await;
    let mut other = Client::connect(rig, &device).await;
    assert_eq!(hit.get("/", "").await.status(), 200);
    assert_eq!(other.get("/", "").await.status(), 200);
    fail::cfg("gateway::request", "1*panic(injected)").expect("a failpoint");
    assert_eq!(
        hit.get("/", "").await.refusal(),
        (500, "internal-error".into())
    );
    assert!(hit.ends().await);
    assert_eq!(other.get("/", "").await.status(), 200);
    assert_eq!(rig.metric("panics_total"), "1");
    fail::remove("gateway::request");
}

async fn a_panic_ends_one_stream_of_its_connection(rig: &mut Rig) {
    let device = rig.device("d", 4).await;
    let (sender, connection) = http2(rig, &device).await;
    let get = |path: &'static str| {
        let mut sender = sender.clone();
        async move {
            let request = Request::get(format!("https://api.test{path}"))
                .body(Full::<Bytes>::default())
                .expect("a request");
            sender.ready().await.expect("the connection goes on");
            sender.send_request(request).await.expect("an answer")
        }
    };
    // A body on its way.
    let mut slow = get("/slow").await.into_body();
    let panics: u64 = rig.metric("panics_total").parse().expect("a number");
    for round in 1..=5 {
        fail::cfg("gateway::request", "1*panic(injected)").expect("a failpoint");
        let (first, second) = tokio::join!(get("/"), get("/"));
        let mut statuses = [first.status().as_u16(), second.status().as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 500]);
        let hit = if first.status() == 500 { first } else { second };
        assert_eq!(hit.headers()["content-type"], "application/problem+json");
        assert_eq!(rig.metric("panics_total"), (panics + round).to_string());
        let frame = slow.frame().await.expect("more").expect("of the body");
        assert!(frame.is_data());
    }
    fail::remove("gateway::request");
    assert_eq!(rig.metric("refusals_total{code=\"internal-error\"}"), "6");
    // Index, status and pool are as usable as before: the connection is found and cut.
    assert!(!connection.is_finished());
    assert_eq!(get("/").await.status(), 200);
    let acknowledgement = rig.set(&device, Status::Revoked).await;
    assert_eq!(acknowledgement.cuts.len(), 1);
    assert_eq!(acknowledgement.cuts[0].lingering, 0);
    while let Some(Ok(_)) = slow.frame().await {}
    let ended = tokio::time::timeout(Duration::from_secs(2), connection).await;
    assert!(ended.is_ok());
    assert_eq!(rig.gateway.connections(device.index).len(), 0);
}

async fn a_panic_in_the_verifier_ends_that_handshake(rig: &mut Rig) {
    let device = rig.device("e", 5).await;
    // A client is connected before the gateway has verified it; one that was answered is not.
    let mut other = Client::connect(rig, &device).await;
    assert_eq!(other.get("/", "").await.status(), 200);
    let panics: u64 = rig.metric("panics_total").parse().expect("a number");
    // More than one worker could have, if one was left with a panic.
    for round in 1..=8 {
        fail::cfg("gateway::verifier", "1*panic(injected)").expect("a failpoint");
        let mut hit = Client::connect(rig, &device).await;
        // Its side of the handshake was done before the gateway's.
        let _ = hit
            .tls
            .write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
            .await;
        assert!(hit.answer().await.is_err());
        fail::remove("gateway::verifier");
        // It is counted once its socket is closed.
        for _ in 0..100 {
            if rig.metric("panics_total") == (panics + round).to_string() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(rig.metric("panics_total"), (panics + round).to_string());
        assert_eq!(other.get("/", "").await.status(), 200);
        let mut next = Client::connect(rig, &device).await;
        assert_eq!(next.get("/", "").await.status(), 200);
    }
    drop(other);
    let acknowledgement = rig.set(&device, Status::Revoked).await;
    assert!(acknowledgement.cuts.len() <= 1);
    for _ in 0..100 {
        if rig.metric("connections_open") == "0" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nothing that panicked still counts as open; those of the tests before may not have been closed.
    let open: usize = rig.metric("connections_open").parse().expect("a number");
    assert!(open <= 4, "{open}");
}
