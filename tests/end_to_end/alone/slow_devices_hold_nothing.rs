//! Enrolled devices that send their requests and take their answers as slowly as they can, all at once: each is
//! let go within its deadline, and neither upstreams nor memory nor descriptors stay with them.

use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::honest::Honest;
use super::process::{descriptors, memory, settle};
use super::raw_http2::{INITIAL_WINDOW_SIZE, Raw, get};
use crate::harness::client::{config, connect};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, count, figure};

/// Sends `begin` and then a byte each second until the server ends it; how long that took.
async fn drip(address: std::net::SocketAddr, tls: ClientConfig, begin: &'static str) -> Duration {
    let mut tls = connect(address, tls).await;
    let started = Instant::now();
    let mut buffer = [0; 1024];
    let _ = tls.write_all(begin.as_bytes()).await;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            read = tls.read(&mut buffer) => if !matches!(read, Ok(1..)) { return started.elapsed() },
            _ = tick.tick() => {
                let _ = tls.write_all(b"x").await;
                let _ = tls.flush().await;
            }
        }
    }
}

async fn slowest(mut many: JoinSet<Duration>) -> Duration {
    let mut slowest = Duration::ZERO;
    while let Some(took) = many.join_next().await {
        slowest = slowest.max(took.unwrap());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_hundred_exchanges_of_every_kind() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    let address = server.gateway();
    let mut honest = Honest::new(&server, &server.device("honest")).await;
    let http1 = |id: &str| config(&server, &server.device(id), &["http/1.1"]);
    let http2 = |id: &str| config(&server, &server.device(id), &["h2"]);
    honest.times(50).await.report("before slow devices");
    let before = (memory(&server), descriptors(&server));

    let (mut heads, mut bodies) = (JoinSet::new(), JoinSet::new());
    let (slow_heads, slow_bodies) = (http1("heads"), http1("bodies"));
    for _ in 0..100 {
        heads.spawn(drip(
            address,
            slow_heads.clone(),
            "GET / HTTP/1.1\r\nhost: ",
        ));
        let post = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
        bodies.spawn(drip(address, slow_bodies.clone(), post));
    }
    let mut unread = Vec::new();
    let readers = http1("readers");
    for _ in 0..50 {
        let mut tls = connect(address, readers.clone()).await;
        tls.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        unread.push(tls);
    }
    // Windows that are shut for each stream, and one that is shut for the whole connection.
    let mut stalled = Vec::new();
    for number in 0..11 {
        let window = if number == 0 { 1 << 30 } else { 0 };
        let tls = connect(address, http2(&format!("stalled-{number}"))).await;
        let mut raw = Raw::start(tls, &[(INITIAL_WINDOW_SIZE, window)]).await;
        let requests: Vec<u8> = (0..100)
            .flat_map(|stream| get("localhost", "/large", 2 * stream + 1))
            .collect();
        raw.send(&requests).await.unwrap();
        stalled.push(raw);
    }
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (held, during) = (upstream.open(), memory(&server));
    assert!(held > 1_200, "{held} exchanges with the upstream");
    let p99 = honest.times(50).await.report("beside 1,250 slow exchanges");
    assert!(p99 < Duration::from_millis(250), "{p99:?}");

    let heads = slowest(heads).await;
    let bodies = slowest(bodies).await;
    // Who may just be slow has ten times as long as who is waited for; the gateway's own tests see the end of it
    // every time.
    let limit = Duration::from_secs(count(50, 350) as u64);
    if limit < Duration::from_secs(300) {
        drop((std::mem::take(&mut unread), std::mem::take(&mut stalled)));
    }
    while upstream.open() > 20 {
        assert!(started.elapsed() < limit, "{} are open", upstream.open());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    figure(
        "slow heads, slow bodies, and the last of 1,250 upstream exchanges, let go after",
        format!("{heads:.1?}, {bodies:.1?}, {:.1?}", started.elapsed()),
    );
    assert!(heads < Duration::from_secs(20), "{heads:?}");
    assert!(bodies < Duration::from_secs(45), "{bodies:?}");
    drop((unread, stalled));
    settle(&server, before.1, Duration::from_secs(45)).await;
    let most = before.0 + 96 * 1024;
    let mut after = memory(&server);
    for _ in 0..40 {
        if after < most {
            break;
        }
        // The allocator gives back late, and only while it is used.
        tokio::time::sleep(Duration::from_millis(250)).await;
        honest.times(5).await;
        after = memory(&server);
    }
    figure(
        "1,250 slow exchanges, memory before, during and after (KiB)",
        format!("{}, {during}, {after}", before.0),
    );
    // A stream under way has a buffer of 64 KiB at most.
    assert!(during < before.0 + 160 * 1024, "{during} KiB");
    assert!(after < most, "{after} KiB");
    honest.times(10).await;
}
