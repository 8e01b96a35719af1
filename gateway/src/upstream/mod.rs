//! The upstream's side: a request goes out over a kept connection or a new one, its answer comes back.

mod body;
mod checks;
mod connect;
mod counted_io;
mod health;
mod http2;
mod idle;
mod lease;
mod pool;
mod server;
mod tls;
mod transport;
mod watched_io;

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::Either;
use http::header::{CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use self::body::Upload;
pub(crate) use self::body::{RequestBody, ResponseBody};
pub(crate) use self::checks::run_checks;
use self::connect::MAX_RESPONSE_HEADERS;
pub(crate) use self::health::{Health, ServerHealth};
use self::lease::Connection;
pub(crate) use self::lease::Lease;
pub(crate) use self::pool::Pool;
use self::server::Need;
pub use self::tls::{Http2, UpstreamTls, UpstreamTlsFault};
use crate::handle::{Asked, Flight, Handle};
use crate::metrics::Metrics;
use crate::pure::request_head::HeadFault;
use crate::pure::route::Route;
use crate::pure::upstream::UpstreamTimeouts;
use crate::pure::websocket::Challenge;
use crate::refusal::Refusal;
use crate::websocket::WEBSOCKET;

/// An upstream's answer, its framing checked.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    pub(crate) upload: Rc<Upload>,
}

/// Sends a request to one of the servers of the route's upstream.
///
/// If one does not accept connections, the next is tried. What may have reached a server is sent again only if the
/// server says that it did nothing about it (over HTTP/2: REFUSED_STREAM, or GOAWAY with an earlier stream), or if it
/// is harmless (RFC 9110, section 9.2.1) and the connection was a kept one that ended without a byte of an answer;
/// and in both cases only if it has no body.
pub(crate) async fn send(
    pool: &Rc<Pool>,
    metrics: &Metrics,
    route: &Route,
    flight: &Rc<Flight>,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let upstream = &route.upstream;
    let timeouts = pool.timeouts(upstream);
    let (mut head, incoming) = request.into_parts();
    let bodiless = incoming.is_end_stream();
    frame(&mut head.headers, &incoming);
    let harmless = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let mut need = Need {
        websocket: head.headers.contains_key(UPGRADE),
        again: false,
    };
    let handle = flight.handle();
    let upload = Upload::new();
    let mut copy = bodiless.then(|| head.clone());
    let body = |incoming| {
        let upload = Rc::clone(&upload);
        RequestBody::new(
            incoming,
            Rc::clone(flight),
            upload,
            pool.patience(),
            route.policy.max_body,
        )
    };
    let mut request = Request::from_parts(head, body(Some(incoming)));
    for _ in 0..=MAX_REPEATS {
        let mut lease = pool.lease(metrics, upstream, flight, need).await?;
        let kept = lease.connection.is_kept();
        let began = Instant::now();
        upload.begin(began);
        let fault = match exchange(&mut lease, request, &upload, timeouts).await {
            Ok(response) => {
                let answered = Instant::now();
                let latency = answered - began;
                lease.health.latency().observe(latency);
                flight.ask(Asked {
                    server: Arc::clone(lease.health.address()),
                    latency: Some(latency),
                });
                if let Err(refusal) = check_framing(&response) {
                    lease.health.disappointed(began.into_std());
                    return Err(refusal);
                }
                lease.health.answered();
                upload.begin_answer(answered);
                return Ok(Answer {
                    response,
                    lease,
                    upload,
                });
            }
            Err(fault) => fault,
        };
        request = match (fault, copy.take()) {
            (Failure::NotSent(unsent), same) => {
                copy = same;
                *unsent
            }
            (Failure::NotProcessed, Some(head)) => {
                copy = Some(head.clone());
                Request::from_parts(head, body(None))
            }
            (Failure::Closed, Some(head))
                if harmless && kept && !lease.connection.has_received() =>
            {
                Request::from_parts(head, body(None))
            }
            (failure, _) => {
                let refusal = explain(handle, &upload, failure);
                if matches!(refusal, Refusal::Upstream(_)) {
                    lease.health.disappointed(began.into_std());
                }
                return Err(refusal);
            }
        };
        need.again = true;
        metrics.upstream_retries.inc();
    }
    Err(Refusal::Upstream(UpstreamFault::Closed))
}

/// What went wrong with one attempt.
enum Failure {
    /// Nothing of the request was sent.
    NotSent(Box<Request<RequestBody>>),
    /// The server says that it did nothing about the request.
    NotProcessed,
    /// The connection ended before the answer.
    Closed,
    /// The server gave up the request, and not the connection.
    Reset,
    /// The answer is not HTTP.
    Invalid,
    /// It asks for a WebSocket with a key that cannot be answered.
    Key,
    /// Neither body nor answer moved for too long.
    Timeout,
}

async fn exchange(
    lease: &mut Lease,
    request: Request<RequestBody>,
    upload: &Upload,
    timeouts: UpstreamTimeouts,
) -> Result<Response<Incoming>, Failure> {
    let mut challenge = None;
    let sending = match &mut lease.connection {
        Connection::Http1 { sender, .. } => {
            sender.watch.begin(request.method() == Method::HEAD);
            let request = http2::to_http1(request);
            Either::Left(sender.http.try_send_request(request))
        }
        Connection::Http2(stream) => {
            // One that goes to another server may have this form already.
            let request = http2::to_http1(request);
            if request.headers().contains_key(UPGRADE) {
                challenge = Some(Challenge::read(request.headers()).ok_or(Failure::Key)?);
            }
            let request = http2::to_http2(request, stream.is_tls()).ok_or(Failure::Invalid)?;
            Either::Right(stream.sender().http.try_send_request(request))
        }
    };
    let mut sending = std::pin::pin!(sending);
    let result = loop {
        let deadline = upload.last_moved() + timeouts.first_byte;
        match timeout_at(deadline, &mut sending).await {
            Ok(result) => break result,
            Err(_) if upload.last_moved() + timeouts.first_byte > Instant::now() => {}
            Err(_) => return Err(Failure::Timeout),
        }
    };
    let result = result.map(|mut response| {
        if let Some(challenge) = challenge
            && response.status() == StatusCode::OK
        {
            switched(&mut response, &challenge);
        }
        response
    });
    result.map_err(|mut failed| match failed.take_message() {
        Some(unsent) => Failure::NotSent(Box::new(unsent)),
        None => match &lease.connection {
            Connection::Http1 { sender, .. } => {
                if failed.error().is_parse() || sender.watch.is_broken() {
                    Failure::Invalid
                } else {
                    Failure::Closed
                }
            }
            Connection::Http2(stream) => http2::failure(failed.error(), stream),
        },
    })
}

/// What an upstream says over HTTP/2 when it opens a WebSocket, as it would have said it over HTTP/1.1 (RFC 8441,
/// section 5).
fn switched(response: &mut Response<Incoming>, challenge: &Challenge) {
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_ACCEPT, challenge.answer().clone());
}

/// If the peer's own body made the exchange fail, that is the reason.
fn explain(handle: &Handle, upload: &Upload, failure: Failure) -> Refusal {
    let fault = match failure {
        Failure::Timeout if upload.waits_for_peer() => return Refusal::BodyStalled,
        Failure::Timeout => return Refusal::Upstream(UpstreamFault::Timeout),
        Failure::NotSent(_) | Failure::NotProcessed | Failure::Closed | Failure::Reset => {
            UpstreamFault::Closed
        }
        Failure::Key => return Refusal::Head(HeadFault::WebSocketKey),
        Failure::Invalid => UpstreamFault::Invalid,
    };
    if handle.is_cut() {
        Refusal::Cut
    } else if upload.is_stalled() {
        Refusal::BodyStalled
    } else if upload.is_too_large() {
        Refusal::BodyTooLarge
    } else if let Some(fault) = upload.fault() {
        Refusal::Header(fault)
    } else if upload.is_broken() {
        // The violation that was seen may also be that of a request behind this one, hence only now.
        handle
            .violation()
            .map_or(Refusal::BodyBroken, Refusal::Framing)
    } else {
        Refusal::Upstream(fault)
    }
}

/// Says how the body is framed, from what the body is, not from what the peer wrote.
fn frame(headers: &mut HeaderMap, body: &Incoming) {
    headers.remove(TRANSFER_ENCODING);
    if body.is_end_stream() {
        // A length of 0 is passed on if it was said, and once, however often it was said.
        if let Some(said) = headers.remove(CONTENT_LENGTH)
            && said == "0"
        {
            headers.insert(CONTENT_LENGTH, said);
        }
        return;
    }
    match body.size_hint().exact() {
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            // Without it, the body of a GET would be dropped.
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// An answer that two readers could delimit differently is none.
fn check_framing(response: &Response<Incoming>) -> Result<(), Refusal> {
    let headers = response.headers();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let length = lengths.next();
    let encoding = encodings.next();
    let sound = headers.len() <= MAX_RESPONSE_HEADERS
        && lengths.next().is_none()
        && encodings.next().is_none()
        && !(length.is_some() && encoding.is_some())
        && length.is_none_or(|value| value.as_bytes().iter().all(u8::is_ascii_digit))
        && encoding.is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
        // What says that it has no content says nothing about its length (RFC 9110, section 8.6).
        && (response.status() != StatusCode::NO_CONTENT
            || encoding.is_none() && length.is_none_or(|value| value == "0"));
    if sound {
        Ok(())
    } else {
        Err(Refusal::Upstream(UpstreamFault::Invalid))
    }
}

/// Whether the upstream turns the connection into a WebSocket.
pub(crate) fn accepts_websocket(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        && response
            .headers()
            .get(http::header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Why there is no answer from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamFault {
    /// Its name does not resolve.
    Name,
    /// It does not accept connections.
    Connect,
    /// It did not accept a connection in time.
    ConnectTimeout,
    /// Its certificate is not one that the upstream's roots vouch for, or names another server.
    Untrusted,
    /// There was no TLS with it, for another reason.
    Tls,
    /// Only HTTP/2 is spoken with it, and it does not take WebSockets over that.
    NoUpgrade,
    /// It answered a request for a WebSocket with success, and opened none.
    NotSwitched,
    /// It did not answer in time.
    Timeout,
    /// It closed the connection before it answered.
    Closed,
    /// It answered with something that is not one HTTP response.
    Invalid,
}

/// How often a request is sent again on another connection.
const MAX_REPEATS: usize = 2;
