//! `keybound sign`: certificates for requests that were brought to the server.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::DeviceId;

use super::{Failure, device_id, output, sign_folder};
use crate::admin::api::{Refused, SignOutcome, SignRequest, SignRequests, SignResult, Signed};
use crate::admin::client::Client;
use crate::cli::SignArguments;
use crate::files;

pub(super) async fn run(client: &Client, arguments: SignArguments) -> Result<(), Failure> {
    let SignArguments {
        device,
        csr,
        dir,
        out,
        json,
    } = arguments;
    match (device, csr, dir, out) {
        (Some(device), Some(csr), None, out) => {
            one(client, device_id(&device)?, &csr, out, json).await
        }
        (None, None, Some(dir), Some(out)) => sign_folder::run(client, &dir, &out, json).await,
        _ => Err(Failure::usage(
            "Give --device and --csr to sign one request, or --dir and --out to sign a folder.",
        )),
    }
}

async fn one(
    client: &Client,
    device: DeviceId,
    csr: &Path,
    out: Option<PathBuf>,
    json: bool,
) -> Result<(), Failure> {
    let csr = if csr == Path::new("-") {
        bounded(io::stdin().lock(), csr)?
    } else {
        let file = File::open(csr).map_err(|error| Failure::file("read", csr, &error))?;
        bounded(file, csr)?
    };
    let signed = submit(client, vec![(device.clone(), csr)]).await?;
    let result = signed
        .into_iter()
        .next()
        .ok_or_else(|| Failure::refused("The server's answer is empty."))?;
    let certificate = match &result.outcome {
        SignOutcome::Issued(certificate) => certificate,
        SignOutcome::Refused(Refused { code, message }) => {
            return Err(Failure::refused(format!(
                "No certificate for {device} ({code}): {message}."
            )));
        }
    };
    if let Some(out) = &out {
        files::write_atomically(out, certificate.pem.as_bytes(), 0o644)
            .map_err(|error| Failure::file("written", out, &error))?;
        output::note(format!(
            "{device}: serial {}, valid until {}, in {}{}",
            certificate.serial,
            certificate.not_after,
            out.display(),
            if certificate.repeated {
                " (the same as before)"
            } else {
                ""
            },
        ));
    }
    if json {
        return output::json(&result);
    }
    match out {
        Some(_) => Ok(()),
        None => output::print(certificate.pem.trim_end()),
    }
}

/// Has requests signed: at most [`crate::admin::api::MAX_BATCH`].
pub(super) async fn submit(
    client: &Client,
    requests: Vec<(DeviceId, Vec<u8>)>,
) -> Result<Vec<SignResult>, Failure> {
    let message = SignRequests {
        requests: requests
            .into_iter()
            .map(|(device, csr)| SignRequest {
                device,
                csr: STANDARD.encode(csr),
            })
            .collect(),
    };
    let signed: Signed = client.post("/v1/certificates", &message).await?;
    Ok(signed.results)
}

/// A request file's content, refused when it is longer than any request.
pub(super) fn read_request(path: &Path) -> Result<Vec<u8>, Failure> {
    // Opening a pipe would wait for a writer.
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Err(Failure::refused(format!(
            "{} is not a readable file.",
            path.display()
        )));
    }
    let file = File::open(path).map_err(|error| Failure::file("read", path, &error))?;
    bounded(file, path)
}

fn bounded(source: impl Read, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    source
        .take(LARGEST_REQUEST + 1)
        .read_to_end(&mut content)
        .map_err(|error| Failure::file("read", path, &error))?;
    if content.len() as u64 > LARGEST_REQUEST {
        return Err(Failure::refused(format!(
            "{} has more than {LARGEST_REQUEST} bytes and is no certificate request.",
            path.display()
        )));
    }
    Ok(content)
}

/// Of a file, in bytes; requests have one to four KiB.
const LARGEST_REQUEST: u64 = 32 * 1024;
