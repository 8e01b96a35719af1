//! Health, readiness and metrics, in plain HTTP for whoever watches the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ca::Authority;
use gateway::{DEGRADED_AFTER, Gateway};
use http::{Method, Request};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLog;
use crate::clock;
use crate::http_server::{self, Answer};
use crate::in_force::InForce;
use crate::metrics::Metrics;
use crate::otlp::Spans;

/// What readiness is judged by.
pub(crate) struct Health {
    /// The gateway, once its status table holds the registry's snapshot; none is set where none runs.
    gateway: OnceLock<Arc<Gateway>>,
    has_gateway: bool,
    ca_writable: AtomicBool,
    being_checked: AtomicBool,
    draining: AtomicBool,
    in_force: Arc<InForce>,
    access_log: Arc<AccessLog>,
    spans: Arc<Spans>,
}

/// Whether the process should get traffic.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Readiness {
    ready: bool,
    /// Something is wrong although devices may still pass.
    degraded: bool,
    /// Why not, and what to look at.
    reasons: Vec<String>,
}

impl Health {
    pub(crate) fn new(
        has_gateway: bool,
        in_force: Arc<InForce>,
        access_log: Arc<AccessLog>,
        spans: Arc<Spans>,
    ) -> Self {
        Self {
            gateway: OnceLock::new(),
            has_gateway,
            ca_writable: AtomicBool::new(false),
            being_checked: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            in_force,
            access_log,
            spans,
        }
    }

    /// The gateway's status table holds the registry's snapshot.
    pub(crate) fn loaded(&self, gateway: Arc<Gateway>) {
        // There is one gateway, which is loaded once.
        let _ = self.gateway.set(gateway);
    }

    /// The process is about to end.
    pub(crate) fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Asks the registry's writer every second whether it could write, until `shutdown`.
    pub(crate) async fn probe(
        &self,
        authority: &Authority,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) {
        let mut clock_was_right = true;
        loop {
            let set_back = ca::clock_set_back();
            metrics.clock_set_back.set(set_back.by.as_secs());
            let told = tell(set_back);
            if std::mem::replace(&mut clock_was_right, told.is_none())
                && let Some(told) = told
            {
                tracing::error!(target: "alarm", "{told}");
            }
            self.being_checked
                .store(authority.registry().is_being_checked(), Ordering::Relaxed);
            let empty = authority.sighted(Vec::new());
            let writable = matches!(tokio::time::timeout(PROBE_WITHIN, empty).await, Ok(Ok(())));
            metrics.registry_writable.set(writable.into());
            let witnessed = authority.registry().is_witnessed();
            metrics.registry_witnessed.set(witnessed.into());
            if !writable {
                metrics.registry_faults.inc();
            }
            if self.ca_writable.swap(writable, Ordering::Relaxed) && !writable {
                tracing::error!("the registry cannot be written; nothing is issued or changed");
            }
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let mut degraded = false;
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("The process is ending.".to_owned());
        }
        if !self.ca_writable.load(Ordering::Relaxed) {
            degraded = true;
            reasons.push(
                "The CA's registry cannot be written; look at the server's log and the disk."
                    .to_owned(),
            );
        }
        match (self.has_gateway, self.gateway.get()) {
            (false, _) => {}
            (true, None) => {
                reasons.push("The gateway has not loaded the registry's snapshot yet.".to_owned());
            }
            (true, Some(gateway)) => match gateway.staleness() {
                Some(age) if age <= DEGRADED_AFTER => {}
                Some(age) => {
                    degraded = true;
                    reasons.push(format!(
                        "The gateway last heard from the registry {} ago; look at the server's log.",
                        clock::roughly(age)
                    ));
                }
                None => reasons.push("The gateway has not heard from the registry yet.".to_owned()),
            },
        }
        let ready = reasons.is_empty();
        if self.being_checked.load(Ordering::Relaxed) {
            degraded = true;
            reasons.push(
                "The registry is being checked after the start. Until that is done devices can be revoked and suspended, \
                 and nothing is issued."
                    .to_owned(),
            );
        }
        if let Some(told) = tell(ca::clock_set_back()) {
            // Devices pass all the same.
            degraded = true;
            reasons.push(told);
        }
        let mut alarms = self.in_force.alarms(clock::now());
        alarms.extend(self.access_log.alarms());
        alarms.extend(self.spans.alarm());
        degraded |= !alarms.is_empty();
        reasons.extend(alarms);
        Readiness {
            ready,
            degraded,
            reasons,
        }
    }
}

/// What was seen of a clock that was set back, what it means, and what to do; nothing of the steps that a time
/// service makes.
fn tell(set_back: ca::ClockSetBack) -> Option<String> {
    let ca::ClockSetBack { by, followed } = set_back;
    if by <= CLOCK_TOLERANCE {
        return None;
    }
    let meaning = if followed > CLOCK_TOLERANCE {
        "it had been set forward after the start, and what expired in between is valid again"
    } else {
        "time goes on as since the start"
    };
    Some(format!(
        "The system's clock was set back by {}, from the furthest that it was seen at since the start; {meaning}. Set it \
         right if it is wrong, and restart once it is right.",
        clock::roughly(by)
    ))
}

/// What anybody may ask who reaches the listener.
pub(crate) struct Public {
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Registry>,
    /// The JWK Set by which device assertions are checked.
    pub(crate) assertion_keys: String,
}

/// Serves until `shutdown`.
pub(crate) async fn run(listener: TcpListener, public: Public, shutdown: CancellationToken) {
    let (public, ending) = (Arc::new(public), shutdown.clone());
    http_server::accept(listener, MAX_CONNECTIONS, shutdown, move |tcp, _| {
        let (public, ending) = (Arc::clone(&public), ending.clone());
        async move {
            http_server::serve(tcp, LIFETIME, ending, |request| {
                let answer = answer(&request, &public);
                async move { answer }
            })
            .await;
        }
    })
    .await;
}

fn answer(request: &Request<Incoming>, public: &Public) -> Answer {
    let known = matches!(
        request.uri().path(),
        "/healthz" | "/readyz" | "/metrics" | JWKS
    );
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return http_server::answer(405, TEXT, "Only GET is answered here.\n");
    }
    match request.uri().path() {
        "/healthz" => http_server::answer(200, TEXT, "alive\n"),
        "/readyz" => {
            let readiness = public.health.readiness();
            let status = if readiness.ready { 200 } else { 503 };
            let body = serde_json::to_vec(&readiness)
                .expect("booleans and strings always have a JSON form");
            http_server::answer(status, "application/json", body)
        }
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, &public.metrics) {
                Ok(()) => http_server::answer(200, OPEN_METRICS, text),
                Err(_) => http_server::answer(500, TEXT, "The metrics cannot be encoded.\n"),
            }
        }
        JWKS => http_server::answer(200, JWK_SET, public.assertion_keys.clone()),
        _ => http_server::answer(
            404,
            TEXT,
            "There are /healthz, /readyz, /metrics and /.well-known/jwks.json.\n",
        ),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JWKS: &str = "/.well-known/jwks.json";
/// RFC 7517, section 8.5.2.
const JWK_SET: &str = "application/jwk-set+json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const MAX_CONNECTIONS: usize = 64;
const LIFETIME: Duration = Duration::from_secs(60 * 60);
/// Steps that a time service makes.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn health_of(has_gateway: bool) -> Health {
        let metrics = Metrics::register(&mut Registry::default());
        let access_log = AccessLog::start(metrics.clone()).expect("a thread");
        let (spans, _) = crate::otlp::channel(metrics.clone());
        let in_force = Arc::new(InForce::new(metrics));
        Health::new(has_gateway, in_force, Arc::new(access_log), Arc::new(spans))
    }

    #[test]
    fn of_a_clock_that_was_set_back_it_is_told_what_that_means() {
        let told = |by, followed| {
            tell(ca::ClockSetBack {
                by: Duration::from_secs(by),
                followed: Duration::from_secs(followed),
            })
            .unwrap_or_default()
        };
        assert_eq!(told(60, 60), "");
        assert!(told(3600, 0).contains("set back by 60 min, from"));
        assert!(told(3600, 60).contains("time goes on as since the start"));
        assert!(told(3600, 3600).contains("is valid again") && told(3600, 61).contains("restart"));
    }

    #[test]
    fn nothing_is_ready_before_it_was_seen_to_work() {
        let health = health_of(true);
        let first = health.readiness();
        assert!(!first.ready && first.reasons.len() == 2, "{first:?}");
        health.ca_writable.store(true, Ordering::Relaxed);
        assert!(!health.readiness().ready);

        let health = health_of(false);
        health.ca_writable.store(true, Ordering::Relaxed);
        let ready = Readiness {
            ready: true,
            degraded: false,
            reasons: vec![],
        };
        assert_eq!(health.readiness(), ready);
        health.draining();
        assert!(!health.readiness().ready);
    }
}
