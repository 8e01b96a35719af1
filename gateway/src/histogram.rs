//! How long things took, in buckets. Counting is two additions, in memory that the workers do not share with each other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// A histogram of durations. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram(Arc<[Shard; SHARDS]>);

/// What some of the threads counted, in cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// By bucket, each without those below it; the last is for what is longer than every bound.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, duration: Duration) {
        let shard = &self.0[SHARD.with(|shard| *shard)];
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound);
        shard.counts[bucket.unwrap_or(BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        shard.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let over_all = |read: &dyn Fn(&Shard) -> &AtomicU64| -> u64 {
            let shards = self.0.iter();
            shards
                .map(|shard| read(shard).load(Ordering::Relaxed))
                .sum()
        };
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6);
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .enumerate()
            .map(|(bucket, bound)| (bound, over_all(&|shard| &shard.counts[bucket])))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = over_all(&|shard| &shard.nanoseconds) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

thread_local! {
    /// Where this thread counts.
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

const SHARDS: usize = 8;

/// In microseconds: from what a service beside the gateway takes to what somebody still waits for.
const BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn each_duration_is_in_its_bucket_whichever_thread_counts_it() {
        let histogram = Histogram::default();
        let mut registry = Registry::default();
        registry.register("time", "Time", histogram.clone());
        let times = [0, 500, 501, 60_000_000, 60_000_001];
        std::thread::scope(|scope| {
            for micros in times {
                let histogram = &histogram;
                scope.spawn(move || histogram.observe(Duration::from_micros(micros)));
            }
        });
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        for line in [
            "time_count 5",
            "time_sum 120.001002",
            "time_bucket{le=\"0.0005\"} 2",
            "time_bucket{le=\"0.001\"} 3",
            "time_bucket{le=\"30.0\"} 3",
            "time_bucket{le=\"60.0\"} 4",
            "time_bucket{le=\"+Inf\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
