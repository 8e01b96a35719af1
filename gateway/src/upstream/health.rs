//! What is known of upstream servers' health: by requests that failed, and by checks. Shared by all workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::histogram::Histogram;
use crate::pure::authorize::Snapshot;
use crate::pure::balance::{REFUSALS, Standing, set_aside_for};
use crate::pure::upstream::Upstream;
use crate::pure::upstream_address::UpstreamAddress;

/// The health of every server of the routes in force.
#[derive(Debug, Default)]
pub(crate) struct Health {
    servers: Mutex<HashMap<Key, Arc<ServerHealth>>>,
    published: Notify,
    checked: AtomicBool,
}

/// The upstream's name, if it has one, and the server. What is known survives a reload that keeps both.
type Key = (Option<String>, UpstreamAddress);

/// The health of one server. Reading it is two loads, as long as nothing is wrong.
#[derive(Debug, Default)]
pub(crate) struct ServerHealth {
    /// As it was configured.
    address: Arc<str>,
    /// How long the upstream's servers take to begin their answers. They count together.
    latency: Histogram,
    /// Since it was learned of, however they are weighed.
    failed: AtomicU64,
    /// By its health checks.
    unhealthy: AtomicBool,
    /// In a row, each weighed.
    failures: AtomicU32,
    /// In milliseconds since [`START`].
    failed_at: AtomicU64,
    set_aside_until: AtomicU64,
}

impl Health {
    /// Learns which servers there are, before anybody is sent to them, and forgets those to which no route leads.
    pub(crate) fn learn(&self, snapshot: &Snapshot) {
        let mut servers = self.servers();
        let mut present: HashMap<Key, Arc<ServerHealth>> = HashMap::new();
        let mut latencies: HashMap<Option<String>, Histogram> = (servers.iter())
            .map(|((name, _), health)| (name.clone(), health.latency.clone()))
            .collect();
        for upstream in snapshot.routes.upstreams() {
            for server in &upstream.servers {
                let key = (upstream.name.clone(), server.clone());
                let known = servers.get(&key).cloned().unwrap_or_else(|| {
                    let latency = latencies.entry(upstream.name.clone()).or_default();
                    Arc::new(ServerHealth::new(server, latency.clone()))
                });
                if upstream.health_check.is_none() {
                    known.unhealthy.store(false, Ordering::Relaxed);
                }
                present.entry(key).or_insert(known);
            }
        }
        *servers = present;
    }

    /// Says that other routes are in force.
    pub(crate) fn publish(&self) {
        self.published.notify_one();
    }

    /// The health of a server; of one that is not among the routes in force, a new one that nobody else sees.
    pub(super) fn of(&self, upstream: &Upstream, server: &UpstreamAddress) -> Arc<ServerHealth> {
        let key = (upstream.name.clone(), server.clone());
        let known = self.servers().get(&key).cloned();
        known.unwrap_or_else(|| Arc::new(ServerHealth::new(server, Histogram::default())))
    }

    /// Every server of the routes in force, by its upstream's name, which is empty for servers that a route names itself.
    pub(crate) fn report(&self) -> Vec<(String, Arc<ServerHealth>)> {
        let servers = self.servers();
        let mut report: Vec<_> = servers
            .iter()
            .map(|((name, _), health)| (name.clone().unwrap_or_default(), Arc::clone(health)))
            .collect();
        report.sort_by_cached_key(|(name, health)| (name.clone(), Arc::clone(&health.address)));
        report
    }

    /// True for whoever asks first: one worker runs the checks for all.
    pub(super) fn claim_checks(&self) -> bool {
        !self.checked.swap(true, Ordering::AcqRel)
    }

    /// Waits until other routes are in force.
    pub(super) async fn published(&self) {
        self.published.notified().await;
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<Key, Arc<ServerHealth>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerHealth {
    fn new(address: &UpstreamAddress, latency: Histogram) -> Self {
        Self {
            address: address.to_string().into(),
            latency,
            ..Self::default()
        }
    }

    /// Its address as it was configured.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// How long its upstream's servers take to begin their answers.
    pub(crate) fn latency(&self) -> &Histogram {
        &self.latency
    }

    /// Whether it is sent requests in the first place.
    pub(crate) fn is_healthy(&self) -> bool {
        self.standing() == Standing::Healthy
    }

    /// Connections that it did not take, and requests that it did not answer well.
    pub(crate) fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn standing(&self) -> Standing {
        if self.unhealthy.load(Ordering::Relaxed) {
            Standing::Unhealthy
        } else if self.failures.load(Ordering::Relaxed) >= REFUSALS
            && self.set_aside_until.load(Ordering::Relaxed) > now()
        {
            Standing::SetAside
        } else {
            Standing::Healthy
        }
    }

    /// It answered.
    pub(super) fn answered(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// It did not take a connection, when that was tried from `began` on.
    pub(super) fn refused(&self, began: Instant) {
        self.failed(REFUSALS - 1, began);
    }

    /// It was late, broke off or answered badly, when it was asked from `began` on.
    pub(super) fn disappointed(&self, began: Instant) {
        self.failed(0, began);
    }

    /// It is tried again after it was set aside: until the trial's end, others leave it alone.
    pub(super) fn on_trial(&self, for_at_most: Duration) {
        if self.failures.load(Ordering::Relaxed) >= REFUSALS {
            self.set_aside(for_at_most);
        }
    }

    /// What its health checks say now.
    pub(super) fn checked(&self, healthy: bool) {
        self.unhealthy.store(!healthy, Ordering::Relaxed);
        if healthy {
            self.answered();
        }
    }

    fn failed(&self, at_least: u32, began: Instant) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        // Many requests that meet one failure are one failure. Two workers may still count it twice: the time is a
        // rule of thumb.
        if milliseconds(began) < self.failed_at.load(Ordering::Relaxed) {
            return;
        }
        let before = self.failures.load(Ordering::Relaxed);
        let failures = before.max(at_least).saturating_add(1);
        self.failures.store(failures, Ordering::Relaxed);
        self.failed_at.store(now(), Ordering::Relaxed);
        if let Some(time) = set_aside_for(failures) {
            self.set_aside(time);
        }
    }

    fn set_aside(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let until = now().saturating_add(time);
        self.set_aside_until.store(until, Ordering::Relaxed);
    }
}

fn now() -> u64 {
    milliseconds(Instant::now())
}

fn milliseconds(at: Instant) -> u64 {
    let since = at.saturating_duration_since(*START);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_or_three_disappointments_set_aside_until_an_answer() {
        let health = ServerHealth::default();
        let began = Instant::now();
        health.disappointed(Instant::now());
        health.disappointed(Instant::now());
        assert_eq!(health.standing(), Standing::Healthy);
        health.disappointed(Instant::now());
        assert_eq!(health.standing(), Standing::SetAside);
        health.answered();
        assert_eq!(health.standing(), Standing::Healthy);
        health.refused(Instant::now());
        assert_eq!(health.standing(), Standing::SetAside);
        health.set_aside_until.store(0, Ordering::Relaxed);
        assert_eq!(health.standing(), Standing::Healthy);
        health.on_trial(Duration::from_secs(5));
        assert_eq!(health.standing(), Standing::SetAside);
        // What was under way when it failed is part of that failure.
        std::thread::sleep(Duration::from_millis(2));
        health.refused(Instant::now());
        let failures = health.failures.load(Ordering::Relaxed);
        health.refused(began);
        assert_eq!(health.failures.load(Ordering::Relaxed), failures);
        health.checked(false);
        assert_eq!(health.standing(), Standing::Unhealthy);
        health.checked(true);
        assert_eq!(health.standing(), Standing::Healthy);
    }
}
