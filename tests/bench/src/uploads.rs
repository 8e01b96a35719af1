//! Large requests.

use std::time::Instant;

use anyhow::ensure;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::cli::Transfers;
use crate::devices::{self, Speech};
use crate::dial::Target;
use crate::http1::{self, Buffer, Http1};
use crate::outcome::Outcome;
use crate::start;

pub(crate) async fn run(options: Transfers) -> anyhow::Result<Value> {
    let speech = Speech::new(&options.peer, "http/1.1");
    let devices = devices::read(&options.peer, speech, options.connections)?;
    let target = Target::new(&options.peer)?;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
        target.authority, options.length
    );
    let length = options.length;
    let mut connections = Vec::new();
    for device in devices.iter().cycle().take(options.connections) {
        let mut http = Http1::new(target.dial(device).await?);
        let mut buffer = http1::buffer();
        once(&mut http, &device.id, &head, length, &mut buffer).await?;
        connections.push((http, &device.id, buffer));
    }
    if options.span.wait {
        start::told_to_go_on("ready").await?;
    }
    let outcome = Outcome::begin();
    let (kept, head) = (&outcome, &head);
    join_all(
        connections
            .iter_mut()
            .map(|(http, device, buffer)| async move {
                while kept.began().elapsed() < options.span.seconds {
                    let began = Instant::now();
                    let result = once(http, device, head, length, buffer).await;
                    if !kept.keep(began.elapsed(), result) {
                        break;
                    }
                }
            }),
    )
    .await;
    let mut report = outcome.report();
    report["bytes"] = json!(report["operations"].as_u64().unwrap_or_default() * length);
    Ok(report)
}

/// Sends so many zeros; the upstream must have counted them.
async fn once(
    http: &mut Http1,
    device: &str,
    head: &str,
    length: u64,
    buffer: &mut Buffer,
) -> anyhow::Result<()> {
    http.send(head.as_bytes()).await?;
    let mut left = length;
    while left > 0 {
        let some = left.min(ZEROS.len() as u64) as usize;
        http.send(&ZEROS[..some]).await?;
        left -= some as u64;
    }
    let counted = http.text(Some(device), buffer).await?;
    ensure!(
        counted == length.to_string(),
        "{counted} of {length} bytes arrived"
    );
    Ok(())
}

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
