//! A foreign device, and what ends its connections: lists that change, and anchors that go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use identity::Timestamp;
use identity::certificate::Validity;

use crate::presented::{Evidence, Presented};
use crate::pure::foreign::{ForeignAnchors, Lineage, Voucher};
use crate::shared::{Shared, now};

/// A device's certificate by another CA, and what depends on it alone.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// What it is called, and by whose word.
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) validity: Validity,
    /// What upstreams may be told.
    pub(crate) presented: Box<Presented>,
}

impl Foreign {
    /// Reads a certificate whose chain and possession are proven. `None`: its CA is no anchor any more.
    pub(crate) fn read(
        evidence: Evidence,
        voucher: Voucher,
        anchors: &ForeignAnchors,
    ) -> Option<Result<Self, identity::ReadError>> {
        let read = anchors.read(&evidence.certificate, voucher)?;
        Some(read.map(|(lineage, validity)| {
            let name = lineage.id().to_string();
            let serial = lineage.serial().to_string().to_ascii_lowercase();
            Self {
                // Whoever is named so is no subject of our trust domain, whose names begin with spiffe://.
                presented: Box::new(Presented::new(
                    &name,
                    &name,
                    &serial,
                    validity.not_after,
                    evidence,
                )),
                lineage,
                validity,
            }
        }))
    }
}

/// Puts other anchors, or other lists, in force, and ends the connections of devices that do not stand by them.
/// Returns how many.
pub(crate) fn publish(shared: &Shared, anchors: Arc<ForeignAnchors>) -> usize {
    shared.policy.publish_foreign(Arc::clone(&anchors));
    // After that: whoever connects from now on finds them in force.
    end_those_who_fell(shared, &anchors)
}

/// Ends the connections of devices for whom a list or a CA has ended since the last time. Returns how many.
pub(crate) fn end_with_time(shared: &Shared) -> usize {
    let view = shared.policy.view();
    let now = now();
    let since = Timestamp(shared.seen_to.swap(now.0, Ordering::AcqRel));
    if view.foreign().something_ended(since, now) {
        end_those_who_fell(shared, view.foreign())
    } else {
        0
    }
}

/// Ends the connections of devices that do not stand any more. Returns how many.
fn end_those_who_fell(shared: &Shared, anchors: &ForeignAnchors) -> usize {
    let (mut ended, now) = (0, now());
    shared.connections.for_each_foreign(|lineage, handle| {
        if anchors.check(lineage, now).is_err() && handle.cut() {
            shared.metrics.cuts.inc();
            ended += 1;
        }
    });
    ended
}
