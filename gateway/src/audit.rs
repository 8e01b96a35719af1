//! What a request leaves behind: exactly one record as soon as it is decided, and, where somebody wants to hear of it, one
//! exchange once all of it has ended. Both also if its connection ends before that.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HOST, HeaderName, HeaderValue, REFERER, USER_AGENT};
use http::{Request, StatusCode, Version};
use hyper::body::Incoming;

use crate::exchange::{Ending, Exchange};
use crate::guarded_io::Carried;
use crate::handle::Flight;
use crate::record::{Outcome, Record, Unregistered, bounded};
use crate::request::{Connection, Passage};
use crate::shared::{Shared, now};
use crate::trace::{Plan, Trace};

/// Goes with a request until its answer has ended.
pub(crate) struct Audit {
    shared: Arc<Shared>,
    started: Instant,
    /// Until it is decided.
    record: Option<Record>,
    draft: Option<Box<Draft>>,
    is_request: bool,
}

/// An exchange that has not ended.
struct Draft {
    /// Once it is decided.
    record: Option<Arc<Record>>,
    began: SystemTime,
    http_version: Option<&'static str>,
    tls_version: &'static str,
    user_agent: Option<String>,
    referer: Option<String>,
    route: Option<String>,
    upstream: Option<Arc<str>>,
    upstream_latency: Option<Duration>,
    received: u64,
    sent: u64,
    ending: Ending,
    trace: Option<Trace>,
}

impl Audit {
    /// Of a request, whose head is there.
    pub(crate) fn begin(
        connection: &Connection,
        request: &Request<Incoming>,
        request_id: &HeaderValue,
        plan: &Plan,
    ) -> Self {
        let shared = Arc::clone(&connection.worker.shared);
        shared.metrics.requests_open.inc();
        let is_told = shared.telemetry.load().exchanges || plan.is_exported();
        let draft = is_told.then(|| {
            let text = |name: HeaderName| {
                let value = request.headers().get(name)?;
                Some(bounded(&String::from_utf8_lossy(value.as_bytes())))
            };
            Box::new(Draft {
                http_version: Some(http_version(request.version())),
                user_agent: text(USER_AGENT),
                referer: text(REFERER),
                trace: plan.trace(),
                ..Draft::new(connection)
            })
        });
        Self {
            started: Instant::now(),
            record: Some(begin_record(connection, request, request_id)),
            draft,
            shared,
            is_request: true,
        }
    }

    /// Of a stream of a TCP route that began at `started`, about which `record` says what was decided; `upstream` is who took
    /// it.
    pub(crate) fn of_stream(
        connection: &Connection,
        started: Instant,
        record: Record,
        upstream: Option<Arc<str>>,
    ) -> Self {
        let shared = Arc::clone(&connection.worker.shared);
        let telemetry = shared.telemetry.load();
        let trace = Trace::of_stream(&telemetry);
        let is_told = telemetry.exchanges || trace.is_some();
        drop(telemetry);
        let record = Arc::new(record);
        let draft = is_told.then(|| {
            let draft = Draft::new(connection);
            Box::new(Draft {
                record: Some(Arc::clone(&record)),
                // Connecting to the upstream is part of it.
                began: draft
                    .began
                    .checked_sub(started.elapsed())
                    .unwrap_or(draft.began),
                upstream,
                trace,
                ..draft
            })
        });
        shared.record(record);
        Self {
            shared,
            started,
            record: None,
            draft,
            is_request: false,
        }
    }

    /// Whether the exchange is told to anybody.
    pub(crate) fn is_told(&self) -> bool {
        self.draft.is_some()
    }

    /// Where nobody's certificate was looked at, the record names none.
    pub(crate) fn passed(&mut self, passage: &Passage) -> Outcome {
        if let Some(draft) = &mut self.draft {
            draft.route = passage.route.take();
        }
        if let Some(record) = &mut self.record {
            record.reported = passage.reported.get();
            record.on_behalf_of = passage.far.take();
            if passage.is_anonymous.get() && record.reported.is_none() {
                record.device = None;
                record.serial = None;
            }
        }
        if passage.is_anonymous.get() {
            Outcome::ForwardedAnonymously
        } else {
            Outcome::Forwarded
        }
    }

    /// It is decided what the request gets.
    pub(crate) fn decide(
        &mut self,
        outcome: Outcome,
        status: StatusCode,
        unregistered: Option<Unregistered>,
        flight: &Flight,
    ) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        record.outcome = outcome;
        record.status = Some(status.as_u16());
        record.unregistered = unregistered;
        self.tell(record);
        if let Some(draft) = &mut self.draft
            && let Some(asked) = flight.take_asked()
        {
            draft.upstream = Some(asked.server);
            draft.upstream_latency = asked.latency;
        }
    }

    /// So many bytes were carried, both ways, until it ended.
    pub(crate) fn end(&mut self, received: u64, sent: u64, ending: Ending) {
        if let Some(draft) = &mut self.draft {
            (draft.received, draft.sent, draft.ending) = (received, sent, ending);
        }
    }

    /// The same of a tunnel or stream, by what went through its connection before and after.
    pub(crate) fn end_carried(
        &mut self,
        before: Carried,
        after: Carried,
        early: u64,
        ending: Ending,
    ) {
        let received = early + after.received - before.received;
        self.end(received, after.sent - before.sent, ending);
    }

    fn tell(&mut self, mut record: Record) {
        record.duration = self.started.elapsed();
        let record = Arc::new(record);
        if let Some(draft) = &mut self.draft {
            draft.record = Some(Arc::clone(&record));
        }
        self.shared.record(record);
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.tell(record);
        }
        let duration = self.started.elapsed();
        if self.is_request {
            self.shared.metrics.requests_open.dec();
            self.shared.metrics.request_time.observe(duration);
        }
        if let Some(draft) = self.draft.take()
            && let Some(exchange) = draft.finish(duration)
        {
            self.shared.exchange(exchange);
        }
    }
}

impl Draft {
    fn new(connection: &Connection) -> Self {
        Self {
            record: None,
            began: SystemTime::now(),
            http_version: None,
            tls_version: connection.tls_version,
            user_agent: None,
            referer: None,
            route: None,
            upstream: None,
            upstream_latency: None,
            received: 0,
            sent: 0,
            // Until something else is said: whoever asked did not wait.
            ending: Ending::Client,
            trace: None,
        }
    }

    fn finish(self, duration: Duration) -> Option<Exchange> {
        Some(Exchange {
            record: self.record?,
            began: self.began,
            duration,
            http_version: self.http_version,
            tls_version: self.tls_version,
            user_agent: self.user_agent,
            referer: self.referer,
            route: self.route,
            upstream: self.upstream,
            upstream_latency: self.upstream_latency,
            received: self.received,
            sent: self.sent,
            ending: self.ending,
            trace: self.trace,
        })
    }
}

fn begin_record(
    connection: &Connection,
    request: &Request<Incoming>,
    request_id: &HeaderValue,
) -> Record {
    let peer = &connection.peer;
    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| {
            request
                .headers()
                .get(HOST)
                .and_then(|host| host.to_str().ok())
        });
    Record {
        at: now(),
        request_id: request_id.to_str().ok().map(str::to_owned),
        address: peer.address,
        device: peer.name(),
        serial: peer.serial(),
        on_behalf_of: None,
        reported: None,
        unregistered: None,
        server_name: peer.server_name.clone(),
        host: host.map(bounded),
        method: Some(bounded(request.method().as_str())),
        path: Some(bounded(request.uri().path())),
        outcome: Outcome::Abandoned,
        status: None,
        duration: Duration::ZERO,
    }
}

fn http_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        // The listener speaks no other.
        _ => "HTTP/1.1",
    }
}
