//! Reloads while devices send 2,000 requests in a second: every request is answered, and no connection ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::client::{config, connect};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, figure};

const KEPT: u32 = 20;
/// A second, over all kept connections.
const RATE: u32 = 2_000;
const FOR: Duration = Duration::from_secs(6);
const RELOADS: usize = 20;

/// One request, whatever happens: nothing is tried again.
async fn ask(tls: &mut TlsStream<TcpStream>) {
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    tls.write_all(request).await.unwrap();
    tls.flush().await.unwrap();
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(b"ok\n") {
        let reading = tls.read_buf(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
        let read = read.expect("an answer in time").unwrap();
        assert!(read > 0, "the connection ended");
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_times() {
    let upstreams = [Upstream::start().await, Upstream::start().await];
    let addresses = [upstreams[0].address, upstreams[1].address];
    let content = move |number: usize| {
        let upstream = addresses[number % 2];
        // Every other time the server's own certificate is made anew, too.
        let more = if number % 4 < 2 { "" } else { ", 'b.example'" };
        format!(
            "names = ['localhost'{more}]\n[gateway]\nrate = 'unlimited'\nmax_staleness = '{}h'\n[[gateway.route]]\nupstream = 'http://{upstream}'\n",
            number + 1
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.toml");
    std::fs::write(&file, content(0)).unwrap();
    let setup = Setup::default()
        .argument("--config")
        .argument(file.display().to_string());
    let server = Server::start_in(directory, setup);
    let device = server.device("a");
    let tls = config(&server, &device, &["http/1.1"]);
    let answered = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let ends = started + FOR;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..KEPT {
        let mut kept = connect(server.gateway(), tls.clone()).await;
        let answered = Arc::clone(&answered);
        clients.spawn(async move {
            let mut due = tokio::time::interval(Duration::from_secs(1) * KEPT / RATE);
            // What was late is made up for.
            due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            tokio::time::sleep(Duration::from_micros(u64::from(number) * 500)).await;
            while Instant::now() < ends {
                due.tick().await;
                ask(&mut kept).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (address, answered_new) = (server.gateway(), Arc::new(AtomicUsize::new(0)));
    let new = Arc::clone(&answered_new);
    clients.spawn(async move {
        while Instant::now() < ends {
            ask(&mut connect(address, tls.clone()).await).await;
            new.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let reloading = tokio::task::spawn_blocking(move || {
        for number in 1..=RELOADS {
            std::fs::write(&file, content(number)).unwrap();
            let told = server.run(&["reload"]);
            assert!(told.contains("change"), "{told}");
            std::thread::sleep(FOR / 2 / RELOADS as u32);
        }
        server
    });
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let elapsed = started.elapsed();
    let _server = reloading.await.unwrap();
    for upstream in &upstreams {
        assert!(upstream.received().contains("GET / "), "each had its turn");
    }
    let (kept, new) = (
        answered.load(Ordering::Relaxed),
        answered_new.load(Ordering::Relaxed),
    );
    let rate = kept as f64 / elapsed.as_secs_f64();
    figure(
        "20 reloads under load: requests in a second, requests, of them on new connections, lost",
        format!("{rate:.0}, {}, {new}, 0", kept + new),
    );
    assert!(rate > 0.8 * f64::from(RATE), "{rate:.0} in a second");
    assert!(new > 20, "{new} on new connections");
}
