//! HTTP/2 frames that bring no request forward end the connection; an honest client never notices.

use std::time::Duration;

use gateway::{Code, Limits, Outcome};

use crate::authority::Identity;
use crate::client::{Client, config, handshake};
use crate::raw_http2::{
    DATA, END_HEADERS, END_STREAM, Ending, GET, HEADERS, INITIAL_WINDOW_SIZE, PING, POST, PRIORITY,
    RST_STREAM, Raw, SETTINGS, frame, get, head, window_update,
};
use crate::rig::Rig;

const FLOOD: usize = 100_000;
const SOON: Duration = Duration::from_secs(20);

async fn raw(rig: &Rig, device: &Identity, settings: &[(u16, u32)]) -> Raw {
    let tls = handshake(rig, config(rig, Some(device), "h2"), "api.test");
    Raw::start(tls.await.expect("a handshake"), settings).await
}

/// Waits until so many requests have reached the upstream.
async fn reached(rig: &Rig, requests: usize) {
    for _ in 0..500 {
        if rig.upstream.connections() == requests {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "{} requests reached the upstream",
        rig.upstream.connections()
    );
}

#[tokio::test]
async fn frames_that_lead_nowhere() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let begun = frame(HEADERS, END_HEADERS, 1, &head(POST, "api.test", "/hang"));
    for (what, begin, flood) in [
        ("PING", vec![], frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", vec![], frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 9])),
        ("WINDOW_UPDATE", vec![], window_update(0, 1)),
        ("an unknown frame", vec![], frame(0x77, 0, 0, b"?")),
        ("empty DATA", begun.clone(), frame(DATA, 0, 1, &[])),
        ("padding alone", begun, frame(DATA, 8, 1, &[3, 0, 0, 0])),
    ] {
        let mut raw = raw(&rig, &device, &[]).await;
        raw.send(&begin).await.expect("sent");
        let ending = raw.flood(flood, FLOOD, SOON).await;
        assert!(
            matches!(ending, Ending::Goaway(_) | Ending::Closed),
            "{what}: {ending:?}"
        );
        // Frames of a body may be too many for the HTTP/2 implementation before they are too many for us.
        let mut outcome = rig.next_outcome().await;
        while outcome == Outcome::Abandoned {
            outcome = rig.next_outcome().await;
        }
        assert_eq!(outcome, Outcome::Refused(Code::TooManyFrames), "{what}");
    }
    rig.upstream.wait_for_open(0).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", "").await.status(), 200);
}

#[tokio::test]
async fn the_end_of_a_flood_is_told() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device, &[]).await;
    // Just over the allowance, and nothing more that would make the end a reset.
    raw.send(&frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 9]).repeat(2_100))
        .await
        .expect("sent");
    const ENHANCE_YOUR_CALM: u32 = 11;
    assert_eq!(raw.ending(SOON).await, Ending::Goaway(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn an_honest_client_updates_its_windows_as_often_as_it_likes() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device, &[]).await;
    for number in 0..5_000 {
        let stream = 2 * number + 1;
        let mut bytes = get("api.test", "/", stream);
        bytes.extend(window_update(stream, 1));
        bytes.extend(window_update(0, 2));
        raw.send(&bytes).await.expect("sent");
        let answer = raw.until(DATA).await.expect("an answer");
        assert_eq!(answer.payload, b"ok");
    }
}

#[tokio::test]
async fn a_device_has_so_many_requests_under_way() {
    let mut rig = Rig::start_with(Limits {
        max_requests_per_device: 150,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let other = rig.device("b", 2).await;
    let mut first = raw(&rig, &device, &[]).await;
    let mut second = raw(&rig, &device, &[]).await;
    for (raw, requests, under_way) in [(&mut first, 100, 100), (&mut second, 60, 150)] {
        for number in 0..requests {
            let request = get("api.test", "/hang", 2 * number + 1);
            raw.send(&request).await.expect("sent");
        }
        reached(&rig, under_way).await;
    }
    for _ in 0..10 {
        assert_eq!(
            rig.next_outcome().await,
            Outcome::Refused(Code::TooManyRequests)
        );
    }
    let mut client = Client::connect(&rig, &device).await;
    let refusal = client.get("/", "").await.refusal();
    assert_eq!(refusal, (429, "too-many-requests".into()));
    let mut client = Client::connect(&rig, &other).await;
    assert_eq!(client.get("/", "").await.status(), 200);
    drop((first, second));
    rig.upstream.wait_for_open(1).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(client.get("/", "").await.status(), 200);
}

#[tokio::test]
async fn refusals_that_are_not_read_are_bounded() {
    let mut rig = Rig::start_with(Limits {
        max_requests_per_device: 5,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let requests: Vec<u8> = (0..50)
        .flat_map(|number| get("api.test", "/hang", 2 * number + 1))
        .collect();
    raw.send(&requests).await.expect("sent");
    // Five wait for the upstream, and fifteen for the device to take their refusals.
    let (mut refused, mut reset) = (0, 0);
    while refused < 15 || reset < 30 {
        let frame = tokio::time::timeout(SOON, raw.next()).await;
        match frame.expect("in time").expect("a frame").kind {
            HEADERS => refused += 1,
            RST_STREAM => reset += 1,
            _ => {}
        }
    }
    assert_eq!((refused, reset), (15, 30));
    // They are read, and the device is served again.
    let open = (5..20).flat_map(|number| window_update(2 * number + 1, 10_000));
    raw.send(&open.collect::<Vec<u8>>()).await.expect("sent");
    for _ in 0..15 {
        while raw.until(DATA).await.expect("more").flags & END_STREAM == 0 {}
    }
    raw.send(&get("api.test", "/hang", 101))
        .await
        .expect("sent");
    assert_eq!(raw.until(HEADERS).await.expect("a refusal").stream, 101);
}

#[tokio::test]
async fn a_worker_has_so_many_requests_under_way() {
    let mut rig = Rig::start_with(Limits {
        max_connections: 40,
        ..Limits::default()
    })
    .await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device, &[]).await;
    for number in 0..50 {
        let request = get("api.test", "/hang", 2 * number + 1);
        raw.send(&request).await.expect("sent");
    }
    for _ in 0..10 {
        assert_eq!(rig.next_outcome().await, Outcome::Refused(Code::Overloaded));
    }
    // The other forty reach the upstream.
    reached(&rig, 40).await;
}

#[tokio::test]
async fn a_request_has_so_many_headers() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut raw = raw(&rig, &device, &[]).await;
    for (stream, fields) in [(1, 90), (3, 101)] {
        let mut block = head(GET, "api.test", "/");
        for number in 0..fields {
            block.extend([0, 2, b'a' + number / 26, b'a' + number % 26, 0]);
        }
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block))
            .await
            .expect("sent");
    }
    let mut outcomes = [rig.next_outcome().await, rig.next_outcome().await];
    outcomes.sort_by_key(|outcome| *outcome != Outcome::Forwarded);
    let expected = [Outcome::Forwarded, Outcome::Refused(Code::HeadTooLarge)];
    assert_eq!(outcomes, expected);
}

#[tokio::test]
async fn resets_are_ended() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    // Canceled by the client, and by the server at the client's instance.
    let cancel = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    let provoke = |stream| window_update(stream, 0);
    for (what, end) in [
        ("rapid reset", &cancel as &dyn Fn(u32) -> Vec<u8>),
        ("made you reset", &provoke),
    ] {
        let raw = raw(&rig, &device, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        let mut bytes = Vec::new();
        for number in 0..5_000 {
            bytes.extend(get("api.test", "/hang", 2 * number + 1));
            bytes.extend(end(2 * number + 1));
        }
        let ending = raw.flood(bytes, 1, SOON).await;
        assert!(
            matches!(ending, Ending::Goaway(_) | Ending::Closed),
            "{what}: {ending:?}"
        );
        rig.upstream.wait_for_open(0).await;
        // However many were let through, they are few.
        assert!(rig.upstream.connections() <= 500, "{what}");
    }
}
