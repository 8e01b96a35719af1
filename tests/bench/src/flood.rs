//! Devices that all come back at once: connections are begun at a given rate, whatever became of the earlier ones.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cli::Flood;
use crate::devices::{self, Device, Speech};
use crate::dial::Target;
use crate::http1::{self, Expected, Http1};
use crate::outcome::Outcome;
use crate::start;

pub(crate) async fn run(options: Flood) -> anyhow::Result<Value> {
    let speech = Speech::new(&options.peer, "http/1.1");
    let devices = devices::read(&options.peer, speech, usize::MAX)?;
    let target = Target::new(&options.peer)?;
    if options.span.wait {
        start::told_to_go_on("ready").await?;
    }
    let request = http1::get(&target, "/1024");
    let flood = Rc::new(Running {
        target,
        request,
        devices,
        outcome: Outcome::begin(),
        open: Cell::new(0),
    });
    let (offered, most_open) = LocalSet::new().run_until(flood.offer(&options)).await;
    // What is still under way was not answered in time.
    let mut report = json!({ "offered": offered, "most_open": most_open });
    report["answered"] = flood.outcome.report();
    report["seconds"] = json!(options.span.seconds.as_secs_f64());
    Ok(report)
}

struct Running {
    target: Target,
    request: Vec<u8>,
    devices: Vec<Device>,
    outcome: Outcome,
    open: Cell<usize>,
}

impl Running {
    /// Begins connections until the time is over. How many there were, and how many were open at most.
    async fn offer(self: &Rc<Self>, options: &Flood) -> (usize, usize) {
        let mut offered = 0;
        let mut most_open = 0;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let elapsed = self.outcome.began().elapsed();
            if elapsed >= options.span.seconds {
                return (offered, most_open);
            }
            let due = (elapsed.as_secs_f64() * options.rate) as usize;
            // A burst after a pause of this process would be no steady rate.
            let begin = due.saturating_sub(offered).min(MOST_PER_TICK);
            for _ in 0..begin {
                if self.open.get() >= MOST_OPEN {
                    break;
                }
                let number = offered;
                offered += 1;
                self.open.set(self.open.get() + 1);
                most_open = most_open.max(self.open.get());
                let (flood, patience) = (Rc::clone(self), options.patience);
                spawn_local(async move {
                    let began = Instant::now();
                    let result = timeout(patience, flood.once(number)).await;
                    let result = result.unwrap_or_else(|_| anyhow::bail!("not answered in time"));
                    flood.outcome.keep(began.elapsed(), result);
                    flood.open.set(flood.open.get() - 1);
                });
            }
        }
    }

    async fn once(&self, number: usize) -> anyhow::Result<()> {
        let device = &self.devices[number % self.devices.len()];
        let mut http = Http1::new(self.target.dial(device).await?);
        let expected = Expected {
            device: Some(&device.id),
            length: 1024,
        };
        http.exchange(&self.request, expected, &mut http1::small_buffer())
            .await
    }
}

const TICK: Duration = Duration::from_millis(1);
const MOST_PER_TICK: usize = 64;
/// Descriptors are finite here, too.
const MOST_OPEN: usize = 16_000;
