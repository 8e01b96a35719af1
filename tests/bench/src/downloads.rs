//! Large answers.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::cli::Transfers;
use crate::devices::{self, Speech};
use crate::dial::Target;
use crate::http1::{self, Expected, Http1};
use crate::outcome::Outcome;
use crate::start;

pub(crate) async fn run(options: Transfers) -> anyhow::Result<Value> {
    let speech = Speech::new(&options.peer, "http/1.1");
    let devices = devices::read(&options.peer, speech, options.connections)?;
    let target = Target::new(&options.peer)?;
    let request = http1::get(&target, &format!("/{}", options.length));
    let mut connections = Vec::new();
    for device in devices.iter().cycle().take(options.connections) {
        let mut http = Http1::new(target.dial(device).await?);
        let expected = Expected {
            device: Some(&device.id),
            length: options.length,
        };
        let mut buffer = http1::buffer();
        http.exchange(&request, expected, &mut buffer).await?;
        connections.push((http, expected, buffer));
    }
    if options.span.wait {
        start::told_to_go_on("ready").await?;
    }
    let outcome = Outcome::begin();
    let (kept, request) = (&outcome, &request);
    join_all(
        connections
            .iter_mut()
            .map(|(http, expected, buffer)| async move {
                while kept.began().elapsed() < options.span.seconds {
                    let began = Instant::now();
                    let result = http.exchange(request, *expected, buffer).await;
                    if !kept.keep(began.elapsed(), result) {
                        break;
                    }
                }
            }),
    )
    .await;
    let mut report = outcome.report();
    report["bytes"] = json!(report["operations"].as_u64().unwrap_or_default() * options.length);
    Ok(report)
}
