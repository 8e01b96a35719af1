use std::io;
use std::time::Duration;

use gateway::tls::HandshakeFault;
use gateway::{Code, Outcome};
use identity::Status;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::{AlertDescription, Error, HandshakeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::authority::{Authority, Identity};
use crate::client::{Client, Verdict, config, handshake, verdict_http2};
use crate::rig::Rig;

/// The alert that ends a handshake. In TLS 1.3 the client learns of it only when it reads.
async fn alert(rig: &Rig, device: Option<&Identity>) -> AlertDescription {
    let error = refused(rig, device).await;
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    {
        Some(Error::AlertReceived(alert)) => *alert,
        other => panic!("{other:?}: {error}"),
    }
}

async fn refused(rig: &Rig, device: Option<&Identity>) -> io::Error {
    match handshake(rig, config(rig, device, "http/1.1"), "api.test").await {
        Err(error) => error,
        Ok(mut tls) => {
            let _ = tls
                .write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
                .await;
            let mut answer = Vec::new();
            tls.read_to_end(&mut answer).await.expect_err("an alert")
        }
    }
}

#[tokio::test]
async fn strangers_get_the_alert() {
    let mut rig = Rig::start().await;
    let pretender = Authority::new();
    let outcome = Outcome::HandshakeRefused;

    assert_eq!(
        alert(&rig, None).await,
        AlertDescription::CertificateRequired
    );
    assert_eq!(
        rig.next_outcome().await,
        outcome(HandshakeFault::CertificateRequired)
    );
    // The pretender's CA has our CA's name, and not its key.
    let forged = pretender.device("a", 1);
    assert_eq!(
        alert(&rig, Some(&forged)).await,
        AlertDescription::CertificateUnknown
    );
    assert_eq!(
        rig.next_outcome().await,
        outcome(HandshakeFault::BadSignature)
    );
    let expired = pretender.device_with("a", 1, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    assert_eq!(
        alert(&rig, Some(&expired)).await,
        AlertDescription::CertificateUnknown
    );
    assert_eq!(
        rig.next_outcome().await,
        outcome(HandshakeFault::BadSignature)
    );
    for kind in ["gateway", "operator", "station"] {
        let id = format!("spiffe://keybound.test/{kind}/a");
        let other = rig.authority.client(&id, 1, |_| {});
        assert_eq!(
            alert(&rig, Some(&other)).await,
            AlertDescription::AccessDenied
        );
        assert_eq!(
            rig.next_outcome().await,
            outcome(HandshakeFault::KindNotAccepted)
        );
    }
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn our_own_devices_learn_why_at_http() {
    let mut rig = Rig::start().await;
    let expired = rig.authority.device_with("expired", 1, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let early = rig.authority.device_with("early", 2, |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    rig.set(&expired, Status::Active).await;
    rig.set(&early, Status::Active).await;
    let unregistered = rig.authority.device("unregistered", 3);
    let same_index = rig.authority.device("same-index", 1);
    let no_client_auth = rig.authority.device_with("eku", 4, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    rig.set(&no_client_auth, Status::Active).await;
    let two_names = rig.authority.device_with("two", 5, |params| {
        let other = SanType::DnsName("a.example".try_into().expect("ASCII"));
        params.subject_alt_names.push(other);
    });
    rig.set(&two_names, Status::Active).await;
    let mut cases = vec![
        (expired, 403, "expired"),
        (early, 403, "not-yet-valid"),
        (unregistered, 403, "unregistered"),
        (same_index, 403, "unregistered"),
        (no_client_auth, 403, "identity-invalid"),
        (two_names, 403, "identity-invalid"),
    ];
    for (index, status, code) in [
        (10, Status::Retired, "retired"),
        (11, Status::Suspended, "suspended"),
        (12, Status::Restricted, "restricted"),
        (13, Status::Quarantined, "quarantined"),
        (14, Status::Revoked, "revoked"),
    ] {
        let device = rig.device(code, index).await;
        rig.set(&device, status).await;
        cases.push((device, 403, code));
    }
    for (device, status, code) in cases {
        let mut client = Client::connect(&rig, &device).await;
        for _ in 0..2 {
            let answer = client.get("/", "").await;
            assert_eq!(answer.refusal(), (status, code.to_owned()));
            let record = rig.next_record().await;
            assert_eq!(record.outcome.as_str(), code);
            assert_eq!(
                record.unregistered.is_some(),
                record.outcome == Outcome::Refused(Code::Unregistered)
            );
        }
        let expected = Verdict::Answer(status, Some(code.to_owned()));
        assert_eq!(verdict_http2(&rig, &device).await, expected);
        assert_eq!(rig.next_outcome().await.as_str(), code);
    }
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let config = config(&rig, Some(&device), "http/1.1");
    for _ in 0..3 {
        // The same configuration keeps whatever ticket it was given.
        let mut tls = handshake(&rig, config.clone(), "api.test")
            .await
            .expect("a handshake");
        tls.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        let (_, connection) = tls.get_ref();
        // One round trip more or less for the group, but always the whole handshake.
        assert!(matches!(
            connection.handshake_kind(),
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
        ));
        assert_eq!(connection.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let mut rig = Rig::start().await;
    let mut tcp = tokio::net::TcpStream::connect(rig.address)
        .await
        .expect("a connection");
    let reading = tcp.read_u8();
    let ended = tokio::time::timeout(Duration::from_secs(4), reading).await;
    assert!(ended.expect("an end").is_err());
    let timeout = Outcome::HandshakeRefused(HandshakeFault::Timeout);
    assert_eq!(rig.next_outcome().await, timeout);
    tcp = tokio::net::TcpStream::connect(rig.address)
        .await
        .expect("a connection");
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    let not_tls = Outcome::HandshakeRefused(HandshakeFault::NotTls);
    assert_eq!(rig.next_outcome().await, not_tls);
}

#[tokio::test]
async fn the_server_certificate_is_replaced_without_a_restart() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let presented = async |rig: &Rig| {
        let config = config(rig, Some(&device), "http/1.1");
        let tls = handshake(rig, config, "api.test")
            .await
            .expect("a handshake");
        let (_, connection) = tls.get_ref();
        connection.peer_certificates().expect("a chain")[0].clone()
    };
    let before = presented(&rig).await;
    let server = rig.authority.server();
    let chain = vec![server.certificate.clone()];
    // A key that is not the certificate's changes nothing.
    let refused = rig.certificate.replace(chain.clone(), device.key());
    assert!(refused.is_err());
    assert_eq!(presented(&rig).await, before);
    rig.certificate
        .replace(chain, server.key())
        .expect("replaced");
    assert_eq!(presented(&rig).await, server.certificate);
}
