//! Whatever an upstream answers: the device hears one answer or a refusal, a broken body looks broken, nothing of
//! it reaches the next request, and nobody else notices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use tokio::sync::Notify;

use crate::authority::Identity;
use crate::bad_answers::{After, Case, POISON, answer, bad_answers, invalid, unreachable};
use crate::client::{Client, http2};
use crate::hostile::{Hostile, Step, ok, routes};
use crate::rig::Rig;

/// What the device hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An answer of the upstream's: its status and its whole body.
    Answer(u16, String),
    /// A refusal of the gateway's: its status and its code.
    Refused(u16, String),
    /// An answer that is visibly not whole, or a connection that ended without one.
    Broken,
}

async fn hostile_rig() -> (Rig, Hostile, Identity) {
    let mut rig = Rig::start().await;
    let hostile = Hostile::start().await;
    rig.gateway
        .publish(routes(hostile.address.clone(), rig.upstream.address));
    let device = rig.device("a", 1).await;
    (rig, hostile, device)
}

/// Reads an answer to the last byte that belongs to it.
pub(crate) async fn hear(client: &mut Client, method: &str) -> Heard {
    let Ok(head) = client.until(b"\r\n\r\n").await else {
        return Heard::Broken;
    };
    let head = head.to_ascii_lowercase();
    let status: u16 = head[9..12].parse().expect("a status");
    let bodiless = method == "HEAD" || matches!(status, 204 | 304);
    let body = if bodiless {
        Some(String::new())
    } else if head.contains("\r\ntransfer-encoding: chunked\r\n") {
        chunks(client).await
    } else {
        let length = head.split("\r\ncontent-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        client.exactly(length.unwrap_or(0)).await
    };
    judge(status, &head, body)
}

/// A chunked body without trailers.
async fn chunks(client: &mut Client) -> Option<String> {
    let mut body = String::new();
    loop {
        let size = client.until(b"\r\n").await.ok()?;
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        let chunk = client.exactly(size + 2).await?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(&chunk[..chunk.len() - 2]);
    }
}

fn judge(status: u16, head: &str, body: Option<String>) -> Heard {
    let Some(body) = body else {
        return Heard::Broken;
    };
    // RFC 9209 tells the gateway's refusals from the upstream's.
    if !head.contains("proxy-status") {
        return Heard::Answer(status, body);
    }
    assert!(head.contains("application/problem+json"), "{head}");
    let problem: identity::Problem =
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {head}{body}"));
    assert_eq!(problem.status, status);
    assert!(
        head.contains(&format!("details=\\\"{}\\\"", problem.code))
            || head.contains(&format!("details=\"{}\"", problem.code)),
        "{head}"
    );
    Heard::Refused(status, problem.code)
}

pub(crate) async fn ask(client: &mut Client, method: &str, path: &str) -> Heard {
    client
        .send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: api.test\r\n\r\n"
        ))
        .await;
    hear(client, method).await
}

async fn ask_http2(sender: &mut SendRequest<Full<Bytes>>, method: &str, path: &str) -> Heard {
    sender.ready().await.expect("the connection goes on");
    let request = Request::builder()
        .method(method)
        .uri(format!("https://api.test{path}"))
        .body(Full::default())
        .expect("a request");
    let Ok(response) = sender.send_request(request).await else {
        return Heard::Broken;
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await.ok();
    let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    judge(head.status.as_u16(), &format!("{:?}", head.headers), body)
}

/// The connection that a request without answer was sent over, and the one that served the next request.
fn check_connections(hostile: &Hostile, case: &Case, path: &str, clean: &str) {
    let (hit, next) = (hostile.seen(path), hostile.seen(clean));
    // The one thing that is sent again: what nobody began to answer, over a connection that may have been stale.
    let repeated = matches!(case.name, "reset-before-head" | "close-before-head");
    assert_eq!(
        hit.len(),
        if repeated { 2 } else { 1 },
        "{}: {hit:?}",
        case.name
    );
    assert_eq!(next.len(), 1, "{}: {next:?}", case.name);
    let kept = hit.contains(&next[0]);
    assert_eq!(
        kept,
        case.after == After::Kept,
        "{}: {hit:?}, then {next:?}",
        case.name
    );
}

#[tokio::test]
async fn over_http1_each_answer_is_one_answer_or_none() {
    let (rig, hostile, device) = hostile_rig().await;
    each_answer(&rig, &hostile, &device, bad_answers()).await;
}

/// Lets the upstream give each of the answers.
pub(crate) async fn each_answer(rig: &Rig, hostile: &Hostile, device: &Identity, cases: Vec<Case>) {
    let mut client = Client::connect(rig, device).await;
    let (mut refused, started) = (0, Instant::now());
    for case in &cases {
        let (path, clean) = (format!("/{}", case.name), format!("/clean/{}", case.name));
        hostile.script(&path, &case.steps);
        // Over a connection that was used before, so that a request that is harmless may be sent again.
        assert_eq!(ask(&mut client, "GET", "/warm").await, answer(200, "/warm"));
        let heard = ask(&mut client, case.method, &path).await;
        assert_eq!(heard, case.heard, "{}", case.name);
        if heard == Heard::Broken {
            // Nothing after a body without end could be told from it.
            assert!(client.ends().await, "{}", case.name);
            client = Client::connect(rig, device).await;
        }
        refused += usize::from(heard == invalid());
        let heard = ask(&mut client, "GET", &clean).await;
        assert_eq!(heard, answer(200, &clean), "after {}", case.name);
        check_connections(hostile, case, &path, &clean);
    }
    assert!(refused >= 40 && started.elapsed() < Duration::from_secs(60));
    assert_eq!(
        rig.metric("refusals_total{code=\"upstream-invalid\"}"),
        refused.to_string()
    );
    crate::random::figure(
        "hostile answers of an upstream, each told from the next",
        format_args!("{}", cases.len()),
    );
}

#[tokio::test]
async fn over_http2_only_the_stream_of_a_bad_answer_ends() {
    let (rig, hostile, device) = hostile_rig().await;
    let (mut sender, connection) = http2(&rig, &device).await;
    for case in bad_answers() {
        let (path, clean) = (format!("/{}", case.name), format!("/clean/{}", case.name));
        hostile.script(&path, &case.steps);
        assert_eq!(
            ask_http2(&mut sender, "GET", "/warm").await,
            answer(200, "/warm")
        );
        let heard = ask_http2(&mut sender, case.method, &path).await;
        assert_eq!(heard, case.heard, "{}", case.name);
        let heard = ask_http2(&mut sender, "GET", &clean).await;
        assert_eq!(heard, answer(200, &clean), "after {}", case.name);
        check_connections(&hostile, &case, &path, &clean);
    }
    assert!(!connection.is_finished());
}

#[tokio::test]
async fn a_request_with_effects_is_sent_once_whatever_is_answered() {
    let (rig, hostile, device) = hostile_rig().await;
    let mut client = Client::connect(&rig, &device).await;
    for case in bad_answers() {
        let path = format!("/{}", case.name);
        hostile.script(&path, &case.steps);
        for body in ["", "body"] {
            let asked = hostile.seen(&path).len();
            assert_eq!(ask(&mut client, "GET", "/warm").await, answer(200, "/warm"));
            client
                .send(&format!(
                    "POST {path} HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ))
                .await;
            let heard = hear(&mut client, "POST").await;
            if case.method == "GET" {
                assert_eq!(heard, case.heard, "{} with {body:?}", case.name);
            }
            assert_eq!(hostile.seen(&path).len(), asked + 1, "{}", case.name);
            client = Client::connect(&rig, &device).await;
        }
    }
}

#[tokio::test]
async fn what_hangs_is_given_up_in_time_and_delays_nobody_else() {
    let (rig, hostile, device) = hostile_rig().await;
    let send = |text: &str| Step::Send(text.as_bytes().to_vec());
    let hangs = [
        ("silence", vec![Step::Hang]),
        ("half-status", vec![send("HTTP/1.1 2"), Step::Hang]),
        (
            "half-head",
            vec![send("HTTP/1.1 200 OK\r\na: b\r\n"), Step::Hang],
        ),
        (
            "interim",
            vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Step::Hang],
        ),
        (
            "half-head-after-interim",
            vec![send("HTTP/1.1 100 Continue\r\n\r\nHTTP"), Step::Hang],
        ),
        // Bytes that trickle do not make an answer.
        (
            "trickle",
            vec![
                vec![
                    send("HTTP/1.1 100 Continue\r\n\r\n"),
                    Step::Pause(Duration::from_millis(300)),
                ];
                15
            ]
            .concat(),
        ),
    ];
    let (rig, hostile, device) = (&rig, &hostile, &device);
    let hanging = hangs.iter().map(|(name, steps)| async move {
        let path = format!("/{name}");
        hostile.script(&path, steps);
        let mut client = Client::connect(rig, device).await;
        assert_eq!(ask(&mut client, "GET", "/warm").await, answer(200, "/warm"));
        let started = Instant::now();
        let heard = ask(&mut client, "GET", &path).await;
        assert_eq!(
            heard,
            Heard::Refused(504, "upstream-timeout".into()),
            "{name}"
        );
        assert!(started.elapsed() < Duration::from_secs(4), "{name}");
        let clean = format!("/clean/{name}");
        assert_eq!(ask(&mut client, "GET", &clean).await, answer(200, &clean));
        assert_eq!(hostile.seen(&path).len(), 1, "{name}");
        assert_ne!(hostile.seen(&path), hostile.seen(&clean), "{name}");
    });
    let mut other = Client::connect(rig, device).await;
    let others = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let started = Instant::now();
            assert_eq!(ask(&mut other, "GET", "/other/a").await, answer(200, "ok"));
            slowest = slowest.max(started.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        slowest
    };
    let (_, slowest) = tokio::join!(join_all(hanging), others);
    assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    crate::random::figure(
        "slowest request to another route while six upstream answers hang",
        format_args!("{slowest:?}"),
    );
}

#[tokio::test]
async fn a_body_that_hangs_holds_its_own_stream_only() {
    let (rig, hostile, device) = hostile_rig().await;
    let some = Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nsome".to_vec());
    hostile.script("/half", &[some, Step::Hang]);
    let (mut sender, _connection) = http2(&rig, &device).await;
    let request = || {
        Request::get("https://api.test/half")
            .body(Full::<Bytes>::default())
            .expect("a request")
    };
    let mut half = Vec::new();
    for _ in 0..20 {
        sender.ready().await.expect("ready");
        half.push(sender.send_request(request()).await.expect("a head"));
    }
    for _ in 0..20 {
        let heard = ask_http2(&mut sender, "GET", "/clean").await;
        assert_eq!(heard, answer(200, "/clean"));
    }
    // Given up by the device, the upstream's connection is, too, and never serves again.
    drop(half);
    assert_eq!(
        ask_http2(&mut sender, "GET", "/after").await,
        answer(200, "/after")
    );
    let after = hostile.seen("/after");
    assert!(!hostile.seen("/half").contains(&after[0]));
}

#[tokio::test]
async fn a_late_second_answer_is_not_taken_for_the_next_one() {
    let (rig, hostile, device) = hostile_rig().await;
    late_second_answers(&rig, &hostile, &device).await;
}

/// Lets the upstream say more than it was asked for, later and later.
pub(crate) async fn late_second_answers(rig: &Rig, hostile: &Hostile, device: &Identity) {
    let mut client = Client::connect(rig, device).await;
    for round in 0..count(60, 2_000) {
        let (path, clean) = (format!("/{round}"), format!("/clean/{round}"));
        let late = Step::Pause(Duration::from_micros(50 * (round as u64 % 10)));
        let written = Arc::new(Notify::new());
        hostile.script(
            &path,
            &[
                Step::Send(ok("ok")),
                late,
                Step::Send(POISON.into()),
                Step::Tell(Arc::clone(&written)),
            ],
        );
        assert_eq!(ask(&mut client, "GET", &path).await, answer(200, "ok"));
        // What leaves the upstream after the next request was sent to it, nobody can tell from that one's answer.
        // Over loopback, what was written has arrived, or the other side has closed the connection before. No more
        // is waited for: the gateway may not have read it when the next request comes.
        tokio::time::timeout(Duration::from_secs(10), written.notified())
            .await
            .expect("it is written");
        assert_eq!(
            ask(&mut client, "GET", &clean).await,
            answer(200, &clean),
            "round {round}"
        );
    }
}

#[tokio::test]
async fn what_an_upstream_says_of_identity_stays_with_it() {
    let (rig, hostile, device) = hostile_rig().await;
    let mut client = Client::connect(&rig, &device).await;
    let echo = "HTTP/1.1 200 OK\r\nx-device-id: a\r\nX_Device-Id: b\r\nclient-cert: :AA==:\r\nx-forwarded-client-cert: By=x\r\n\
        x-ssl-client-verify: SUCCESS\r\nx-request-id: theirs\r\nproxy-status: keybound; error=http_request_denied; details=\"revoked\"\r\n\
        keep-alive: timeout=5\r\nupgrade: h2c\r\nconnection: x-secret, content-length\r\nx-secret: 1\r\nx-public: 1\r\ncontent-length: 2\r\n\r\nok";
    hostile.script("/echo", &[Step::Send(echo.into())]);
    client
        .send("GET /echo HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    let heard = client.answer().await.expect("an answer");
    assert_eq!((heard.status(), heard.body.as_str()), (200, "ok"));
    let names: Vec<_> = heard
        .head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    for name in &names {
        assert!(
            ["x-public", "content-length", "x-request-id", "date"].contains(name),
            "{name} in {}",
            heard.head
        );
    }
    assert!(
        names.contains(&"x-public") && !heard.head.contains("theirs"),
        "{}",
        heard.head
    );
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_and_the_last_one() {
    let (rig, hostile, device) = hostile_rig().await;
    let upgrades = [
        (
            "/200",
            String::from_utf8_lossy(&ok("no")).into_owned(),
            answer(200, "no"),
        ),
        (
            "/426",
            "HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nno"
                .into(),
            answer(426, "no"),
        ),
        (
            "/h2c",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
                .into(),
            invalid(),
        ),
        (
            "/none",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n".into(),
            invalid(),
        ),
        ("/garbage", "RFB 003.008\n".into(), invalid()),
    ];
    for (path, text, expected) in upgrades {
        hostile.script(path, &[Step::Send(text.into())]);
        let mut client = Client::connect(&rig, &device).await;
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
        client
            .send(&format!(
                "GET {path} HTTP/1.1\r\nHost: api.test\r\n{upgrade}\r\n"
            ))
            .await;
        assert_eq!(hear(&mut client, "GET").await, expected, "{path}");
        assert!(client.ends().await, "{path}");
    }
}

#[tokio::test]
async fn an_upstream_that_comes_and_goes_is_refused_or_answers() {
    let (rig, _, device) = hostile_rig().await;
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let upstream = format!("http://{address}").parse().expect("an upstream");
    rig.gateway.publish(routes(upstream, rig.upstream.address));
    // Ten times a second it is there, and gone with all its connections.
    let flap = tokio::spawn(async move {
        for _ in 0..20 {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("set");
            if socket.bind(address).is_ok()
                && let Ok(listener) = socket.listen(64)
            {
                let mut serving = tokio::task::JoinSet::new();
                let until = tokio::time::Instant::now() + Duration::from_millis(50);
                while let Ok(Ok((mut tcp, _))) =
                    tokio::time::timeout_at(until, listener.accept()).await
                {
                    serving.spawn(async move {
                        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                        let mut buffer = [0; 4096];
                        while tcp.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                            if tcp.write_all(&ok("there")).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut client = Client::connect(&rig, &device).await;
    let mut other = Client::connect(&rig, &device).await;
    let (mut there, mut gone) = (0, 0);
    while !flap.is_finished() {
        let started = Instant::now();
        match ask(&mut client, "GET", "/a").await {
            Heard::Answer(200, body) if body == "there" => there += 1,
            heard @ (Heard::Answer(..) | Heard::Refused(..) | Heard::Broken) => {
                assert_eq!(heard, unreachable());
                gone += 1;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(3));
        assert_eq!(ask(&mut other, "GET", "/other/a").await, answer(200, "ok"));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(there > 10 && gone > 10, "{there} and {gone}");
    crate::random::figure(
        "requests while an upstream flaps at 10 Hz",
        format_args!("{there} answered, {gone} refused, none lost"),
    );
}

/// How much of something to try: `tests/run` or `tests/run --long`.
pub(crate) fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("KEYBOUND_LONG").is_some() {
        long
    } else {
        short
    }
}
