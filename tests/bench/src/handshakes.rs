//! A fresh connection for each request, as devices make them that wake, report and sleep.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::join_all;
use rustls::HandshakeKind;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::cli::Handshakes;
use crate::devices::{self, Device, Speech};
use crate::dial::Target;
use crate::http1::{self, Buffer, Expected, Http1};
use crate::outcome::Outcome;
use crate::start;

/// Devices take turns.
pub(crate) async fn run(options: Handshakes) -> anyhow::Result<Value> {
    let speech = Speech {
        resume: options.resume,
        ..Speech::new(&options.peer, "http/1.1")
    };
    let devices = devices::read(&options.peer, speech, usize::MAX)?;
    let load = Load {
        target: Target::new(&options.peer)?,
        devices,
        next: Cell::new(0),
        resumed: Cell::new(0),
        handshake_bytes: Cell::new(0),
        all_bytes: Cell::new(0),
    };
    if !options.once {
        let warming = Outcome::begin();
        load.send(&warming, options.at_once, options.warm, Duration::MAX)
            .await;
        let report = warming.report();
        ensure!(report["errors"] == 0, "before it was ready: {report}");
    }
    if options.span.wait {
        start::told_to_go_on("ready").await?;
    }
    let begun = load.next.get();
    load.resumed.set(0);
    load.handshake_bytes.set(0);
    load.all_bytes.set(0);
    let most = if options.once {
        load.devices.len()
    } else {
        usize::MAX - begun
    };
    let outcome = Outcome::begin();
    load.send(
        &outcome,
        options.at_once,
        begun + most,
        options.span.seconds,
    )
    .await;
    let mut report = outcome.report();
    let operations = report["operations"].as_f64().unwrap_or_default().max(1.0);
    report["resumed"] = json!(load.resumed.get());
    report["handshake_bytes"] = json!(load.handshake_bytes.get() as f64 / operations);
    report["all_bytes"] = json!(load.all_bytes.get() as f64 / operations);
    Ok(report)
}

struct Load {
    target: Target,
    devices: Vec<Device>,
    /// The number of the next operation.
    next: Cell<usize>,
    resumed: Cell<u64>,
    /// From the gateway until the handshake was finished.
    handshake_bytes: Cell<u64>,
    /// From the gateway until the answer was there: also tickets, and the answer.
    all_bytes: Cell<u64>,
}

impl Load {
    /// Sends, so many at a time, until the number of the next operation is `end` or the time is over.
    async fn send(&self, outcome: &Outcome, at_once: usize, end: usize, span: Duration) {
        let request = http1::get(&self.target, "/1024");
        join_all((0..at_once).map(|_| async {
            let mut buffer = http1::buffer();
            while outcome.began().elapsed() < span {
                let number = self.next.get();
                if number >= end {
                    break;
                }
                self.next.set(number + 1);
                let device = &self.devices[number % self.devices.len()];
                let began = Instant::now();
                let result = self.once(device, &request, &mut buffer).await;
                outcome.keep(began.elapsed(), result);
            }
        }))
        .await;
    }

    async fn once(
        &self,
        device: &Device,
        request: &[u8],
        buffer: &mut Buffer,
    ) -> anyhow::Result<()> {
        let stream = self.target.dial(device).await?;
        let (tcp, tls) = stream.get_ref();
        let add = |cell: &Cell<u64>, more| cell.set(cell.get() + more);
        add(&self.handshake_bytes, tcp.read());
        match tls.handshake_kind() {
            Some(HandshakeKind::Full) => {}
            Some(HandshakeKind::Resumed) => add(&self.resumed, 1),
            kind @ (Some(HandshakeKind::FullWithHelloRetryRequest) | None) => {
                anyhow::bail!("a handshake of the kind {kind:?}")
            }
        }
        let mut http = Http1::new(stream);
        let expected = Expected {
            device: Some(&device.id),
            length: 1024,
        };
        http.exchange(request, expected, buffer).await?;
        add(&self.all_bytes, http.stream.get_ref().0.read());
        // Whoever read the answer has what it wants: that the gateway was quicker to close is no error.
        let _ = http.stream.shutdown().await;
        Ok(())
    }
}
