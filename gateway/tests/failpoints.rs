//! What happens between two steps, with a failpoint between them. One test: failpoints are global.

#[path = "end_to_end/authority.rs"]
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

use identity::Status;

use crate::client::Client;
use crate::rig::Rig;

#[tokio::test]
async fn steps_in_between() {
    let mut rig = Rig::start().await;
    a_revocation_before_the_index_is_seen_by_the_status(&mut rig).await;
    no_revocation_falls_between_index_and_status(&mut rig).await;
    a_panic_hits_only_its_request(&mut rig).await;
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
