//! Upstreams over HTTP/2 and TLS that flood, stall or leave: each costs its own request, in time, and nobody else's.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::authority::Authority;
use crate::bad_answers::answer;
use crate::client::Client;
use crate::hand_made_http2::{Act, HandMade, block};
use crate::hostile::{Hostile, Step, routes, routes_to};
use crate::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, frame,
    window_update,
};
use crate::rig::Rig;
use crate::upstreams_answer_badly::{Heard, ask};
use crate::upstreams_over_tls_and_sockets::{acceptor, tls_to};

#[tokio::test]
async fn a_flood_costs_its_own_request() {
    const FLOOD: usize = 200_000;
    let mut rig = Rig::start().await;
    let server = HandMade::start(100).await;
    let address = format!("h2c://{}", server.address);
    let address = address.parse().expect("an upstream");
    rig.gateway.publish(routes(address, rig.upstream.address));
    let device = rig.device("a", 1).await;
    // The stream of the first request on a connection is 1.
    let head = frame(HEADERS, END_HEADERS, 1, &[0x88]);
    let interim = frame(HEADERS, END_HEADERS, 1, b"\x08\x03103");
    let floods = [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 9])),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("an unknown frame", frame(0x77, 0, 0, b"?")),
        ("CONTINUATION", frame(CONTINUATION, 0, 1, b"\0\x01a\x01b")),
        ("pushes", {
            let promise = block(&[(":method", "GET"), (":scheme", "http")]);
            frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &promise].concat())
        }),
        (
            "resets of nothing",
            frame(RST_STREAM, 0, 1_001, &[0, 0, 0, 8]),
        ),
        ("empty DATA", frame(DATA, 0, 1, &[])),
        ("padding alone", frame(DATA, 8, 1, &[3, 0, 0, 0])),
        ("interim answers", interim),
    ];
    for (what, flood) in floods {
        let first = match what {
            "CONTINUATION" => frame(HEADERS, 0, 1, &[0x88]),
            "empty DATA" | "padding alone" => head.clone(),
            _ => vec![],
        };
        // A connection of its own for each.
        server.script([Act::Last(vec![])]);
        let mut client = Client::connect(&rig, &device).await;
        ask(&mut client, "DELETE", "/end").await;
        server.script([Act::Flood([first, flood.repeat(10)].concat(), FLOOD / 10)]);
        let flooded = async {
            let started = Instant::now();
            let mut client = Client::connect(&rig, &device).await;
            let heard = ask(&mut client, "POST", "/flood").await;
            assert!(
                matches!(heard, Heard::Broken | Heard::Refused(502 | 504, _)),
                "{what}: {heard:?}"
            );
            assert!(started.elapsed() < Duration::from_secs(15), "{what}");
        };
        let others = async {
            for _ in 0..20 {
                let started = Instant::now();
                let mut client = Client::connect(&rig, &device).await;
                assert_eq!(ask(&mut client, "GET", "/other/a").await, answer(200, "ok"));
                let took = started.elapsed();
                assert!(took < Duration::from_secs(2), "{what}: {took:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::join!(flooded, others);
        let mut client = Client::connect(&rig, &device).await;
        assert_eq!(
            ask(&mut client, "GET", "/after").await,
            answer(200, "ok"),
            "after {what}"
        );
    }
    assert_eq!(rig.metric("panics_total"), "0");
}

#[tokio::test]
async fn who_says_nothing_is_given_up_in_time() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move { while let Ok(1..) = tcp.read(&mut [0; 1024]).await {} });
        }
    });
    let authority = Authority::named("Upstream CA");
    for scheme in ["https", "h2c"] {
        let silent = Hostile::at(&format!("{scheme}://127.0.0.1:{port}"));
        let upstream = tls_to(&silent, &authority, None, None);
        rig.gateway
            .publish(routes_to(upstream, rig.upstream.address));
        let started = Instant::now();
        let mut client = Client::connect(&rig, &device).await;
        let heard = ask(&mut client, "GET", "/").await;
        assert_eq!(heard, Heard::Refused(504, "upstream-timeout".into()));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(3), "{scheme}: {took:?}");
    }
}

#[tokio::test]
async fn over_tls_only_a_goodbye_ends_an_answer_without_length() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let authority = Authority::named("Upstream CA");
    let hostile = Hostile::over_tls(acceptor(&authority.server(), None, &[])).await;
    let upstream = tls_to(&hostile, &authority, None, None);
    rig.gateway
        .publish(routes_to(upstream, rig.upstream.address));
    let some = Step::Send(b"HTTP/1.1 200 OK\r\n\r\nsome".to_vec());
    hostile.script("/closed", &[some.clone(), Step::Close]);
    hostile.script("/left", &[some, Step::Leave]);
    let mut client = Client::connect(&rig, &device).await;
    let whole = ask(&mut client, "GET", "/closed").await;
    assert_eq!(whole, answer(200, "some"));
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(ask(&mut client, "GET", "/left").await, Heard::Broken);
}
