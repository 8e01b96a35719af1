//! A certificate that ends while its connections are in use takes all of them with it, in the same second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gateway::{Code, Outcome};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use identity::Status;

use crate::client::{Client, http2};
use crate::rig::Rig;

fn seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://api.test{path}"))
        .body(Full::default())
        .expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_use_ends_within_a_second_of_the_certificate() {
    let mut rig = Rig::start().await;
    let not_after = SystemTime::now() + Duration::from_secs(3);
    let device = rig.authority.device_with("a", 1, |params| {
        params.not_after = not_after.into();
    });
    rig.set(&device, Status::Active).await;
    // The last second of validity counts as a whole (RFC 5280, section 4.1.2.5).
    let end = not_after
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
        + 1;
    let end = Duration::from_secs(end).as_secs_f64();

    let mut used = Client::connect(&rig, &device).await;
    let mut download = Client::connect(&rig, &device).await;
    assert_eq!(download.get("/slow", "").await.status(), 200);
    let mut upload = Client::connect(&rig, &device).await;
    upload
        .send("POST /hang HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\nbefore")
        .await;
    let (mut used2, driver) = http2(&rig, &device).await;
    let (mut other, _driver) = http2(&rig, &device).await;
    let answer = other.send_request(get("/slow")).await.expect("an answer");
    let mut body = answer.into_body();

    // Requests are answered until the end, and none after it.
    let requests = async {
        let mut answered = 0;
        loop {
            used.send("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
            match used.answer().await {
                Ok(answer) if answer.status() == 200 => answered += 1,
                Ok(answer) => {
                    assert_eq!(answer.refusal(), (403, "expired".into()));
                    return (answered, seconds());
                }
                Err(_) => return (answered, seconds()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let requests2 = async {
        let mut answered = 0;
        loop {
            match used2.send_request(get("/")).await {
                Ok(answer) if answer.status() == 200 => answered += 1,
                Ok(_) | Err(_) => return (answered, seconds()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let downloaded = async {
        while download.until(b"x").await.is_ok() {}
        seconds()
    };
    let downloaded2 = async {
        while let Some(Ok(_)) = body.frame().await {}
        seconds()
    };
    let uploaded = async {
        while tokio::io::AsyncWriteExt::write_all(&mut upload.tls, b"x")
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        seconds()
    };
    let driven = async {
        let _ = driver.await;
        seconds()
    };
    let everything = async {
        tokio::join!(
            requests,
            requests2,
            downloaded,
            downloaded2,
            uploaded,
            driven
        )
    };
    let ((answered, at1), (answered2, at2), at3, at4, at5, at6) =
        tokio::time::timeout(Duration::from_secs(8), everything)
            .await
            .expect("everything ends");
    assert!(answered > 10 && answered2 > 10, "{answered} {answered2}");
    for (what, at) in [
        ("requests", at1),
        ("requests over HTTP/2", at2),
        ("a download", at3),
        ("a download over HTTP/2", at4),
        ("an upload", at5),
        ("an HTTP/2 connection", at6),
    ] {
        let late = at - end;
        assert!(
            (-0.1..1.0).contains(&late),
            "{what} ended {late} s after the certificate"
        );
        println!("figure: {what} ended after the certificate did by (s): {late:.3}");
    }
    // What it was downloading and uploading has ended upstream too; idle connections are kept.
    rig.upstream.wait_for_open(2).await;
    rig.upstream.take();
    while rig.records.try_recv().is_ok() {}
    let mut late = Client::connect(&rig, &device).await;
    assert_eq!(late.get("/", "").await.refusal(), (403, "expired".into()));
    assert_eq!(rig.next_outcome().await, Outcome::Refused(Code::Expired));
    assert_eq!(rig.upstream.take(), "");
    assert_eq!(rig.gateway.connections(device.index).len(), 1);
}
