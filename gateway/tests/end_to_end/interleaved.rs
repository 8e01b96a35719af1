//! Two devices at once, with everything that may leave a connection in a doubtful state: nobody ever gets an
//! answer that belongs to somebody else.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::authority::Identity;
use crate::client::{config, handshake};
use crate::echo::{Echo, Event, assert_identified};
use crate::random::{Random, figure, is_long};
use crate::rig::{Rig, snapshot};
use crate::session::reply;

struct Sent {
    /// What its answer must say, if it is answered.
    mark: String,
    is_head: bool,
    bytes: Vec<u8>,
    /// After this one the device hangs up.
    is_aborted: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_an_answer_of_somebody_else() {
    const CONNECTIONS: usize = 4;
    let total = if is_long() { 100_000 } else { 10_000 };
    let mut rig = Rig::start().await;
    let echo = Echo::start().await;
    rig.gateway
        .publish(snapshot(&[&format!("http://{}", echo.address)]));
    let mut devices = Vec::new();
    for (index, id) in (1..).zip(["alpha", "beta"]) {
        devices.push((id, Arc::new(rig.device(id, index).await)));
    }
    let rig = Arc::new(rig);
    let mut clients = Vec::new();
    for (id, device) in &devices {
        for at in 0..CONNECTIONS {
            let (id, device, rig) = (*id, Arc::clone(device), Arc::clone(&rig));
            let share = total / CONNECTIONS / devices.len();
            clients.push(tokio::spawn(async move {
                client(&rig, id, &device, at, share).await
            }));
        }
    }
    let (mut sent, mut answered) = (0, 0);
    for client in clients {
        let counts = client.await.expect("no answer of somebody else");
        sent += counts.0;
        answered += counts.1;
    }
    figure("odd requests of two devices, interleaved", sent);
    figure("of which answered, each to its own sender", answered);
    assert!(sent >= total && answered > sent / 2, "{answered} of {sent}");
    for event in echo.take() {
        match event {
            Event::Request(message) => {
                let (_, mark) = message.target.split_once("n=").expect("a mark");
                let id = mark.split('-').next().expect("a device");
                let device = &devices
                    .iter()
                    .find(|(known, _)| *known == id)
                    .expect("known")
                    .1;
                assert_identified(&message, id, device, "the crowd");
                let marked = message.body.is_empty() || message.body.starts_with(mark.as_bytes());
                assert!(marked, "{message:?} has the body of somebody else");
            }
            Event::Malformed(why, bytes) => panic!("{why}: {:?}", String::from_utf8_lossy(&bytes)),
            Event::Partial => {}
        }
    }
    assert_eq!(rig.metric("panics_total"), "0");
}

/// Sends its share; how many requests were sent, and how many were answered.
async fn client(rig: &Rig, id: &str, device: &Identity, at: usize, share: usize) -> (usize, usize) {
    let mut random = Random::new((at as u64) << 32 | id.len() as u64);
    let (mut sent, mut answered) = (0, 0);
    while sent < share {
        let config = config(rig, Some(device), "http/1.1");
        let mut tls = handshake(rig, config, "api.test")
            .await
            .expect("a handshake");
        let mut buffer = Vec::new();
        'connection: while sent < share {
            let mut batch = Vec::new();
            for _ in 0..=random.below(4) {
                let request = request(&mut random, &format!("{id}-{at}-{sent}"), id);
                sent += 1;
                let aborted = request.is_aborted;
                batch.push(request);
                if aborted {
                    break;
                }
            }
            let bytes: Vec<u8> = batch
                .iter()
                .flat_map(|request| request.bytes.clone())
                .collect();
            let cut = random.below(bytes.len());
            for piece in [&bytes[..cut], &bytes[cut..]] {
                if tls.write_all(piece).await.is_err() || tls.flush().await.is_err() {
                    break 'connection;
                }
            }
            for request in &batch {
                if request.is_aborted {
                    // Half a body, and gone.
                    break 'connection;
                }
                match answer(&mut tls, &mut buffer, request.is_head).await {
                    Ok(answer) => {
                        let mark = answer.mark().unwrap_or_else(|| {
                            let code = answer.code();
                            panic!("{} {code} to {}", answer.status, request.mark)
                        });
                        assert_eq!(mark, request.mark);
                        let body = String::from_utf8_lossy(&answer.body).into_owned();
                        assert!(
                            body.is_empty() || body == request.mark,
                            "{body} to {}",
                            request.mark
                        );
                        answered += 1;
                        if answer.head.contains("connection: close") {
                            break 'connection;
                        }
                    }
                    // After an early answer the gateway may close.
                    Err(error) if error.kind() != io::ErrorKind::TimedOut => break 'connection,
                    Err(error) => panic!("{error}: no answer to {}", request.mark),
                }
            }
        }
    }
    (sent, answered)
}

fn request(random: &mut Random, mark: &str, id: &str) -> Sent {
    let path = random.one_of(&["/a", "/slow", "/no-content", "/not-modified", "/chunks"]);
    let kind = random.below(12);
    let method = match kind {
        0..=2 => "GET",
        3 => "HEAD",
        _ => "POST",
    };
    let path = match kind {
        9 => "/early",
        10 => "/early-leave",
        _ => path,
    };
    let filler = "x".repeat(*random.one_of(&[0, 1, 1_000, 30_000]));
    let body = format!("{mark} {filler}");
    let length = body.len();
    let head = format!("{method} {path}?n={mark} HTTP/1.1\r\nHost: api.test\r\n");
    let chunks = format!(
        "Transfer-Encoding: chunked\r\n\r\n{:x};e\r\n{mark}\r\n{:x}\r\n {filler}\r\n0\r\nA: b\r\n\r\n",
        mark.len(),
        filler.len() + 1
    );
    let text = match kind {
        0..=3 => format!("{head}\r\n"),
        4 | 5 | 9 | 10 => format!("{head}Content-Length: {length}\r\n\r\n{body}"),
        6 | 7 => format!("{head}{chunks}"),
        8 => format!("{head}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n{body}"),
        _ => format!("{head}Content-Length: {}\r\n\r\n{body}", length + 10),
    };
    Sent {
        mark: format!("{method} {path}?n={mark} {id}"),
        is_head: method == "HEAD",
        bytes: text.into_bytes(),
        is_aborted: kind == 11,
    }
}

async fn answer(
    tls: &mut (impl tokio::io::AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    is_head: bool,
) -> io::Result<crate::session::Reply> {
    loop {
        while let Some((reply, used)) = reply(buffer, is_head) {
            buffer.drain(..used);
            if reply.status >= 200 {
                return Ok(reply);
            }
        }
        let reading = tls.read_buf(buffer);
        let read = tokio::time::timeout(std::time::Duration::from_secs(10), reading).await??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
