//! `device revoke` ends whatever the device holds open, within a second, and nobody else's.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::harness::client::{config, connect};
use crate::harness::upstream::Upstream;
use crate::harness::{Device, Server, Setup};

/// The kinds of connection, each having been used, each watched by a task that ends with it.
struct Held {
    watchers: Vec<(&'static str, tokio::task::JoinHandle<()>)>,
}

const KINDS: usize = 5;

impl Held {
    async fn open(server: &Server, device: &Device) -> Self {
        Self {
            watchers: vec![
                ("HTTP/1.1 keep-alive", keep_alive(server, device).await),
                ("HTTP/2", http2(server, device).await),
                ("slow download", download(server, device).await),
                ("WebSocket", websocket(server, device).await),
                (
                    "WebSocket over HTTP/2",
                    websocket_over_http2(server, device).await,
                ),
            ],
        }
    }

    fn open_now(&self) -> Vec<&'static str> {
        self.watchers
            .iter()
            .filter(|(_, task)| !task.is_finished())
            .map(|(kind, _)| *kind)
            .collect()
    }
}

async fn keep_alive(server: &Server, device: &Device) -> tokio::task::JoinHandle<()> {
    let mut stream = connect(server.gateway(), config(server, device, &["http/1.1"])).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
    }
    tokio::spawn(async move {
        let mut byte = [0; 1];
        assert_ne!(stream.read(&mut byte).await.unwrap_or(0), 1);
    })
}

async fn http2(server: &Server, device: &Device) -> tokio::task::JoinHandle<()> {
    let stream = connect(server.gateway(), config(server, device, &["h2"])).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let task = tokio::spawn(connection);
    let request = Request::get("https://localhost/")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.collect().await.unwrap().to_bytes(), "ok\n");
    tokio::spawn(async move {
        let _ended = task.await;
        drop(sender);
    })
}

async fn download(server: &Server, device: &Device) -> tokio::task::JoinHandle<()> {
    let mut stream = connect(server.gateway(), config(server, device, &["http/1.1"])).await;
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut received = vec![0; 16 * 1024];
    assert!(stream.read(&mut received).await.unwrap() > 0);
    tokio::spawn(async move {
        while stream
            .read(&mut received)
            .await
            .is_ok_and(|length| length > 0)
        {}
    })
}

async fn websocket(server: &Server, device: &Device) -> tokio::task::JoinHandle<()> {
    let stream = connect(server.gateway(), config(server, device, &["http/1.1"])).await;
    let (mut socket, _) = tokio_tungstenite::client_async("wss://localhost/socket", stream)
        .await
        .unwrap();
    socket.send(Message::text("ping")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("ping"));
    tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} })
}

/// Ends with the stream; that its connection ends, too, is seen by the receipt.
async fn websocket_over_http2(server: &Server, device: &Device) -> tokio::task::JoinHandle<()> {
    let stream = connect(server.gateway(), config(server, device, &["h2"])).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::connect("https://localhost/socket")
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static("websocket"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    socket.send(Message::text("ping")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("ping"));
    tokio::spawn(async move {
        while let Some(Ok(_)) = socket.next().await {}
        drop(sender);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_one_device_and_none_of_the_other() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    let (bad, good) = (server.device("bad"), server.device("good"));
    let (theirs, others) = (
        Held::open(&server, &bad).await,
        Held::open(&server, &good).await,
    );
    assert_eq!(theirs.open_now().len(), KINDS);

    let started = Instant::now();
    let receipt = server.json(&["device", "revoke", "bad", "--json"]);
    assert_eq!(receipt["receipt"]["closed"], KINDS, "{receipt}");
    while !theirs.open_now().is_empty() {
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "still open: {:?}",
            theirs.open_now()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(others.open_now().len(), KINDS, "{:?}", others.open_now());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_device_is_cut_off_too_and_comes_back() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    let device = server.device("a");
    let held = Held::open(&server, &device).await;
    let receipt = server.json(&["device", "suspend", "a", "--json"]);
    assert_eq!(receipt["receipt"]["closed"], KINDS, "{receipt}");
    assert_eq!(held.open_now(), [""; 0]);
    server.run(&["device", "restore", "a"]);
    device.run(&["request", &server.url("/")]);
}
