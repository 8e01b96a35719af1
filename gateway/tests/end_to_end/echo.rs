//! An upstream that reads by the strict reader alone, and answers each request with what it was. Over HTTP/2 hyper reads for
//! it, and a request counts as the one of HTTP/1.1 that means the same.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::Identity;
use crate::identity_names::{Name, judge};
use crate::strict::{Message, Reading, read, read_head};

#[derive(Clone)]
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Event>>>,
}

/// What arrived.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Request(Box<Message>),
    /// Bytes that are no request, with what the reader says of them.
    Malformed(&'static str, Vec<u8>),
    /// The stream ended within a request.
    Partial,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let echo = Self {
            address: listener.local_addr().expect("bound"),
            log: Arc::default(),
        };
        let accepting = echo.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let serving = accepting.clone();
                tokio::spawn(async move { serving.serve(tcp).await });
            }
        });
        echo
    }

    /// Over HTTP/2, in the clear. It opens no WebSocket, though it takes the question.
    pub(crate) async fn start_http2() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let echo = Self {
            address: listener.local_addr().expect("bound"),
            log: Arc::default(),
        };
        let accepting = echo.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let serving = accepting.clone();
                let service = service_fn(move |request| {
                    let echo = serving.clone();
                    async move { Ok::<_, Infallible>(echo.answer_http2(request).await) }
                });
                let mut http = http2::Builder::new(TokioExecutor::new());
                http.enable_connect_protocol();
                tokio::spawn(http.serve_connection(TokioIo::new(tcp), service));
            }
        });
        echo
    }

    async fn answer_http2(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let mut answer = Response::new(Full::default());
        if [HOST, CONNECTION, TRANSFER_ENCODING, UPGRADE]
            .iter()
            .any(|name| head.headers.contains_key(name))
        {
            let seen = format!("{:?}", head.headers).into_bytes();
            self.note(Event::Malformed("a header of HTTP/1.1", seen));
            return answer;
        }
        let fields = |headers: &HeaderMap| -> Vec<_> {
            let bytes = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                (name.as_str().to_owned(), value.as_bytes().to_vec())
            };
            headers.iter().map(bytes).collect()
        };
        let websocket = head.extensions.get::<Protocol>().is_some();
        let mut message = Message {
            method: head.method.as_str().to_owned(),
            target: head.uri.path_and_query().expect("a path").to_string(),
            version: 1,
            fields: fields(&head.headers),
            body: vec![],
            trailers: vec![],
        };
        let authority = head.uri.authority().expect("an authority").as_str();
        message.fields.push(("host".into(), authority.into()));
        if websocket {
            message.method = "GET".into();
            for (name, value) in [("upgrade", "websocket"), ("connection", "upgrade")] {
                message.fields.push((name.into(), value.into()));
            }
        }
        let Ok(body) = body.collect().await else {
            self.note(Event::Partial);
            return answer;
        };
        message.trailers = body.trailers().map(fields).unwrap_or_default();
        message.body = body.to_bytes().to_vec();
        let mark = mark(&message);
        *answer.status_mut() = if websocket {
            StatusCode::FORBIDDEN
        } else if message.target.contains("no-content") {
            StatusCode::NO_CONTENT
        } else {
            *answer.body_mut() = Full::from(mark.clone());
            StatusCode::OK
        };
        let mark = mark.try_into().expect("a value");
        answer.headers_mut().insert("x-mark", mark);
        self.note(Event::Request(Box::new(message)));
        answer
    }

    /// What arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, event: Event) {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event);
    }

    async fn serve(&self, mut tcp: TcpStream) {
        let mut buffer = Vec::new();
        let mut answered = false;
        loop {
            match read(&buffer) {
                Reading::Request(message, used) => {
                    let early = buffer.len() > used && !answered;
                    let answer = answer(&message);
                    let wait = message.target.contains("slow");
                    self.note(Event::Request(message));
                    if early {
                        // The gateway never sends a request before the answer to the one before it.
                        return self.note(Event::Malformed("more than one request", buffer));
                    }
                    buffer.drain(..used);
                    if wait {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    if !std::mem::take(&mut answered) && tcp.write_all(&answer).await.is_err() {
                        return;
                    }
                }
                Reading::Malformed(why) => return self.note(Event::Malformed(why, buffer)),
                Reading::Incomplete
                    if !answered
                        && let Some(message) = read_head(&buffer)
                        && message.target.contains("early") =>
                {
                    answered = true;
                    let mut answer = answer(&message);
                    let leaves = message.target.contains("leave");
                    if leaves {
                        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
                        let end = end.expect("a head") + 2;
                        answer.splice(end..end, *b"connection: close\r\n");
                    }
                    let written = tcp.write_all(&answer).await;
                    if leaves {
                        // Its answer arrives, whatever is still being sent.
                        let _ = tcp.shutdown().await;
                        let rest = async { while let Ok(1..) = tcp.read_buf(&mut buffer).await {} };
                        let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
                    }
                    if leaves || written.is_err() {
                        return self.note(Event::Partial);
                    }
                }
                Reading::Incomplete => match tcp.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => {
                        if !buffer.is_empty() {
                            self.note(Event::Partial);
                        }
                        return;
                    }
                    Ok(_) => {}
                },
            }
        }
    }
}

/// What a message was: method, target, device.
fn mark(message: &Message) -> String {
    let device = message
        .values("x-device-id")
        .iter()
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect::<Vec<_>>()
        .join("+");
    format!("{} {} {device}", message.method, message.target)
}

/// An answer of the kind that the target asks for, which says what it answers.
fn answer(message: &Message) -> Vec<u8> {
    let mark = mark(message);
    let head = message.method == "HEAD";
    let target = message.target.as_str();
    let text = if target.contains("no-content") {
        format!("HTTP/1.1 204 No Content\r\nx-mark: {mark}\r\n\r\n")
    } else if target.contains("not-modified") {
        format!("HTTP/1.1 304 Not Modified\r\nx-mark: {mark}\r\ncontent-length: 1000\r\n\r\n")
    } else if target.contains("chunks") && !head {
        let (first, second) = mark.split_at(mark.len() / 2);
        format!(
            "HTTP/1.1 200 OK\r\nx-mark: {mark}\r\ntransfer-encoding: chunked\r\n\r\n\
             {:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len()
        )
    } else {
        let body = if head { "" } else { mark.as_str() };
        let length = mark.len();
        format!("HTTP/1.1 200 OK\r\nx-mark: {mark}\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    text.into_bytes()
}

/// Asserts that of all headers by which an upstream learns who calls, the request has just the gateway's,
/// each once.
///
/// The routes are those of [`crate::rig::snapshot`].
pub(crate) fn assert_identified(
    message: &Message,
    device: &str,
    identity: &Identity,
    context: &str,
) {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &message.fields {
        let folded = fold(name);
        if judge(&folded) != Name::Ordinary || judge(&name.to_ascii_lowercase()) != Name::Ordinary {
            let value = String::from_utf8_lossy(value).into_owned();
            found.entry(folded).or_default().push(value);
        }
    }
    let forged = |(name, _): &&(String, Vec<u8>)| judge(&fold(name)) != Name::Ordinary;
    let trailer = message.trailers.iter().find(forged);
    assert!(trailer.is_none(), "{trailer:?} in {message:?} of {context}");
    let request_id = found.remove("x-request-id").unwrap_or_default();
    assert_eq!(
        request_id.len(),
        1,
        "request ids in {message:?} of {context}"
    );
    assert!(
        request_id[0].len() == 32 && request_id[0].bytes().all(|b| b.is_ascii_hexdigit()),
        "request id in {message:?} of {context}"
    );
    let host = message.values("host")[0];
    let mut expected = vec![
        ("x-forwarded-for", "127.0.0.1".to_owned()),
        (
            "x-forwarded-host",
            String::from_utf8_lossy(host).into_owned(),
        ),
        ("x-forwarded-proto", "https".to_owned()),
    ];
    let at = |path: &str| {
        let rest = message.target.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    };
    if !at("/plain") {
        expected.push(("x-device-id", device.to_owned()));
    }
    if at("/cert") {
        let certificate = STANDARD.encode(&identity.certificate);
        expected.push(("client-cert", format!(":{certificate}:")));
    }
    let expected = expected
        .into_iter()
        .map(|(name, value)| (name.to_owned(), vec![value]));
    assert_eq!(found, expected.collect(), "{message:?} of {context}");
}

/// The name as the most careless of servers reads it.
pub(crate) fn fold(name: &str) -> String {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    name.to_ascii_lowercase().chars().map(fold).collect()
}
