//! `keybound reload`

use super::{Failure, output};
use crate::admin::api::{ReloadOutcome, Reloaded};
use crate::admin::client::Client;
use crate::configuration::report;

pub(super) async fn run(client: &Client, json: bool) -> Result<(), Failure> {
    let reloaded: Reloaded = client.post("/v1/reload", &()).await?;
    if json {
        output::json(&reloaded)?;
    }
    let Reloaded { name, outcome } = reloaded;
    match outcome {
        ReloadOutcome::Changes(_) if json => Ok(()),
        ReloadOutcome::Changes(changes) if changes.is_empty() => {
            output::print(format!("{name}: reloaded, nothing is different"))
        }
        ReloadOutcome::Changes(changes) => {
            let number = output::count(changes.len() as u64, "change", "changes");
            let mut text = format!("{name}: reloaded, {number}");
            for change in changes {
                text.push_str("\n  ");
                text.push_str(&output::harmless(&change));
            }
            output::print(text)
        }
        ReloadOutcome::Mistakes(mistakes) => {
            let report = report(&name, &mistakes);
            Err(Failure::refused(format!("{report}\nNothing was changed.")))
        }
    }
}
