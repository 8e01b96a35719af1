//! Floods by one enrolled device at a TCP route: the server's memory hardly grows and comes back, and another device does
//! not wait for it.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::honest::{Honest, beside};
use super::process::{descriptors, memory, peak, settle};
use crate::harness::client::{config, connect_as};
use crate::harness::{Server, Setup, figure};

/// Of the server's own memory; what kernels hold does not count.
const BOUND: u64 = 64 * 1024;

/// What the upstream does with a stream, by its first byte.
async fn upstream(mut stream: TcpStream) {
    let mut what = [0];
    if stream.read_exact(&mut what).await.is_err() {
        return;
    }
    match what[0] {
        // Takes nothing.
        b'n' => sleep(Duration::from_secs(20)).await,
        // Floods.
        b'f' => while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {},
        // Takes everything.
        _ => while let Ok(1..) = stream.read(&mut [0; 16 * 1024]).await {},
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_every_kind() {
    let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = broker.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = broker.accept().await {
            tokio::spawn(upstream(stream));
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.toml");
    let tables = format!(
        "[gateway]\nrate = 'unlimited'\n[[gateway.tcp]]\nhost = 'localhost.localdomain'\nupstream = ['tcp://{address}']\nproxy_protocol = 'none'\n"
    );
    std::fs::write(&file, tables).unwrap();
    let setup = Setup::default()
        .argument("--name")
        .argument("localhost")
        .argument("--name")
        .argument("localhost.localdomain")
        .argument("--config")
        .argument(file.display().to_string());
    let server = Server::start_in(directory, setup);
    let mut honest = Honest::new(&server, &server.device("honest")).await;
    let tls = config(&server, &server.device("hostile"), &[]);
    honest.times(50).await;
    let before = (memory(&server), descriptors(&server));
    for (what, kind, streams) in [
        ("what is not read", b'n', 20),
        ("an upstream that is not read", b'f', 20),
        ("single bytes", b't', 10),
        ("streams that are left at once", b'l', 10),
    ] {
        let mut running = JoinSet::new();
        for _ in 0..streams {
            let (tls, address) = (tls.clone(), server.gateway());
            running.spawn(async move {
                let open = || connect_as("localhost.localdomain", address, tls.clone());
                let mut stream = open().await.unwrap();
                stream.write_all(&[kind]).await.unwrap();
                let flood = async {
                    match kind {
                        b'n' => while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {},
                        b't' => while stream.write_all(b"x").await.is_ok() {},
                        b'l' => while open().await.is_ok() {},
                        _ => std::future::pending().await,
                    }
                };
                let _ = timeout(Duration::from_secs(4), flood).await;
            });
        }
        let flooded = beside(&mut honest, what, running.join_all());
        let (highest, _) = peak(&server, flooded).await;
        figure(
            &format!("{what} over {streams} streams: memory gained (KiB)"),
            highest.saturating_sub(before.0),
        );
        assert!(highest < before.0 + BOUND, "{what}: {highest} KiB");
    }
    settle(&server, before.1, Duration::from_secs(30)).await;
    honest.times(2).await;
}
