//! Whom a connection is from, as far as its address tells, and how many connections that may be.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// An IPv4 address, or the /64 that an IPv6 address is of: one subscriber has all of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Self(Ipv6Addr::from_bits(network).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// Counts connections by their source. It remembers sources only while they have one.
pub(crate) struct Places {
    taken: Mutex<HashMap<Source, usize>>,
    for_each: usize,
}

/// A source's place, given back when it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    source: Source,
}

impl Places {
    pub(crate) fn new(for_each: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            for_each,
        })
    }

    /// A place, unless the source has all of its own.
    pub(crate) fn take(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = taken.entry(source).or_insert(0);
        if *number >= self.for_each {
            return None;
        }
        *number += 1;
        Some(Place {
            places: Arc::clone(self),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = self.places.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = taken.get_mut(&self.source) {
            *number -= 1;
            if *number == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().expect("an address"))
    }

    #[test]
    fn an_ipv4_address_is_one_source_and_so_is_an_ipv6_network() {
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_ne!(source("::1"), source("10.0.0.1"));
    }

    #[test]
    fn places_are_counted_given_back_and_forgotten() {
        let places = Places::new(2);
        let (one, other) = (source("10.0.0.1"), source("10.0.0.2"));
        let first = places.take(one);
        let second = places.take(one);
        assert!(first.is_some() && second.is_some());
        assert!(places.take(one).is_none());
        assert!(places.take(other).is_some());
        drop(first);
        assert!(places.take(one).is_some());
        drop(second);
        let left = places.taken.lock().expect("nothing panicked").len();
        assert_eq!(left, 0);
    }
}
