//! What the workers share: read on the hot path without locks.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use identity::feed::{ClassDefinition, Sighting};
use identity::{SerialKey, Timestamp};
use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::Limits;
use crate::assertion::AssertionSigner;
use crate::connections::Connections;
use crate::exchange::{Exchange, Telemetry};
use crate::lately::Lately;
use crate::metrics::Metrics;
use crate::pure::authorize::{Snapshot, View};
use crate::pure::classes::Classes;
use crate::pure::foreign::ForeignAnchors;
use crate::rate_limits::RateLimits;
use crate::record::Record;
use crate::status_table::StatusTable;
use crate::tls::Acceptor;
use crate::upstream::Health;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) serial_key: Arc<SerialKey>,
    pub(crate) assertions: Arc<AssertionSigner>,
    pub(crate) policy: Policy,
    pub(crate) rates: RateLimits,
    pub(crate) status: Arc<StatusTable>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Metrics,
    /// A change holds for connections and requests that begin after it.
    pub(crate) limits: ArcSwap<Limits>,
    /// Load balancers that speak the PROXY protocol.
    pub(crate) proxies: Vec<IpNet>,
    /// The second until which it was seen to what ends with time.
    pub(crate) seen_to: AtomicU64,
    pub(crate) telemetry: ArcSwap<Telemetry>,
    pub(crate) records: mpsc::Sender<Arc<Record>>,
    pub(crate) exchanges: mpsc::Sender<Exchange>,
    pub(crate) sightings: mpsc::Sender<Sighting>,
    pub(crate) lately: Lately,
}

/// Routes, names and classes: what requests are decided by, swapped whole.
#[derive(Debug)]
pub(crate) struct Policy {
    view: ArcSwap<View>,
    /// Held by whoever makes the next view.
    classes: Mutex<Classes>,
}

impl Policy {
    pub(crate) fn new(snapshot: Snapshot, foreign: Arc<ForeignAnchors>) -> Self {
        let classes = Classes::default();
        Self {
            view: ArcSwap::from_pointee(View::new(Arc::new(snapshot), &classes, foreign)),
            classes: Mutex::new(classes),
        }
    }

    /// What a request is decided by, for as long as that takes: until this is dropped, its lists of revoked certificates
    /// stay in memory, whatever is published.
    ///
    /// Taken after the class was read: then every class that can be read was defined in it.
    pub(crate) fn in_force(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// The same, for whoever passes it on.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Puts other routes and names in force.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let foreign = Arc::clone(self.view.load().foreign());
        let view = View::new(Arc::new(snapshot), &classes, foreign);
        self.view.store(Arc::new(view));
    }

    /// Puts other CAs' anchors and lists in force.
    pub(crate) fn publish_foreign(&self, foreign: Arc<ForeignAnchors>) {
        let _others_wait = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.view.load().believing(foreign);
        self.view.store(Arc::new(view));
    }

    /// Puts the meaning of classes in force, before anybody has one of them.
    pub(crate) fn define(&self, definitions: &[ClassDefinition]) {
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<&ClassDefinition> = definitions
            .iter()
            .filter(|definition| classes.define(definition))
            .collect();
        if !new.is_empty() {
            let view = self.view.load().extended(&new);
            self.view.store(Arc::new(view));
        }
    }
}

impl Shared {
    /// Hands on an audit record; one that finds no room is counted.
    pub(crate) fn record(&self, record: Arc<Record>) {
        if self.records.try_send(record).is_err() {
            self.metrics.records_dropped.inc();
        }
    }

    /// Hands on an exchange that has ended; one that finds no room is counted.
    pub(crate) fn exchange(&self, exchange: Exchange) {
        if self.exchanges.try_send(exchange).is_err() {
            self.metrics.exchanges_dropped.inc();
        }
    }

    /// Hands on a sighting; one that finds no room is counted.
    pub(crate) fn sight(&self, sighting: Sighting) {
        let index = sighting.index;
        if self.sightings.try_send(sighting).is_err() {
            self.lately.forget(index);
            self.metrics.sightings_dropped.inc();
        }
    }
}

/// Now: by the clock on the wall, or by the time that has passed since it was first asked, whichever is later. So
/// no certificate that has expired is valid again because the clock was set back.
pub(crate) fn now() -> Timestamp {
    static START: LazyLock<(Duration, Instant)> = LazyLock::new(|| (by_the_wall(), Instant::now()));
    let (start, asked) = &*START;
    Timestamp(by_the_wall().max(*start + asked.elapsed()).as_secs())
}

/// Since 1970, when no certificate was valid; an earlier time counts as that.
fn by_the_wall() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
