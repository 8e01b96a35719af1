//! What the test server answers as a gateway, and the forms of its answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use identity::Problem;
use rustls::pki_types::CertificateDer;

pub fn as_gateway(
    retired: &[CertificateDer<'static>],
    path: &str,
    head: &http::request::Parts,
    presented: Option<&CertificateDer<'static>>,
    body: &[u8],
) -> Response<Full<Bytes>> {
    let Some(presented) = presented else {
        return refused_by_gateway("certificate-required");
    };
    if retired.contains(presented) {
        return refused_by_gateway("retired");
    }
    match path {
        "/revoked" => refused_by_gateway("revoked"),
        "/forbidden" => {
            let mut answer = Response::new(Full::from("the service says no"));
            *answer.status_mut() = StatusCode::FORBIDDEN;
            answer
        }
        _ => {
            let seen = format!(
                "{} {} {:?} {}\n",
                head.method,
                head.uri,
                head.headers,
                String::from_utf8_lossy(body)
            );
            Response::new(Full::from(seen))
        }
    }
}

fn refused_by_gateway(code: &'static str) -> Response<Full<Bytes>> {
    let mut answer = problem(403, code);
    let status = format!("keybound; error=http_request_denied; details=\"{code}\"");
    answer
        .headers_mut()
        .insert("proxy-status", status.parse().expect("ASCII"));
    answer
}

pub fn problem(status: u16, code: &str) -> Response<Full<Bytes>> {
    let mut problem = Problem::new(status, code, "Refused", "Ask the operator.");
    problem.request_id = Some("0123".into());
    Response::builder()
        .status(status)
        .header("content-type", Problem::MEDIA_TYPE)
        .body(Full::from(problem.to_json()))
        .expect("a response")
}

pub fn pkcs7(bag: &[u8]) -> Response<Full<Bytes>> {
    Response::builder()
        .header(
            "content-type",
            "application/pkcs7-mime; smime-type=certs-only",
        )
        .body(Full::from(STANDARD.encode(bag)))
        .expect("a response")
}
