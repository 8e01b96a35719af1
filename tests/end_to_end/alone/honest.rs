//! A device that does nothing wrong, and how long it waits.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::client::{config, connect_as};
use crate::harness::{Device, Server, figure};

pub struct Honest {
    address: std::net::SocketAddr,
    config: ClientConfig,
    kept: TlsStream<TcpStream>,
}

/// How long each of many requests took.
#[derive(Default)]
pub struct Waits {
    /// Over a new connection, its handshake included.
    pub fresh: Vec<Duration>,
    /// Over a kept one.
    pub kept: Vec<Duration>,
}

impl Honest {
    pub async fn new(server: &Server, device: &Device) -> Self {
        let config = config(server, device, &["http/1.1"]);
        let kept = connect_as("localhost", server.gateway(), config.clone());
        let mut honest = Self {
            address: server.gateway(),
            config,
            kept: kept.await.unwrap(),
        };
        ask(&mut honest.kept).await.unwrap();
        honest
    }

    /// One request over a kept connection, then one over a new one; tried again until it is served.
    pub async fn once(&mut self, waits: &mut Waits) {
        let started = Instant::now();
        ask(&mut self.kept).await.unwrap();
        waits.kept.push(started.elapsed());
        let started = Instant::now();
        loop {
            let served = async {
                let mut tls = connect_as("localhost", self.address, self.config.clone()).await?;
                ask(&mut tls).await
            };
            if served.await.is_ok() {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "never served");
        }
        waits.fresh.push(started.elapsed());
    }

    pub async fn times(&mut self, times: usize) -> Waits {
        let mut waits = Waits::default();
        for _ in 0..times {
            self.once(&mut waits).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        waits
    }
}

/// What `flood` comes to, while the device goes on asking and hardly has to wait.
pub async fn beside<T>(honest: &mut Honest, what: &str, flood: impl Future<Output = T>) -> T {
    let ended = Cell::new(false);
    let mut waits = Waits::default();
    let flood = async {
        let came = flood.await;
        ended.set(true);
        came
    };
    // Enough for a percentile, though the flood may be over before; less often than a device may.
    let asking = async {
        while !ended.get() || waits.kept.len() < 100 {
            honest.once(&mut waits).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (came, ()) = tokio::join!(flood, asking);
    let worst = waits.report(&format!("beside {what}"));
    assert!(worst < Duration::from_millis(250), "{what}: {worst:?}");
    came
}

async fn ask(tls: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    tls.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await?;
    tls.flush().await?;
    let mut answer = Vec::new();
    loop {
        if tls.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let (_, rest) = head.split_once("content-length: ").unwrap();
            let length: usize = rest.lines().next().unwrap().parse().unwrap();
            if body.len() >= length {
                return Ok(());
            }
        }
    }
}

impl Waits {
    /// Prints p50 and p99 and gives the larger p99.
    pub fn report(mut self, when: &str) -> Duration {
        let mut worst = Duration::ZERO;
        for (what, waits) in [
            ("new connection", &mut self.fresh),
            ("kept connection", &mut self.kept),
        ] {
            waits.sort();
            let p50 = waits[waits.len() / 2];
            let p99 = waits[waits.len() * 99 / 100];
            figure(
                &format!("{when}, request on a {what}, {} times", waits.len()),
                format!("p50 {p50:.1?}, p99 {p99:.1?}"),
            );
            worst = worst.max(p99);
        }
        worst
    }
}
