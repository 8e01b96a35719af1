//! What a client may do forever after its handshake costs the gateway nothing that grows.

use std::time::{Duration, Instant};

use gateway::Outcome;
use gateway::tls::HandshakeFault;

use crate::hand_made_tls::{APPLICATION_DATA, End, HANDSHAKE, HandMade, Hello, message};
use crate::rig::Rig;

fn authenticated(rig: &Rig, device: &crate::authority::Identity) -> HandMade {
    let mut client = HandMade::connect(rig.address, &Hello::to("api.test")).expect("a flight");
    client.authenticate(device);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_in_a_row_end_the_connection() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    for requested in [false, true] {
        let mut client = authenticated(&rig, &device);
        let started = Instant::now();
        // Nothing is read meanwhile.
        let sent = (0..10_000)
            .take_while(|_| client.key_update(requested))
            .count();
        assert!(matches!(client.end(), End::Alert(_) | End::Closed));
        assert!(client.key_updates <= 1, "{}", client.key_updates);
        assert!(started.elapsed() < Duration::from_secs(5));
        println!("figure: key updates sent until the end (requested: {requested}): {sent}");
    }
    // A few are as legal as they are useless.
    let mut client = authenticated(&rig, &device);
    for _ in 0..20 {
        assert!(client.key_update(true));
    }
    client.request("api.test");
    assert_eq!(client.end(), End::Answer("200".into()));
    assert_eq!(client.key_updates, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_updates_nor_empty_records_pile_up_answers() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = authenticated(&rig, &device);
    // An empty record makes the library's count begin anew; still each answer waits for the one before.
    for round in 0..10_000 {
        assert!(client.key_update(true), "round {round}");
        client.send_record(APPLICATION_DATA, b"");
    }
    client.request("api.test");
    assert_eq!(client.end(), End::Answer("200".into()));
    assert!(client.key_updates <= 1, "{}", client.key_updates);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshake_messages_have_no_place_after_the_handshake() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let victim = rig.device("victim", 2).await;
    for what in [
        message(1, &[3, 3]),
        message(0, b""),
        message(4, &[0; 8]),
        message(24, &[2]),
        message(24, b""),
        message(13, &[0, 0, 0]),
        message(99, b""),
    ] {
        let mut client = authenticated(&rig, &device);
        client.send_record(HANDSHAKE, &what);
        client.request("api.test");
        let end = client.end();
        assert!(matches!(end, End::Alert(_)), "{what:x?}: {end:?}");
    }
    // Somebody else's certificate, after one's own.
    let mut client = authenticated(&rig, &device);
    let key = victim.key_pair();
    client.send(&client.certificate(&[&victim]));
    client.send(&client.certificate_verify(&key));
    client.send(&client.finished());
    client.request("api.test");
    assert!(matches!(client.end(), End::Alert(_)));
    assert_eq!(rig.upstream.take(), "");
    // In one message with the end of the handshake.
    let mut client = HandMade::connect(rig.address, &Hello::to("api.test")).expect("a flight");
    let key = device.key_pair();
    client.send(&client.certificate(&[&device]));
    client.send(&client.certificate_verify(&key));
    let together = [client.finished(), client.certificate(&[&victim])].concat();
    client.send_record(HANDSHAKE, &together);
    client.begin();
    client.request("api.test");
    assert!(matches!(client.end(), End::Alert(_)));
    assert_eq!(
        rig.next_outcome().await,
        Outcome::HandshakeRefused(HandshakeFault::Protocol)
    );
    assert_eq!(rig.upstream.take(), "");
}
