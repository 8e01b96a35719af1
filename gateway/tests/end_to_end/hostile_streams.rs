//! Ends of TCP routes' streams that say nothing, drip, flood, do not read or leave: each costs its own stream, what it
//! costs is bounded, everybody else is served, and a revocation ends it at once.

use std::time::{Duration, Instant};

use gateway::{Code, Ending, Limits, Outcome};
use identity::Status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::authority::Identity;
use crate::client::Client;
use crate::proxied_connections::header;
use crate::rig::Rig;
use crate::tcp_routes::{accept, broker, connect};

const SOON: Duration = Duration::from_secs(10);
/// What kernels and windows of a connection in each direction hold, twice.
const HELD: usize = 32 * 1024 * 1024;
static CHUNK: [u8; 16 * 1024] = [b'x'; 16 * 1024];

async fn rig_with(limits: Limits) -> (Rig, TcpListener) {
    let rig = Rig::start_with(limits).await;
    let broker = broker(&rig, false).await;
    (rig, broker)
}

async fn open(
    rig: &Rig,
    broker: &TcpListener,
    device: &Identity,
) -> (TlsStream<TcpStream>, TcpStream) {
    let tls = connect(rig, device).await;
    (tls, accept(broker).await)
}

/// Another device asks; nothing that goes on makes it wait.
async fn others_are_served(rig: &Rig, other: &Identity, what: &str) {
    for _ in 0..5 {
        let started = Instant::now();
        let mut client = Client::connect(rig, other).await;
        assert_eq!(client.get("/", "").await.status(), 200, "{what}");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "{what}: {took:?}");
    }
}

/// Whether the device's end of a stream has ended, whatever came before.
async fn is_over(tls: &mut TlsStream<TcpStream>) -> bool {
    let rest = async { while let Ok(1..) = tls.read(&mut [0; 16 * 1024]).await {} };
    timeout(Duration::from_secs(1), rest).await.is_ok()
}

/// The same of the upstream's end.
async fn is_over_there(stream: &mut TcpStream) -> bool {
    let rest = async { while let Ok(1..) = stream.read(&mut [0; 16 * 1024]).await {} };
    timeout(Duration::from_secs(1), rest).await.is_ok()
}

/// How many bytes are taken before nothing is for half a second.
async fn fill(to: &mut (impl tokio::io::AsyncWrite + Unpin)) -> usize {
    let mut taken = 0;
    while let Ok(Ok(length)) = timeout(Duration::from_millis(500), to.write(&CHUNK)).await {
        taken += length;
        assert!(taken < HELD, "the gateway takes what nobody reads");
    }
    taken
}

/// Waits until a device has so many connections.
async fn are_open(rig: &Rig, device: &Identity, expected: usize) {
    for _ in 0..200 {
        if rig.gateway.connections(device.index).len() == expected {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{} are open", rig.gateway.connections(device.index).len());
}

/// The next exchange of a stream.
async fn exchange(rig: &mut Rig) -> gateway::Exchange {
    loop {
        let told = timeout(SOON, rig.exchanges.recv()).await;
        let exchange = told.expect("in time").expect("an exchange");
        if exchange.record.host.as_deref() == Some("mqtt.test") {
            return exchange;
        }
    }
}

#[tokio::test]
async fn silence_and_dripping_hold_their_own_stream() {
    let (mut rig, broker) = rig_with(Limits::default()).await;
    let (silent, drips) = (rig.device("silent", 1).await, rig.device("drips", 2).await);
    let other = rig.device("other", 3).await;
    let (mut quiet, mut quiet_there) = open(&rig, &broker, &silent).await;
    let (mut tls, mut there) = open(&rig, &broker, &drips).await;
    for byte in 0..=255 {
        tls.write_all(&[byte]).await.expect("sent");
        tls.flush().await.expect("sent");
        assert_eq!(there.read_u8().await.expect("a byte"), byte);
        there.write_all(&[!byte]).await.expect("sent");
        assert_eq!(tls.read_u8().await.expect("a byte"), !byte);
        if byte % 64 == 0 {
            others_are_served(&rig, &other, "dripping").await;
        }
    }
    // Who said nothing may still.
    quiet_there.write_all(b"a").await.expect("sent");
    assert_eq!(quiet.read_u8().await.expect("a byte"), b'a');
    quiet.write_all(b"b").await.expect("sent");
    assert_eq!(quiet_there.read_u8().await.expect("a byte"), b'b');
    drop((tls, there));
    let told = exchange(&mut rig).await;
    assert_eq!((told.received, told.sent), (256, 256));
}

#[tokio::test]
async fn either_half_may_end_first() {
    let (mut rig, broker) = rig_with(Limits::default()).await;
    let device = rig.device("a", 1).await;
    for device_first in [true, false] {
        let (mut tls, mut there) = open(&rig, &broker, &device).await;
        let mut bytes = [0; 4];
        if device_first {
            tls.shutdown().await.expect("said goodbye");
            assert_eq!(there.read(&mut bytes).await.expect("the end"), 0);
            there.write_all(b"late").await.expect("sent");
            tls.read_exact(&mut bytes).await.expect("what came late");
            there.shutdown().await.expect("ended");
            assert_eq!(tls.read(&mut bytes).await.expect("the end"), 0);
        } else {
            there.shutdown().await.expect("ended");
            // With TLS's own goodbye, or this would be an error.
            assert_eq!(tls.read(&mut bytes).await.expect("the end"), 0);
            tls.write_all(b"late").await.expect("sent");
            there.read_exact(&mut bytes).await.expect("what came late");
            tls.shutdown().await.expect("said goodbye");
            assert_eq!(there.read(&mut bytes).await.expect("the end"), 0);
        }
        assert_eq!(&bytes, b"late");
        let told = exchange(&mut rig).await;
        assert_eq!(told.ending, Ending::Complete);
        assert_eq!(told.received + told.sent, 4);
    }
    are_open(&rig, &device, 0).await;
}

#[tokio::test]
async fn what_an_upstream_does_not_read_stays_with_the_device() {
    let (mut rig, broker) = rig_with(Limits::default()).await;
    let (device, other) = (rig.device("a", 1).await, rig.device("b", 2).await);
    let (mut tls, mut there) = open(&rig, &broker, &device).await;
    let taken = fill(&mut tls).await;
    println!("figure: bytes taken from a device whose upstream does not read: {taken}");
    others_are_served(&rig, &other, "an upstream that does not read").await;
    // It is only slow.
    let mut some = vec![0; 4 * 1024 * 1024];
    there.read_exact(&mut some).await.expect("as sent");
    assert!(some.iter().all(|byte| *byte == b'x'));
    timeout(SOON, tls.write_all(&CHUNK))
        .await
        .expect("room again")
        .expect("sent");
}

#[tokio::test]
async fn whoever_does_not_read_is_let_go() {
    let (mut rig, broker) = rig_with(Limits {
        patience: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    let (device, other) = (rig.device("a", 1).await, rig.device("b", 2).await);
    let (tls, mut there) = open(&rig, &broker, &device).await;
    let taken = fill(&mut there).await;
    println!("figure: bytes taken from an upstream whose device does not read: {taken}");
    others_are_served(&rig, &other, "a device that does not read").await;
    let left = async { while there.write_all(&CHUNK).await.is_ok() {} };
    timeout(SOON, left).await.expect("it was let go");
    while rig.next_outcome().await != Outcome::Refused(Code::AnswerNotRead) {}
    exchange(&mut rig).await;
    are_open(&rig, &device, 0).await;
    drop(tls);
}

#[tokio::test]
async fn a_device_has_so_many_streams() {
    const MOST: usize = 8;
    let (mut rig, broker) = rig_with(Limits {
        max_connections_per_device: MOST,
        ..Limits::default()
    })
    .await;
    let (device, other) = (rig.device("a", 1).await, rig.device("b", 2).await);
    let (mut others, mut others_there) = open(&rig, &broker, &other).await;
    let mut streams = Vec::new();
    for _ in 0..5 * MOST {
        streams.push(open(&rig, &broker, &device).await);
    }
    // The oldest made room, at the upstream, too.
    let (newest, oldest) = (streams.split_off(4 * MOST), streams);
    for (mut tls, mut there) in oldest {
        assert!(is_over(&mut tls).await && is_over_there(&mut there).await);
    }
    are_open(&rig, &device, MOST).await;
    for (mut tls, mut there) in newest {
        tls.write_all(b"a").await.expect("sent");
        assert_eq!(there.read_u8().await.expect("a byte"), b'a');
    }
    others.write_all(b"b").await.expect("sent");
    assert_eq!(others_there.read_u8().await.expect("a byte"), b'b');
}

#[tokio::test]
async fn the_longest_header_of_a_load_balancer_and_a_longer_one() {
    for (trusted, proxies) in [(true, ["127.0.0.1/32"]), (false, ["10.0.0.0/8"])] {
        let mut rig = Rig::start_behind(&proxies).await;
        let broker = broker(&rig, true).await;
        let device = rig.device("a", 1).await;
        // NOOP, as long as it may be, and by one longer.
        for (length, good) in [(6_113_u16, true), (6_114, false), (65_000, false)] {
            let [high, low] = length.to_be_bytes();
            let padding = [vec![4, high, low], vec![0; length.into()]].concat();
            let mut tcp = TcpStream::connect(rig.address).await.expect("connected");
            // It may be refused before it has been read.
            let _ = tcp.write_all(&header(0x21, 0x11, &padding)).await;
            let config = crate::client::config(&rig, Some(&device), "mqtt");
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            let name = rustls_pki_types::ServerName::try_from("mqtt.test").expect("a name");
            let connected = timeout(SOON, connector.connect(name, tcp)).await;
            let connected = connected.expect("an end in time");
            assert_eq!(connected.is_ok(), good && trusted, "{length} {proxies:?}");
            if good && trusted {
                let mut stream = accept(&broker).await;
                let mut told = [0; 20];
                stream.read_exact(&mut told).await.expect("a header");
                assert_eq!(told[16..], [192, 0, 2, 7], "the device's address");
                assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
            } else {
                let outcome = rig.next_outcome().await;
                assert!(
                    matches!(outcome, Outcome::HandshakeRefused(_)),
                    "{outcome:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_revocation_ends_each_of_them() {
    let (mut rig, broker) = rig_with(Limits::default()).await;
    let other = rig.device("other", 100).await;
    let (mut others, mut others_there) = open(&rig, &broker, &other).await;
    for (index, what) in [
        "silent",
        "dripping",
        "device ended",
        "upstream ended",
        "upstream does not read",
        "device does not read",
    ]
    .into_iter()
    .enumerate()
    {
        let device = rig.device(&what.replace(' ', "-"), index as u64 + 1).await;
        let (mut tls, mut there) = open(&rig, &broker, &device).await;
        // Its upstream may have it before the gateway knows.
        there.write_all(b"a").await.expect("sent");
        assert_eq!(tls.read_u8().await.expect("a byte"), b'a', "{what}");
        match what {
            "dripping" => {
                for _ in 0..100 {
                    tls.write_all(b"a").await.expect("sent");
                    tls.flush().await.expect("sent");
                    there.write_all(b"b").await.expect("sent");
                    sleep(Duration::from_millis(1)).await;
                }
            }
            "device ended" => {
                tls.shutdown().await.expect("said goodbye");
                assert_eq!(there.read(&mut [0; 1]).await.expect("the end"), 0);
            }
            "upstream ended" => {
                there.shutdown().await.expect("ended");
                assert_eq!(tls.read(&mut [0; 1]).await.expect("the end"), 0);
            }
            "upstream does not read" => assert!(fill(&mut tls).await > 0),
            "device does not read" => assert!(fill(&mut there).await > 0),
            _ => {}
        }
        let acknowledged = rig.set(&device, Status::Revoked).await;
        let cut: u64 = acknowledged.cuts.iter().map(|cut| cut.closed).sum();
        assert_eq!(cut, 1, "{what}");
        assert!(is_over(&mut tls).await, "{what}");
        assert!(is_over_there(&mut there).await, "{what}");
        assert_eq!(exchange(&mut rig).await.ending, Ending::Cut, "{what}");
        others.write_all(b"b").await.expect("sent");
        assert_eq!(
            others_there.read_u8().await.expect("a byte"),
            b'b',
            "{what}"
        );
    }
}
