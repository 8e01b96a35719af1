//! Server-sent events: each arrives when it is sent, the stream outlasts every deadline while the upstream says something, and a
//! revocation ends it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::{Limits, UpstreamTimeouts};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use identity::Status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::client::{Client, http2};
use crate::hostile::routes;
use crate::rig::Rig;

const SOON: Duration = Duration::from_millis(100);

/// An upstream that sends what it is told to, with a length or in chunks, to whoever asks.
async fn upstream() -> (u16, mpsc::Sender<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (said, mut says) = mpsc::channel::<String>(1);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                tcp.read_buf(&mut asked).await.expect("a request");
            }
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
            tcp.write_all(head).await.expect("sent");
            while let Some(event) = says.recv().await {
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                if tcp.write_all(chunk.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    (port, said)
}

/// One stream of events, over whichever version.
enum Events {
    Http1(Box<Client>),
    Http2(hyper::body::Incoming),
}

impl Events {
    /// Waits for the next one; `None` if there is none any more.
    async fn next(&mut self) -> Option<String> {
        match self {
            Self::Http1(client) => {
                let size = client.until(b"\r\n").await.ok()?;
                let size = usize::from_str_radix(size.trim(), 16).expect("a size");
                let chunk = client.exactly(size + 2).await?;
                Some(chunk[..size].to_owned())
            }
            Self::Http2(body) => {
                let frame = body.frame().await?.ok()?;
                let bytes = frame.into_data().expect("data");
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }
}

#[tokio::test]
async fn over_both_versions() {
    let mut rig = Rig::start_with(Limits {
        patience: Duration::from_millis(200),
        upstream: UpstreamTimeouts {
            first_byte: Duration::from_millis(500),
            idle: Duration::from_millis(500),
            ..UpstreamTimeouts::default()
        },
        ..Limits::default()
    })
    .await;
    let other = rig.device("b", 2).await;
    for (number, version) in [(3, "HTTP/1.1"), (4, "HTTP/2")] {
        let device = rig.device(&format!("device-{number}"), number).await;
        let (port, said) = upstream().await;
        let address = format!("http://127.0.0.1:{port}");
        let address = address.parse().expect("an upstream");
        rig.gateway.publish(routes(address, rig.upstream.address));
        let mut driver = None;
        let mut events = if version == "HTTP/2" {
            let (mut sender, task) = http2(&rig, &device).await;
            let request = Request::get("https://api.test/events");
            let request = request.body(Full::<Bytes>::default()).expect("a request");
            let answer = sender.send_request(request).await.expect("a head");
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
            driver = Some((sender, task));
            Events::Http2(answer.into_body())
        } else {
            let mut client = Client::connect(&rig, &device).await;
            client
                .send("GET /events HTTP/1.1\r\nHost: api.test\r\n\r\n")
                .await;
            let head = client.until(b"\r\n\r\n").await.expect("a head");
            assert!(head.contains("content-type: text/event-stream"), "{head}");
            Events::Http1(Box::new(client))
        };
        // Two seconds, which is four times as long as a pause may be.
        for turn in 0..10 {
            let event = match turn % 2 {
                0 => format!("data: {turn}\n\n"),
                _ => ":\n\n".to_owned(),
            };
            let sent = Instant::now();
            said.send(event.clone()).await.expect("sent");
            assert_eq!(events.next().await, Some(event), "{version}");
            let took = sent.elapsed();
            assert!(took < SOON, "{version}: {took:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        rig.set(&device, Status::Revoked).await;
        let end = tokio::time::timeout(Duration::from_secs(1), events.next());
        assert_eq!(end.await.expect("the end within a second"), None);
        drop(driver);
    }
    let mut client = Client::connect(&rig, &other).await;
    assert_eq!(client.get("/other/a", "").await.status(), 200);
}
