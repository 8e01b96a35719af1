//! What HTTP/2 can say and HTTP/1.1 cannot: none of it becomes another request, or a second one.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use crate::echo::{Event, assert_identified};
use crate::frames::{Frames, Outcome, block};
use crate::session::{DEVICE, Lane};

type Bytes = &'static [u8];

/// A request that departs from an ordinary one.
struct Odd {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Option<Bytes>,
    trailers: Option<Vec<(Bytes, Bytes)>>,
}

const ORDINARY: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "api.test"),
    (":path", "/odd?x"),
];

/// The ordinary request with one field replaced, or with one more at its end.
fn with(name: Bytes, value: Bytes) -> Odd {
    let mut odd = ordinary();
    match odd.fields.iter_mut().find(|(existing, _)| existing == name) {
        Some(field) => field.1 = value.to_vec(),
        None => odd.fields.push((name.to_vec(), value.to_vec())),
    }
    odd
}

fn ordinary() -> Odd {
    let bytes = |(name, value): (&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    Odd {
        fields: ORDINARY.map(bytes).to_vec(),
        body: None,
        trailers: None,
    }
}

impl Odd {
    fn and(mut self, name: Bytes, value: Bytes) -> Self {
        self.fields.push((name.to_vec(), value.to_vec()));
        self
    }

    fn without(mut self, name: Bytes) -> Self {
        self.fields.retain(|(existing, _)| existing != name);
        self
    }

    fn body(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self
    }

    fn trailer(mut self, name: Bytes, value: Bytes) -> Self {
        self.trailers = Some(vec![(name, value)]);
        self
    }

    fn reversed(mut self) -> Self {
        self.fields.reverse();
        self
    }
}

/// What must be refused, or reset.
fn refused() -> Vec<Odd> {
    let mut odds = vec![
        // Lengths.
        with(b"content-length", b"5"),
        with(b"content-length", b"5").body(b"abc"),
        with(b"content-length", b"5").body(b"abcdefg"),
        with(b"content-length", b"5")
            .body(b"abc")
            .trailer(b"a", b"b"),
        with(b"content-length", b"5")
            .and(b"content-length", b"6")
            .body(b"abcde"),
        // Headers of a connection.
        with(b"transfer-encoding", b"chunked").body(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n"),
        with(b"transfer-encoding", b"identity"),
        with(b"te", b"gzip"),
        with(b"te", b"trailers, chunked"),
        with(b"connection", b"close"),
        with(b"connection", b"x-device-id"),
        with(b"keep-alive", b"timeout=5"),
        with(b"proxy-connection", b"keep-alive"),
        with(b"upgrade", b"websocket"),
        with(b"transfer_encoding", b"chunked"),
        with(b"content_length", b"5"),
        // Methods, schemes.
        with(b":method", b""),
        with(b":method", b"GET "),
        with(b":method", b"GET / HTTP/1.1\r\nx: y\r\n\r\nGET"),
        with(b":method", b"TRACE"),
        with(b":method", b"CONNECT"),
        // A call is refused with 200 and trailers, which to a CONNECT would say that there is a tunnel.
        with(b":method", b"CONNECT")
            .without(b":scheme")
            .without(b":path")
            .and(b"content-type", b"application/grpc"),
        with(b":method", b"CONNECT")
            .without(b":scheme")
            .without(b":path"),
        with(b":method", b"CONNECT").and(b":protocol", b"connect-udp"),
        with(b":method", b"CONNECT").and(b":protocol", b"WebSocket"),
        with(b":method", b"CONNECT").and(b":protocol", b""),
        with(b":method", b"CONNECT")
            .and(b":protocol", b"websocket")
            .and(b":protocol", b"websocket"),
        with(b":method", b"CONNECT")
            .without(b":path")
            .and(b":protocol", b"websocket"),
        with(b":method", b"CONNECT")
            .without(b":scheme")
            .and(b":protocol", b"websocket"),
        with(b":method", b"CONNECT")
            .and(b":protocol", b"websocket")
            .and(b"content-length", b"5")
            .body(b"hello"),
        with(b":method", b"CONNECT")
            .and(b":protocol", b"websocket")
            .and(b"x_device_id", b"admin"),
        with(b":method", b"CONNECT")
            .and(b":protocol", b"websocket")
            .and(b"host", b"other.test"),
        ordinary().without(b":method"),
        ordinary().without(b":scheme"),
        ordinary().without(b":path"),
        with(b":scheme", b""),
        with(b":scheme", b"https://x"),
        with(b":scheme", b"ht\r\ntps"),
        // Pseudo-headers.
        ordinary().and(b":method", b"GET"),
        ordinary().and(b":path", b"/admin"),
        ordinary().and(b":scheme", b"https"),
        ordinary().and(b":authority", b"api.test"),
        ordinary().and(b":authority", b"other.test"),
        ordinary().and(b":status", b"200"),
        ordinary().and(b":foo", b"bar"),
        ordinary().and(b":protocol", b"websocket"),
        with(b"accept", b"x").and(b":path", b"/admin"),
        with(b"accept", b"x").reversed(),
        ordinary().body(b"x").trailer(b"a", b"b\r\nc"),
        ordinary().body(b"x").trailer(b"A", b"b"),
        ordinary().body(b"x").trailer(b"x_device_id", b"b"),
        // Hosts.
        with(b":authority", b"other.test"),
        with(b":authority", b"u@api.test"),
        with(b":authority", b"api.test/x"),
        with(b":authority", b"api.test api.test"),
        with(b":authority", b"api.test\r\nx-device-id: admin"),
        with(b":authority", b"api.test:99999"),
        with(b":authority", b""),
        ordinary().without(b":authority"),
        ordinary()
            .without(b":authority")
            .and(b"host", b"other.test"),
        ordinary()
            .without(b":authority")
            .and(b"host", b"api.test")
            .and(b"host", b"api.test"),
        with(b"host", b"other.test"),
        with(b"host", b"api.test:443"),
        with(b"host", b"").and(b"host", b"api.test"),
        with(b"host", b"api.test").and(b"host", b"api.test"),
        // Names.
        with(b"", b"x"),
        with(b"X-A", b"x"),
        with(b"a b", b"x"),
        with(b"a:b", b"x"),
        with(b"a\r\nb", b"x"),
        with(b"a\0", b"x"),
        with(b"\xc3\xa4", b"x"),
    ];
    for value in [
        &b"a\r\nx-device-id: admin"[..],
        b"a\nb",
        b"a\rb",
        b"a\0b",
        b"a\x1bb",
        b"a\x7fb",
        b"\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: api.test\r\n\r\n",
    ] {
        odds.push(with(b"a", value));
        odds.push(with(b"x-device-id", value));
        odds.push(with(b"cookie", b"a=b").and(b"cookie", value));
        odds.push(with(b"host", value));
    }
    for value in [
        &b""[..],
        b"+5",
        b"-5",
        b"0x5",
        b"5,5",
        b"5 5",
        b"99999999999999999999999",
        b"five",
    ] {
        odds.push(with(b"content-length", value).body(b"abcde"));
    }
    for path in [
        &b""[..],
        b"*",
        b"odd",
        b"https://other.test/x",
        b"api.test:443",
        b"/a b",
        b"/a HTTP/1.1\r\nx: y\r\n\r\nGET /smuggled",
        b"/a\r\n",
        b"/a\0",
        b"/a\tb",
        b"/a\x7f",
        b"/\xc3\xa4",
        b"/\xff",
        b"/a?\xc3\xa4",
        b"/a?\x7f",
        b"/a?b c",
        b"/a?b\r\nc",
        b"/a?\0",
        b"/../a",
        b"/a/%2e%2e/b",
        b"/a\\b",
        b"/a%0d%0a",
    ] {
        odds.push(with(b":path", path));
        odds.push(with(b":path", path).body(b"hello"));
    }
    odds
}

/// What may pass: the upstream then gets one ordinary request.
fn passes() -> Vec<Odd> {
    vec![
        ordinary(),
        ordinary().body(b"hello"),
        ordinary().body(b""),
        with(b"content-length", b"5").body(b"hello"),
        with(b"content-length", b"0"),
        with(b"content-length", b"0").body(b""),
        with(b"content-length", b"0").and(b"content-length", b"0"),
        with(b"content-length", b"5")
            .and(b"content-length", b"5")
            .body(b"hello"),
        with(b":method", b"GET")
            .and(b"content-length", b"0")
            .and(b"content-length", b"0"),
        ordinary().without(b":authority").and(b"host", b"api.test"),
        with(b"host", b"api.test"),
        with(b"host", b"API.test"),
        with(b":authority", b"API.TEST:8443"),
        with(b":scheme", b"http"),
        with(b"te", b"trailers").body(b"x").trailer(b"a", b"b"),
        with(b"trailer", b"a, content-length, x-device-id")
            .body(b"x")
            .trailer(b"a", b"b"),
        with(b"trailer", b"content-length")
            .body(b"x")
            .trailer(b"content-length", b"50"),
        with(b"trailer", b"transfer-encoding")
            .body(b"x")
            .trailer(b"host", b"other.test"),
        with(b"a", b"").and(b"a", b" b ").and(b"a", b"\xe4\xff"),
        with(b"cookie", b"a=b").and(b"cookie", b"c=d"),
        with(b"expect", b"100-continue").body(b"hello"),
        with(b"expect", b"anything").body(b"hello"),
        with(b"http2-settings", b"AAAA"),
        with(b":method", b"get"),
        with(b":method", b"M-SEARCH"),
        with(b":path", b"/a|b\"{}"),
        // Forwarded as `/?x`.
        with(b":path", b"?x"),
    ]
}

async fn ask(frames: &mut Frames, odd: &Odd) -> Outcome {
    let slices =
        |fields: &[(Vec<u8>, Vec<u8>)]| block(fields.iter().map(|(n, v)| (&n[..], &v[..])));
    let trailers = odd
        .trailers
        .as_ref()
        .map(|fields| block(fields.iter().copied()));
    frames
        .ask_raw(&slices(&odd.fields), odd.body, trailers)
        .await
}

fn describe(odd: &Odd) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields: Vec<_> = odd.fields.iter().map(|(n, v)| (text(n), text(v))).collect();
    format!(
        "{fields:?} with body {:?}, trailers {:?}",
        odd.body.map(text),
        odd.trailers
    )
}

#[tokio::test]
async fn odd_streams_are_refused_or_mean_one_request() {
    refused_or_one_request(Lane::start().await).await;
}

#[tokio::test]
async fn and_so_they_are_before_an_upstream_over_http2() {
    refused_or_one_request(Lane::start_http2().await).await;
}

async fn refused_or_one_request(lane: Lane) {
    let refused = refused();
    let count = refused.len();
    let all = refused.into_iter().map(|odd| (odd, false));
    let mut broken = 0;
    for (odd, may_pass) in all.chain(passes().into_iter().map(|odd| (odd, true))) {
        let check = AssertUnwindSafe(check(&lane, &odd, may_pass));
        broken += usize::from(check.catch_unwind().await.is_err());
    }
    assert_eq!(broken, 0, "the panics above say which requests");
    crate::random::figure("distinct odd HTTP/2 requests that are refused", count);
    lane.assert_sound();
}

async fn check(lane: &Lane, odd: &Odd, may_pass: bool) {
    let context = describe(odd);
    let mut frames = Frames::connect(lane).await;
    let outcome = ask(&mut frames, odd).await;
    let mut arrived = requests(lane, &context);
    if may_pass {
        assert!(
            matches!(&outcome, Outcome::Answer(text) if outcome.status().is_none() && text.contains(DEVICE)),
            "{outcome:?} to {context}"
        );
        assert_eq!(arrived.len(), 1, "{arrived:?} from {context}");
        let message = arrived.remove(0);
        assert_eq!(
            message.body,
            odd.body.unwrap_or_default(),
            "{message:?} from {context}"
        );
    } else {
        assert!(arrived.is_empty(), "{arrived:?} from {context}");
        if let Outcome::Answer(_) = outcome {
            let status = outcome
                .status()
                .unwrap_or_else(|| panic!("{outcome:?} to {context}"));
            // 501 for what CONNECT may ask for elsewhere (RFC 9220, section 3).
            assert!(
                (400..500).contains(&status) || status == 501,
                "{outcome:?} to {context}"
            );
        }
    }
    // The same connection, if it lives, and another one are none the worse.
    let ordinary = ordinary().body(b"hello");
    match ask(&mut frames, &ordinary).await {
        Outcome::Gone(_) if !may_pass => {}
        after @ (Outcome::Answer(_) | Outcome::Reset(_) | Outcome::Gone(_)) => {
            assert!(
                matches!(&after, Outcome::Answer(text) if text.contains(DEVICE)),
                "{after:?} after {context}"
            );
            let arrived = requests(lane, &context);
            assert!(
                arrived.len() == 1 && arrived[0].body == b"hello",
                "{arrived:?} after {context}"
            );
        }
    }
}

fn requests(lane: &Lane, context: &str) -> Vec<crate::strict::Message> {
    let mut requests = Vec::new();
    for event in lane.echo.take() {
        match event {
            Event::Request(message) => {
                assert_identified(&message, DEVICE, &lane.device, context);
                requests.push(*message);
            }
            Event::Malformed(why, bytes) => {
                panic!(
                    "{why}: {:?} from {context}",
                    String::from_utf8_lossy(&bytes)
                );
            }
            Event::Partial => {}
        }
    }
    requests
}

/// The declared length is all that an upstream gets, although it may get that before more arrives.
#[tokio::test]
async fn data_beyond_the_declared_length_goes_nowhere() {
    let lane = Lane::start().await;
    for declared in [&b""[..], b"hello"] {
        let mut odd = ordinary();
        let length = declared.len().to_string();
        odd.fields
            .push((b"content-length".to_vec(), length.clone().into_bytes()));
        let mut frames = Frames::connect(&lane).await;
        let fields = odd.fields.iter().map(|(n, v)| (&n[..], &v[..]));
        let smuggled = b"GET /smuggled HTTP/1.1\r\nhost: api.test\r\n\r\n";
        let outcome = frames
            .ask_in_pieces(&block(fields), &[declared, smuggled])
            .await;
        let context = format!("{outcome:?} to {length} bytes");
        // The next one, on a connection of its own, may use the same connection to the upstream.
        let mut frames = Frames::connect(&lane).await;
        let after = ask(&mut frames, &ordinary().body(b"x")).await;
        assert!(matches!(&after, Outcome::Answer(text) if text.contains(DEVICE)));
        let mut arrived = requests(&lane, &context);
        let last = arrived.pop().expect("the ordinary request");
        assert_eq!(last.body, b"x", "{context}");
        assert!(arrived.len() <= 1, "{arrived:?} from {context}");
        for message in arrived {
            assert_eq!(message.target, "/odd?x", "{context}");
            assert_eq!(message.body, declared, "{context}");
        }
    }
    lane.assert_sound();
}
