//! Metrics (Prometheus). Every handle is resolved once; counting is one atomic addition.

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::code::Code;
use crate::guarded_io::Traffic;
use crate::histogram::Histogram;
use crate::status_table::StatusTable;
use crate::tls::HandshakeFault;
use crate::upstream::{Health, ServerHealth};

type Labels = [(&'static str, &'static str); 1];

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) connections_open: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) handshakes_finished: Counter,
    /// Of those that finished.
    pub(crate) handshake_time: Histogram,
    pub(crate) requests_open: Gauge,
    /// Until the answer's end.
    pub(crate) request_time: Histogram,
    pub(crate) traffic: Traffic,
    handshakes_refused: [Counter; HandshakeFault::ALL.len()],
    /// By the first digit of the status.
    answers: [Counter; 5],
    refusals: [Counter; Code::ALL.len()],
    reported: [Counter; Code::ALL.len()],
    pub(crate) anonymous: Counter,
    pub(crate) upstream_connections: Counter,
    pub(crate) upstream_connect_time: Histogram,
    pub(crate) upstream_retries: Counter,
    pub(crate) cuts: Counter,
    pub(crate) panics: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) changes_applied: Counter,
    pub(crate) changes_beyond_bound: Counter,
    pub(crate) records_dropped: Counter,
    pub(crate) exchanges_dropped: Counter,
    pub(crate) sightings_dropped: Counter,
}

impl Metrics {
    /// Registers everything that the gateway counts.
    pub(crate) fn register(
        registry: &mut Registry,
        status: Arc<StatusTable>,
        health: Arc<Health>,
    ) -> Self {
        registry
            .sub_registry_with_prefix("keybound")
            .register_collector(Box::new(Upstreams(health)));
        let registry = registry.sub_registry_with_prefix("keybound_gateway");
        registry.register_collector(Box::new(StatusAge(status)));
        let answers = family(
            registry,
            "requests",
            "Requests by class of the answer's status",
        );
        let handshakes = family(registry, "handshakes", "Handshakes by outcome");
        let refusals = family(
            registry,
            "refusals",
            "Requests answered by the gateway, by code",
        );
        let reported = family(
            registry,
            "reported_refusals",
            "Requests let through by routes that only report, by the code of the refusal",
        );
        let resolve = |family: &Family<Labels, Counter>, name, value| {
            family.get_or_create(&[(name, value)]).clone()
        };
        Self {
            handshakes_finished: resolve(&handshakes, "outcome", "finished"),
            handshakes_refused: HandshakeFault::ALL
                .map(|fault| resolve(&handshakes, "outcome", fault.as_str())),
            answers: ["1xx", "2xx", "3xx", "4xx", "5xx"]
                .map(|class| resolve(&answers, "status", class)),
            refusals: Code::ALL.map(|code| resolve(&refusals, "code", code.as_str())),
            reported: Code::ALL.map(|code| resolve(&reported, "code", code.as_str())),
            connections_open: gauge(registry, "connections_open", "Open connections"),
            handshake_time: histogram(
                registry,
                "handshake_duration_seconds",
                "How long handshakes took that finished, from the connection on",
            ),
            requests_open: gauge(
                registry,
                "requests_open",
                "Requests whose answers have not ended",
            ),
            request_time: histogram(
                registry,
                "request_duration_seconds",
                "How long requests took, from their head to the end of their answer",
            ),
            traffic: Traffic {
                received: counter(
                    registry,
                    "received_bytes",
                    "Bytes from clients, without TLS",
                ),
                sent: counter(registry, "sent_bytes", "Bytes for clients, without TLS"),
            },
            connections_refused: counter(
                registry,
                "connections_refused",
                "Connections closed at once because too many were open",
            ),
            anonymous: counter(
                registry,
                "anonymous_requests",
                "Requests let through without an identity",
            ),
            upstream_connections: counter(
                registry,
                "upstream_connections",
                "Connections made to upstreams",
            ),
            upstream_connect_time: histogram(
                registry,
                "upstream_connect_duration_seconds",
                "How long it took to connect to upstreams, with the TLS handshake",
            ),
            upstream_retries: counter(
                registry,
                "upstream_retries",
                "Requests sent again because a kept connection had closed",
            ),
            cuts: counter(
                registry,
                "cuts",
                "Connections ended by a change in the registry, or by a list or the end of another CA",
            ),
            panics: counter(
                registry,
                "panics",
                "Requests and connections that hit a bug",
            ),
            accept_errors: counter(
                registry,
                "accept_errors",
                "Errors when accepting connections",
            ),
            changes_applied: counter(registry, "changes_applied", "Status changes in force"),
            changes_beyond_bound: counter(
                registry,
                "changes_beyond_bound",
                "Status changes that the status table has no room for",
            ),
            records_dropped: counter(
                registry,
                "records_dropped",
                "Audit records lost because their reader was too slow",
            ),
            exchanges_dropped: counter(
                registry,
                "exchanges_dropped",
                "Ended requests lost for access log and traces because their reader was too slow",
            ),
            sightings_dropped: counter(
                registry,
                "sightings_dropped",
                "Sightings lost because their reader was too slow",
            ),
        }
    }

    pub(crate) fn handshake_refused(&self, fault: HandshakeFault) {
        self.handshakes_refused[fault as usize].inc();
    }

    pub(crate) fn refused(&self, code: Code) {
        self.refusals[code as usize].inc();
    }

    pub(crate) fn reported(&self, code: Code) {
        self.reported[code as usize].inc();
    }

    pub(crate) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, self.answers.len());
        self.answers[class - 1].inc();
    }
}

/// How old the status table is, at the moment of each scrape.
#[derive(Debug)]
struct StatusAge(Arc<StatusTable>);

impl Collector for StatusAge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let seconds = self
            .0
            .age(Instant::now())
            .map_or(f64::INFINITY, |age| age.as_secs_f64());
        let gauge = ConstGauge::new(seconds);
        let metric = encoder.encode_descriptor(
            "status_table_age_seconds",
            "Time since the registry was heard from",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

/// How the upstreams and their servers are, at the moment of each scrape. Names and addresses are those of the
/// configuration in force.
#[derive(Debug)]
struct Upstreams(Arc<Health>);

impl Collector for Upstreams {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let report = self.0.report();
        if report.is_empty() {
            return Ok(());
        }
        let labels = |upstream: &str, health: &ServerHealth| {
            let server = health.address().to_string();
            [("upstream", upstream.to_owned()), ("server", server)]
        };
        let mut metric = encoder.encode_descriptor(
            "upstream_healthy",
            "Whether a server of an upstream is sent requests in the first place",
            None,
            MetricType::Gauge,
        )?;
        for (upstream, health) in &report {
            let gauge = ConstGauge::new(i64::from(health.is_healthy()));
            gauge.encode(metric.encode_family(&labels(upstream, health))?)?;
        }
        let mut metric = encoder.encode_descriptor(
            "upstream_failures",
            "Connections that a server of an upstream did not take, and requests that it did not answer well",
            None,
            MetricType::Counter,
        )?;
        for (upstream, health) in &report {
            let counter = ConstCounter::new(health.failures());
            counter.encode(metric.encode_family(&labels(upstream, health))?)?;
        }
        let mut metric = encoder.encode_descriptor(
            "upstream_latency_seconds",
            "How long the servers of an upstream took to begin their answers",
            None,
            MetricType::Histogram,
        )?;
        let mut told = None;
        for (upstream, health) in &report {
            if told.replace(upstream) != Some(upstream) {
                let labels = [("upstream", upstream.as_str())];
                let histogram = health.latency();
                histogram.encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn family(registry: &mut Registry, name: &str, help: &str) -> Family<Labels, Counter> {
    let family = Family::default();
    registry.register(name, help, Family::clone(&family));
    family
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn histogram(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = Histogram::default();
    registry.register(name, help, histogram.clone());
    histogram
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}
