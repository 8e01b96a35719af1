//! The buckets of [`crate::pure::rate`]: one per device and limit, which outlive the device's connections.
//!
//! A connection looks its bucket up once; a request costs one atomic exchange on it. A bucket that nobody uses stays until it
//! is full again, so that connecting anew gains nothing, and is forgotten after that.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use identity::DeviceName;

use crate::pure::rate::{self, Rate};
use crate::pure::route::LimitId;

/// Everybody's buckets.
#[derive(Debug)]
pub(crate) struct RateLimits {
    shards: Box<[Mutex<Shard>]>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<(Caller, LimitId), Arc<Bucket>>,
    /// With so many, full ones are looked for.
    swept_at: usize,
}

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// A device, whichever of its certificates it uses.
    Device(DeviceName),
    /// Somebody without identity at this address, or in this /64.
    Address(IpAddr),
}

/// A bucket: when it will be full, in nanoseconds since the start.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl RateLimits {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            started: Instant::now(),
        }
    }

    /// The bucket of a caller for one limit, the same for all its connections.
    pub(crate) fn bucket(&self, caller: Caller, limit: LimitId, now: Instant) -> Arc<Bucket> {
        let now = self.nanoseconds(now);
        let mut shard = self.shards[shard_of(&caller)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (caller, limit);
        if let Some(bucket) = shard.buckets.get(&key) {
            return Arc::clone(bucket);
        }
        if shard.buckets.len() >= shard.swept_at.max(LEAST_SWEPT) {
            shard.buckets.retain(|_, bucket| {
                Arc::strong_count(bucket) > 1 || bucket.0.load(Ordering::Relaxed) > now
            });
            shard.swept_at = shard.buckets.len() * 2;
        }
        let bucket = Arc::<Bucket>::default();
        // There are as many devices as were enrolled, but addresses cost nothing: one too many counts for itself.
        let is_kept = match key.0 {
            Caller::Device(_) => true,
            Caller::Address(_) => shard.buckets.len() < MOST_WITH_ADDRESSES,
        };
        if is_kept {
            shard.buckets.insert(key, Arc::clone(&bucket));
        }
        bucket
    }

    /// Takes one from a bucket. Error: in how many seconds there will be one.
    pub(crate) fn take(&self, bucket: &Bucket, rate: &Rate, now: Instant) -> Result<(), u64> {
        let now = self.nanoseconds(now);
        let mut full_at = bucket.0.load(Ordering::Relaxed);
        loop {
            let after = rate::take(full_at, now, rate)?;
            match bucket.0.compare_exchange_weak(
                full_at,
                after,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(changed) => full_at = changed,
            }
        }
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX / 2)
    }
}

/// The address as one caller has it: an IPv4 address, or the /64 that one subscriber of IPv6 gets.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

fn shard_of(caller: &Caller) -> usize {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(caller);
    (hash % SHARDS as u64) as usize
}

const SHARDS: usize = 64;
const LEAST_SWEPT: usize = 64;
/// Over all shards about as many buckets as a million, a hundred bytes each.
const MOST_WITH_ADDRESSES: usize = 16_384;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    fn rate(burst: u32) -> Rate {
        let number = |n| NonZeroU32::new(n).expect("not zero");
        Rate::new(number(1), number(1), number(burst)).expect("a rate")
    }

    fn device(id: &str) -> Caller {
        Caller::Device(id.parse().expect("legal"))
    }

    #[test]
    fn a_bucket_outlives_the_connection_until_it_is_full() {
        let limits = RateLimits::new();
        let start = limits.started;
        let limit = LimitId::of_gateway();
        let take = |caller: &Caller, now| {
            limits.take(&limits.bucket(caller.clone(), limit, now), &rate(2), now)
        };
        assert_eq!(take(&device("a"), start), Ok(()));
        assert_eq!(take(&device("a"), start), Ok(()));
        // As after connecting anew.
        assert_eq!(take(&device("a"), start), Err(1));
        assert_eq!(take(&device("b"), start), Ok(()));
        assert_eq!(take(&device("a"), start + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn full_buckets_are_forgotten_and_others_are_not() {
        let limits = RateLimits::new();
        let (start, limit) = (limits.started, LimitId::of_gateway());
        let held = limits.bucket(device("held"), limit, start);
        let used = limits.bucket(device("used"), limit, start);
        let far = Rate::new(
            NonZeroU32::new(1).expect("not zero"),
            NonZeroU32::new(3600).expect("not zero"),
            NonZeroU32::new(1).expect("not zero"),
        );
        assert!(limits.take(&used, &far.expect("a rate"), start).is_ok());
        let used_before = Arc::as_ptr(&used);
        drop(used);
        let later = start + Duration::from_secs(60);
        for number in 0..100_000 {
            let bucket = limits.bucket(device(&format!("d{number}")), limit, start);
            assert!(limits.take(&bucket, &rate(1), start).is_ok());
        }
        for number in 0..100_000 {
            drop(limits.bucket(device(&format!("e{number}")), limit, later));
        }
        let kept: usize = limits
            .shards
            .iter()
            .map(|shard| shard.lock().expect("whole").buckets.len())
            .sum();
        assert!(kept < 250_000, "{kept}");
        assert!(Arc::ptr_eq(
            &held,
            &limits.bucket(device("held"), limit, later)
        ));
        assert_eq!(
            Arc::as_ptr(&limits.bucket(device("used"), limit, later)),
            used_before
        );
    }

    #[test]
    fn addresses_are_bounded() {
        let limits = RateLimits::new();
        let (start, limit) = (limits.started, LimitId::of_gateway());
        let one = Caller::Address(network("2001:db8::1".parse().expect("an address")));
        let same = Caller::Address(network("2001:db8::ffff:1".parse().expect("an address")));
        assert_eq!(one, same);
        let full: Vec<_> = (0..u32::try_from(MOST_WITH_ADDRESSES * SHARDS * 5 / 4).expect("small"))
            .map(|number| {
                let caller = Caller::Address(IpAddr::V4(number.into()));
                let bucket = limits.bucket(caller, limit, start);
                limits.take(&bucket, &rate(1), start).expect("the first");
                bucket
            })
            .collect();
        let kept: usize = limits
            .shards
            .iter()
            .map(|shard| shard.lock().expect("whole").buckets.len())
            .sum();
        assert!(kept <= MOST_WITH_ADDRESSES * SHARDS, "{kept}");
        drop(full);
        // A device is counted all the same.
        let bucket = limits.bucket(device("a"), limit, start);
        assert!(Arc::ptr_eq(
            &bucket,
            &limits.bucket(device("a"), limit, start)
        ));
    }
}
