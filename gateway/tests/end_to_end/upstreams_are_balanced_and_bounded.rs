//! Who of an upstream's servers is asked, how many connections it gets, and how long it may pause.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::{HealthCheck, Upstream, UpstreamTimeouts};
use http::Request;
use http_body_util::Full;

use crate::bad_answers::answer;
use crate::client::{Client, http2};
use crate::hostile::{Hostile, Step, ok, routes_to};
use crate::rig::Rig;
use crate::upstreams_answer_badly::{Heard, ask};

const TIMES: UpstreamTimeouts = UpstreamTimeouts {
    connect: Duration::from_millis(400),
    first_byte: Duration::from_secs(5),
    idle: Duration::from_millis(400),
};

fn upstream(servers: &[&Hostile]) -> Upstream {
    let servers = servers.iter().map(|server| server.address.clone());
    let mut upstream = Upstream::clone(&Upstream::of(servers.collect()));
    upstream.name = Some("u".into());
    upstream.timeouts = Some(TIMES);
    upstream
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn health_checks_take_a_server_out_and_bring_it_back() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let (first, second) = (Hostile::start().await, Hostile::start().await);
    let mut upstream = upstream(&[&first, &second]);
    upstream.health_check = Some(HealthCheck {
        path: "/up".into(),
        host: None,
        every: Duration::from_millis(30),
        timeout: Duration::from_millis(500),
        healthy_after: 2,
        unhealthy_after: 2,
    });
    rig.gateway
        .publish(routes_to(Arc::new(upstream), rig.upstream.address));
    let metric = |server: &Hostile| {
        let address = &server.address;
        rig.full_metric(&format!(
            "keybound_upstream_healthy{{upstream=\"u\",server=\"{address}\"}}"
        ))
    };
    let mut client = Client::connect(&rig, &device).await;
    let mut asked = 0;
    let mut ask_four = async || {
        asked += 1;
        let path = format!("/{asked}");
        for _ in 0..4 {
            assert_eq!(ask(&mut client, "GET", &path).await, answer(200, &path));
        }
        (first.seen(&path).len(), second.seen(&path).len())
    };
    until("both are checked", || {
        !first.seen("/up").is_empty() && !second.seen("/up").is_empty()
    })
    .await;
    assert_eq!((metric(&first), metric(&second)), ("1".into(), "1".into()));
    assert_eq!(ask_four().await, (2, 2));
    let unwell = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec();
    first.script("/up", &[Step::Send(unwell.clone())]);
    until("the first is out", || metric(&first) == "0").await;
    assert_eq!(metric(&second), "1");
    assert_eq!(ask_four().await, (0, 4));
    // All of them: better than nobody.
    second.script("/up", &[Step::Send(unwell)]);
    until("both are out", || metric(&second) == "0").await;
    assert_eq!(ask_four().await, (2, 2));
    second.script("/up", &[Step::Hang]);
    first.script("/up", &[Step::Send(ok("up"))]);
    until("the first is back", || metric(&first) == "1").await;
    assert_eq!(ask_four().await, (4, 0));
}

#[tokio::test]
async fn the_least_busy_server_is_asked() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let (first, second) = (Hostile::start().await, Hostile::start().await);
    let late = [
        Step::Pause(Duration::from_millis(1_500)),
        Step::Send(ok("late")),
    ];
    first.script("/late", &late);
    second.script("/late", &late);
    let upstream = upstream(&[&first, &second]);
    rig.gateway
        .publish(routes_to(Arc::new(upstream), rig.upstream.address));
    let (mut sender, _driver) = http2(&rig, &device).await;
    let request = |path: &str| {
        let request = Request::get(format!("https://api.test{path}"));
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    // One of them is busy; everything else goes to the other.
    let late = tokio::spawn(sender.send_request(request("/late")));
    until("it is asked", || {
        first.seen("/late").len() + second.seen("/late").len() == 1
    })
    .await;
    for _ in 0..6 {
        sender.ready().await.expect("ready");
        let heard = sender
            .send_request(request("/quick"))
            .await
            .expect("an answer");
        assert_eq!(heard.status(), 200);
        drop(heard);
    }
    let (busy, idle) = if first.seen("/late").is_empty() {
        (&second, &first)
    } else {
        (&first, &second)
    };
    assert_eq!(busy.seen("/quick").len(), 0);
    assert_eq!(idle.seen("/quick").len(), 6);
    assert_eq!(
        late.await.expect("joined").expect("an answer").status(),
        200
    );
}

#[tokio::test]
async fn there_are_no_more_connections_than_there_may_be() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let hostile = Hostile::start().await;
    hostile.script(
        "/slow",
        &[
            Step::Pause(Duration::from_millis(100)),
            Step::Send(ok("slow")),
        ],
    );
    hostile.script("/hang", &[Step::Hang]);
    let mut upstream = upstream(&[&hostile]);
    upstream.max_connections = 1;
    rig.gateway
        .publish(routes_to(Arc::new(upstream), rig.upstream.address));
    // One connection of the device: one worker.
    let (mut sender, _driver) = http2(&rig, &device).await;
    let request = |path: &str| {
        let request = Request::get(format!("https://api.test{path}"));
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    let first = tokio::spawn(sender.send_request(request("/slow")));
    sender.ready().await.expect("ready");
    let second = tokio::spawn(sender.send_request(request("/slow")));
    for asked in [first, second] {
        let heard = asked.await.expect("joined").expect("an answer");
        assert_eq!(heard.status(), 200);
    }
    assert_eq!(hostile.seen("/slow"), [1, 1]);
    let hanging = tokio::spawn(sender.send_request(request("/hang")));
    until("it is asked", || !hostile.seen("/hang").is_empty()).await;
    let started = Instant::now();
    let heard = sender
        .send_request(request("/slow"))
        .await
        .expect("an answer");
    assert_eq!(heard.status(), 503);
    assert!(started.elapsed() >= TIMES.connect && started.elapsed() < TIMES.first_byte);
    assert_eq!(hostile.seen("/slow").len(), 2);
    hanging.abort();
}

#[tokio::test]
async fn an_answer_that_pauses_for_too_long_is_broken() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let hostile = Hostile::start().await;
    let begin = Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".to_vec());
    hostile.script(
        "/pauses",
        &[begin.clone(), Step::Send(b"x".to_vec()), Step::Hang],
    );
    let part = [
        Step::Pause(Duration::from_millis(100)),
        Step::Send(b"x".to_vec()),
    ];
    let slow = std::iter::once(begin).chain(part.into_iter().cycle().take(20));
    hostile.script("/slow", &slow.collect::<Vec<_>>());
    let upstream = upstream(&[&hostile]);
    rig.gateway
        .publish(routes_to(Arc::new(upstream), rig.upstream.address));
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(
        ask(&mut client, "GET", "/slow").await,
        answer(200, "xxxxxxxxxx")
    );
    let started = Instant::now();
    assert_eq!(ask(&mut client, "GET", "/pauses").await, Heard::Broken);
    assert!(started.elapsed() < Duration::from_secs(3));
}
