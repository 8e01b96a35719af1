//! How many times a first request crosses the way: through a relay that makes each crossing long.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cli::RoundTrips;
use crate::devices::{self, Device, Speech};
use crate::dial::Target;
use crate::http1::{self, Expected, Http1};
use crate::relay;

/// Times in units of a round trip, after the connection was made, which the relay does at once: `handshake` until the client
/// may send its request, `answer` until the answer is there. The median of each.
pub(crate) async fn run(options: RoundTrips) -> anyhow::Result<Value> {
    let relay = start_relay(options.peer.gateway, options.delay).await?;
    let speech = Speech::new(&options.peer, "http/1.1");
    let device = devices::read(&options.peer, speech, 1)?.remove(0);
    let target = Target::named(relay, &options.peer.name)?;
    let with = measure(&options, &target, &device, Some(&device.id)).await?;
    let without = match &options.anonymous_name {
        Some(name) => {
            let nobody = Device {
                id: String::new(),
                tls: devices::configuration(speech, None)?,
            };
            let target = Target::named(relay, name)?;
            Some(measure(&options, &target, &nobody, None).await?)
        }
        None => None,
    };
    Ok(json!({ "with_certificate": with, "without_certificate": without }))
}

async fn measure(
    options: &RoundTrips,
    target: &Target,
    device: &Device,
    told: Option<&str>,
) -> anyhow::Result<Value> {
    let mut handshakes = Vec::new();
    let mut answers = Vec::new();
    let mut kind = None;
    for _ in 0..options.count {
        let began = Instant::now();
        let stream = target.dial(device).await?;
        handshakes.push(began.elapsed());
        kind = stream.get_ref().1.handshake_kind();
        let expected = Expected {
            device: told,
            length: 16,
        };
        Http1::new(stream)
            .exchange(&http1::get(target, "/16"), expected, &mut http1::buffer())
            .await?;
        answers.push(began.elapsed());
    }
    let trip = options.delay * 2;
    Ok(json!({
        "handshake": median(handshakes, trip)?,
        "answer": median(answers, trip)?,
        "kind": format!("{:?}", kind.context("no handshake")?),
    }))
}

fn median(mut times: Vec<Duration>, unit: Duration) -> anyhow::Result<f64> {
    times.sort_unstable();
    let middle = times.get(times.len() / 2).context("nothing was measured")?;
    Ok(middle.as_secs_f64() / unit.as_secs_f64())
}

async fn start_relay(to: SocketAddr, delay: Duration) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(relay::carry(client, to, delay));
        }
    });
    Ok(address)
}
