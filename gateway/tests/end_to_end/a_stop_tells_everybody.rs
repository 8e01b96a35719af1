//! A gateway that stops tells each connection: answers say that they are the last ones, HTTP/2 gets GOAWAY, and a
//! connection that was just made still gets its first answer.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use crate::client::{Client, config, handshake};
use crate::raw_http2::{GOAWAY, HEADERS, Raw, get};
use crate::rig::Rig;

const WITHIN: Duration = Duration::from_secs(5);

async fn http2(rig: &Rig, device: &crate::authority::Identity) -> Raw {
    let config = config(rig, Some(device), "h2");
    let tls = handshake(rig, config, "api.test").await.expect("TLS");
    Raw::start(tls, &[]).await
}

#[tokio::test]
async fn each_in_its_own_words() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut idle = Client::connect(&rig, &device).await;
    assert_eq!(idle.get("/", "").await.status(), 200);
    let mut busy = Client::connect(&rig, &device).await;
    let half = b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\n\r\nab";
    busy.tls.write_all(half).await.expect("written");
    let mut new = Client::connect(&rig, &device).await;
    let mut streams = http2(&rig, &device).await;
    streams
        .send(&get("api.test", "/", 1))
        .await
        .expect("written");
    streams.until(HEADERS).await.expect("an answer");
    let silent = http2(&rig, &device).await;
    // Everything was accepted.
    tokio::time::sleep(Duration::from_millis(200)).await;

    let started = Instant::now();
    let stopped = async {
        rig.gateway.stop(WITHIN).await;
        started.elapsed()
    };
    let told = async {
        assert!(idle.ends().await, "an idle connection ends");
        // Each closes its end then, as who is told to go does.
        for mut connection in [streams, silent] {
            let goaway = connection.until(GOAWAY).await.expect("GOAWAY");
            assert_eq!(&goaway.payload[4..8], [0; 4], "without an error");
        }
        // What had begun is answered, and so is who had just come.
        busy.tls.write_all(b"cd").await.expect("written");
        let mut answers = vec![busy.answer().await.expect("an answer")];
        answers.push(new.get("/", "").await);
        for answer in answers {
            assert_eq!(answer.status(), 200);
            assert!(answer.head.contains("connection: close"), "{answer:?}");
        }
        assert!(busy.ends().await && new.ends().await);
    };
    let (took, ()) = tokio::join!(stopped, told);
    assert!(took < WITHIN, "{took:?}");
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut new = Client::connect(&rig, &device).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    rig.gateway.stop(Duration::from_secs(20)).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(new.ends().await);
}
