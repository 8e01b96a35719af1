//! What a client may do forever after its handshake costs the gateway nothing that grows.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gateway::tls::HandshakeFault;
use gateway::{Code, Outcome};

use crate::client::Client;
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
async fn whatever_stands_between_them_if_it_says_nothing() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    // An empty record makes the library's count begin anew; still each answer waits for the one before.
    let mut client = authenticated(&rig, &device);
    for round in 0..1_000 {
        assert!(client.key_update(true), "round {round}");
        client.send_record(APPLICATION_DATA, b"");
    }
    client.request("api.test");
    assert_eq!(client.end(), End::Answer("200".into()));
    assert!(client.key_updates <= 1, "{}", client.key_updates);
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    // It does not make ours begin anew; nor does a byte of a body, or one now and then.
    for every in [usize::MAX, 1, 100] {
        let mut client = authenticated(&rig, &device);
        let begun = b"POST /hang HTTP/1.1\r\nHost: api.test\r\nContent-Length: 10000\r\n\r\n";
        client.send_record(APPLICATION_DATA, begun);
        for round in 1..4_000 {
            let _ = client.key_update(true);
            let byte = round % every == 0;
            client.send_record(APPLICATION_DATA, if byte { b"a" } else { b"" });
        }
        // That its body broke off may be the answer to the request.
        let refused = |answer: &str| answer == "400 malformed-request";
        let end = client.end();
        let is_over =
            matches!(&end, End::Closed) || matches!(&end, End::Answer(answer) if refused(answer));
        assert!(is_over, "{every}: {end:?}");
        assert!(client.key_updates <= 1, "{}", client.key_updates);
        // The record of the request comes before.
        while rig.next_outcome().await != Outcome::Refused(Code::TooManyFrames) {}
    }
    // Who says something in between may go on.
    let mut client = authenticated(&rig, &device);
    for _ in 0..4_000 {
        client.request("api.test");
        assert!(client.key_update(false));
        assert_eq!(client.end(), End::Answer("200".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_waits_for_them() {
    const ROUNDS: usize = 20_000;
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let other = rig.device("b", 2).await;
    let floods: Vec<_> = (0..16)
        .map(|_| {
            let mut client = authenticated(&rig, &device);
            let records = client.key_updates_and_nothing(ROUNDS);
            (client, records)
        })
        .collect();
    let mut honest = Client::connect(&rig, &other).await;
    assert_eq!(honest.get("/", "").await.status(), 200);
    let floods: Vec<_> = (floods.into_iter())
        .map(|(mut client, records)| {
            std::thread::spawn(move || {
                client.send_raw(&records);
                client.end()
            })
        })
        .collect();
    let mut waits = Vec::new();
    while waits.len() < 100 || !floods.iter().all(JoinHandle::is_finished) {
        let started = Instant::now();
        assert_eq!(honest.get("/", "").await.status(), 200);
        waits.push(started.elapsed());
    }
    for flood in floods {
        assert_eq!(flood.join().expect("no panic"), End::Closed);
    }
    waits.sort_unstable();
    let worst = waits[waits.len() * 99 / 100];
    println!("figure: p99 of requests beside floods of key updates: {worst:?}");
    assert!(worst < Duration::from_millis(250), "{worst:?}");
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
