//! Connections that come and go leave nothing behind.

use super::process::{descriptors, memory, open_connections, settle};
use crate::harness::client::{config, connect};
use crate::harness::{Server, Setup, count, eventually, figure};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_in_rounds() {
    let server = Server::start(Setup::default());
    // 100 connections each: a certificate may have 128.
    let devices: Vec<_> = (0..10)
        .map(|number| {
            config(
                &server,
                &server.device(&format!("d{number}")),
                &["http/1.1"],
            )
        })
        .collect();
    let before = (memory(&server), descriptors(&server));
    let mut rounds = Vec::new();
    for _ in 0..count(6, 60) {
        let mut open = tokio::task::JoinSet::new();
        for number in 0..1_000 {
            let (address, tls) = (server.gateway(), devices[number % 10].clone());
            open.spawn(async move {
                let mut tls = connect(address, tls).await;
                tls.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    .await
                    .unwrap();
                let mut answer = [0; 12];
                tls.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"HTTP/1.1 200");
                tls
            });
            if number % 64 == 63 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let open = open.join_all().await;
        assert!(descriptors(&server) > before.1 + 900);
        let full = memory(&server);
        drop(open);
        settle(&server, before.1 + 600, Duration::from_secs(10)).await;
        eventually(Duration::from_secs(10), "every connection is gone", || {
            open_connections(&server) == 0
        });
        rounds.push((full, memory(&server)));
    }
    figure(
        "1,000 connections opened and closed, memory before (KiB)",
        before.0,
    );
    figure(
        "1,000 connections opened and closed, memory open and closed by round (KiB)",
        format!("{rounds:?}"),
    );
    // The second half of the rounds adds nothing to the first but noise, and what `explain` remembers of each request.
    // The first round finds everything empty and says nothing; what is closed is the allocator's to give back.
    let highest = |rounds: &[(u64, u64)]| rounds.iter().map(|round| round.0).max().unwrap();
    let (first, second) = rounds.split_at(rounds.len() / 2);
    let remembered = (first.len() as u64) * 1_000 * DECISION / 1024;
    assert!(
        highest(second) < highest(&first[1..]) + remembered + 8 * 1024,
        "it grows: {rounds:?}"
    );
}

/// Bytes that a decision takes, until there are 49,152 of them.
const DECISION: u64 = 700;
