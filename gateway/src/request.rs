//! The path of a request, in the order of the design: one function, from the parsed head to the answer.
//! Long, because that order must be seen in one place; what each step does is elsewhere.

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use identity::feed::Sighting;
use identity::{Class, Status};

use crate::answer_body::{AnswerBody, InFlight, Source};
use crate::audit::Audit;
use crate::code::Code;
use crate::guarded_io::stands_for_refused;
use crate::handle::{Flight, Handle};
use crate::hops::{FarDevice, Hops};
use crate::limits;
use crate::peer::{Credential, Device, Peer};
use crate::pure::authorize::{Asked, Denial, Permit, Standing, authorize};
use crate::pure::framing::{MAX_FIELDS, Violation};
use crate::pure::grpc;
use crate::pure::headers::{self, Hop, X_REQUEST_ID};
use crate::pure::identity_header::IdentityHeader;
use crate::pure::path::{PathFault, check_query};
use crate::pure::request_head::{asked_host, normal_host};
use crate::pure::route::LimitId;
use crate::random;
use crate::rate_limits::Bucket;
use crate::record::{Outcome, Record, Unregistered};
use crate::refusal::{Refusal, closes, grpc_response, response, wire};
use crate::shared::{Shared, now};
use crate::trace::Plan;
use crate::tunnel::Tunnel;
use crate::upstream::{self, ResponseBody, UpstreamFault, accepts_websocket};
use crate::websocket::Opening;
use crate::worker::Worker;

/// Whether requests are counted by the device; else by the address.
type IsDevice = bool;

/// One connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) peer: Peer,
    pub(crate) handle: Arc<Handle>,
    /// The gateway's end of it.
    pub(crate) local_address: SocketAddr,
    /// Whether the certificate had been retired before: then there is nothing to finish.
    pub(crate) retired_at_entry: bool,
    /// Whether the device was reported as seen.
    pub(crate) sighted: Cell<bool>,
    /// The buckets that its requests were taken from: few, because few routes have limits of their own.
    pub(crate) buckets: RefCell<Vec<(LimitId, IsDevice, Arc<Bucket>)>>,
    /// What a gateway in front said of the devices behind it.
    pub(crate) hops: Hops,
    /// What it becomes over HTTP/1.1, once the upstream has agreed.
    pub(crate) tunnel: RefCell<Option<Box<Tunnel>>>,
    /// Whom its requests come from, once there was one.
    pub(crate) forwarded_for: OnceCell<HeaderValue>,
    /// As it was agreed in the handshake.
    pub(crate) tls_version: &'static str,
    /// Since somebody last looked.
    pub(crate) was_asked_lately: Cell<bool>,
}

/// Judges how much a request asks for; one that asks too much loses its headers.
///
/// Done as soon as the request is there: many streams may begin before the first of them gets its turn, and what
/// they refer to in HPACK's table is a hundred times as large as what was sent.
pub(crate) fn admit(
    connection: &Connection,
    request: &mut Request<Incoming>,
) -> Result<(), Refusal> {
    let refusal = if request.headers().len() > MAX_FIELDS {
        Refusal::Framing(Violation::TooManyFields)
    } else if connection.handle.in_flight_of_certificate() > max_requests(connection) {
        Refusal::TooManyRequests
    } else {
        return Ok(());
    };
    let is_call = grpc::is_call(request.version(), request.method(), request.headers());
    *request.headers_mut() = HeaderMap::new();
    if is_call {
        let media_type = HeaderValue::from_static(grpc::MEDIA_TYPE);
        request.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    Err(refusal)
}

/// Whether a device has so many requests under way that one more is not even refused: refusals, too, take room
/// until they are read.
pub(crate) fn is_beyond_refusal(connection: &Connection) -> bool {
    let most = max_requests(connection) * REFUSABLE;
    connection.handle.in_flight_of_certificate() > most
}

/// How many requests its device, or its address without a certificate, may have under way.
fn max_requests(connection: &Connection) -> usize {
    let limits = connection.worker.shared.limits.load();
    match connection.peer.credential {
        Credential::Issued(_) | Credential::Foreign(_) | Credential::Unreadable(_) => {
            limits.max_requests_per_device
        }
        Credential::Untrusted(_) | Credential::Anonymous => limits.max_requests_per_address,
    }
}

/// Answers a request, whatever happens.
pub(crate) async fn answer(
    connection: Rc<Connection>,
    flight: InFlight,
    mut request: Request<Incoming>,
    admitted: Result<(), Refusal>,
) -> Result<Response<AnswerBody>, Infallible> {
    let request_id = random_request_id();
    let telemetry = connection.worker.shared.telemetry.load();
    let plan = Plan::of(request.headers(), &telemetry);
    drop(telemetry);
    let mut audit = Audit::begin(&connection, &request, &request_id, &plan);
    let is_call = grpc::is_call(request.version(), request.method(), request.headers());
    let opening = Opening::take(&mut request);
    let websocket = matches!(opening, Ok(Some(_)));
    let one_at_a_time = request.version() != Version::HTTP_2;
    let has_body = !request.body().is_end_stream();
    let passage = Passage::new(plan, audit.is_told());
    let forwarding = async {
        admitted?;
        forward(
            &connection,
            &flight.flight,
            request,
            &request_id,
            opening.map_err(Refusal::Head)?,
            &passage,
        )
        .await
    };
    let outcome = AssertUnwindSafe(forwarding)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            connection.worker.shared.metrics.panics.inc();
            tracing::error!(request_id = ?request_id, "a request hit a bug");
            Err(Refusal::Panic)
        });
    let forwarded = audit.passed(&passage);
    // What a gRPC client is told in another way is told everybody else as a status.
    let mut told = None;
    let mut opened = None;
    let (outcome, mut answer) = match outcome {
        Ok(Answer::Tunnel(head, tunnel)) => {
            opened = Some(tunnel);
            (forwarded, head.map(|()| Source::Empty))
        }
        Ok(Answer::Forwarded(head)) => (forwarded, head.map(Source::Upstream)),
        Err(refusal) => {
            let wire = wire(refusal);
            connection.worker.shared.metrics.refused(wire.code);
            told = Some(wire.status);
            // A body that nobody wants is not read to its end.
            let close = one_at_a_time && (closes(refusal) || has_body);
            let answer = if is_call {
                grpc_response(&wire).map(|()| Source::Empty)
            } else {
                response(&wire, &request_id, close).map(Source::Whole)
            };
            (Outcome::Refused(wire.code), answer)
        }
    };
    if !one_at_a_time {
        headers::own_values(answer.headers_mut());
    }
    answer.headers_mut().insert(X_REQUEST_ID, request_id);
    // A request for an upgrade that became no tunnel is the last one: whatever the peer sent early for a
    // tunnel must not be read as requests.
    if one_at_a_time
        && (websocket || connection.handle.is_finishing())
        && answer.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let status = told.unwrap_or(answer.status());
    connection.worker.shared.metrics.answered(status.as_u16());
    let unregistered = unregistered(&connection, outcome);
    audit.decide(outcome, status, unregistered, &flight.flight);
    let audit = match opened {
        None => Some(audit),
        Some(mut tunnel) => {
            // It lasts longer than the answer.
            tunnel.audit = Some(audit);
            match &flight.reader {
                Some(reader) => reader.line().begin(tunnel),
                None => *connection.tunnel.borrow_mut() = Some(tunnel),
            }
            None
        }
    };
    Ok(answer.map(|source| AnswerBody::new(source, flight, audit)))
}

/// Which certificate it was, if it was refused because nobody registered it.
pub(crate) fn unregistered(connection: &Connection, outcome: Outcome) -> Option<Unregistered> {
    if outcome != Outcome::Refused(Code::Unregistered) {
        return None;
    }
    connection.peer.issued().map(|issued| Unregistered {
        certificate: issued.certificate,
        tbs: issued.tbs,
    })
}

/// How a request was let through.
pub(crate) struct Passage {
    /// What becomes of its trace context.
    plan: Plan,
    /// Whether its exchange is told; if so, with the path of its route.
    is_told: bool,
    pub(crate) route: RefCell<Option<String>>,
    /// Without an identity.
    pub(crate) is_anonymous: Cell<bool>,
    /// Where it would have been refused, had its route not only reported it.
    pub(crate) reported: Cell<Option<Code>>,
    /// The device behind the gateway that sent it.
    pub(crate) far: RefCell<Option<String>>,
}

impl Passage {
    fn new(plan: Plan, is_told: bool) -> Self {
        Self {
            plan,
            is_told,
            route: RefCell::new(None),
            is_anonymous: Cell::new(false),
            reported: Cell::new(None),
            far: RefCell::new(None),
        }
    }
}

/// An upstream's answer, its headers cleaned.
enum Answer {
    Forwarded(Response<ResponseBody>),
    /// The connection, or over HTTP/2 the stream, becomes a tunnel after this head.
    Tunnel(Response<()>, Box<Tunnel>),
}

async fn forward(
    connection: &Connection,
    flight: &Rc<Flight>,
    mut request: Request<Incoming>,
    request_id: &HeaderValue,
    opening: Option<Opening>,
    passage: &Passage,
) -> Result<Answer, Refusal> {
    let Connection {
        worker,
        peer,
        handle,
        ..
    } = connection;
    fail::fail_point!("gateway::request");
    if let Some(violation) = handle.violation()
        && (opening.is_some() || is_stand_in(&request))
    {
        return Err(Refusal::Framing(violation));
    }

    // What is asked.
    let head_fault = Refusal::Head;
    let host =
        asked_host(request.method(), request.uri(), request.headers()).map_err(head_fault)?;
    let normal = normal_host(&host).map_err(head_fault)?;
    let asked = Asked {
        host: &normal,
        path: request.uri().path(),
        websocket: opening.is_some(),
    };

    // One status, one snapshot, one clock. The connection has been in the index since before this.
    let instant = Instant::now();
    let standing = standing(connection, instant);
    let now = now();
    // The snapshot goes before anything is waited for.
    let decided = authorize(peer, asked, &worker.shared.policy.in_force(), standing, now);

    let status = standing.status;
    let mut permit = decided.map_err(Refusal::Denied)?;
    let report = |refusal| report(&worker.shared, passage, refusal);
    match permit.device() {
        Some(device) => sight(connection, device, status, now),
        None => {
            worker.shared.metrics.anonymous.inc();
            passage.is_anonymous.set(true);
        }
    }
    if passage.is_told {
        passage.route.replace(Some(permit.route().path.clone()));
    }
    if let Some(denial) = permit.reported() {
        report(Refusal::Denied(denial));
    }
    match limits::check_rate(connection, &permit, instant) {
        Err(refusal) if permit.only_reports() => report(refusal),
        checked => checked?,
    }
    limits::check_size(&permit, &request)?;

    let far = match connection.hops.of(&permit, request.headers(), now) {
        Ok(far) => far,
        Err(fault) => {
            let refusal = Refusal::Hop(fault);
            permit = permit.without_device().ok_or(refusal)?;
            report(refusal);
            passage.is_anonymous.set(true);
            None
        }
    };
    if let Some(far) = &far {
        *passage.far.borrow_mut() = Some(far.id().to_owned());
    }
    headers::clean_request(request.headers_mut()).map_err(Refusal::Header)?;
    let assertion = assertion(connection, &permit, far.as_deref(), now);
    let hop = Hop {
        request_id,
        forwarded_for: (connection.forwarded_for)
            .get_or_init(|| headers::forwarded_for(peer.address.ip())),
        host: &host,
        assertion: assertion.as_ref(),
        far: far.as_deref(),
    };
    let identified = headers::identify(request.headers_mut(), &permit, &hop);
    if let (Err(fault), Some(nobody)) = (identified, permit.without_device()) {
        report(Refusal::Header(fault));
        passage.is_anonymous.set(true);
        permit = nobody;
        headers::clean_request(request.headers_mut()).map_err(Refusal::Header)?;
        headers::identify(request.headers_mut(), &permit, &hop).map_err(Refusal::Header)?;
    } else {
        identified.map_err(Refusal::Header)?;
    }
    passage.plan.apply(request.headers_mut());
    if let Some(opening) = &opening {
        opening.ask(request.headers_mut());
    }
    to_origin_form(&mut request)?;

    exchange(connection, flight, permit, request, opening).await
}

/// Notes what a request is let pass in spite of.
fn report(shared: &Shared, passage: &Passage, refusal: Refusal) {
    let code = wire(refusal).code;
    shared.metrics.reported(code);
    if passage.reported.get().is_none() {
        passage.reported.set(Some(code));
    }
}

/// Sends the request, and makes of the answer what the device gets.
async fn exchange(
    connection: &Connection,
    flight: &Rc<Flight>,
    permit: Permit<'_>,
    request: Request<Incoming>,
    opening: Option<Opening>,
) -> Result<Answer, Refusal> {
    let Connection { worker, handle, .. } = connection;
    let metrics = &worker.shared.metrics;
    let upstream::Answer {
        mut response,
        lease,
        upload,
    } = upstream::send(&worker.pool, metrics, permit.route(), flight, request).await?;
    // The device is answered in the gateway's version: in an older one only the connection's end would end the
    // body, and a body cut short would look whole (RFC 9110, section 2.5).
    *response.version_mut() = Version::HTTP_11;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(opening) = opening.filter(|_| accepts_websocket(&response)) else {
            return Err(Refusal::Upstream(UpstreamFault::Invalid));
        };
        if let Some(violation) = handle.violation() {
            return Err(Refusal::Framing(violation));
        }
        let upstream = hyper::upgrade::on(&mut response);
        headers::clean_response(response.headers_mut());
        let head = opening.accepted(response.map(drop));
        let head = head.map_err(Refusal::Upstream)?;
        let device = opening.device();
        if device.is_none() {
            handle.become_tunnel();
        }
        let tunnel = Tunnel {
            device,
            upstream,
            lease,
            audit: None,
        };
        return Ok(Answer::Tunnel(head, Box::new(tunnel)));
    }
    if let Some(opening) = opening {
        let declined = opening.declined(response.status());
        declined.map_err(Refusal::Upstream)?;
    }
    headers::clean_response(response.headers_mut());
    Ok(Answer::Forwarded(response.map(|incoming| {
        ResponseBody::new(incoming, lease, upload)
    })))
}

/// What the registry says of the peer's certificate, as far as this gateway knows.
pub(crate) fn standing(connection: &Connection, instant: Instant) -> Standing {
    let table = &connection.worker.shared.status;
    let (status, class) = match &connection.peer.credential {
        Credential::Issued(issued) => (
            table.status(issued.index, issued.fingerprint),
            table.class(issued.index),
        ),
        // Of others the registry knows nothing.
        Credential::Foreign(_)
        | Credential::Unreadable(_)
        | Credential::Untrusted(_)
        | Credential::Anonymous => (Status::Unknown, Class::default()),
    };
    Standing {
        status,
        class,
        fresh: table.is_fresh(instant),
        finishing: connection.handle.is_retired() && !connection.retired_at_entry,
    }
}

/// The assertion for the permit's route, if the route asks for one.
fn assertion(
    connection: &Connection,
    permit: &Permit<'_>,
    far: Option<&FarDevice>,
    now: identity::Timestamp,
) -> Option<HeaderValue> {
    let (route, signer) = (permit.route(), &connection.worker.shared.assertions);
    let presented = permit.device()?.presented();
    let is_asked_for = route.identity.contains(&IdentityHeader::Assertion);
    is_asked_for.then(|| match far {
        Some(far) => far.assertion(signer, route, now),
        None => presented.assertion(signer, route, now),
    })
}

/// Reports a device of the registry as seen, once per connection, and if the registry knows that it is in use, once a
/// minute.
pub(crate) fn sight(
    connection: &Connection,
    device: Device<'_>,
    status: Status,
    now: identity::Timestamp,
) {
    let Device::Issued(issued) = device else {
        return;
    };
    if connection.sighted.replace(true) {
        return;
    }
    let shared = &connection.worker.shared;
    let address = connection.peer.address.ip().to_canonical();
    if shared.lately.note(issued.index, address, now) || status != Status::Active {
        shared.sight(Sighting {
            index: issued.index,
            device: issued.device.clone(),
            at: now,
            address,
        });
    }
}

/// The request as upstreams expect it: HTTP/1.1, with nothing but path and query as its target.
fn to_origin_form(request: &mut Request<Incoming>) -> Result<(), Refusal> {
    let path_fault = |fault| Refusal::Denied(Denial::Path(fault));
    check_query(request.uri().query().unwrap_or_default()).map_err(path_fault)?;
    if request.uri().authority().is_some() {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = request.uri().path_and_query().cloned();
        *request.uri_mut() =
            http::Uri::from_parts(parts).map_err(|_| path_fault(PathFault::NotAbsolute))?;
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Whether the request stands for one that broke a rule of framing.
fn is_stand_in(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get(HOST)
        .is_some_and(|host| stands_for_refused(host.as_bytes()))
}

/// Notes why the gateway ended a connection, or the stream of an answer.
pub(crate) fn record_fault(connection: &Connection, fault: Code) {
    let Connection { worker, peer, .. } = connection;
    worker.shared.metrics.refused(fault);
    worker.shared.record(Arc::new(Record {
        at: now(),
        request_id: None,
        address: peer.address,
        device: peer.name(),
        serial: peer.serial(),
        on_behalf_of: None,
        reported: None,
        unregistered: None,
        server_name: peer.server_name.clone(),
        host: None,
        method: None,
        path: None,
        outcome: Outcome::Refused(fault),
        status: None,
        duration: Duration::ZERO,
    }));
}

/// 16 random bytes, in hexadecimal digits.
pub(crate) fn random_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random: [u8; 16] = random::bytes();
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are legal characters")
}

/// How many times as many requests as a device may have under way it may have if the others are refused.
const REFUSABLE: usize = 4;
