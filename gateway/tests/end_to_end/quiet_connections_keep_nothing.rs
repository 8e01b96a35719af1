//! A connection on which nothing happens gives back what it had for HTTP, and nobody at its ends notices.

use std::time::Duration;

use gateway::Limits;
use identity::Status;

use crate::client::Client;
use crate::rig::Rig;

/// Longer than a connection keeps its buffers, and shorter than a head may take.
const QUIET: Duration = Duration::from_secs(7);
/// More than sockets hold.
const ANSWERS: usize = 40;

#[tokio::test]
async fn it_goes_on_as_if_nothing_had_been() {
    let mut rig = Rig::start_with(Limits::default()).await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let mut unused = Client::connect(&rig, &device).await;
    let mut cut = Client::connect(&rig, &device).await;
    let mut odd = Client::connect(&rig, &device).await;
    for client in [&mut client, &mut cut, &mut odd] {
        assert_eq!(client.get("/", "").await.status(), 200);
    }
    tokio::time::sleep(QUIET).await;

    assert_eq!(unused.get("/", "").await.status(), 200);
    client.send("GET / HTTP/1.1\r\nHo").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("st: api.test\r\n\r\nGET /").await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    // The beginning of the next request waits for its end, whatever becomes of the buffers meanwhile.
    tokio::time::sleep(QUIET).await;
    client
        .send("sized HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);

    odd.send("GET / HTTP/1.1\r\nHost: api.test\nX: y\r\n\r\n")
        .await;
    let (status, code) = odd.answer().await.expect("an answer").refusal();
    assert_eq!((status, code.as_str()), (400, "malformed-request"));
    assert!(odd.ends().await);

    rig.set(&device, Status::Revoked).await;
    assert!(cut.ends().await);
    assert!(unused.ends().await);
    assert!(rig.gateway.connections(device.index).is_empty());
}

#[tokio::test]
async fn an_answer_that_waits_for_its_device_is_not_lost() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    // The upstream is done with them long before the device.
    let request = "GET /sized HTTP/1.1\r\nHost: api.test\r\n\r\n";
    client.send(&request.repeat(ANSWERS)).await;
    tokio::time::sleep(QUIET).await;
    for number in 0..ANSWERS {
        let answer = client.answer().await.expect("an answer");
        assert_eq!(
            (answer.status(), answer.body.len()),
            (200, 32 * 1024),
            "{number}"
        );
    }
    assert_eq!(client.get("/", "").await.status(), 200);
}

#[tokio::test]
async fn it_is_closed_when_the_gateway_stops() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", "").await.status(), 200);
    tokio::time::sleep(QUIET).await;
    let started = std::time::Instant::now();
    rig.gateway.stop(Duration::from_secs(20)).await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert!(client.ends().await);
}
