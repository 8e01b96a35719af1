//! Requests over kept HTTP/1.1 connections, each of a device of its own.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::cli::Requests;
use crate::devices::{self, Speech};
use crate::dial::Target;
use crate::http1::{self, Expected, Http1};
use crate::outcome::Outcome;
use crate::start;

pub(crate) async fn run(options: Requests) -> anyhow::Result<Value> {
    let speech = Speech::new(&options.peer, "http/1.1");
    let devices = devices::read(&options.peer, speech, options.connections)?;
    let target = Target::new(&options.peer)?;
    let request = http1::get(&target, "/1024");
    let mut connections = Vec::with_capacity(options.connections);
    for device in devices.iter().cycle().take(options.connections) {
        let mut http = Http1::new(target.dial(device).await?);
        let expected = Expected {
            device: Some(&device.id),
            length: 1024,
        };
        let mut buffer = http1::buffer();
        for _ in 0..WARM {
            http.exchange(&request, expected, &mut buffer).await?;
        }
        connections.push((http, expected, buffer));
    }
    if options.span.wait {
        start::told_to_go_on("ready").await?;
    }
    let outcome = Outcome::begin();
    let (outcome_of_all, request, count) = (&outcome, &request, options.connections);
    let sending =
        connections
            .iter_mut()
            .enumerate()
            .map(|(number, (http, expected, buffer))| async move {
                let outcome = outcome_of_all;
                let mut ticks = options.every.map(interval);
                if let (Some(ticks), Some(every)) = (&mut ticks, options.every) {
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    // Not all at the same moment.
                    tokio::time::sleep(every.mul_f64(number as f64 / count as f64)).await;
                }
                while outcome.began().elapsed() < options.span.seconds {
                    if let Some(ticks) = &mut ticks {
                        ticks.tick().await;
                    }
                    let began = Instant::now();
                    let result = http.exchange(request, *expected, buffer).await;
                    if !outcome.keep(began.elapsed(), result) {
                        break;
                    }
                }
            });
    join_all(sending).await;
    Ok(outcome.report())
}

/// Requests on each connection before it is ready.
const WARM: usize = 20;
