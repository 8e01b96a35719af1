//! The certificate is public; only its key makes a device. Every order and content of the client's flight but the
//! right one is refused.

use gateway::Outcome;
use gateway::tls::HandshakeFault;
use rcgen::KeyPair;

use crate::authority::Identity;
use crate::hand_made_tls::{
    APPLICATION_DATA, CERTIFICATE, CERTIFICATE_VERIFY, ECDSA_P256_SHA256, End, HANDSHAKE, HandMade,
    Hello, KEY_UPDATE, message, sized,
};
use crate::rig::Rig;

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const DECRYPT_ERROR: u8 = 51;
const CERTIFICATE_REQUIRED: u8 = 116;

async fn check(
    rig: &mut Rig,
    what: &str,
    expected: (u8, HandshakeFault),
    flight: impl FnOnce(&mut HandMade),
) {
    let mut client = HandMade::connect(rig.address, &Hello::to("api.test")).expect("a flight");
    flight(&mut client);
    // As far as the client knows it is through.
    client.begin();
    client.request("api.test");
    assert_eq!(client.end(), End::Alert(expected.0), "{what}");
    drop(client);
    let outcome = Outcome::HandshakeRefused(expected.1);
    assert_eq!(rig.next_outcome().await, outcome, "{what}");
    assert_eq!(rig.upstream.take(), "", "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_hold_the_key_is_nobody() {
    use HandshakeFault::{CertificateRequired, KeyNotProven, Protocol};
    let mut rig = Rig::start().await;
    let victim = rig.device("victim", 1).await;
    let attacker = rig.device("attacker", 2).await;
    let (key, other) = (victim.key_pair(), attacker.key_pair());
    let not_proven = (DECRYPT_ERROR, KeyNotProven);

    check(&mut rig, "another key", not_proven, |client| {
        client.send(&client.certificate(&[&victim]));
        client.send(&client.certificate_verify(&other));
        client.send(&client.finished());
    })
    .await;
    check(
        &mut rig,
        "two leaves, the second's key",
        not_proven,
        |client| {
            client.send(&client.certificate(&[&victim, &attacker]));
            client.send(&client.certificate_verify(&other));
            client.send(&client.finished());
        },
    )
    .await;
    check(&mut rig, "a flipped bit", not_proven, |client| {
        client.send(&client.certificate(&[&victim]));
        let mut proof = client.certificate_verify(&key);
        *proof.last_mut().expect("a signature") ^= 1;
        client.send(&proof);
        client.send(&client.finished());
    })
    .await;
    check(&mut rig, "a server's proof", not_proven, |client| {
        client.send(&client.certificate(&[&victim]));
        client.send(&client.certificate_verify_as(&key, ECDSA_P256_SHA256, "server"));
        client.send(&client.finished());
    })
    .await;
    check(
        &mut rig,
        "the proof before the certificate was said",
        not_proven,
        |client| {
            let early = client.certificate_verify(&key);
            client.send(&client.certificate(&[&victim]));
            client.send(&early);
            client.send(&client.finished());
        },
    )
    .await;
    let recorded = {
        let mut client = HandMade::connect(rig.address, &Hello::to("api.test")).expect("a flight");
        client.send(&client.certificate(&[&victim]));
        client.certificate_verify(&key)
    };
    assert_eq!(
        rig.next_outcome().await,
        Outcome::HandshakeRefused(HandshakeFault::Closed)
    );
    check(
        &mut rig,
        "another connection's proof",
        not_proven,
        |client| {
            client.send(&client.certificate(&[&victim]));
            client.send(&recorded);
            client.send(&client.finished());
        },
    )
    .await;
    check(&mut rig, "no signature", not_proven, |client| {
        client.send(&client.certificate(&[&victim]));
        let empty = [ECDSA_P256_SHA256.to_be_bytes().to_vec(), sized(2, b"")];
        client.send(&message(CERTIFICATE_VERIFY, &empty.concat()));
        client.send(&client.finished());
    })
    .await;
    // SHA-1, RSA, P-384, Ed25519, one that does not exist.
    let unheard_of = (ILLEGAL_PARAMETER, Protocol);
    for (scheme, expected) in [
        (0x0203, unheard_of),
        (0x0201, unheard_of),
        (0x0401, unheard_of),
        (0x0503, not_proven),
        (0x0807, not_proven),
        (0xfefe, unheard_of),
    ] {
        check(
            &mut rig,
            &format!("scheme {scheme:x}"),
            expected,
            |client| {
                client.send(&client.certificate(&[&victim]));
                client.send(&client.certificate_verify_as(&key, scheme, "client"));
                client.send(&client.finished());
            },
        )
        .await;
    }
    check(
        &mut rig,
        "no certificate",
        (CERTIFICATE_REQUIRED, CertificateRequired),
        |client| {
            client.send(&client.certificate(&[]));
            client.send(&client.finished());
        },
    )
    .await;
    check(
        &mut rig,
        "a wrong Finished",
        (DECRYPT_ERROR, Protocol),
        |client| {
            client.send(&client.certificate(&[&victim]));
            client.send(&client.certificate_verify(&key));
            let mut finished = client.finished();
            *finished.last_mut().expect("a code") ^= 1;
            client.send(&finished);
        },
    )
    .await;
    rig = honest(rig, &victim, "victim").await;
    honest(rig, &attacker, "attacker").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_left_out_or_out_of_order() {
    use HandshakeFault::Protocol;
    let mut rig = Rig::start().await;
    let victim = rig.device("victim", 1).await;
    let key: KeyPair = victim.key_pair();
    let unexpected = (UNEXPECTED_MESSAGE, Protocol);

    check(&mut rig, "Finished alone", unexpected, |client| {
        client.send(&client.finished());
    })
    .await;
    check(&mut rig, "no proof", unexpected, |client| {
        client.send(&client.certificate(&[&victim]));
        client.send(&client.finished());
    })
    .await;
    check(
        &mut rig,
        "a proof for no certificate",
        unexpected,
        |client| {
            client.send(&client.certificate_verify(&key));
            client.send(&client.finished());
        },
    )
    .await;
    check(&mut rig, "the proof first", unexpected, |client| {
        client.send(&client.certificate_verify(&key));
        client.send(&client.certificate(&[&victim]));
        client.send(&client.finished());
    })
    .await;
    check(&mut rig, "two certificates", unexpected, |client| {
        client.send(&client.certificate(&[&victim]));
        client.send(&client.certificate(&[&victim]));
        client.send(&client.certificate_verify(&key));
        client.send(&client.finished());
    })
    .await;
    check(&mut rig, "two proofs", unexpected, |client| {
        client.send(&client.certificate(&[&victim]));
        client.send(&client.certificate_verify(&key));
        client.send(&client.certificate_verify(&key));
        client.send(&client.finished());
    })
    .await;
    check(&mut rig, "a key update in between", unexpected, |client| {
        client.send(&client.certificate(&[&victim]));
        client.send(&message(KEY_UPDATE, &[0]));
    })
    .await;
    check(
        &mut rig,
        "a request instead of the flight",
        unexpected,
        |client| {
            client.request("api.test");
        },
    )
    .await;
    check(
        &mut rig,
        "a request before Finished",
        unexpected,
        |client| {
            client.send(&client.certificate(&[&victim]));
            client.send(&client.certificate_verify(&key));
            client.request("api.test");
        },
    )
    .await;
    check(
        &mut rig,
        "the certificate, and application data",
        unexpected,
        |client| {
            client.send(&client.certificate(&[&victim]));
            client.send_record(APPLICATION_DATA, b"");
        },
    )
    .await;
    // The request's context, which is empty (RFC 8446, section 4.4.2).
    let entry = [sized(3, &victim.certificate), vec![0, 0]].concat();
    let with_context = [sized(1, b"x"), sized(3, &entry)].concat();
    check(&mut rig, "a context", (DECODE_ERROR, Protocol), |client| {
        client.send(&message(CERTIFICATE, &with_context));
    })
    .await;
    let trailing = [sized(1, b""), sized(3, &entry), vec![0]].concat();
    check(
        &mut rig,
        "a byte too many",
        (DECODE_ERROR, Protocol),
        |client| {
            client.send(&message(CERTIFICATE, &trailing));
        },
    )
    .await;
    check(
        &mut rig,
        "a byte too few",
        (DECODE_ERROR, Protocol),
        |client| {
            client.send(&message(
                CERTIFICATE,
                &[sized(1, b""), sized(3, &entry[1..])].concat(),
            ));
        },
    )
    .await;
    check(
        &mut rig,
        "an empty record",
        (BAD_RECORD_MAC, Protocol),
        |client| {
            client.send_record(HANDSHAKE, b"");
        },
    )
    .await;
    honest(rig, &victim, "victim").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flight_may_come_in_the_smallest_pieces() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = HandMade::connect(rig.address, &Hello::to("api.test")).expect("a flight");
    let key = device.key_pair();
    client.send_in_pieces(&client.certificate(&[&device]), 1);
    client.send_in_pieces(&client.certificate_verify(&key), 1);
    client.send_in_pieces(&client.finished(), 1);
    client.begin();
    client.request("api.test");
    assert_eq!(client.end(), End::Answer("200".into()));
    assert!(rig.upstream.take().contains("x-device-id: a\r\n"));
}

/// The positive twin: the same client, with the right flight.
async fn honest(mut rig: Rig, device: &Identity, id: &str) -> Rig {
    let mut client = HandMade::connect(rig.address, &Hello::to("api.test")).expect("a flight");
    client.authenticate(device);
    client.request("api.test");
    assert_eq!(client.end(), End::Answer("200".into()));
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    let seen = rig.upstream.take();
    assert!(seen.contains(&format!("x-device-id: {id}\r\n")), "{seen}");
    rig
}
