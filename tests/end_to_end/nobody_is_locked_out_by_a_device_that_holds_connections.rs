//! One enrolled device opens all the connections that it can, where descriptors are few. Others are served,
//! and the operator revokes it at once.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::client::{config, connect_as};
use crate::harness::{Server, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn with_a_thousand_descriptors() {
    let setup = Setup::default().wrapper(&["bash", "-c", "ulimit -n 1024; exec \"$@\"", "-"]);
    let server = Server::start(setup);
    let (greedy, honest) = (server.device("greedy"), server.device("honest"));
    let url = server.url("/");
    honest.run(&["request", &url]);
    let mut held = Vec::new();
    for _ in 0..600 {
        let tls = config(&server, &greedy, &["http/1.1"]);
        if let Ok(stream) = connect_as("localhost", server.gateway(), tls).await {
            held.push(stream);
        }
    }
    assert!(held.len() > 500, "{}", held.len());
    honest.run(&["request", &url]);
    // The newest of them still serves: the oldest idle ones were ended in its favour.
    let newest = held.last_mut().unwrap();
    newest
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    newest.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    let started = Instant::now();
    let receipt = server.json(&["device", "revoke", "greedy", "--json"]);
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(receipt["receipt"]["closed"], 128, "{receipt}");
}
