//! The server name of the handshake decides which hosts may be asked for, however it is spelled or cut, on the first
//! request as on every other.

use bytes::Bytes;
use gateway::tls::HandshakeFault;
use gateway::{Code, Outcome};
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::authority::Identity;
use crate::client::{Client, http2};
use crate::hand_made_tls::{End, HandMade, Hello, extension, sized};
use crate::rig::Rig;

/// One request for `host` after a handshake for whatever `hello` names.
fn ask(rig: &Rig, device: &Identity, hello: &Hello, host: &str) -> End {
    match HandMade::connect(rig.address, hello) {
        Err(end) => end,
        Ok(mut client) => {
            client.authenticate(device);
            client.request(host);
            client.end()
        }
    }
}

fn answer(text: &str) -> End {
    End::Answer(text.to_owned())
}

/// How a ClientHello may be cut: not at all, into records of one byte, and these into segments of one byte.
const CUTS: [Option<(usize, bool)>; 3] = [None, Some((1, false)), Some((1, true))];

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_selects_its_own_host() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mismatch = || answer("421 host-mismatch");
    for fragments in CUTS {
        let hello = |name: &str| Hello {
            fragments,
            ..Hello::to(name)
        };
        let without = Hello {
            fragments,
            ..Hello::default()
        };
        let check = |hello: &Hello, host: &str, expected: End| {
            let got = ask(&rig, &device, hello, host);
            assert_eq!(got, expected, "{hello:?} then {host}");
        };
        check(&hello("api.test"), "api.test", answer("200"));
        check(&hello("API.TeSt"), "api.test", answer("200"));
        check(&hello("api.test"), "API.test.:8443", answer("200"));
        check(&hello("api.test"), "other.test", mismatch());
        check(&hello("other.test"), "api.test", mismatch());
        check(&hello("OTHER.test"), "api.test", mismatch());
        check(&hello("api.test"), "127.0.0.1", mismatch());
        // Served by nobody, whoever agrees with whom.
        check(&hello("evil.test"), "evil.test", answer("404 no-route"));
        check(&hello("evil.test"), "api.test", mismatch());
        check(&hello("localhost"), "api.test", mismatch());
        // No name is no wildcard: it selects the hosts that are named for it, and no other.
        check(&without, "127.0.0.1", answer("200"));
        check(&without, "api.test", mismatch());
        check(&without, "other.test", mismatch());
        // An address is no name (RFC 6066, section 3), and counts as none.
        check(&hello("127.0.0.1"), "127.0.0.1", answer("200"));
        check(&hello("127.0.0.1"), "api.test", mismatch());
        check(&hello("::1"), "api.test", mismatch());
    }
    let seen = rig.upstream.take();
    assert_eq!(
        seen.matches("x-device-id: a\r\n").count(),
        seen.matches("GET /").count()
    );
    assert_eq!(seen.matches("GET /").count(), CUTS.len() * 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_name_ends_the_handshake() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let long = [[b'a'; 63]; 4].join(&b'.');
    let name = |name: &[u8]| vec![(0, name.to_vec())];
    for names in [
        name(b"*.test"),
        name(b"*"),
        name(b"api.test\0"),
        name(b"api.test\0.evil"),
        name(b"\0"),
        name(b"api.test:443"),
        name(b"api..test"),
        name(b".api.test"),
        name(b"api.test.."),
        name(b"api.test/"),
        name(b"api.test\r\nhost: other.test"),
        name("аpi.test".as_bytes()),
        name(b"a@api.test"),
        name(b"[::1]"),
        name(&long),
        name(&[b'a'; 255]),
        name(&[b'a'; 64]),
        name(&vec![b'a'; 10_000]),
        name(&vec![b'a'; 20_000]),
        name(b""),
        vec![(0, b"api.test".to_vec()), (0, b"other.test".to_vec())],
        vec![(0, b"api.test".to_vec()), (0, b"api.test".to_vec())],
        vec![(1, b"api.test".to_vec())],
    ] {
        for fragments in CUTS.into_iter().take(2) {
            let hello = Hello {
                names: names.clone(),
                fragments,
                ..Hello::default()
            };
            let got = ask(&rig, &device, &hello, "api.test");
            let refused = matches!(got, End::Alert(_) | End::Closed);
            assert!(refused, "{names:?}: {got:?}");
            let record = rig.next_record().await;
            let protocol = Outcome::HandshakeRefused(HandshakeFault::Protocol);
            assert_eq!(record.outcome, protocol, "{names:?}");
        }
    }
    // The extension itself twice.
    let again = sized(2, &[vec![0], sized(2, b"other.test")].concat());
    let hello = Hello {
        extensions: extension(0, &again),
        ..Hello::to("api.test")
    };
    assert!(matches!(
        ask(&rig, &device, &hello, "api.test"),
        End::Alert(_)
    ));
    rig.next_record().await;
    assert_eq!(rig.upstream.take(), "");
    // One trailing dot is another spelling of the same name.
    let dotted = ask(&rig, &device, &Hello::to("api.test."), "api.test");
    assert_eq!(dotted, answer("200"));
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
}

#[tokio::test]
async fn every_request_is_held_to_the_name() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    for wrong in [1, 2, 7] {
        let mut client = Client::connect(&rig, &device).await;
        for number in 1..=7 {
            let host = if number == wrong {
                "other.test"
            } else {
                "api.test"
            };
            let request = format!("GET /only HTTP/1.1\r\nHost: {host}\r\n\r\n");
            client.send(&request).await;
            let answer = client.answer().await.expect("an answer");
            if number == wrong {
                assert_eq!(answer.refusal(), (421, "host-mismatch".into()));
                assert_eq!(
                    rig.next_outcome().await,
                    Outcome::Refused(Code::HostMismatch)
                );
            } else {
                assert_eq!(answer.status(), 200);
                assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
            }
        }
        let (mut sender, _driver) = http2(&rig, &device).await;
        for number in 1..=7 {
            let host = if number == wrong {
                "other.test"
            } else {
                "api.test"
            };
            let request = Request::get(format!("https://{host}/only"))
                .body(Full::<Bytes>::default())
                .expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), if number == wrong { 421 } else { 200 });
            answer.into_body().collect().await.expect("a body");
            rig.next_record().await;
        }
    }
    let seen = rig.upstream.take();
    assert_eq!(seen.matches("GET /only").count(), 3 * 2 * 6, "{seen}");
    assert!(!seen.contains("other.test"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn early_data_is_never_executed() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    // A session that the gateway never gave, and early data under it (RFC 8446, sections 4.2.10 and 4.2.11).
    let identity = [sized(2, &[5; 48]), vec![0; 4]].concat();
    let offer = [sized(2, &identity), sized(2, &sized(1, &[6; 32]))].concat();
    let extensions = [
        extension(45, &sized(1, &[1])),
        extension(42, b""),
        extension(41, &offer),
    ]
    .concat();
    let hello = Hello {
        extensions,
        ..Hello::to("api.test")
    };
    let mut client = HandMade::connect(rig.address, &hello).expect("a full handshake");
    // A record that nobody can read, as early data under a forgotten session is.
    let early = [vec![23, 3, 3], sized(2, &[8; 200])].concat();
    std::io::Write::write_all(&mut client.tcp, &early).expect("sent");
    client.authenticate(&device);
    client.request("api.test");
    let end = client.end();
    let seen = rig.upstream.take();
    // The data is skipped, and the handshake goes on as if it had not come.
    assert_eq!(end, answer("200"));
    assert_eq!(seen.matches("GET /").count(), 1, "{seen}");
    // The offer alone changes nothing: a full handshake, with the certificate asked for.
    let mut client = HandMade::connect(rig.address, &hello).expect("a full handshake");
    client.send(&client.certificate(&[]));
    client.send(&client.finished());
    client.begin();
    client.request("api.test");
    assert_eq!(client.end(), End::Alert(116));
    assert_eq!(rig.upstream.take(), "");
}
