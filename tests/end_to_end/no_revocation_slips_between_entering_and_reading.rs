//! A connection is entered in the index first and its status is read after that: a revocation that arrives
//! between the two is seen by the read, one that arrives later finds the connection in the index.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::client::{config, connect};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_between_the_two_is_seen() {
    let upstream = Upstream::start().await;
    let server = Server::start(
        Setup::upstream(upstream.address).environment("FAILPOINTS", "gateway::entered=sleep(1500)"),
    );
    let device = server.device("a");
    let mut stream = connect(server.gateway(), config(&server, &device, &["http/1.1"])).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    // The server now sleeps between entering the connection and reading its status.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.run(&["device", "revoke", "a", "--no-wait"]);
    let mut answer = Vec::new();
    let _cut = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("200 OK"), "{answer}");
    assert_eq!(upstream.received(), "");
}
