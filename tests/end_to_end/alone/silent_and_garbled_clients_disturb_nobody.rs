//! Thousands of clients that connect and say nothing, garbage, or one byte a second: a device that means it
//! hardly notices, all of them are let go within the handshake's deadline, and what they took comes back.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::honest::Honest;
use super::process::{descriptors, memory, settle};
use crate::harness::{Server, Setup, figure};

#[derive(Clone, Copy)]
enum Stranger {
    Silent,
    Garbage,
    Dripping,
}

/// Ends when the server lets go.
async fn stay(address: std::net::SocketAddr, stranger: Stranger) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let mut buffer = [0; 512];
    let mut hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        .iter()
        .copied();
    if matches!(stranger, Stranger::Garbage) {
        let _ = tcp.write_all(&[0x5a; 300]).await;
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            read = tcp.read(&mut buffer) => if !matches!(read, Ok(1..)) { return },
            _ = tick.tick(), if matches!(stranger, Stranger::Dripping) => {
                let _ = tcp.write_all(&[hello.next().unwrap_or(7)]).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn six_and_a_half_thousand_of_them() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let server = Server::start(Setup::default());
    let mut honest = Honest::new(&server, &server.device("honest")).await;
    honest.times(200).await.report("without a crowd");
    let before = (memory(&server), descriptors(&server));

    let address = server.gateway();
    let mut crowd = JoinSet::new();
    let arriving = async {
        for number in 0..6_500 {
            let stranger = match number % 13 {
                0..10 => Stranger::Silent,
                10..12 => Stranger::Garbage,
                _ => Stranger::Dripping,
            };
            crowd.spawn(stay(address, stranger));
            // About two seconds for all of them.
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(12)).await;
            }
        }
        Instant::now()
    };
    let (arrived, waits) = tokio::join!(arriving, honest.times(200));
    let worst = waits.report("in a crowd of 6,500 strangers");
    let peak = memory(&server);
    let reaped = async { while crowd.join_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), reaped)
        .await
        .expect("all are let go");
    let lasted = arrived.elapsed();
    settle(&server, before.1, Duration::from_secs(3)).await;
    let after = memory(&server);
    figure(
        "6,500 strangers, the last of them gone after",
        format!("{lasted:.1?}"),
    );
    figure(
        "6,500 strangers, memory before, during and after (KiB)",
        format!("{}, {peak}, {after}", before.0),
    );
    assert!(lasted < Duration::from_secs(12), "{lasted:?}");
    assert!(worst < Duration::from_millis(250), "{worst:?}");
    // What 512 handshakes at a time need stays with the allocator.
    assert!(after < before.0 + 48 * 1024, "{after} KiB");
}
