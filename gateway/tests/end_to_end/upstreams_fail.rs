use std::time::{Duration, Instant};

use crate::client::Client;
use crate::rig::{Rig, snapshot};

#[tokio::test]
async fn answers_that_nobody_can_delimit_are_none() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let answer = client.get("/two-lengths", "").await;
    assert_eq!(answer.refusal(), (502, "upstream-invalid".into()));
    rig.upstream.wait_for_open(0).await;
    let answer = client.get("/garbage", "").await;
    assert_eq!(answer.refusal(), (502, "upstream-invalid".into()));
    rig.upstream.wait_for_open(0).await;
    assert_eq!(client.get("/", "").await.status(), 200);
    assert_eq!(rig.upstream.connections(), 3);
}

#[tokio::test]
async fn a_silent_upstream_is_given_up() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let started = Instant::now();
    let answer = client.get("/hang", "").await;
    assert_eq!(answer.refusal(), (504, "upstream-timeout".into()));
    assert!(
        answer.head.contains("error=http_response_timeout"),
        "{answer:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(3));
    rig.upstream.wait_for_open(0).await;
}

#[tokio::test]
async fn a_silent_uploader_is_given_up() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("POST /a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 10\r\n\r\nx")
        .await;
    let answer = client.answer().await.expect("the refusal");
    assert_eq!(answer.refusal(), (408, "request-timeout".into()));
    assert!(client.ends().await);
    rig.upstream.wait_for_open(0).await;
}

#[tokio::test]
async fn upstreams_take_turns_and_stand_in_for_each_other() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let alive = format!("http://{}", rig.upstream.address);
    rig.gateway
        .publish(snapshot(&[&format!("http://{dead}"), &alive]));
    for _ in 0..4 {
        assert_eq!(client.get("/", "").await.status(), 200);
    }
    let second = crate::upstream::Upstream::start().await;
    rig.gateway
        .publish(snapshot(&[&format!("http://{}", second.address), &alive]));
    for _ in 0..4 {
        assert_eq!(client.get("/", "").await.status(), 200);
    }
    assert_eq!(second.take().matches("HTTP/1.1").count(), 2);
    rig.gateway.publish(snapshot(&[&format!("http://{dead}")]));
    let answer = client.get("/", "").await;
    assert_eq!(answer.refusal(), (502, "upstream-unreachable".into()));
    assert!(
        answer.head.contains("error=connection_refused"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn connections_are_kept_and_replaced_when_they_close() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    for _ in 0..5 {
        assert_eq!(client.get("/", "").await.status(), 200);
    }
    assert_eq!(rig.upstream.connections(), 1);
    // The upstream takes the request and closes: what is harmless is sent again, on a new connection.
    let answer = client.get("/close", "").await;
    assert_eq!(answer.refusal(), (502, "upstream-unreachable".into()));
    assert_eq!(rig.upstream.take().matches("GET /close").count(), 2);
    assert_eq!(client.get("/", "").await.status(), 200);
    client
        .send("POST /close HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n")
        .await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (502, "upstream-unreachable".into()));
    assert_eq!(rig.upstream.take().matches("POST /close").count(), 1);
}

#[tokio::test]
async fn turns_are_taken_per_route() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let second = crate::upstream::Upstream::start().await;
    let first = format!("http://{}", rig.upstream.address);
    rig.gateway
        .publish(snapshot(&[&first, &format!("http://{}", second.address)]));
    for _ in 0..4 {
        assert_eq!(client.get("/", "").await.status(), 200);
        assert_eq!(client.get("/cert", "").await.status(), 200);
    }
    let seen = second.take();
    assert_eq!(seen.matches("GET / HTTP/1.1").count(), 2, "{seen}");
    assert_eq!(seen.matches("GET /cert HTTP/1.1").count(), 2, "{seen}");
}

#[tokio::test]
async fn an_upstream_that_does_not_accept_is_tried_last_for_a_while() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    // Its backlog is full, so connecting takes until the deadline of one second.
    let silent =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let address: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    silent.bind(&address.into()).expect("bound");
    silent.listen(0).expect("listening");
    let address = silent
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket())
        .expect("an address");
    let _filling: Vec<_> = (0..4)
        .map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok())
        .collect();
    let alive = format!("http://{}", rig.upstream.address);
    rig.gateway
        .publish(snapshot(&[&format!("http://{address}"), &alive]));
    let started = Instant::now();
    for _ in 0..6 {
        assert_eq!(client.get("/", "").await.status(), 200);
    }
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    assert!(waited < Duration::from_millis(1_900), "{waited:?}");
}
