//! What came of a run.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Operations that ended, and how long each took.
#[derive(Debug)]
pub(crate) struct Outcome {
    began: Instant,
    kept: RefCell<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// In microseconds.
    latencies: Vec<u32>,
    errors: u64,
    first_error: Option<String>,
}

impl Outcome {
    /// Counts from now on.
    pub(crate) fn begin() -> Self {
        Self {
            began: Instant::now(),
            kept: RefCell::default(),
        }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// An operation that took so long, or did not succeed. Whether it succeeded.
    pub(crate) fn keep(&self, took: Duration, result: anyhow::Result<()>) -> bool {
        let mut kept = self.kept.borrow_mut();
        match result {
            Ok(()) => {
                let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                kept.latencies.push(micros);
                true
            }
            Err(error) => {
                kept.errors += 1;
                kept.first_error.get_or_insert_with(|| format!("{error:#}"));
                false
            }
        }
    }

    /// One line of JSON: counts, seconds, and percentiles in microseconds.
    pub(crate) fn report(&self) -> Value {
        let seconds = self.began.elapsed().as_secs_f64();
        let mut kept = self.kept.borrow_mut();
        kept.latencies.sort_unstable();
        let at = |share: f64| {
            let last = kept.latencies.len().saturating_sub(1);
            let place = (last as f64 * share).round() as usize;
            kept.latencies.get(place).copied()
        };
        json!({
            "operations": kept.latencies.len(),
            "errors": kept.errors,
            "first_error": kept.first_error,
            "seconds": seconds,
            "p50_us": at(0.5),
            "p90_us": at(0.9),
            "p99_us": at(0.99),
            "max_us": at(1.0),
            "own_cpu_seconds": own_cpu().as_secs_f64(),
        })
    }
}

/// The processor time of this thread so far, of which there is one that matters.
fn own_cpu() -> Duration {
    let read = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let first = read.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(first.unwrap_or_default())
}
