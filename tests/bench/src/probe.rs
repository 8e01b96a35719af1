//! One request with every check that a device makes: whether the gateway is whom it should be, and what it tells the upstream.

use serde_json::{Value, json};

use crate::cli::Probe;
use crate::devices::{self, Speech};
use crate::dial::Target;
use crate::http1::{self, Http1};
use crate::upstream;

pub(crate) async fn run(options: Probe) -> anyhow::Result<Value> {
    let speech = Speech {
        roots: Some(&options.roots),
        ..Speech::new(&options.peer, "http/1.1")
    };
    let device = devices::read(&options.peer, speech, 1)?.remove(0);
    let target = Target::new(&options.peer)?;
    let stream = target.dial(&device).await?;
    let mut http = Http1::new(stream);
    let handshake_bytes = http.stream.get_ref().0.read();
    http.send(&http1::get(&target, upstream::HEADERS)).await?;
    let told = http.text(Some(&device.id), &mut http1::buffer()).await?;
    let tls = http.stream.get_ref().1;
    Ok(json!({
        "device": device.id,
        "told": serde_json::from_str::<Value>(&told)?,
        "handshake": format!("{:?}", tls.handshake_kind()),
        "suite": format!("{:?}", tls.negotiated_cipher_suite().map(|suite| suite.suite())),
        "group": format!("{:?}", tls.negotiated_key_exchange_group().map(|group| group.name())),
        "handshake_bytes": handshake_bytes,
    }))
}
