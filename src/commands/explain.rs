//! `keybound explain`: what the registry says, and the last decisions with their reasons.

use super::Failure;
use super::device::describe;
use super::output::{self, harmless};
use crate::admin::api::{Decision, Explain, Explanation};
use crate::admin::client::Client;

pub(super) async fn run(client: &Client, query: String, json: bool) -> Result<(), Failure> {
    let explanation: Explanation = client.post("/v1/explain", &Explain { query }).await?;
    if json {
        return output::json(&explanation);
    }
    let mut text = String::new();
    for sentence in &explanation.summary {
        text.push_str(&harmless(sentence));
        text.push('\n');
    }
    if let Some(device) = &explanation.device {
        text.push_str(&format!("\n{}\n", describe(device)));
    }
    if !explanation.decisions.is_empty() {
        text.push_str("\nLast decisions, newest first:\n");
        for decision in &explanation.decisions {
            text.push_str(&describe_decision(decision));
        }
    }
    output::print(text.trim_end())
}

/// A decision in two lines: what was asked, and what was decided why.
fn describe_decision(decision: &Decision) -> String {
    let mut first = format!(
        "{}  {}  {}",
        decision.at, decision.listener, decision.address
    );
    if let Some(device) = &decision.device {
        first.push_str(&format!("  {device}"));
        if let Some(far) = &decision.on_behalf_of {
            first.push_str(&format!(" for {far}"));
        }
    }
    if let (Some(method), Some(path)) = (&decision.method, &decision.path) {
        let host = decision.host.as_deref().unwrap_or_default();
        first.push_str(&format!("  {method} {host}{path}"));
    } else if let Some(path) = &decision.path {
        first.push_str(&format!("  {path}"));
    } else {
        let name = decision.sni.as_deref().unwrap_or("no server name");
        first.push_str(&format!("  handshake with {name}"));
    }
    let status = decision
        .status
        .map(|status| format!(", HTTP {status}"))
        .unwrap_or_default();
    let reported = decision
        .reported
        .as_ref()
        .map(|code| format!(", reported {code}"))
        .unwrap_or_default();
    let request = decision
        .request_id
        .as_ref()
        .map(|id| format!(", request {id}"))
        .unwrap_or_default();
    let second = format!(
        "    {}{reported}{status}{request}, {} ms: {}",
        decision.outcome, decision.milliseconds, decision.reason
    );
    format!("{}\n{}\n", harmless(&first), harmless(&second))
}
