use std::time::Duration;

use crate::client::Client;
use crate::rig::Rig;

const FIRST: &str = "GET /first HTTP/1.1\r\nHost: api.test\r\n\r\n";

#[tokio::test]
async fn a_bad_request_is_refused_after_the_answers_before_it() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    for bad in [
        "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "GET / HTTP/1.1\nHost: api.test\n\n",
        "GET / HTTP/1.1\r\nHost: api.test\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.test\r\nHost: api.test\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        for bytewise in [false, true] {
            let mut client = Client::connect(&rig, &device).await;
            let smuggled = format!("{bad}GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n");
            if bytewise {
                client.send(FIRST).await;
                for at in 0..bad.len() {
                    client.send(&bad[at..=at]).await;
                }
            } else {
                client.send(&format!("{FIRST}{smuggled}")).await;
            }
            assert_eq!(
                client.answer().await.expect("the first answer").status(),
                200
            );
            let answer = client.answer().await.expect("the refusal");
            assert_eq!(
                answer.refusal(),
                (400, "malformed-request".into()),
                "{bad:?}"
            );
            assert!(answer.head.contains("connection: close"));
            assert!(client.ends().await);
            let seen = rig.upstream.take();
            assert_eq!(seen.matches("HTTP/1.1").count(), 1, "{bad:?} made {seen}");
        }
    }
}

#[tokio::test]
async fn a_bad_body_ends_the_upstream_request() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    for bad in ["5;a\nhello\r\n", "zz\r\n", "2\r\nxyz\r\n"] {
        let mut client = Client::connect(&rig, &device).await;
        client
            .send("POST /a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send(bad).await;
        let answer = client.answer().await.expect("the refusal");
        assert_eq!(
            answer.refusal(),
            (400, "malformed-request".into()),
            "{bad:?}"
        );
        assert!(client.ends().await);
        rig.upstream.wait_for_open(0).await;
        let seen = rig.upstream.take();
        assert!(!seen.contains("0\r\n\r\n"), "{seen}");
    }
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_time() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let long = format!(
        "GET / HTTP/1.1\r\nHost: api.test\r\nA: {}",
        "x".repeat(17_000)
    );
    client.send(&long).await;
    let answer = client.answer().await.expect("the refusal");
    assert_eq!(answer.refusal(), (431, "head-too-large".into()));

    let mut client = Client::connect(&rig, &device).await;
    // An idle connection has no deadline.
    assert_eq!(client.get("/", "").await.status(), 200);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(client.get("/", "").await.status(), 200);
    client.send("GET / HTTP/1.1\r\nHost: ").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.send("api").await;
    let answer = client.answer().await.expect("the refusal");
    assert_eq!(answer.refusal(), (408, "request-timeout".into()));
    assert!(client.ends().await);
    assert_eq!(rig.upstream.take().matches("HTTP/1.1").count(), 2);
}

#[tokio::test]
async fn large_bodies_pass_in_both_framings() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let body = "z".repeat(300_000);
    client
        .send(&format!(
            "POST /a HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    assert_eq!(rig.upstream.take().matches('z').count(), body.len());
    client
        .send(&format!(
            "POST /a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ))
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    assert_eq!(rig.upstream.take().matches('z').count(), body.len());
}

#[tokio::test]
async fn a_refused_body_is_not_read_for_ever() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    rig.set(&device, identity::Status::Revoked).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send("POST /a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 100000000\r\n\r\nxxx")
        .await;
    let answer = client.answer().await.expect("the refusal");
    assert_eq!(answer.refusal(), (403, "revoked".into()));
    assert!(answer.head.contains("connection: close"));
    assert!(client.ends().await);
    assert_eq!(rig.upstream.take(), "");
}
