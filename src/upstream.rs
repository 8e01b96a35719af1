//! The built-in upstream of `up`: it shows what it received, so that people see what their own services would.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http_server::{self, Answer};

/// Serves until `shutdown`.
pub(crate) async fn run(listener: TcpListener, shutdown: CancellationToken) {
    let ending = shutdown.clone();
    http_server::accept(listener, MAX_CONNECTIONS, shutdown, |tcp, _| {
        http_server::serve(tcp, LIFETIME, ending.clone(), show)
    })
    .await;
}

#[derive(Serialize)]
struct Received {
    method: String,
    target: String,
    version: String,
    headers: Fields,
    body_bytes: u64,
    trailers: Fields,
}

/// Header or trailer fields; names in lower case.
type Fields = BTreeMap<String, Values>;

/// One value as it is, several as a list.
#[derive(Serialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Several(Vec<String>),
}

impl Values {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Several(values) => values,
        }
    }
}

async fn show(request: Request<Incoming>) -> Answer {
    let (head, mut body) = request.into_parts();
    let mut body_bytes = 0;
    let mut trailers = Fields::new();
    // The body is read at the sender's pace and not kept, however large it is.
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return http_server::answer(400, TEXT, "The body broke off.\n");
        };
        if let Some(data) = frame.data_ref() {
            body_bytes += data.len() as u64;
        }
        if let Ok(fields) = frame.into_trailers() {
            trailers = fields_of(&fields);
        }
    }
    let received = Received {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        version: format!("{:?}", head.version),
        headers: fields_of(&head.headers),
        body_bytes,
        trailers,
    };
    let wants_json = head.headers.get(header::ACCEPT).is_some_and(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.contains("application/json"))
    });
    if wants_json && let Ok(mut json) = serde_json::to_string_pretty(&received) {
        json.push('\n');
        return http_server::answer(200, "application/json", json);
    }
    http_server::answer(200, TEXT, text(&received))
}

fn fields_of(headers: &HeaderMap) -> Fields {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .keys()
        .map(|name| {
            let mut values: Vec<_> = headers.get_all(name).iter().map(text).collect();
            let values = match values.len() {
                1 => Values::One(values.remove(0)),
                _ => Values::Several(values),
            };
            (name.as_str().to_owned(), values)
        })
        .collect()
}

fn text(received: &Received) -> String {
    let Received {
        method,
        target,
        version,
        headers,
        body_bytes,
        trailers,
    } = received;
    let mut text = format!("{method} {target} {version}\n");
    for (name, values) in headers.iter().chain(trailers) {
        for value in values.as_slice() {
            let _ = writeln!(text, "{}: {value}", capitalised(name));
        }
    }
    if *body_bytes > 0 {
        let _ = writeln!(text, "\n({body_bytes} bytes of body)");
    }
    text
}

/// `x-device-id` as people write it: `X-Device-Id`.
fn capitalised(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let c = if start { c.to_ascii_uppercase() } else { c };
            start = c == '-';
            c
        })
        .collect()
}

const TEXT: &str = "text/plain; charset=utf-8";
const MAX_CONNECTIONS: usize = 1024;
/// Of one connection from the gateway, which makes another one when it ends.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_request_as_people_write_it() {
        let received = Received {
            method: "GET".into(),
            target: "/a?b".into(),
            version: "HTTP/1.1".into(),
            headers: [("x-device-id".into(), Values::One("thermostat-7".into()))].into(),
            body_bytes: 3,
            trailers: Fields::new(),
        };
        let expected = "GET /a?b HTTP/1.1\nX-Device-Id: thermostat-7\n\n(3 bytes of body)\n";
        assert_eq!(text(&received), expected);
    }
}
