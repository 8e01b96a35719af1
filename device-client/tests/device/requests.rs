//! Requests through a gateway, as the device.

use bytes::Bytes;
use device_client::{Answer, Asked, ExchangeError, RequestError, TlsFault, request};
use http::Method;

use crate::server::Server;

fn get(target: &str) -> Asked {
    Asked::get(target.parse().unwrap())
}

async fn body(answer: &mut Answer) -> String {
    let mut body = Vec::new();
    while let Some(bytes) = answer.chunk().await.unwrap() {
        body.extend_from_slice(&bytes);
    }
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn a_request_presents_the_leaf_and_the_gateway_is_remembered() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    let store = &enrolled.store;
    let error = request(store, &get("/hello")).await.err().unwrap();
    assert!(matches!(error, RequestError::NoGateway), "{error:?}");

    let mut answer = request(store, &get(&server.url("/hello?a=b")))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.remembered.as_ref().unwrap());
    let seen = body(&mut answer).await;
    assert!(seen.starts_with("GET /hello?a=b "), "{seen}");
    assert!(
        seen.contains(&format!("\"host\": \"localhost:{}\"", server.port)),
        "{seen}"
    );
    let last = server.state().seen.last().cloned().unwrap();
    assert_eq!(
        last.presented,
        Some(enrolled.credentials.certificate.clone())
    );
    assert_eq!(last.chain_length, 1);

    let asked = get("/state")
        .with_method(Method::PUT)
        .with_header("x-own".parse().unwrap(), "1".parse().unwrap())
        .unwrap()
        .with_body(Bytes::from_static(b"21.5"));
    let mut answer = request(store, &asked).await.unwrap();
    let seen = body(&mut answer).await;
    assert!(
        seen.starts_with("PUT /state ") && seen.ends_with("21.5\n"),
        "{seen}"
    );
    assert!(
        seen.contains("\"x-own\": \"1\"") && seen.contains("\"content-length\": \"4\""),
        "{seen}"
    );
    assert_eq!(store.settings().unwrap().gateway, Some(server.address()));
}

#[tokio::test]
async fn a_refused_request_remembers_nothing_and_is_explained() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    let mut answer = request(&enrolled.store, &get(&server.url("/revoked")))
        .await
        .unwrap();
    assert!(!answer.remembered.as_ref().unwrap());
    assert!(answer.is_refused_by_gateway());
    let problem = body(&mut answer).await;
    let refusal = answer.refusal(problem.as_bytes());
    assert!(refusal.has_code("revoked"));
    assert_eq!(refusal.request_id.as_deref(), Some("0123"));

    let mut answer = request(&enrolled.store, &get(&server.url("/forbidden")))
        .await
        .unwrap();
    assert!(
        !answer.is_refused_by_gateway(),
        "the service refused, not the gateway"
    );
    assert_eq!(body(&mut answer).await, "the service says no");
}

/// Another process renews while a request is on its way: the gateway refuses the old certificate as retired, and
/// the request goes again with the new one.
#[tokio::test]
async fn a_renewal_meanwhile_loses_no_request() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    let old = enrolled.credentials.certificate.clone();
    server.state().retired.push(old.clone());
    // A copy of the store is renewed beforehand, and takes its place when the request arrives.
    let (store, next) = (server.path("store"), server.path("next"));
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&store, &next])
        .status()
        .unwrap();
    assert!(copied.success());
    let renewing = device_client::KeyStore::open(&server.uri("next")).unwrap();
    device_client::renew(
        &renewing,
        device_client::Schedule::Now,
        crate::server::quickly(),
    )
    .await
    .unwrap();
    let new = renewing.credentials().unwrap();
    server.state().meanwhile = Some(Box::new(move || {
        std::fs::remove_dir_all(&store).unwrap();
        std::fs::rename(&next, &store).unwrap();
    }));
    let before = server.state().seen.len();
    let answer = request(&enrolled.store, &get(&server.url("/")))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let presented: Vec<_> = server.state().seen[before..]
        .iter()
        .map(|seen| seen.presented.clone().unwrap())
        .collect();
    assert_eq!(presented, [old, new.certificate.clone()]);

    // Without a newer certificate the refusal stands, after one attempt.
    server.state().retired.push(new.certificate);
    let before = server.state().seen.len();
    let answer = request(&enrolled.store, &get(&server.url("/")))
        .await
        .unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(server.state().seen.len(), before + 1);
}

#[tokio::test]
async fn an_alert_from_the_gateway_is_explained() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    let gateway = Server::start_for_strangers(server.authority.clone()).await;
    let error = request(&enrolled.store, &get(&gateway.url("/")))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            &error,
            RequestError::Exchange(ExchangeError::Tls {
                fault: TlsFault::RefusedByServer(_),
                ..
            })
        ),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("refused this certificate"),
        "{error}"
    );
    assert!(error.is_unreachable());
    assert!(gateway.state().seen.is_empty());
}

#[tokio::test]
async fn a_gateway_under_another_root_gets_no_request() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    let other = Server::start().await;
    let error = request(&enrolled.store, &get(&other.url("/")))
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("not issued under the roots"),
        "{error}"
    );
    assert!(other.state().seen.is_empty());
}

#[test]
fn headers_that_frame_the_message_are_not_the_callers() {
    for name in [
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
    ] {
        let asked = get("/").with_header(name.parse().unwrap(), "1".parse().unwrap());
        assert!(asked.is_none(), "{name}");
    }
}
