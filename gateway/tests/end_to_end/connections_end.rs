use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::{Limits, Outcome};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use identity::Status;
use identity::feed::Cut;

use crate::authority::Identity;
use crate::client::{Client, http2};
use crate::rig::Rig;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://api.test{path}"))
        .body(Full::default())
        .expect("a request")
}

/// One connection of each sort, all in use.
struct Four {
    idle: Client,
    download: Client,
    socket: Client,
    http2: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    http2_driver: tokio::task::JoinHandle<hyper::Result<()>>,
    http2_body: hyper::body::Incoming,
}

impl Four {
    async fn open(rig: &Rig, device: &Identity) -> Self {
        let mut idle = Client::connect(rig, device).await;
        assert_eq!(idle.get("/", "").await.status(), 200);
        let mut download = Client::connect(rig, device).await;
        assert_eq!(download.get("/slow", "").await.status(), 200);
        let mut socket = Client::connect(rig, device).await;
        assert_eq!(socket.get("/ws", UPGRADE).await.status(), 101);
        socket.send("ping").await;
        assert_eq!(socket.until(b"ping").await.expect("an echo"), "ping");
        let (mut sender, http2_driver) = http2(rig, device).await;
        let response = sender.send_request(get("/slow")).await.expect("an answer");
        assert_eq!(response.status(), 200);
        Self {
            idle,
            download,
            socket,
            http2: sender,
            http2_driver,
            http2_body: response.into_body(),
        }
    }

    async fn work(&mut self) {
        assert_eq!(self.idle.get("/", "").await.status(), 200);
        self.socket.send("pong").await;
        self.socket.until(b"pong").await.expect("an echo");
        self.download
            .until(b"x")
            .await
            .expect("more of the download");
        let response = self.http2.send_request(get("/")).await.expect("an answer");
        assert_eq!(response.status(), 200);
        self.http2_body
            .frame()
            .await
            .expect("more")
            .expect("more of the download");
    }

    async fn ended(mut self) {
        assert!(self.idle.ends().await);
        assert!(self.download.ends().await);
        assert!(self.socket.ends().await);
        let body_ended = async {
            loop {
                match self.http2_body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => return,
                    None => panic!("the download was cut, not complete"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(1), body_ended)
            .await
            .expect("the end");
        let driver = tokio::time::timeout(Duration::from_secs(1), self.http2_driver);
        let _ = driver.await.expect("the end").expect("no panic");
    }
}

#[tokio::test]
async fn revocation_ends_every_connection_of_the_device_and_no_other() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let other = rig.device("b", 2).await;
    let ours = Four::open(&rig, &device).await;
    let mut theirs = Four::open(&rig, &other).await;
    theirs.work().await;
    assert_eq!(rig.gateway.connections(device.index).len(), 4);

    let started = Instant::now();
    let acknowledgement = rig.set(&device, Status::Revoked).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(
        acknowledgement.cuts,
        [Cut {
            seq: acknowledgement.upto,
            closed: 4,
            lingering: 0
        }]
    );
    ours.ended().await;
    assert_eq!(rig.gateway.connections(device.index).len(), 0);
    assert_eq!(rig.metric("cuts_total"), "4");
    // The other device's four exchanges go on, and those of the revoked one ended at the upstream.
    theirs.work().await;
    rig.upstream.wait_for_open(5).await;

    let mut again = Client::connect(&rig, &device).await;
    assert_eq!(again.get("/", "").await.refusal(), (403, "revoked".into()));
}

#[tokio::test]
async fn an_upload_stops_reaching_the_upstream() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("POST /hang HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\nbefore")
        .await;
    for _ in 0..100 {
        if rig.upstream.connections() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let acknowledgement = rig.set(&device, Status::Suspended).await;
    assert_eq!(acknowledgement.cuts.len(), 1);
    let _ = tokio::io::AsyncWriteExt::write_all(&mut client.tls, b"after").await;
    assert!(client.ends().await);
    rig.upstream.wait_for_open(0).await;
    assert_eq!(rig.next_outcome().await, Outcome::Abandoned);
    let seen = rig.upstream.take();
    assert!(seen.contains("before") && !seen.contains("after"), "{seen}");
}

#[tokio::test]
async fn a_download_that_waits_in_the_kernel_is_not_delivered() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    // Nobody reads the answer, so it fills every buffer on its way.
    client
        .send("GET /slow HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let acknowledgement = rig.set(&device, Status::Quarantined).await;
    assert_eq!(acknowledgement.cuts[0].closed, 1);
    assert!(client.ends().await);
}

#[tokio::test]
async fn retirement_lets_an_open_connection_finish() {
    let mut rig = Rig::start_with(Limits {
        drain: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let mut idle = Client::connect(&rig, &device).await;
    assert_eq!(idle.get("/", "").await.status(), 200);
    let mut unused = Client::connect(&rig, &device).await;
    assert_eq!(unused.get("/", "").await.status(), 200);
    let (mut sender, driver) = http2(&rig, &device).await;
    assert_eq!(
        sender
            .send_request(get("/"))
            .await
            .expect("an answer")
            .status(),
        200
    );

    let acknowledgement = rig.set(&device, Status::Retired).await;
    assert_eq!(acknowledgement.cuts, []);
    // A request that was on its way is answered, and told that it was the last one.
    let answer = idle.get("/", "").await;
    assert_eq!(answer.status(), 200);
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert!(idle.ends().await);
    let _ = tokio::time::timeout(Duration::from_secs(1), driver)
        .await
        .expect("GOAWAY");
    let mut late = Client::connect(&rig, &device).await;
    assert_eq!(late.get("/", "").await.refusal(), (403, "retired".into()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(unused.ends().await);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let mut rig = Rig::start().await;
    let device = rig.authority.device_with("a", 1, |params| {
        params.not_after = (std::time::SystemTime::now() + Duration::from_secs(2)).into();
    });
    rig.set(&device, Status::Active).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", "").await.status(), 200);
    let mut socket = Client::connect(&rig, &device).await;
    assert_eq!(socket.get("/ws", UPGRADE).await.status(), 101);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(client.ends().await);
    assert!(socket.ends().await);
}

#[tokio::test]
async fn only_an_accepted_websocket_is_a_tunnel() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    // The upstream answers like any other request.
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", UPGRADE).await.status(), 200);
    assert!(client.ends().await, "nothing follows a declined upgrade");
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", "").await.status(), 200);
    let seen = rig.upstream.take();
    assert!(seen.contains("upgrade: websocket\r\n"), "{seen}");
    // Another protocol is not offered to the upstream at all.
    let answer = client
        .get("/", "Connection: Upgrade\r\nUpgrade: h2c\r\n")
        .await;
    assert_eq!(answer.status(), 200);
    assert!(!rig.upstream.take().contains("upgrade"));
    // An upstream that switches without being asked.
    let answer = client.get("/ws", "").await;
    assert_eq!(answer.refusal(), (502, "upstream-invalid".into()));
    rig.upstream.take();
    // What follows the request before it was answered is no tunnel and no request.
    let mut client = Client::connect(&rig, &device).await;
    client
        .send(&format!(
            "GET /ws HTTP/1.1\r\nHost: api.test\r\n{UPGRADE}\r\nGET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"
        ))
        .await;
    let answer = client.answer().await.expect("the refusal");
    assert_eq!(answer.refusal(), (400, "malformed-request".into()));
    assert!(client.ends().await);
    assert!(!rig.upstream.take().contains("smuggled"));
}

#[tokio::test]
async fn stopping_finishes_what_is_under_way() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut idle = Client::connect(&rig, &device).await;
    assert_eq!(idle.get("/", "").await.status(), 200);
    let mut download = Client::connect(&rig, &device).await;
    assert_eq!(download.get("/slow", "").await.status(), 200);
    let started = Instant::now();
    rig.gateway.stop(Duration::from_millis(500)).await;
    let elapsed = started.elapsed();
    assert!(
        elapsed >= Duration::from_millis(500),
        "the download was waited for"
    );
    assert!(elapsed < Duration::from_secs(2), "and not for ever");
    assert!(idle.ends().await);
    assert!(download.ends().await);
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
}

#[tokio::test]
async fn a_stale_registry_lets_nobody_pass() {
    let staleness = Duration::from_millis(300);
    let mut rig = Rig::start_with_staleness(Limits::default(), staleness).await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let answer = client.get("/", "").await;
    assert_eq!(answer.refusal(), (503, "registry-stale".into()));
    rig.gateway.heartbeat(Instant::now());
    assert_eq!(client.get("/", "").await.status(), 200);
    let age = rig.metric("status_table_age_seconds");
    assert!(age.parse().is_ok_and(|seconds: f64| seconds < 5.0), "{age}");
}

#[tokio::test]
async fn after_the_receipt_nothing_reaches_the_upstream() {
    let mut rig = Rig::start().await;
    for round in 1..=5 {
        let device = rig.device("a", round).await;
        let mut hammering = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let mut client = Client::connect(&rig, &device).await;
            hammering.spawn(async move {
                let mut answered = 0;
                loop {
                    let request = b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n";
                    if tokio::io::AsyncWriteExt::write_all(&mut client.tls, request)
                        .await
                        .is_err()
                    {
                        return answered;
                    }
                    match client.answer().await {
                        Ok(answer) if answer.status() == 200 => answered += 1,
                        Ok(_) | Err(_) => return answered,
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let acknowledgement = rig.set(&device, Status::Revoked).await;
        assert_eq!(acknowledgement.cuts[0].lingering, 0);
        assert_eq!(acknowledgement.cuts[0].closed, 8);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(rig.upstream.take().contains("x-device-id: a"));
        let answered: u64 = hammering.join_all().await.into_iter().sum();
        assert!(answered > 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(rig.upstream.take(), "");
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once() {
    let mut rig = Rig::start_with(Limits {
        max_connections: 1,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let mut open = Vec::new();
    let mut refused = 0;
    // Two workers, one connection each.
    for _ in 0..12 {
        let config = crate::client::config(&rig, Some(&device), "http/1.1");
        match crate::client::handshake(&rig, config, "api.test").await {
            Ok(tls) => open.push(tls),
            Err(_) => refused += 1,
        }
    }
    assert!(open.len() <= 2, "{} are open", open.len());
    assert_eq!(rig.metric("connections_refused_total"), refused.to_string());
}
