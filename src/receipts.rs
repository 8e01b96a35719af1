//! Who has acknowledged what: the ground on which a revocation's receipt stands.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::Name;
use identity::feed::{Acknowledgement, Cut};
use tokio::sync::watch;

use crate::admin::api::Receipt;

/// The acknowledgements of every gateway.
pub(crate) struct Receipts {
    gateways: Mutex<BTreeMap<Name, Progress>>,
    /// Counts acknowledgements, so that those who wait look again.
    changed: watch::Sender<u64>,
}

/// How far one gateway is.
struct Progress {
    /// Everything up to here is in force.
    acknowledged: u64,
    /// Acknowledged ranges that do not join on yet: a batch that ended connections may be answered after its successor.
    ahead: BTreeMap<u64, u64>,
    /// What ended connections, newest last; old entries are forgotten.
    cuts: BTreeMap<u64, Cut>,
}

impl Receipts {
    /// Expects acknowledgements from these gateways, each of which starts with everything up to `seq`.
    pub(crate) fn new(gateways: impl IntoIterator<Item = Name>, seq: u64) -> Self {
        let gateways = gateways
            .into_iter()
            .map(|name| {
                let progress = Progress {
                    acknowledged: seq,
                    ahead: BTreeMap::new(),
                    cuts: BTreeMap::new(),
                };
                (name, progress)
            })
            .collect();
        Self {
            gateways: Mutex::new(gateways),
            changed: watch::Sender::new(0),
        }
    }

    /// Takes a gateway's word. That of a gateway which nobody expects is passed over.
    pub(crate) fn acknowledged(&self, acknowledgement: Acknowledgement) {
        if let Some(progress) = self.lock().get_mut(&acknowledgement.gateway) {
            progress.take(acknowledgement);
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Waits until every gateway has acknowledged the journal up to `last`, but not for ever.
    ///
    /// Connections are counted that ended because of the entries `first..=last`; none if there is no `first`.
    /// The time counts from `started`.
    pub(crate) async fn wait(
        &self,
        first: Option<u64>,
        last: u64,
        started: Instant,
        within: Duration,
    ) -> Receipt {
        // An empty range if nothing is to be counted.
        let first = first.unwrap_or(last + 1).min(last + 1);
        let mut changed = self.changed.subscribe();
        let receipt = |started: Instant| self.look(first, last, started.elapsed());
        let everybody = async {
            loop {
                let now = receipt(started);
                if now.acknowledged == now.gateways || changed.changed().await.is_err() {
                    return now;
                }
            }
        };
        match tokio::time::timeout(within, everybody).await {
            Ok(receipt) => receipt,
            Err(_) => receipt(started),
        }
    }

    fn look(&self, first: u64, last: u64, elapsed: Duration) -> Receipt {
        let gateways = self.lock();
        let acknowledged = gateways
            .values()
            .filter(|progress| progress.acknowledged >= last)
            .count();
        let cuts = || {
            gateways
                .values()
                .flat_map(|progress| progress.cuts.range(first..last + 1))
                .map(|(_, cut)| cut)
        };
        let lingering = cuts().map(|cut| cut.lingering).sum();
        Receipt {
            acknowledged,
            gateways: gateways.len(),
            closed: cuts().map(|cut| cut.closed).sum(),
            lingering,
            milliseconds: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            complete: acknowledged == gateways.len() && lingering == 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Progress>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn take(&mut self, acknowledgement: Acknowledgement) {
        for cut in acknowledgement.cuts {
            self.cuts.insert(cut.seq, cut);
        }
        while self.cuts.len() > MAX_CUTS {
            self.cuts.pop_first();
        }
        self.ahead
            .insert(acknowledgement.after, acknowledgement.upto);
        while let Some((after, upto)) = self.ahead.pop_first() {
            if after > self.acknowledged {
                self.ahead.insert(after, upto);
                break;
            }
            self.acknowledged = self.acknowledged.max(upto);
        }
    }
}

/// Receipts are asked for within seconds; so many changes are far more than a few seconds' worth.
const MAX_CUTS: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("legal")
    }

    fn word(gateway: &str, after: u64, upto: u64, cuts: &[(u64, u64, u64)]) -> Acknowledgement {
        Acknowledgement {
            gateway: name(gateway),
            after,
            upto,
            cuts: cuts
                .iter()
                .map(|&(seq, closed, lingering)| Cut {
                    seq,
                    closed,
                    lingering,
                })
                .collect(),
        }
    }

    fn check(receipts: &Receipts, first: u64, last: u64, expected: (usize, u64, u64, bool)) {
        let receipt = receipts.look(first, last, Duration::ZERO);
        let found = (
            receipt.acknowledged,
            receipt.closed,
            receipt.lingering,
            receipt.complete,
        );
        assert_eq!(found, expected, "{first}..={last}");
    }

    #[test]
    fn a_receipt_is_complete_when_every_gateway_has_acknowledged_every_entry() {
        let receipts = Receipts::new([name("a"), name("b")], 10);
        check(&receipts, 1, 10, (2, 0, 0, true));
        receipts.acknowledged(word("a", 10, 12, &[(11, 2, 0), (12, 1, 0)]));
        check(&receipts, 11, 12, (1, 3, 0, false));
        receipts.acknowledged(word("b", 12, 13, &[(13, 1, 0)]));
        check(&receipts, 11, 12, (1, 3, 0, false));
        receipts.acknowledged(word("b", 10, 12, &[(12, 1, 0)]));
        check(&receipts, 11, 12, (2, 4, 0, true));
        check(&receipts, 13, 13, (1, 1, 0, false));
        check(&receipts, 12, 12, (2, 2, 0, true));
    }

    #[test]
    fn a_lingering_connection_leaves_it_incomplete_and_a_stranger_counts_for_nothing() {
        let receipts = Receipts::new([name("a")], 0);
        receipts.acknowledged(word("stranger", 0, 9, &[(1, 5, 0)]));
        check(&receipts, 1, 1, (0, 0, 0, false));
        receipts.acknowledged(word("a", 0, 1, &[(1, 1, 1)]));
        check(&receipts, 1, 1, (1, 1, 1, false));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_acknowledgement_or_with_the_time() {
        let receipts = Receipts::new([name("a")], 0);
        let silent = receipts
            .wait(Some(1), 1, Instant::now(), Duration::from_millis(20))
            .await;
        assert!(!silent.complete && silent.acknowledged == 0 && silent.milliseconds >= 20);
        let (receipt, ()) = tokio::join!(
            receipts.wait(None, 1, Instant::now(), Duration::from_secs(60)),
            async {
                tokio::task::yield_now().await;
                receipts.acknowledged(word("a", 0, 1, &[(1, 4, 0)]));
            }
        );
        assert!(receipt.complete && receipt.closed == 0);
        let counted = receipts
            .wait(Some(1), 1, Instant::now(), Duration::ZERO)
            .await;
        assert_eq!(counted.closed, 4);
    }
}
