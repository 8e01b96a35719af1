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
    let options = Rc::new(options);
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
    // A task like the others, so that connections that are under way come first: devices that are behind with what the gateway
    // sent them are none.
    let offering = {
        let (flood, options) = (Rc::clone(&flood), Rc::clone(&options));
        async move { spawn_local(async move { flood.offer(&options).await }).await }
    };
    let (offered, most_open) = LocalSet::new().run_until(offering).await?;
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
        let mut due = 0.0;
        let mut last = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.outcome.began().elapsed() >= options.span.seconds {
                return (offered, most_open);
            }
            // What could not be begun in time is not made up for: that would be no steady rate.
            due += last.elapsed().min(MOST_AT_ONCE).as_secs_f64() * options.rate;
            last = Instant::now();
            let begin = due as usize;
            due -= begin as f64;
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
        let mut http = Http1::new(self.target.dial_from(number, device).await?);
        let expected = Expected {
            device: Some(&device.id),
            length: 1024,
        };
        http.exchange(&self.request, expected, &mut http1::small_buffer())
            .await
    }
}

const TICK: Duration = Duration::from_millis(1);
const MOST_AT_ONCE: Duration = Duration::from_millis(4);
/// Descriptors are finite here, too.
const MOST_OPEN: usize = 16_000;
