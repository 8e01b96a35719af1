//! `keybound sign --dir`: a folder of requests becomes a folder of certificates.
//!
//! It can be interrupted and run again: what has its certificate is left alone, and the CA answers a repeated
//! request with the certificate that it has recorded. So certificate files need no sync to the disk: one that
//! a power failure left damaged is simply written again.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use identity::certificate::Parsed;
use identity::chain::Anchors;
use identity::{DeviceId, Fingerprint, Identity, Serial};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use super::sign::{read_request, submit};
use super::{Failure, output};
use crate::admin::api::{CertificateAuthorities, MAX_BATCH, Refused, SignOutcome};
use crate::admin::client::Client;
use crate::{clock, files};

/// What became of a folder.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    requests: usize,
    /// Certificates written now.
    signed: usize,
    /// Certificates that were there already.
    present: usize,
    refused: usize,
    results: PathBuf,
}

/// A request file, and by and by its result.
struct Item {
    /// The file's name without its extension.
    name: String,
    path: PathBuf,
    result: Option<Result<Serial, Refused>>,
}

pub(super) async fn run(
    client: &Client,
    folder: &Path,
    out: &Path,
    json: bool,
) -> Result<(), Failure> {
    let mut items = requests(folder)?;
    fs::create_dir_all(out).map_err(|error| Failure::file("made", out, &error))?;
    if fs::canonicalize(folder).ok() == fs::canonicalize(out).ok() {
        return Err(Failure::usage(
            "--dir and --out are the same folder; certificates would be taken for requests.",
        ));
    }
    let authorities: CertificateAuthorities = client.get("/v1/ca").await?;
    let present = Present::new(&authorities, out)?;
    let mut summary = Summary {
        requests: items.len(),
        results: out.join("results.csv"),
        ..Summary::default()
    };
    refuse_ambiguous(&mut items);
    let bar = progress_bar(items.len());
    let outcome = sign_all(client, &present, &mut items, &mut summary, &bar).await;
    bar.finish_and_clear();
    // Whatever stopped the signing, what was done until then is written down.
    if let Err(failure) = &outcome {
        for item in items.iter_mut().filter(|item| item.result.is_none()) {
            item.result = Some(Err(refused("not-asked", failure.to_string())));
        }
    }
    write_results(&summary.results, &items)?;
    outcome?;
    summary.refused = items
        .iter()
        .filter(|item| matches!(item.result, Some(Err(_)) | None))
        .count();
    if json {
        output::json(&summary)?;
    } else {
        output::print(format!(
            "{}: {} signed, {} already there, {} refused; see {}",
            output::count(summary.requests as u64, "request", "requests"),
            summary.signed,
            summary.present,
            summary.refused,
            summary.results.display()
        ))?;
    }
    if summary.refused > 0 {
        return Err(Failure::refused(format!(
            "{} of {} requests were refused; {} says why.",
            summary.refused,
            summary.requests,
            summary.results.display()
        )));
    }
    Ok(())
}

/// The request files of a folder, in the order of their names.
fn requests(folder: &Path) -> Result<Vec<Item>, Failure> {
    let unreadable = |error: io::Error| Failure::file("read", folder, &error);
    let mut items = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_request = path.extension().is_some_and(|extension| {
            ["csr", "pem", "der", "p10"]
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known))
        });
        let Some(name) = path.file_stem().filter(|_| is_request) else {
            continue;
        };
        items.push(Item {
            name: name.to_string_lossy().into_owned(),
            path,
            result: None,
        });
    }
    if items.is_empty() {
        return Err(Failure::refused(format!(
            "{} has no file that ends in .csr, .pem, .der or .p10.",
            folder.display()
        )));
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(items)
}

/// Two requests for one id: which of them is the device's, nobody can tell.
fn refuse_ambiguous(items: &mut [Item]) {
    let mut uses: HashMap<String, usize> = HashMap::new();
    for item in items.iter() {
        *uses.entry(item.name.to_ascii_lowercase()).or_default() += 1;
    }
    for item in items.iter_mut() {
        if uses[&item.name.to_ascii_lowercase()] > 1 {
            let message = "more than one file is named after this device";
            item.result = Some(Err(refused("ambiguous", message)));
        }
    }
}

async fn sign_all(
    client: &Client,
    present: &Present<'_>,
    items: &mut [Item],
    summary: &mut Summary,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let mut batch: Vec<(usize, DeviceId, Vec<u8>)> = Vec::with_capacity(MAX_BATCH);
    for number in 0..items.len() {
        let item = &mut items[number];
        if item.result.is_none() {
            match prepare(item, present) {
                Prepared::Present(serial) => {
                    summary.present += 1;
                    item.result = Some(Ok(serial));
                }
                Prepared::Refused(reason) => item.result = Some(Err(reason)),
                Prepared::ToSign(device, csr) => batch.push((number, device, csr)),
            }
        }
        if batch.len() == MAX_BATCH || (number + 1 == items.len() && !batch.is_empty()) {
            sign_batch(
                client,
                present.out,
                std::mem::take(&mut batch),
                items,
                summary,
            )
            .await?;
        }
        bar.set_position(number as u64 + 1);
    }
    Ok(())
}

enum Prepared {
    Present(Serial),
    Refused(Refused),
    ToSign(DeviceId, Vec<u8>),
}

fn prepare(item: &Item, present: &Present<'_>) -> Prepared {
    let device = match DeviceId::parse(&item.name) {
        Ok(device) => device,
        Err(error) => {
            let message = format!("the file's name is not a device id: {error}");
            return Prepared::Refused(refused("device-id", message));
        }
    };
    match read_request(&item.path) {
        Err(failure) => Prepared::Refused(refused("unreadable", failure.to_string())),
        Ok(csr) => match present.certificate(&device, &csr) {
            Some(serial) => Prepared::Present(serial),
            None => Prepared::ToSign(device, csr),
        },
    }
}

async fn sign_batch(
    client: &Client,
    out: &Path,
    batch: Vec<(usize, DeviceId, Vec<u8>)>,
    items: &mut [Item],
    summary: &mut Summary,
) -> Result<(), Failure> {
    let (numbers, requests): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|(number, device, csr)| (number, (device, csr)))
        .unzip();
    let results = submit(client, requests).await?;
    if results.len() != numbers.len() {
        return Err(Failure::refused(
            "The server's answer has another number of results than there were requests.",
        ));
    }
    for (number, result) in numbers.into_iter().zip(results) {
        let path = out.join(format!("{}.pem", result.device));
        items[number].result = Some(match result.outcome {
            SignOutcome::Refused(reason) => Err(reason),
            SignOutcome::Issued(certificate) => {
                files::replace(&path, certificate.pem.as_bytes(), 0o644)
                    .map_err(|error| Failure::file("written", &path, &error))?;
                summary.signed += 1;
                Ok(certificate.serial)
            }
        });
    }
    Ok(())
}

/// The certificates that are there already.
struct Present<'o> {
    out: &'o Path,
    device_ca: Anchors,
}

impl<'o> Present<'o> {
    fn new(authorities: &CertificateAuthorities, out: &'o Path) -> Result<Self, Failure> {
        let not_understood = || Failure::refused("The server's CA certificate cannot be read.");
        let der = pem::parse(&authorities.device_ca.pem).map_err(|_| not_understood())?;
        let anchor = CertificateDer::from(der.into_contents());
        Ok(Self {
            out,
            device_ca: Anchors::new(&[anchor]).map_err(|_| not_understood())?,
        })
    }

    /// The serial of a certificate that this CA made for this device and the request's key, and that has not expired.
    fn certificate(&self, device: &DeviceId, csr: &[u8]) -> Option<Serial> {
        let text = fs::read(self.out.join(format!("{device}.pem"))).ok()?;
        let der = CertificateDer::from(pem::parse(text).ok()?.into_contents());
        let leaf = Parsed::from_der(&der).ok()?.leaf().ok()?;
        let now = clock::now();
        self.device_ca.verify(&der, &[], now).ok()?;
        let (_, x509) = x509_parser::parse_x509_certificate(&der).ok()?;
        let key = Fingerprint::of(x509.public_key().raw);
        let request = ca::VerifiedCsr::from_pem_or_der(csr).ok()?;
        (leaf.spiffe_id.identity == Identity::Device(device.clone())
            && leaf.validity.not_after >= now
            && request.key().fingerprint() == key)
            .then_some(leaf.serial)
    }
}

/// A line for each request. Nothing in it depends on when a certificate was made, so a second run changes nothing.
fn write_results(path: &Path, items: &[Item]) -> Result<(), Failure> {
    let mut text = "id,serial,result,message\n".to_owned();
    for item in items {
        let id = csv_cell(&item.name);
        let _ = match &item.result {
            Some(Ok(serial)) => writeln!(text, "{id},{serial},issued,"),
            Some(Err(Refused { code, message })) => {
                writeln!(text, "{id},,{},{}", csv_cell(code), csv_cell(message))
            }
            None => writeln!(text, "{id},,not-asked,"),
        };
    }
    if fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(());
    }
    files::write_atomically(path, text.as_bytes(), 0o644)
        .map_err(|error| Failure::file("written", path, &error))
}

/// A cell of a CSV file (RFC 4180). File names come from elsewhere: none becomes a formula in a spreadsheet.
fn csv_cell(text: &str) -> String {
    let mut cell = output::harmless(text);
    if cell.starts_with(['=', '+', '-', '@']) {
        cell.insert(0, '\'');
    }
    if cell.contains(['"', ',']) {
        cell = format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell
}

fn refused(code: &str, message: impl Into<String>) -> Refused {
    Refused {
        code: code.to_owned(),
        message: message.into(),
    }
}

fn progress_bar(length: usize) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(length as u64), target);
    match ProgressStyle::with_template("signing {wide_bar} {pos}/{len}  {per_sec}  {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_never_formulas() {
        assert_eq!(csv_cell("thermostat-7"), "thermostat-7");
        assert_eq!(csv_cell("=1+1"), "'=1+1");
        assert_eq!(csv_cell("a, \"b\"\n"), "\"a, \"\"b\"\"\\u{a}\"");
    }

    #[test]
    fn two_files_for_one_id_are_both_refused() {
        let item = |path: &str| Item {
            name: Path::new(path)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into(),
            path: path.into(),
            result: None,
        };
        let mut items = [item("a.csr"), item("A.pem"), item("b.csr")];
        refuse_ambiguous(&mut items);
        let codes = items.map(|item| item.result.map(|result| result.expect_err("refused").code));
        assert_eq!(
            codes,
            [Some("ambiguous".into()), Some("ambiguous".into()), None]
        );
    }
}
