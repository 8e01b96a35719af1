//! The connection index: from a certificate's registry index, or an address without one, to its open connections.
//!
//! Entered and left once per connection. A connection is entered *before* its status word is first read, and
//! a change sets the word *before* it looks here: so either the connection sees the change, or the change
//! sees the connection (both go through the shard's lock).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use identity::{DeviceName, Fingerprint, Index, Timestamp};

use crate::handle::Handle;
use crate::pure::foreign::Lineage;

/// All open connections of the gateway.
#[derive(Debug)]
pub(crate) struct Connections {
    shards: Box<[Mutex<Shard>]>,
    next: AtomicU64,
    /// Open connections with one certificate.
    limit: AtomicUsize,
    /// Open connections without one from one address.
    limit_by_address: AtomicUsize,
}

/// Whose connections belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// Whoever holds the key of the certificate with this registry index.
    Certificate(Index),
    /// Whoever holds the key of the certificate of another CA with this SHA-256.
    Foreign(Fingerprint),
    /// Those whose certificate names nobody.
    Nameless,
    /// Those at this address, as [`crate::rate_limits::network`] takes it, who have no certificate.
    Address(IpAddr),
}

type Shard = HashMap<Holder, OfHolder>;

/// The connections of one holder.
#[derive(Debug, Default)]
struct OfHolder {
    opened: Vec<Opened>,
    in_flight: Arc<AtomicUsize>,
}

/// An open connection.
#[derive(Clone, Debug)]
struct Opened {
    number: u64,
    handle: Arc<Handle>,
    description: OpenConnection,
    /// By what a device of another CA stands or falls.
    lineage: Option<Arc<Lineage>>,
}

/// What is told of an open connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    /// The device, if the certificate names one.
    pub device: Option<DeviceName>,
    /// The other end.
    pub address: SocketAddr,
    /// When the handshake had ended.
    pub opened_at: Timestamp,
}

/// An entry in the index; dropping it takes the connection out and tells that it is gone.
#[derive(Debug)]
pub(crate) struct Entry {
    connections: Arc<Connections>,
    holder: Holder,
    number: u64,
    handle: Arc<Handle>,
}

impl Connections {
    /// `limit` bounds the connections with one certificate, `limit_by_address` those without one from one address.
    pub(crate) fn new(limit: usize, limit_by_address: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(0),
            limit: AtomicUsize::new(limit),
            limit_by_address: AtomicUsize::new(limit_by_address),
        }
    }

    /// Bounds the connections of a certificate, and those without one from an address, anew; those that are open stay.
    pub(crate) fn set_limits(&self, limit: usize, limit_by_address: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.limit_by_address
            .store(limit_by_address, Ordering::Relaxed);
    }

    /// Enters a connection.
    ///
    /// One connection too many of a holder ends another one of it: the oldest idle one, or else the
    /// oldest. So a device that lost its connections without telling is never locked out by them, and no
    /// device takes the room of the others.
    pub(crate) fn enter(
        self: &Arc<Self>,
        holder: Holder,
        handle: Arc<Handle>,
        description: OpenConnection,
        lineage: Option<Arc<Lineage>>,
    ) -> Entry {
        let limit = match holder {
            Holder::Certificate(_) | Holder::Foreign(_) | Holder::Nameless => &self.limit,
            Holder::Address(_) => &self.limit_by_address,
        }
        .load(Ordering::Relaxed);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let opened = Opened {
            number,
            handle: Arc::clone(&handle),
            description,
            lineage,
        };
        let mut shard = self.shard(holder);
        let of_holder = shard.entry(holder).or_default();
        handle.count_in(&of_holder.in_flight);
        let others = &mut of_holder.opened;
        // Those that are cut already are on their way out.
        let mut open = others.iter().filter(|one| !one.handle.is_cut());
        if open.clone().count() >= limit {
            let oldest = open.clone().next();
            if let Some(one) = open.find(|one| !one.handle.is_in_flight()).or(oldest) {
                one.handle.cut();
            }
        }
        // Most devices have one connection, and would keep the room for four.
        others.reserve_exact(1);
        others.push(opened);
        drop(shard);
        Entry {
            connections: Arc::clone(self),
            holder,
            number,
            handle,
        }
    }

    /// The handles of a certificate's connections.
    pub(crate) fn handles(&self, index: Index) -> Vec<Arc<Handle>> {
        let holder = Holder::Certificate(index);
        self.shard(holder)
            .get(&holder)
            .map(|all| {
                all.opened
                    .iter()
                    .map(|one| Arc::clone(&one.handle))
                    .collect()
            })
            .unwrap_or_default()
    }

    /// What is known of a certificate's connections.
    pub(crate) fn descriptions(&self, index: Index) -> Vec<OpenConnection> {
        let holder = Holder::Certificate(index);
        self.shard(holder)
            .get(&holder)
            .map(|all| {
                all.opened
                    .iter()
                    .map(|one| one.description.clone())
                    .collect()
            })
            .unwrap_or_default()
    }

    /// Does something to every connection.
    pub(crate) fn for_each(&self, mut act: impl FnMut(&Handle)) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let opened = shard.values().flat_map(|all| &all.opened);
            opened.for_each(|one| act(&one.handle));
        }
    }

    /// Does something to every connection of a device of another CA.
    pub(crate) fn for_each_foreign(&self, mut act: impl FnMut(&Lineage, &Handle)) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for one in shard.values().flat_map(|all| &all.opened) {
                if let Some(lineage) = &one.lineage {
                    act(lineage, &one.handle);
                }
            }
        }
    }

    fn shard(&self, holder: Holder) -> MutexGuard<'_, Shard> {
        let number = match holder {
            Holder::Certificate(index) => index.0,
            Holder::Nameless => 0,
            Holder::Foreign(certificate) => spread(&certificate),
            Holder::Address(address) => spread(&address),
        };
        let shard = (number % SHARDS as u64) as usize;
        // Every change of a shard is whole when its lock is released, even by a panic.
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn spread(key: &impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut shard = self.connections.shard(self.holder);
        if let Some(all) = shard.get_mut(&self.holder) {
            all.opened.retain(|one| one.number != self.number);
            if all.opened.is_empty() {
                shard.remove(&self.holder);
            }
        }
        drop(shard);
        self.handle.leave();
    }
}

const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Flight;

    fn enter(connections: &Arc<Connections>, index: u64) -> (Arc<Handle>, Entry) {
        let handle = Arc::new(Handle::new());
        let description = OpenConnection {
            device: None,
            address: ([127, 0, 0, 1], 1).into(),
            opened_at: Timestamp(1),
        };
        let holder = Holder::Certificate(Index(index));
        let entry = connections.enter(holder, Arc::clone(&handle), description, None);
        (handle, entry)
    }

    #[test]
    fn whoever_has_no_certificate_is_bounded_by_address() {
        let connections = Arc::new(Connections::new(1, 2));
        let enter = |address: [u8; 4]| {
            let handle = Arc::new(Handle::new());
            let description = OpenConnection {
                device: None,
                address: (address, 1).into(),
                opened_at: Timestamp(1),
            };
            let holder = Holder::Address(address.into());
            let entry = connections.enter(holder, Arc::clone(&handle), description, None);
            (handle, entry)
        };
        let first = enter([192, 0, 2, 1]);
        let others = [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 2]].map(enter);
        assert!(!first.0.is_cut() && others.iter().all(|(handle, _)| !handle.is_cut()));
        let _third = enter([192, 0, 2, 1]);
        assert!(first.0.is_cut() && others.iter().all(|(handle, _)| !handle.is_cut()));
    }

    #[test]
    fn one_too_many_ends_the_oldest_idle_one() {
        let connections = Arc::new(Connections::new(3, 3));
        let (busy, _busy) = enter(&connections, 1);
        let _flight = Flight::enter(&busy);
        let (idle, _idle) = enter(&connections, 1);
        let (_, _third) = enter(&connections, 1);
        let (_, _elsewhere) = enter(&connections, 65);
        assert!(!idle.is_cut());
        let (newest, _newest) = enter(&connections, 1);
        assert_eq!(
            (busy.is_cut(), idle.is_cut(), newest.is_cut()),
            (false, true, false)
        );
    }

    #[test]
    fn connections_are_found_until_they_leave() {
        let connections = Arc::new(Connections::new(3, 3));
        let (first, first_entry) = enter(&connections, 7);
        let (_second, second_entry) = enter(&connections, 7);
        let (_other, _other_entry) = enter(&connections, 7 + SHARDS as u64);
        assert_eq!(connections.handles(Index(7)).len(), 2);
        assert_eq!(connections.descriptions(Index(7)).len(), 2);
        drop(first_entry);
        assert!(first.is_gone());
        assert_eq!(connections.handles(Index(7)).len(), 1);
        drop(second_entry);
        assert_eq!(connections.handles(Index(7)).len(), 0);
        let mut open = 0;
        connections.for_each(|_| open += 1);
        assert_eq!(open, 1);
    }

    #[test]
    fn a_handle_is_cut_once() {
        let handle = Handle::new();
        assert!(handle.cut());
        assert!(!handle.cut());
        assert!(handle.is_cut());
    }
}
