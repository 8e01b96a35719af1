use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gateway::Outcome;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use identity::Index;

use crate::client::{Client, http2};
use crate::rig::Rig;

/// How often a header occurs in a captured request, in any spelling.
fn count(captured: &str, name: &str) -> usize {
    let folded = |line: &str| line.to_ascii_lowercase().replace(['_', '.'], "-");
    captured
        .lines()
        .filter(|line| folded(line).starts_with(&format!("{name}:")))
        .count()
}

#[tokio::test]
async fn the_upstream_learns_who_calls_and_nothing_forged() {
    let mut rig = Rig::start().await;
    let device = rig.device("thermostat-7", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let forged = "X-Device-Id: admin\r\nx-device-id: root\r\nClient-Cert: :AAAA:\r\n\
        X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Client-Cert: Hash=1\r\nX-Request-Id: mine\r\n\
        Connection: X-Device-Id, Client-Cert\r\nX-SSL-Client-Verify: SUCCESS\r\n";
    let answer = client.get("/a?b=c", forged).await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "ok"));
    let seen = rig.upstream.take();
    assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("x-device-id: thermostat-7\r\n"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n"), "{seen}");
    assert!(seen.contains("x-forwarded-proto: https\r\n"), "{seen}");
    assert!(seen.contains("x-forwarded-host: api.test\r\n"), "{seen}");
    assert!(seen.contains("host: api.test\r\n"), "{seen}");
    assert_eq!(count(&seen, "x-device-id"), 1, "{seen}");
    assert_eq!(count(&seen, "x-request-id"), 1, "{seen}");
    for absent in [
        "client-cert",
        "x-forwarded-client-cert",
        "x-ssl-client-verify",
        "connection",
    ] {
        assert_eq!(count(&seen, absent), 0, "{absent} in {seen}");
    }
    assert!(!seen.contains("mine"), "{seen}");

    let record = rig.next_record().await;
    assert_eq!(record.outcome, Outcome::Forwarded);
    assert_eq!(
        record.device.as_ref().map(ToString::to_string).as_deref(),
        Some("thermostat-7")
    );
    assert_eq!(
        (record.status, record.path.as_deref()),
        (Some(200), Some("/a"))
    );
    assert!(seen.contains(&format!(
        "x-request-id: {}",
        record.request_id.as_deref().expect("an id")
    )));
    let sighting = rig.sightings.recv().await.expect("a sighting");
    assert_eq!(
        (sighting.index, sighting.device.as_str()),
        (Index(1), "thermostat-7")
    );
    client.get("/", "").await;
    assert!(rig.sightings.try_recv().is_err());
}

#[tokio::test]
async fn each_route_says_what_its_upstream_learns() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    assert_eq!(
        client
            .get("/cert/x", "Client-Cert: :AAAA:\r\n")
            .await
            .status(),
        200
    );
    let seen = rig.upstream.take();
    let expected = format!(
        "client-cert: :{}:\r\n",
        STANDARD.encode(&device.certificate)
    );
    assert!(seen.contains(&expected), "{seen}");
    assert_eq!(count(&seen, "client-cert"), 1);
    assert_eq!(
        client.get("/plain", "X-Device-Id: b\r\n").await.status(),
        200
    );
    let seen = rig.upstream.take();
    assert_eq!(count(&seen, "x-device-id"), 0, "{seen}");
}

#[tokio::test]
async fn other_spellings_are_refused() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    for line in [
        "X_Device_Id: b",
        "x-device_id: b",
        "X.Device.Id: b",
        "Client_Cert: b",
        "X_Forwarded_For: b",
        "Connection: x_device_id",
        "Transfer_Encoding: chunked",
    ] {
        let answer = client.get("/", &format!("{line}\r\n")).await;
        assert_eq!(
            answer.refusal(),
            (400, "identity-header-spelling".into()),
            "{line}"
        );
    }
    assert_eq!(client.get("/", "").await.status(), 200);
    assert_eq!(rig.upstream.take().matches("HTTP/1.1").count(), 1);
}

#[tokio::test]
async fn http2_is_identified_alike() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let (mut sender, _driver) = http2(&rig, &device).await;
    let request = |uri: &str, name: &str| {
        Request::post(uri)
            .header(name, "forged")
            .body(Full::new(Bytes::from_static(b"hello")))
            .expect("a request")
    };
    let response = sender
        .send_request(request("https://api.test/x?y", "x-device-id"))
        .await
        .expect("an answer");
    assert_eq!(response.status(), 200);
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(body, "ok");
    let seen = rig.upstream.take();
    assert!(seen.starts_with("POST /x?y HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("host: api.test\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nhello"), "{seen}");
    assert_eq!(count(&seen, "x-device-id"), 1, "{seen}");
    let refused = sender
        .send_request(request("https://api.test/", "x_device_id"))
        .await
        .expect("an answer");
    assert_eq!(refused.status(), 400);
    let refused = sender
        .send_request(request("https://other.test/", "accept"))
        .await
        .expect("an answer");
    assert_eq!(refused.status(), 421);
    let refused = sender
        .send_request(request("https://api.test/", "host"))
        .await
        .expect("an answer");
    assert_eq!(refused.status(), 400);
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn answers_carry_no_identity_from_the_upstream() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let answer = client.get("/headers", "").await;
    assert_eq!(answer.status(), 200);
    assert!(answer.head.contains("x-public: 1"), "{answer:?}");
    for absent in ["forged", "x-private", "proxy-status"] {
        assert!(!answer.head.contains(absent), "{absent} in {answer:?}");
    }
    let answer = client.get("/trailers", "TE: trailers\r\n").await;
    assert!(answer.body.contains("digest: sum"), "{answer:?}");
    assert!(!answer.body.contains("forged"), "{answer:?}");
    assert!(!answer.head.contains("x-device-id"), "{answer:?}");
}

#[tokio::test]
async fn bodies_and_trailers_pass() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    client
        .send(
            "POST /a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\
             Trailer: Digest, X-Device-Id\r\n\r\n5\r\nhello\r\n0\r\nDigest: sum\r\nX-Device-Id: forged\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    let seen = rig.upstream.take();
    assert!(seen.contains("transfer-encoding: chunked\r\n"), "{seen}");
    assert!(seen.contains("5\r\nhello\r\n0\r\n"), "{seen}");
    assert!(
        seen.to_ascii_lowercase().contains("digest: sum\r\n"),
        "{seen}"
    );
    assert!(!seen.contains("forged"), "{seen}");

    client
        .send("POST /a HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await;
    let interim = client.answer().await.expect("an interim answer");
    assert_eq!(interim.status(), 100);
    client.send("hello").await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    let seen = rig.upstream.take();
    assert!(seen.contains("content-length: 5\r\n"), "{seen}");
    assert!(!seen.to_ascii_lowercase().contains("expect"), "{seen}");
    // GET with a body keeps it.
    client
        .send("GET /a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    assert!(rig.upstream.take().contains("2\r\nhi\r\n0\r\n"));
}

#[tokio::test]
async fn hosts_and_paths_decide() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let mut check = async |target: &str, host: &str, expected: (u16, &str)| {
        client
            .send(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        let answer = client.answer().await.expect("an answer");
        let outcome = if answer.status() == 200 {
            (200, "".to_owned())
        } else {
            answer.refusal()
        };
        assert_eq!(
            outcome,
            (expected.0, expected.1.to_owned()),
            "{target} {host}"
        );
    };
    check("/", "API.test.:8443", (200, "")).await;
    check("/", "other.test", (421, "host-mismatch")).await;
    check("/", "api.test", (200, "")).await;
    check("/", "user@api.test", (400, "host-refused")).await;
    check("https://api.test/x", "api.test", (200, "")).await;
    check("https://other.test/x", "api.test", (400, "host-refused")).await;
    check("/plain/../cert", "api.test", (400, "path-refused")).await;
    check("/%2e%2e/cert", "api.test", (400, "path-refused")).await;
    check("//cert", "api.test", (400, "path-refused")).await;
    check("/%63ert", "api.test", (400, "path-refused")).await;
    check("/a%00b", "api.test", (400, "path-refused")).await;
    check("/a%2fb", "api.test", (400, "path-refused")).await;
    client
        .send("TRACE / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (405, "method-refused".into()));
    let mut client = Client::connect_to(&rig, &device, "other.test").await;
    client
        .send("GET /only/x HTTP/1.1\r\nHost: other.test\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    client
        .send("GET /x HTTP/1.1\r\nHost: other.test\r\n\r\n")
        .await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (404, "no-route".into()));
    // Without a server name in the handshake, as for an IP address, few hosts may be asked for.
    let mut client = Client::connect_to(&rig, &device, "127.0.0.1").await;
    client
        .send("GET / HTTP/1.1\r\nHost: 127.0.0.1:8443\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.expect("an answer").status(), 200);
    client
        .send("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (421, "host-mismatch".into()));
}
