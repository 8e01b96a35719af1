//! Streams that are no HTTP: chosen by the server name, announced to their upstream, and cut like everything else.

use std::collections::HashMap;
use std::time::Duration;

use gateway::{Code, Limits, Outcome, TcpRoute, TcpRouteTable, UpstreamTimeouts};
use identity::Status;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::authority::Identity;
use crate::client::{Client, Verdict, config, handshake, verdict};
use crate::rig::{Rig, snapshot};

const SOON: Duration = Duration::from_secs(5);

/// A rig whose `mqtt.test` leads to the returned listener, after an upstream that nobody is behind.
async fn rig(announce: bool) -> (Rig, TcpListener) {
    let rig = Rig::start().await;
    let broker = broker(&rig, announce).await;
    (rig, broker)
}

/// Where `mqtt.test` of this rig leads to.
pub(crate) async fn broker(rig: &Rig, announce: bool) -> TcpListener {
    let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    publish(rig, &broker, announce);
    broker
}

fn publish(rig: &Rig, broker: &TcpListener, announce: bool) {
    let address = broker.local_addr().expect("bound");
    let mut snapshot = snapshot(&[&format!("http://{}", rig.upstream.address)]);
    snapshot.tcp_routes = TcpRouteTable::new(vec![TcpRoute {
        host: "mqtt.test".into(),
        upstreams: ["tcp://127.0.0.1:1", &format!("tcp://{address}")]
            .map(|one| one.parse().expect("an upstream"))
            .into(),
        announce,
        alpn: vec!["mqtt".into()],
    }])
    .expect("routes");
    rig.gateway.publish(snapshot);
}

pub(crate) async fn connect(
    rig: &Rig,
    device: &Identity,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = config(rig, Some(device), "mqtt");
    handshake(rig, config, "MQTT.test")
        .await
        .expect("a handshake")
}

pub(crate) async fn accept(broker: &TcpListener) -> TcpStream {
    timeout(SOON, broker.accept())
        .await
        .expect("a stream")
        .expect("accepted")
        .0
}

/// An upstream hears that this is not all.
async fn broken_off(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(1), stream.read_to_end(&mut rest)).await;
    let reset = ended
        .expect("the upstream's end")
        .expect_err("no ordinary end");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
}

async fn nobody_comes(broker: &TcpListener) {
    assert!(
        timeout(Duration::from_millis(100), broker.accept())
            .await
            .is_err()
    );
}

/// The TLVs of a header, read by the specification alone.
fn tlvs(mut bytes: &[u8]) -> HashMap<u8, Vec<u8>> {
    let mut found = HashMap::new();
    while !bytes.is_empty() {
        let length = usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        assert!(
            found
                .insert(bytes[0], bytes[3..3 + length].to_vec())
                .is_none()
        );
        bytes = &bytes[3 + length..];
    }
    found
}

#[tokio::test]
async fn the_upstream_is_told_who_it_is_and_gets_the_bytes() {
    let (mut rig, broker) = rig(true).await;
    let device = rig.device("a", 1).await;
    let mut tls = connect(&rig, &device).await;
    tls.write_all(b"CONNECT").await.expect("sent");
    let mut stream = accept(&broker).await;
    let mut head = [0; 16];
    stream.read_exact(&mut head).await.expect("a header");
    assert_eq!(&head[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
    let mut body = vec![0; usize::from(head[14]) << 8 | usize::from(head[15])];
    stream.read_exact(&mut body).await.expect("the rest");
    let local = tls.get_ref().0.local_addr().expect("connected");
    let told = |port: u16| {
        [[127, 0, 0, 1], [127, 0, 0, 1]]
            .concat()
            .into_iter()
            .chain(port.to_be_bytes())
    };
    let addresses: Vec<u8> = told(local.port())
        .chain(rig.address.port().to_be_bytes())
        .collect();
    assert_eq!(body[..12], addresses);
    let outer = tlvs(&body[12..]);
    assert_eq!(outer[&0x01], b"mqtt");
    assert_eq!(outer[&0x02], b"mqtt.test");
    let tls_told = &outer[&0x20];
    // Over TLS, with a certificate on this connection and session, verified.
    assert_eq!(tls_told[..5], [0x07, 0, 0, 0, 0]);
    let inner = tlvs(&tls_told[5..]);
    assert_eq!(inner[&0x21], b"TLSv1.3");
    assert_eq!(inner[&0x22], b"a");
    let suite = tls.get_ref().1.negotiated_cipher_suite().expect("one");
    let suite = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
    assert_eq!(inner[&0x23], suite.as_bytes());
    assert_eq!(inner[&0x28], device.certificate.as_ref());

    let mut bytes = [0; 7];
    stream
        .read_exact(&mut bytes)
        .await
        .expect("the device's bytes");
    assert_eq!(&bytes, b"CONNECT");
    stream.write_all(b"CONNACK").await.expect("sent");
    tls.read_exact(&mut bytes)
        .await
        .expect("the broker's bytes");
    assert_eq!(&bytes, b"CONNACK");
    // Half a stream may end before the other.
    tls.shutdown().await.expect("said goodbye");
    assert_eq!(stream.read(&mut bytes).await.expect("the end"), 0);
    stream.write_all(b"LAST").await.expect("sent");
    drop(stream);
    let mut rest = Vec::new();
    tls.read_to_end(&mut rest).await.expect("the rest");
    assert_eq!(rest, b"LAST");

    let record = rig.next_record().await;
    assert_eq!(record.outcome, Outcome::Forwarded);
    assert_eq!(
        record.request_id.clone().map(String::into_bytes).as_ref(),
        Some(&outer[&0x05])
    );
    assert_eq!(record.host.as_deref(), Some("mqtt.test"));
    assert_eq!(
        rig.sightings.recv().await.map(|seen| seen.index),
        Some(device.index)
    );
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_not_taken_for_a_whole_one() {
    let (mut rig, broker) = rig(false).await;
    let device = rig.device("a", 1).await;
    for is_reset in [false, true] {
        let mut tls = connect(&rig, &device).await;
        tls.write_all(b"half").await.expect("sent");
        let mut stream = accept(&broker).await;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.expect("bytes");
        let (tcp, _) = tls.into_inner();
        if is_reset {
            let linger = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
            linger.expect("set");
        }
        // Without a goodbye in TLS.
        drop(tcp);
        broken_off(&mut stream).await;
    }
    // One that says goodbye ends.
    let mut tls = connect(&rig, &device).await;
    tls.write_all(b"whole").await.expect("sent");
    tls.shutdown().await.expect("said goodbye");
    let mut stream = accept(&broker).await;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("an end");
    assert_eq!(bytes, b"whole");
}

#[tokio::test]
async fn whoever_cannot_read_the_header_gets_none() {
    let (mut rig, broker) = rig(false).await;
    let device = rig.device("a", 1).await;
    let mut tls = connect(&rig, &device).await;
    tls.write_all(b"first").await.expect("sent");
    let mut bytes = [0; 5];
    accept(&broker)
        .await
        .read_exact(&mut bytes)
        .await
        .expect("the device's bytes");
    assert_eq!(&bytes, b"first");
}

#[tokio::test]
async fn a_revocation_cuts_streams_and_lets_no_new_one_begin() {
    let (mut rig, broker) = rig(true).await;
    let device = rig.device("a", 1).await;
    let other = rig.device("b", 2).await;
    let mut tls = connect(&rig, &device).await;
    let mut stream = accept(&broker).await;
    let mut others = connect(&rig, &other).await;
    let mut others_stream = accept(&broker).await;
    let acknowledged = rig.set(&device, Status::Revoked).await;
    assert_eq!(
        acknowledged.cuts.iter().map(|cut| cut.closed).sum::<u64>(),
        1
    );
    let ended = timeout(Duration::from_secs(1), tls.read(&mut [0; 1]))
        .await
        .expect("the cut");
    assert!(matches!(ended, Err(_) | Ok(0)), "{ended:?}");
    broken_off(&mut stream).await;
    others.write_all(b"on").await.expect("sent");
    let mut rest = vec![0; 4096];
    assert!(others_stream.read(&mut rest).await.expect("bytes") > 0);

    for status in [
        Status::Revoked,
        Status::Suspended,
        Status::Quarantined,
        Status::Retired,
    ] {
        rig.set(&device, status).await;
        let mut tls = connect(&rig, &device).await;
        // It may have gone already.
        let _ = tls.write_all(b"CONNECT").await;
        let read = timeout(SOON, tls.read(&mut [0; 1])).await.expect("the end");
        assert!(matches!(read, Err(_) | Ok(0)), "{read:?}");
    }
    nobody_comes(&broker).await;
    let mut codes = Vec::new();
    while let Ok(record) = rig.records.try_recv() {
        codes.push(record.outcome);
    }
    let refused = [
        Code::Revoked,
        Code::Suspended,
        Code::Quarantined,
        Code::Retired,
    ];
    assert_eq!(codes[2..], refused.map(Outcome::Refused));
}

#[tokio::test]
async fn who_is_revoked_while_its_upstream_lets_it_wait_is_announced_to_nobody() {
    let mut rig = Rig::start_with(Limits {
        upstream: UpstreamTimeouts {
            connect: SOON,
            ..UpstreamTimeouts::default()
        },
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    let anywhere = "127.0.0.1:0".parse().expect("an address");
    socket.bind(anywhere).expect("a port");
    let broker = socket.listen(1).expect("listening");
    publish(&rig, &broker, true);
    let address = broker.local_addr().expect("bound");
    // As many as the kernel takes for it; who comes after them tries again, the first time after a second.
    let others: Vec<_> = (0..6)
        .map(|_| tokio::spawn(TcpStream::connect(address)))
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut tls = connect(&rig, &device).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let acknowledged = rig.set(&device, Status::Revoked).await;
    let closed: u64 = acknowledged.cuts.iter().map(|cut| cut.closed).sum();
    assert_eq!(closed, 1);
    let ended = timeout(Duration::from_secs(1), tls.read(&mut [0; 1])).await;
    assert!(matches!(ended.expect("the cut"), Err(_) | Ok(0)));
    for other in others {
        other.abort();
    }
    while let Ok(accepted) = timeout(Duration::from_secs(3), broker.accept()).await {
        let (mut stream, _) = accepted.expect("accepted");
        let mut bytes = Vec::new();
        // Who gave up is gone; only somebody who is let through would stay.
        let read = timeout(SOON, stream.read_to_end(&mut bytes)).await;
        assert!(read.is_ok() && bytes.is_empty(), "{bytes:?}");
    }
}

#[tokio::test]
async fn strangers_and_expired_certificates_reach_nobody() {
    let (mut rig, broker) = rig(true).await;
    let device = rig.device("a", 1).await;
    let mut tls = handshake(&rig, config(&rig, None, "mqtt"), "mqtt.test")
        .await
        .expect("not yet refused");
    let refused = tls.read(&mut [0; 1]).await.expect_err("an alert");
    assert!(
        refused.to_string().contains("CertificateRequired"),
        "{refused}"
    );
    let expired = rig.authority.device_with("b", 2, |params| {
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_secs(200)).into();
        params.not_after = (now - Duration::from_secs(100)).into();
    });
    rig.set(&expired, Status::Active).await;
    let unregistered = rig.authority.device("c", 3);
    for (nobody, code) in [
        (&expired, Code::Expired),
        (&unregistered, Code::Unregistered),
    ] {
        let mut tls = connect(&rig, nobody).await;
        let read = timeout(SOON, tls.read(&mut [0; 1])).await.expect("the end");
        assert!(matches!(read, Err(_) | Ok(0)), "{read:?}");
        loop {
            let record = rig.next_record().await;
            if record.outcome == Outcome::Refused(code) {
                assert_eq!(record.unregistered.is_some(), code == Code::Unregistered);
                break;
            }
        }
    }
    nobody_comes(&broker).await;
    // HTTP is not spoken there, and no stream under another name.
    let http = handshake(&rig, config(&rig, Some(&device), "h2"), "mqtt.test").await;
    assert!(http.is_err_and(|error| error.to_string().contains("NoApplicationProtocol")));
    let mqtt = handshake(&rig, config(&rig, Some(&device), "mqtt"), "api.test").await;
    assert!(mqtt.is_err_and(|error| error.to_string().contains("NoApplicationProtocol")));
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("GET / HTTP/1.1\r\nHost: mqtt.test\r\n\r\n")
        .await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (421, "host-mismatch".into()));
}

#[tokio::test]
async fn without_an_upstream_the_stream_ends() {
    let (mut rig, broker) = rig(true).await;
    let device = rig.device("a", 1).await;
    drop(broker);
    let mut tls = connect(&rig, &device).await;
    let read = timeout(SOON, tls.read(&mut [0; 1])).await.expect("the end");
    assert!(matches!(read, Err(_) | Ok(0)), "{read:?}");
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::UpstreamUnreachable)
    );
    let good = verdict(&rig, config(&rig, Some(&device), "http/1.1")).await;
    assert_eq!(good, Verdict::Answer(200, None));
}
