//! Lists of revoked certificates are large and are replaced for ever: what lasts long keeps none that is in force no more.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use gateway::Limits;
use http::Request;
use http_body_util::Full;
use identity::RevocationList;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::authority::Authority;
use crate::client::{Client, http2};
use crate::foreign_devices::{anchor, list};
use crate::rig::Rig;
use crate::tcp_routes::{accept, broker, connect};
use crate::websockets_over_http2::{echo, open};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Lists that have been published, whether or not somebody has them still.
struct Published {
    factory: Authority,
    number: u64,
    lists: Vec<Weak<RevocationList>>,
}

impl Published {
    fn next(&mut self, rig: &mut Rig) {
        self.number += 1;
        let new = list(&self.factory, self.number, &[9], false);
        self.lists.push(Arc::downgrade(&new));
        rig.believe(&[anchor("factory", &self.factory, Some(new))]);
    }

    /// How many of them are in memory, once those who had them had time to give them back.
    async fn kept(&self) -> usize {
        let count = || self.lists.iter().filter(|one| one.strong_count() > 0);
        for _ in 0..100 {
            if count().count() <= 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        count().count()
    }
}

#[tokio::test]
async fn neither_streams_nor_uploads_nor_those_who_wait_keep_lists() {
    let mut rig = Rig::start_with(Limits::default()).await;
    let device = rig.device("a", 1).await;
    let mut published = Published {
        factory: Authority::named("Factory CA"),
        number: 0,
        lists: Vec::new(),
    };
    let broker = broker(&rig, false).await;
    let (mut http2_sender, _driver) = http2(&rig, &device).await;
    // Each begins while other lists are in force.
    published.next(&mut rig);
    let mut stream = connect(&rig, &device).await;
    let mut behind = accept(&broker).await;
    assert_eq!(published.kept().await, 1);

    published.next(&mut rig);
    let mut upload = Client::connect(&rig, &device).await;
    upload
        .send("POST /upload HTTP/1.1\r\nHost: api.test\r\nContent-Length: 12\r\n\r\nfirst")
        .await;
    arrives(&rig, "first").await;

    published.next(&mut rig);
    let mut waiting = Client::connect(&rig, &device).await;
    waiting
        .send("GET /hang HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    arrives(&rig, "/hang").await;

    published.next(&mut rig);
    let http2_waiting = Request::get("https://api.test/hang?http2").body(Full::<Bytes>::default());
    let http2_waiting = http2_sender.send_request(http2_waiting.expect("a request"));
    let http2_waiting = tokio::spawn(http2_waiting);
    arrives(&rig, "?http2").await;

    published.next(&mut rig);
    let mut tunnel = Client::connect(&rig, &device).await;
    assert_eq!(tunnel.get("/ws", UPGRADE).await.status(), 101);

    published.next(&mut rig);
    let mut http2_tunnel = open(&mut http2_sender, "/ws").await;

    published.next(&mut rig);
    let mut download = Client::connect(&rig, &device).await;
    assert_eq!(download.get("/slow", "").await.status(), 200);

    for _ in 0..20 {
        published.next(&mut rig);
    }
    assert_eq!(published.kept().await, 1);
    assert!(
        published
            .lists
            .last()
            .is_some_and(|one| one.strong_count() > 0)
    );

    // All of it goes on.
    stream.write_all(b"on").await.expect("sent");
    let mut bytes = [0; 2];
    behind.read_exact(&mut bytes).await.expect("bytes");
    upload.send(" second").await;
    assert_eq!(upload.answer().await.expect("an answer").status(), 200);
    tunnel.send("ping").await;
    tunnel.until(b"ping").await.expect("an echo");
    echo(&mut http2_tunnel, "pong").await;
    download.until(b"x").await.expect("more of the download");
    assert!(!http2_waiting.is_finished());
}

/// Waits until the upstream got this.
async fn arrives(rig: &Rig, what: &str) {
    let mut seen = String::new();
    for _ in 0..200 {
        seen.push_str(&rig.upstream.take());
        if seen.contains(what) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} in {seen}");
}
