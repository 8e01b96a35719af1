//! `keybound token new`: enrollment codes on standard output, and nothing else there.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use identity::DeviceId;
use serde::Serialize;

use super::{Failure, device_id, output};
use crate::admin::api::{MAX_BATCH, NewTokens, Refused, TokenOutcome, TokenResult, TokensMade};
use crate::admin::client::Client;
use crate::cli::{TokenArguments, TokenCommand};
use crate::duration;

/// What `--json` prints of one code.
#[derive(Serialize)]
struct Code<'a> {
    device: &'a DeviceId,
    code: &'a str,
    token: &'a str,
    expires_at: &'a str,
}

pub(super) async fn run(client: &Client, command: TokenCommand) -> Result<(), Failure> {
    let TokenCommand::New(arguments) = command;
    let life = life(&arguments.ttl)?;
    let TokenArguments {
        device, file, json, ..
    } = arguments;
    match (device, file) {
        (Some(device), None) => one(client, device_id(&device)?, life, json).await,
        (None, Some(file)) => many(client, &file, life, json).await,
        (Some(_), Some(_)) | (None, None) => Err(Failure::usage("Give either --device or --file.")),
    }
}

/// A length of time from the command line.
pub(super) fn life(text: &str) -> Result<Duration, Failure> {
    duration::parse(text).map_err(|error| Failure::usage(format!("--ttl {text:?}: {error}.")))
}

/// Makes a code for one device and prints it.
pub(super) async fn one(
    client: &Client,
    device: DeviceId,
    life: Duration,
    json: bool,
) -> Result<(), Failure> {
    let made = make(client, vec![device], life).await?;
    let Some(TokenResult { device, outcome }) = made.results.into_iter().next() else {
        return Err(Failure::refused("The server's answer is empty."));
    };
    match outcome {
        TokenOutcome::Refused(Refused { message, .. }) => Err(Failure::refused(format!(
            "There is no code for {device}: {message}."
        ))),
        TokenOutcome::Made { code, token } if json => output::json(&Code {
            device: &device,
            code: &code,
            token: &token,
            expires_at: &made.expires_at,
        }),
        TokenOutcome::Made { code, .. } => {
            output::print(&code)?;
            output::hint(format!(
                "\nIt can be used once, until {}. On the device:\n  keybound-device enroll '{code}'",
                made.expires_at
            ));
            Ok(())
        }
    }
}

async fn many(client: &Client, file: &Path, life: Duration, json: bool) -> Result<(), Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::file("read", file, &error))?;
    let devices = parse_ids(&text)
        .map_err(|mistakes| Failure::usage(format!("{}: {mistakes}", file.display())))?;
    let mut made = Vec::new();
    let outcome = make_all(client, &devices, life, json, &mut made).await;
    if json {
        // Codes that were made and not shown would be lost, whatever became of the others.
        let codes: Vec<_> = made
            .iter()
            .filter_map(|(result, expires_at)| match &result.outcome {
                TokenOutcome::Refused(_) => None,
                TokenOutcome::Made { code, token } => Some(Code {
                    device: &result.device,
                    code,
                    token,
                    expires_at,
                }),
            })
            .collect();
        output::json(&codes)?;
    }
    match outcome? {
        0 => Ok(()),
        refused => Err(Failure::refused(format!(
            "{refused} of {} devices got no code.",
            devices.len()
        ))),
    }
}

/// Makes a code for each device; returns how many were refused. Without `json`, each is printed as soon as it is made.
async fn make_all(
    client: &Client,
    devices: &[DeviceId],
    life: Duration,
    json: bool,
    made: &mut Vec<(TokenResult, String)>,
) -> Result<usize, Failure> {
    let mut refused = 0;
    for batch in devices.chunks(MAX_BATCH) {
        let answer = make(client, batch.to_vec(), life).await?;
        for result in answer.results {
            match &result.outcome {
                TokenOutcome::Refused(Refused { message, .. }) => {
                    refused += 1;
                    output::note(format!("{}: {message}", result.device));
                }
                TokenOutcome::Made { .. } if json => {
                    made.push((result, answer.expires_at.clone()));
                }
                TokenOutcome::Made { code, .. } => {
                    output::print(format!("{},{code}", result.device))?;
                }
            }
        }
    }
    Ok(refused)
}

async fn make(
    client: &Client,
    devices: Vec<DeviceId>,
    life: Duration,
) -> Result<TokensMade, Failure> {
    let message = NewTokens {
        devices,
        life_seconds: life.as_secs(),
    };
    client.post("/v1/tokens", &message).await
}

/// One id per line, after an optional header `id`. All mistakes are reported together and no code is made.
fn parse_ids(text: &str) -> Result<Vec<DeviceId>, String> {
    let mut devices = Vec::new();
    let mut seen = HashSet::new();
    let mut mistakes = Vec::new();
    // Spreadsheets write a byte order mark and CRLF.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || (number == 1 && line == "id") {
            continue;
        }
        match DeviceId::parse(line) {
            Err(error) => mistakes.push(format!(
                "line {number}: {line:?} is not a device id: {error}"
            )),
            Ok(device) => {
                if seen.insert(device.folded()) {
                    devices.push(device);
                } else {
                    mistakes.push(format!("line {number}: {device} is there twice"));
                }
            }
        }
    }
    if devices.is_empty() && mistakes.is_empty() {
        mistakes.push("there is no device id in it; write one per line".into());
    }
    if mistakes.is_empty() {
        return Ok(devices);
    }
    let further = mistakes.len().saturating_sub(MAX_MISTAKES);
    mistakes.truncate(MAX_MISTAKES);
    if further > 0 {
        mistakes.push(format!("and {further} more"));
    }
    Err(mistakes.join("\n  "))
}

const MAX_MISTAKES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[&str], &str>) {
        let parsed = parse_ids(text);
        let found = parsed
            .as_ref()
            .map(|ids| ids.iter().map(DeviceId::as_str).collect::<Vec<_>>());
        let expected = expected.map(<[&str]>::to_vec);
        assert_eq!(found.map_err(String::as_str), expected, "{text:?}");
    }

    #[test]
    fn files_of_ids() {
        check("a\nb\n", Ok(&["a", "b"]));
        check("\u{feff}id\r\na\r\n\r\nb", Ok(&["a", "b"]));
        check("a\nid", Ok(&["a", "id"]));
        check("", Err("there is no device id in it; write one per line"));
        check(
            "a\nA\nb c",
            Err(
                "line 2: A is there twice\n  line 3: \"b c\" is not a device id: character ' ' at byte 1 is not one of A-Z a-z 0-9 . _ -",
            ),
        );
    }
}
