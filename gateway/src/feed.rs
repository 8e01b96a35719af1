//! Putting the registry's word in force: statuses first, then the connections that they end.

use std::sync::Arc;
use std::time::Duration;

use identity::feed::{Acknowledgement, Batch, Cut};
use identity::{Name, Status};

use crate::handle::Handle;
use crate::shared::Shared;

/// A batch whose statuses are in force and whose connections have been told to end.
#[derive(Debug)]
#[must_use = "the registry waits for the acknowledgement"]
pub struct Applied {
    gateway: Name,
    after: u64,
    upto: u64,
    /// By journal entry, the connections that it ended.
    cuts: Vec<(u64, Vec<Arc<Handle>>)>,
}

/// Puts all statuses of a batch in force, then ends connections.
pub(crate) fn apply(shared: &Shared, gateway: &Name, batch: &Batch) -> Applied {
    set(shared, batch);
    let mut cuts: Vec<(u64, Vec<Arc<Handle>>)> = Vec::new();
    for change in &batch.changes {
        let effect = effect(change.status);
        if effect == Effect::None {
            continue;
        }
        for handle in shared.connections.handles(change.index) {
            match effect {
                Effect::None => {}
                Effect::Finish => handle.retire(),
                Effect::Cut => {
                    if handle.cut() {
                        shared.metrics.cuts.inc();
                        match cuts.last_mut() {
                            Some((seq, handles)) if *seq == change.seq => handles.push(handle),
                            Some(_) | None => cuts.push((change.seq, vec![handle])),
                        }
                    }
                }
            }
        }
    }
    Applied {
        gateway: gateway.clone(),
        after: batch.after,
        upto: batch.upto,
        cuts,
    }
}

/// Puts all classes and statuses of a batch in force.
pub(crate) fn set(shared: &Shared, batch: &Batch) {
    shared.policy.define(&batch.classes);
    for change in &batch.changes {
        match shared.status.set(change) {
            Ok(()) => {
                shared.metrics.changes_applied.inc();
            }
            Err(error) => {
                tracing::error!(%error, "the certificate stays refused");
                shared.metrics.changes_beyond_bound.inc();
            }
        }
    }
}

impl Applied {
    /// Waits until the ended connections are gone, at most this long, and counts them.
    pub async fn finish(self, within: Duration) -> Acknowledgement {
        let all_gone = async {
            for handle in self.cuts.iter().flat_map(|(_, handles)| handles) {
                handle.gone().await;
            }
        };
        // Those that are not gone by then are reported as lingering.
        let _ = tokio::time::timeout(within, all_gone).await;
        let cuts = self.cuts.iter().map(|(seq, handles)| {
            let closed = handles.iter().filter(|handle| handle.is_gone()).count() as u64;
            Cut {
                seq: *seq,
                closed,
                lingering: handles.len() as u64 - closed,
            }
        });
        Acknowledgement {
            gateway: self.gateway.clone(),
            after: self.after,
            upto: self.upto,
            cuts: cuts.collect(),
        }
    }
}

/// What a status means for open connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    Finish,
    Cut,
}

fn effect(status: Status) -> Effect {
    match status {
        Status::Pending | Status::Active => Effect::None,
        Status::Retired => Effect::Finish,
        // Restricted devices keep only routes that admit them, and there are none.
        Status::Unknown
        | Status::Suspended
        | Status::Restricted
        | Status::Quarantined
        | Status::Revoked => Effect::Cut,
    }
}
