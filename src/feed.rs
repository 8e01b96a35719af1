//! Joins the CA's registry to the gateway: what changed goes there, what was seen comes back.
//!
//! Nothing here ever lets somebody pass: when the registry cannot be read there is no heartbeat, and the
//! gateway refuses devices once it is too stale.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ca::{Authority, Unavailable};
use gateway::{Bound, Gateway};
use identity::feed::Sighting;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::metrics::Metrics;
use crate::receipts::Receipts;

/// What changed, on its way to the gateway.
pub(crate) struct Feed {
    authority: Arc<Authority>,
    gateway: Arc<Gateway>,
    receipts: Arc<Receipts>,
    applied: Arc<Applied>,
    metrics: Metrics,
}

/// How far the gateway is: everything up to this sequence number is in force.
pub(crate) struct Applied(watch::Sender<u64>);

/// Why the feed cannot go on at the moment.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
    #[error(
        "the registry ends at entry {head}, and entry {applied} was already in force: an older registry was put in its place"
    )]
    WentBack { head: u64, applied: u64 },
}

impl Applied {
    pub(crate) fn new(seq: u64) -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(seq)))
    }

    /// Waits until the gateway knows what is durable now, but not for long: a device that was just
    /// given a certificate should not be quicker than the word of it.
    pub(crate) async fn settle(&self, authority: &Authority) {
        let head = *authority.registry().subscribe().borrow();
        let mut applied = self.0.subscribe();
        // If it takes longer, the device is refused as unregistered and tries again.
        let _ = tokio::time::timeout(SETTLE_WITHIN, applied.wait_for(|seq| *seq >= head)).await;
    }
}

/// Fills the status table of a gateway that serves nobody yet, and returns the sequence number of that picture.
pub(crate) async fn load(authority: &Authority, gateway: &Bound) -> Result<u64, Unavailable> {
    let asked = Instant::now();
    let (batches, mut received) = mpsc::channel(4);
    let ending_after = clock::now().minus(RECOVERY_TIME);
    let apply = async {
        while let Some(batch) = received.recv().await {
            gateway.load(&batch);
        }
    };
    let (head, ()) = tokio::join!(authority.registry().snapshot(ending_after, batches), apply);
    let head = head?;
    gateway.heartbeat(asked);
    Ok(head)
}

impl Feed {
    pub(crate) fn new(
        authority: Arc<Authority>,
        gateway: Arc<Gateway>,
        receipts: Arc<Receipts>,
        applied: Arc<Applied>,
        metrics: Metrics,
    ) -> Self {
        Self {
            authority,
            gateway,
            receipts,
            applied,
            metrics,
        }
    }

    /// Applies every change as soon as it is durable, until `shutdown`.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let mut head = self.authority.registry().subscribe();
        let mut seq = *self.applied.0.borrow();
        let mut healthy = true;
        loop {
            match self.catch_up(&mut seq).await {
                Ok(asked) => {
                    self.gateway.heartbeat(asked);
                    healthy = true;
                }
                Err(error) => {
                    if std::mem::replace(&mut healthy, false) {
                        tracing::error!(%error, "the gateway does not hear from the registry");
                    }
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
            tokio::select! {
                // An error means that the registry's writer has ended; then every read decides for itself.
                _ = head.changed() => {}
                () = tokio::time::sleep(HEARTBEAT_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Applies what is missing. Returns a time up to which everything is in force.
    async fn catch_up(&self, seq: &mut u64) -> Result<Instant, Fault> {
        loop {
            let asked = Instant::now();
            let batch = self
                .authority
                .registry()
                .changes_after(*seq, LARGEST_BATCH)
                .await?;
            if batch.upto == *seq {
                let head = self.authority.registry().head().await?;
                if head < *seq {
                    return Err(Fault::WentBack {
                        head,
                        applied: *seq,
                    });
                }
                // What was committed between the two reads is the next round's.
                return Ok(asked);
            }
            let applied = self.gateway.apply(&batch);
            *seq = batch.upto;
            self.applied.0.send_replace(*seq);
            self.metrics.feed_applied.set(*seq);
            let receipts = Arc::clone(&self.receipts);
            tokio::spawn(async move {
                receipts.acknowledged(applied.finish(CONNECTIONS_END_WITHIN).await);
            });
        }
    }
}

/// Tells the registry which devices were seen, until the gateway has gone or `shutdown` and nothing is left.
pub(crate) async fn report_sightings(
    authority: Arc<Authority>,
    mut sightings: mpsc::Receiver<Sighting>,
    shutdown: CancellationToken,
) {
    let mut batch = Vec::with_capacity(SIGHTINGS_AT_ONCE);
    loop {
        if batch.is_empty() {
            let first = tokio::select! {
                first = sightings.recv() => first,
                () = shutdown.cancelled() => {
                    sightings.close();
                    sightings.recv().await
                }
            };
            match first {
                Some(sighting) => batch.push(sighting),
                None => return,
            }
            // Others follow within moments, and share the commit.
            tokio::select! {
                () = tokio::time::sleep(COLLECT_FOR) => {}
                () = shutdown.cancelled() => {}
            }
        }
        while batch.len() < SIGHTINGS_AT_ONCE
            && let Ok(sighting) = sightings.try_recv()
        {
            batch.push(sighting);
        }
        match authority.sighted(batch.clone()).await {
            Ok(()) => batch.clear(),
            Err(Unavailable) if shutdown.is_cancelled() => {
                tracing::warn!(
                    lost = batch.len(),
                    "sightings could not be recorded before the end"
                );
                return;
            }
            // They wait; what finds no room in the queue meanwhile is counted by the gateway.
            Err(Unavailable) => tokio::time::sleep(PAUSE_AFTER_ERROR).await,
        }
    }
}

/// Journal entries: enough for a burst, few enough that the first is applied at once.
const LARGEST_BATCH: usize = 1024;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// How long a gateway may take to see ended connections gone.
const CONNECTIONS_END_WITHIN: Duration = Duration::from_secs(1);
const SETTLE_WITHIN: Duration = Duration::from_secs(1);
/// Certificates that expired longer ago are not loaded.
const RECOVERY_TIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const SIGHTINGS_AT_ONCE: usize = 256;
const COLLECT_FOR: Duration = Duration::from_millis(100);
