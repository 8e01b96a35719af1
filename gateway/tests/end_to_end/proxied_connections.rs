//! Load balancers say by the PROXY protocol whom they connect for; nobody else is believed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::Outcome;
use gateway::tls::HandshakeFault;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authority::Identity;
use crate::client::{Client, Verdict, config, verdict};
use crate::rig::Rig;

/// A header for TCP over IPv4, from 192.0.2.7:4242.
pub(crate) fn header(command: u8, family: u8, more: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    let body = [
        &[192, 0, 2, 7, 198, 51, 100, 1, 0x10, 0x92, 0x20, 0xfb],
        more,
    ]
    .concat();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&u16::try_from(body.len()).expect("short").to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// What the upstream heard of the client's address, after these bytes in front of the handshake.
async fn forwarded_for(rig: &Rig, device: &Identity, first: &[u8], pause: bool) -> Option<String> {
    let mut tcp = TcpStream::connect(rig.address).await.expect("connected");
    for part in first.chunks(if pause { 1 } else { first.len().max(1) }) {
        tcp.write_all(part).await.ok()?;
        if pause {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let connector = TlsConnector::from(Arc::new(config(rig, Some(device), "http/1.1")));
    let name = ServerName::try_from("api.test").expect("a name");
    let mut tls = connector.connect(name, tcp).await.ok()?;
    let request = b"GET /headers HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-For: 10.9.9.9\r\nConnection: close\r\n\r\n";
    tls.write_all(request).await.ok()?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.ok()?;
    let request = rig.upstream.take().to_ascii_lowercase();
    let line = request
        .lines()
        .find_map(|line| line.strip_prefix("x-forwarded-for: "));
    line.map(str::to_owned)
}

#[tokio::test]
async fn whom_a_load_balancer_speaks_for_counts() {
    let mut rig = Rig::start_behind(&["127.0.0.0/8"]).await;
    let device = rig.device("a", 1).await;
    let noop = [4, 0, 2, 0, 0];
    for (first, pause, expected) in [
        (header(0x21, 0x11, &[]), false, "192.0.2.7"),
        (header(0x21, 0x11, &noop), false, "192.0.2.7"),
        (header(0x21, 0x11, &noop), true, "192.0.2.7"),
        // For itself.
        (header(0x20, 0x11, &[]), false, "127.0.0.1"),
    ] {
        let told = forwarded_for(&rig, &device, &first, pause).await;
        assert_eq!(told.as_deref(), Some(expected));
        let record = rig.next_record().await;
        assert_eq!(record.outcome, Outcome::Forwarded);
        assert_eq!(record.address.ip().to_string(), expected);
    }
}

#[tokio::test]
async fn a_load_balancer_that_says_nothing_is_refused() {
    let mut rig = Rig::start_behind(&["127.0.0.1/32"]).await;
    let device = rig.device("a", 1).await;
    let mut too_long = header(0x21, 0x11, &[]);
    too_long[14..16].copy_from_slice(&[0xff, 0xff]);
    for first in [
        vec![],
        header(0x21, 0x12, &[]),
        header(0x21, 0x11, &[4, 0, 9, 0]),
        header(0x31, 0x11, &[]),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4242 8443\r\n".to_vec(),
        too_long,
    ] {
        assert_eq!(
            forwarded_for(&rig, &device, &first, false).await,
            None,
            "{first:?}"
        );
        let expected = Outcome::HandshakeRefused(HandshakeFault::NotProxied);
        assert_eq!(rig.next_outcome().await, expected, "{first:?}");
    }
    // One that begins and does not go on is let go.
    let mut tcp = TcpStream::connect(rig.address).await.expect("connected");
    tcp.write_all(&header(0x21, 0x11, &[])[..15])
        .await
        .expect("sent");
    let started = Instant::now();
    let read = tokio::time::timeout(Duration::from_secs(9), tcp.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    assert!(started.elapsed() > Duration::from_secs(4));
}

#[tokio::test]
async fn from_anywhere_else_a_header_is_no_tls() {
    for proxies in [&[][..], &["10.0.0.0/8", "::1/128"]] {
        let mut rig = Rig::start_behind(proxies).await;
        let device = rig.device("a", 1).await;
        let told = forwarded_for(&rig, &device, &header(0x21, 0x11, &[]), false).await;
        assert_eq!(told, None);
        let expected = Outcome::HandshakeRefused(HandshakeFault::NotTls);
        assert_eq!(rig.next_outcome().await, expected);
        let good = verdict(&rig, config(&rig, Some(&device), "http/1.1")).await;
        assert_eq!(good, Verdict::Answer(200, None));
        let mut client = Client::connect(&rig, &device).await;
        assert_eq!(client.get("/", "").await.status(), 200);
    }
}
