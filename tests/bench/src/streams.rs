//! Requests over HTTP/2, many at a time on one connection.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::Value;

use crate::cli::Streams;
use crate::devices::{self, Speech};
use crate::dial::Target;
use crate::http1::Expected;
use crate::http2::Http2;
use crate::outcome::Outcome;
use crate::start;

pub(crate) async fn run(options: Streams) -> anyhow::Result<Value> {
    let speech = Speech::new(&options.peer, "h2");
    let devices = devices::read(&options.peer, speech, options.connections)?;
    let target = Target::new(&options.peer)?;
    let mut streams = Vec::new();
    for device in devices.iter().cycle().take(options.connections) {
        let expected = Expected {
            device: Some(&device.id),
            length: 1024,
        };
        let mut http = Http2::new(target.dial(device).await?).await?;
        for _ in 0..WARM {
            http.get(&target, "/1024", expected).await?;
        }
        streams.extend((0..options.streams).map(|_| (http.clone(), expected)));
    }
    if options.span.wait {
        start::told_to_go_on("ready").await?;
    }
    let outcome = Outcome::begin();
    let (kept, target) = (&outcome, &target);
    join_all(streams.into_iter().map(|(mut http, expected)| async move {
        while kept.began().elapsed() < options.span.seconds {
            let began = Instant::now();
            let result = http.get(target, "/1024", expected).await;
            if !kept.keep(began.elapsed(), result) {
                break;
            }
        }
    }))
    .await;
    Ok(outcome.report())
}

/// Requests on each connection before it is ready.
const WARM: usize = 20;
