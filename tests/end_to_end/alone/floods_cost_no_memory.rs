//! HTTP/2 floods by an enrolled device, over ten connections at once: each ends with GOAWAY or at once, the
//! server's memory hardly grows, and comes back.

use std::time::Duration;

use rustls::ClientConfig;
use tokio::task::JoinSet;

use super::honest::{Honest, beside};
use super::process::{descriptors, memory, peak, settle};
use super::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, GET, HEADERS, INITIAL_WINDOW_SIZE, PING,
    POST, PRIORITY, RST_STREAM, Raw, SETTINGS, frame, get, head, window_update,
};
use crate::harness::client::{config, connect};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, count, figure};

const BOUND: u64 = 64 * 1024;

#[derive(Clone)]
struct Flood {
    begin: Vec<u8>,
    bytes: Vec<u8>,
    times: usize,
}

async fn run(address: std::net::SocketAddr, tls: ClientConfig, flood: Flood) -> Ending {
    let mut raw = Raw::start(connect(address, tls).await, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let _ = raw.send(&flood.begin).await;
    raw.flood(flood.bytes, flood.times, Duration::from_secs(30))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_every_kind() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    let mut honest = Honest::new(&server, &server.device("honest")).await;
    let tls = config(&server, &server.device("hostile"), &["h2"]);
    honest.times(50).await;
    let before = (memory(&server), descriptors(&server));
    let frames = count(100_000, 1_000_000);
    let each = |bytes: Vec<u8>| Flood {
        begin: vec![],
        bytes,
        times: frames,
    };
    let post = frame(HEADERS, END_HEADERS, 1, &head(POST, "localhost", "/hang"));
    let mut call = head(POST, "localhost", "/hang");
    // content-type, by its index in HPACK's table.
    call.extend(b"\x0f\x10\x10application/grpc");
    let streams = |end: &dyn Fn(u32) -> Vec<u8>| Flood {
        begin: vec![],
        bytes: (0..count(5_000, 50_000) as u32)
            .flat_map(|number| {
                let stream = 2 * number + 1;
                [get("localhost", "/hang", stream), end(stream)].concat()
            })
            .collect(),
        times: 1,
    };
    for (what, flood) in [
        ("PING", each(frame(PING, 0, 0, &[7; 8]))),
        ("SETTINGS", each(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))),
        ("PRIORITY", each(frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 9]))),
        ("WINDOW_UPDATE", each(window_update(0, 1))),
        (
            "empty DATA",
            Flood {
                begin: post.clone(),
                ..each(frame(DATA, 0, 1, &[]))
            },
        ),
        (
            "CONTINUATION",
            Flood {
                begin: frame(HEADERS, END_STREAM, 1, &head(GET, "localhost", "/")),
                ..each(frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"))
            },
        ),
        (
            "rapid reset",
            streams(&|stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])),
        ),
        (
            "made you reset",
            streams(&|stream| window_update(stream, 0)),
        ),
        (
            "calls taken back",
            Flood {
                bytes: (0..count(5_000, 50_000) as u32)
                    .flat_map(|number| {
                        let stream = 2 * number + 1;
                        let begun = frame(HEADERS, END_HEADERS, stream, &call);
                        [begun, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
                    })
                    .collect(),
                times: 1,
                begin: vec![],
            },
        ),
        (
            "trailers of a call without end",
            Flood {
                begin: [
                    frame(HEADERS, END_HEADERS, 1, &call),
                    frame(HEADERS, END_STREAM, 1, b"\x00\x01a\x01b"),
                ]
                .concat(),
                ..each(frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"))
            },
        ),
        (
            "messages that are declared and not sent",
            Flood {
                bytes: (0..100)
                    .flat_map(|number| {
                        let stream = 2 * number + 1;
                        let begun = frame(HEADERS, END_HEADERS, stream, &call);
                        [begun, frame(DATA, 0, stream, b"\0\xff\xff\xff\xffa")].concat()
                    })
                    .chain(frame(PING, 0, 0, &[7; 8]).repeat(10_000))
                    .collect(),
                times: 1,
                begin: vec![],
            },
        ),
    ] {
        let mut running = JoinSet::new();
        for _ in 0..10 {
            running.spawn(run(server.gateway(), tls.clone(), flood.clone()));
        }
        let flooded = beside(&mut honest, what, running.join_all());
        let (highest, endings) = peak(&server, flooded).await;
        let goaways = (endings.iter())
            .filter(|ending| matches!(ending, Ending::Goaway(_)))
            .count();
        figure(
            &format!("{what} over 10 connections, GOAWAY seen and memory gained (KiB)"),
            format!("{goaways}, {}", highest.saturating_sub(before.0)),
        );
        assert!(!endings.contains(&Ending::Open), "{what}: {endings:?}");
        assert!(highest < before.0 + BOUND, "{what}: {highest} KiB");
    }
    settle(&server, before.1, Duration::from_secs(10)).await;

    // Answers that nobody reads stop the server's reading, not its memory's bound.
    let mut running = JoinSet::new();
    for _ in 0..10 {
        let (address, tls) = (server.gateway(), tls.clone());
        running.spawn(async move {
            let mut raw = Raw::start(connect(address, tls).await, &[]).await;
            let pings = frame(PING, 0, 0, &[7; 8]).repeat(20_000);
            let _ = tokio::time::timeout(Duration::from_secs(2), raw.send(&pings)).await;
        });
    }
    let (highest, _) = peak(&server, running.join_all()).await;
    assert!(highest < before.0 + BOUND, "unread PINGs: {highest} KiB");

    for (what, value) in [("large", 3_900), ("empty", 0)] {
        let highest = bomb(&server, &tls, value).await;
        figure(
            &format!(
                "10,000 requests of 400 references to a {what} header, stalled: memory gained (KiB)"
            ),
            highest.saturating_sub(before.0),
        );
        assert!(highest < before.0 + BOUND, "{what}: {highest} KiB");
        settle(&server, before.1, Duration::from_secs(10)).await;
        honest.times(2).await;
    }
    let after = memory(&server);
    figure(
        "floods, memory before and after (KiB)",
        format!("{}, {after}", before.0),
    );
    // The allocator keeps some of what the last of them took.
    assert!(after < before.0 + 2 * BOUND, "{after} KiB");
}

/// A hundred connections, each with a hundred requests that refer 400 times to one header, and that take no
/// answer. The highest memory meanwhile.
async fn bomb(server: &Server, tls: &ClientConfig, value: usize) -> u64 {
    let mut define = head(GET, "localhost", "/");
    // Literal with incremental indexing, a new name (RFC 7541, section 6.2.1).
    define.extend([0x40, 1, b'a']);
    if value < 127 {
        define.push(u8::try_from(value).unwrap());
    } else {
        let mut rest = value - 127;
        define.push(127);
        while rest >= 128 {
            define.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        define.push(u8::try_from(rest).unwrap());
    }
    define.resize(define.len() + value, b'x');
    let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &define);
    for number in 1..100 {
        let mut block = head(GET, "localhost", "/");
        block.resize(block.len() + 400, 0x80 | 62);
        bytes.extend(frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            2 * number + 1,
            &block,
        ));
    }
    let mut running = JoinSet::new();
    for _ in 0..100 {
        let (address, tls, bytes) = (server.gateway(), tls.clone(), bytes.clone());
        running.spawn(async move {
            let tls = connect(address, tls).await;
            let mut raw = Raw::start(tls, &[(INITIAL_WINDOW_SIZE, 0)]).await;
            let _ = raw.send(&bytes).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
    }
    peak(server, running.join_all()).await.0
}
