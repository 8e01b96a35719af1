//! What the root counts itself; the gateway registers its own.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use identity::{Fingerprint, Name, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::config::AnchorConfig;
use crate::log;

/// The root's counters and gauges.
#[derive(Clone)]
pub(crate) struct Metrics {
    enrollment: Family<EnrollmentLabels, Counter>,
    /// The newest journal entry that is in force at the gateway.
    pub(crate) feed_applied: Gauge<u64, AtomicU64>,
    /// When each certificate of the server ends.
    server_certificate_not_after: Family<CertificateLabels, Gauge<u64, AtomicU64>>,
    certificates_told: Arc<Mutex<Vec<CertificateLabels>>>,
    /// When the lists of each anchor end: the first of them.
    crl_next_update: Family<AnchorLabels, Gauge<u64, AtomicU64>>,
    crl_entries: Family<AnchorLabels, Gauge<u64, AtomicU64>>,
    anchor_not_after: Family<AnchorLabels, Gauge<u64, AtomicU64>>,
    lists_refused: Family<AnchorLabels, Counter>,
    /// Reloads that changed nothing because something was wrong, and files that were not taken.
    pub(crate) reload_failures: Counter,
    /// When the configuration in force was loaded.
    config_loaded: Gauge<u64, AtomicU64>,
    config: Family<ConfigLabels, Gauge>,
    /// Whether the registry could be written when it was last tried: 1 or 0.
    pub(crate) registry_writable: Gauge<u64, AtomicU64>,
    /// Probes that found that it could not.
    pub(crate) registry_faults: Counter,
    /// Whether the journal's end is written down beside the registry: 1 or 0.
    pub(crate) registry_witnessed: Gauge<u64, AtomicU64>,
    /// How far the system's clock is behind, since it was set back.
    pub(crate) clock_set_back: Gauge<u64, AtomicU64>,
    /// Certificates of our CA that the registry does not know.
    pub(crate) unregistered: Counter,
    pub(crate) access_log_lines: Counter,
    pub(crate) access_log_lost: Counter,
    pub(crate) spans_exported: Counter,
    pub(crate) spans_lost: Counter,
    /// Changes made over the admin socket.
    pub(crate) device_changes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EnrollmentLabels {
    operation: &'static str,
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    name: String,
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnchorLabels {
    anchor: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConfigLabels {
    hash: String,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("keybound");
        let metrics = Self {
            enrollment: Family::default(),
            feed_applied: Gauge::default(),
            server_certificate_not_after: Family::default(),
            certificates_told: Arc::default(),
            crl_next_update: Family::default(),
            crl_entries: Family::default(),
            anchor_not_after: Family::default(),
            lists_refused: Family::default(),
            reload_failures: Counter::default(),
            config_loaded: Gauge::default(),
            config: Family::default(),
            registry_writable: Gauge::default(),
            registry_faults: Counter::default(),
            registry_witnessed: Gauge::default(),
            clock_set_back: Gauge::default(),
            unregistered: Counter::default(),
            access_log_lines: Counter::default(),
            access_log_lost: Counter::default(),
            spans_exported: Counter::default(),
            spans_lost: Counter::default(),
            device_changes: Counter::default(),
        };
        registry.register(
            "build",
            "The running version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "enrollment_answers",
            "Answers of the enrollment listener, by operation and outcome",
            metrics.enrollment.clone(),
        );
        registry.register(
            "feed_applied_seq",
            "The newest journal entry in force at the gateway",
            metrics.feed_applied.clone(),
        );
        registry.register(
            "server_certificate_not_after_seconds",
            "When each certificate of the server ends, in seconds since 1970, by its first name and where it comes from",
            metrics.server_certificate_not_after.clone(),
        );
        registry.register(
            "crl_next_update_seconds",
            "When the first of an anchor's lists of revoked certificates ends, in seconds since 1970",
            metrics.crl_next_update.clone(),
        );
        registry.register(
            "crl_entries",
            "Certificates that the lists of an anchor revoke",
            metrics.crl_entries.clone(),
        );
        registry.register(
            "anchor_not_after_seconds",
            "When the first of an anchor's CA certificates ends, in seconds since 1970",
            metrics.anchor_not_after.clone(),
        );
        registry.register(
            "crl_failures",
            "Lists of revoked certificates that were not taken, by anchor",
            metrics.lists_refused.clone(),
        );
        registry.register(
            "reload_failures",
            "Reloads of the configuration, and of single certificates, that changed nothing because something was wrong",
            metrics.reload_failures.clone(),
        );
        registry.register(
            "config_loaded_timestamp_seconds",
            "When the configuration in force was loaded, in seconds since 1970",
            metrics.config_loaded.clone(),
        );
        registry.register(
            "config_info",
            "The SHA-256 of the configuration file in force",
            metrics.config.clone(),
        );
        registry.register(
            "registry_writable",
            "Whether the registry could be written when it was last tried, 1 or 0",
            metrics.registry_writable.clone(),
        );
        registry.register(
            "registry_faults",
            "Times that the registry was tried, each second, and could not be written",
            metrics.registry_faults.clone(),
        );
        registry.register(
            "registry_witnessed",
            "Whether the journal's end is written down beside the registry, where a start compares it, 1 or 0",
            metrics.registry_witnessed.clone(),
        );
        registry.register(
            "clock_set_back_seconds",
            "How far the system's clock was set back, from the furthest that it was seen at since the start",
            metrics.clock_set_back.clone(),
        );
        registry.register(
            "unregistered_certificates",
            "Requests with a certificate that the CA signed and the registry does not know",
            metrics.unregistered.clone(),
        );
        registry.register(
            "log_lines_lost",
            "Lines of the log that nobody read in time",
            log::LOST.clone(),
        );
        registry.register(
            "access_log_lines_written",
            "Lines of the access log that were written",
            metrics.access_log_lines.clone(),
        );
        registry.register(
            "access_log_lines_lost",
            "Lines of the access log that could not be written, or not in time",
            metrics.access_log_lost.clone(),
        );
        registry.register(
            "spans_exported",
            "Spans that the collector of traces took",
            metrics.spans_exported.clone(),
        );
        registry.register(
            "spans_lost",
            "Spans that the collector of traces did not take, or not in time",
            metrics.spans_lost.clone(),
        );
        registry.register(
            "device_changes",
            "Devices revoked, suspended, restored and replaced since the start",
            metrics.device_changes.clone(),
        );
        metrics
    }

    /// The server's own certificate has this name first, and ends then.
    pub(crate) fn own_certificate(&self, name: &str, not_after: Timestamp) {
        self.certificates(OWN, [(name, not_after)]);
    }

    /// The certificates from files, by their first names, and when they end.
    pub(crate) fn certificates_of_files<'n>(
        &self,
        all: impl IntoIterator<Item = (&'n str, Timestamp)>,
    ) {
        self.certificates(FILE, all);
    }

    fn certificates<'n>(
        &self,
        source: &'static str,
        all: impl IntoIterator<Item = (&'n str, Timestamp)>,
    ) {
        let family = &self.server_certificate_not_after;
        let told = self.certificates_told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        told.retain(|labels| labels.source != source || !family.remove(labels));
        for (name, not_after) in all {
            let name = name.to_owned();
            let labels = CertificateLabels { name, source };
            family.get_or_create(&labels).set(not_after.0);
            told.push(labels);
        }
    }

    /// These anchors are in force, with the lists that they have now.
    pub(crate) fn anchors(&self, anchors: &[AnchorConfig]) {
        self.crl_next_update.clear();
        self.crl_entries.clear();
        self.anchor_not_after.clear();
        for anchor in anchors {
            let labels = AnchorLabels {
                anchor: anchor.name.to_string(),
            };
            // There from the beginning, at 0.
            drop(self.lists_refused.get_or_create(&labels));
            let ends = anchor.authorities.iter().map(|ca| ca.validity().not_after);
            if let Some(end) = ends.min() {
                self.anchor_not_after.get_or_create(&labels).set(end.0);
            }
            let lists = anchor.newest();
            if let Some(end) = lists.iter().map(|list| list.next_update).min() {
                self.crl_next_update.get_or_create(&labels).set(end.0);
                let entries: usize = lists.iter().map(|list| list.len()).sum();
                self.crl_entries.get_or_create(&labels).set(entries as u64);
            }
        }
    }

    /// A list of this anchor was not taken.
    pub(crate) fn list_refused(&self, anchor: &Name) {
        let anchor = anchor.to_string();
        self.lists_refused
            .get_or_create(&AnchorLabels { anchor })
            .inc();
    }

    /// This configuration is in force from now on.
    pub(crate) fn config_loaded(&self, hash: &Fingerprint, at: Timestamp) {
        self.config.clear();
        let hash = hash.to_string();
        self.config.get_or_create(&ConfigLabels { hash }).set(1);
        self.config_loaded.set(at.0);
    }

    /// Counts an answer of the enrollment listener. Outcomes are codes of a closed set.
    pub(crate) fn enrollment(&self, operation: &'static str, outcome: &str) {
        let labels = EnrollmentLabels {
            operation,
            outcome: outcome.to_owned(),
        };
        self.enrollment.get_or_create(&labels).inc();
    }
}

/// Certificates that the embedded CA made.
const OWN: &str = "ca";
/// Certificates that others made.
const FILE: &str = "file";
