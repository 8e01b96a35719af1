//! A connection is entered in the index first and its status is read after that. A revocation before the
//! entry is seen by the read; one after it finds the connection in the index and cuts it.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::client::{config, connect};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup};

/// A request whose connection sleeps at `failpoint` while its device is revoked: the answer, how many connections
/// the receipt says had not ended after the second that they have, and the command's exit code.
async fn revoked_at(failpoint: &str) -> (String, u64, Option<i32>) {
    let upstream = Upstream::start().await;
    let sleep = format!("{failpoint}=sleep(2500)");
    let server = Server::start(Setup::upstream(upstream.address).environment("FAILPOINTS", &sleep));
    let device = server.device("a");
    let mut stream = connect(server.gateway(), config(&server, &device, &["http/1.1"])).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The gateway's thread sleeps on, so a connection that was told to end cannot do so yet.
    let output = server.keybound(&["device", "revoke", "a", "--json"]);
    let receipt: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(receipt["receipt"]["closed"], 0, "{receipt}");
    let lingering = receipt["receipt"]["lingering"].as_u64().unwrap();
    let mut answer = Vec::new();
    let _cut = stream.read_to_end(&mut answer).await;
    assert_eq!(upstream.received(), "");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer, lingering, output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_entry_the_status_stops_it() {
    let (answer, lingering, exit) = revoked_at("gateway::accepted").await;
    assert_eq!((lingering, exit), (0, Some(0)));
    assert!(answer.contains("\"code\":\"revoked\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_entry_the_index_finds_it() {
    let (answer, lingering, exit) = revoked_at("gateway::entered").await;
    // Committed, and not acknowledged as whole.
    assert_eq!((lingering, exit), (1, Some(3)));
    assert_eq!(answer, "");
}
