//! `keybound doctor`

use gateway::UpstreamAddress;
use identity::DeviceId;
use serde::Serialize;

use super::output::{self, Table};
use super::{Failure, device_id};
use crate::cli::{DoctorCommand, SpoofArguments};
use crate::spoof::{
    self, Credentials, Effect, Examined, Fault, Finding, Question, Spelling, Trial, Which,
};

pub(super) async fn run(command: DoctorCommand) -> Result<(), Failure> {
    match command {
        DoctorCommand::Spoof(arguments) => spoof(arguments).await,
    }
}

#[derive(Serialize)]
struct Report {
    /// Whether anything forged was believed anywhere.
    believed: bool,
    findings: Vec<Finding>,
    /// What was not examined, or not to the end, and why.
    faults: Vec<String>,
}

async fn spoof(arguments: SpoofArguments) -> Result<(), Failure> {
    let upstream = arguments.upstream.as_deref().map(address).transpose()?;
    let gateway = arguments.gateway.as_deref().map(address).transpose()?;
    if gateway.as_ref().is_some_and(|gateway| !gateway.is_tls()) {
        return Err(Failure::usage(
            "--gateway must start with https://; devices are told by TLS.",
        ));
    }
    if !arguments.path.starts_with('/') {
        return Err(Failure::usage("--path must start with /."));
    }
    let device = arguments.device.as_deref().map(device_id).transpose()?;
    let question = Question {
        host: match &arguments.host {
            Some(host) => host.clone(),
            None => host_of(gateway.as_ref().or(upstream.as_ref())),
        },
        path: arguments.path,
        device: device.as_ref().map(DeviceId::to_string),
    };
    let store = &arguments.keystore;
    let credentials = Credentials {
        certificate: arguments
            .cert
            .unwrap_or_else(|| store.join("certificate.pem")),
        key: arguments.key.unwrap_or_else(|| store.join("key.pem")),
        roots: arguments.roots.unwrap_or_else(|| store.join("roots.pem")),
    };
    let mut examined = Examined::default();
    if let Some(gateway) = gateway {
        examined.add(spoof::through(&gateway, &question, &credentials).await);
    }
    if let Some(upstream) = upstream {
        examined.add(spoof::around(&upstream, &question).await);
    }
    let Examined { findings, faults } = examined;
    let report = Report {
        believed: findings
            .iter()
            .flat_map(|one| &one.trials)
            .any(|one| one.believed),
        findings,
        faults: faults.iter().map(Fault::to_string).collect(),
    };
    if report.findings.is_empty() {
        return Err(Failure::unexamined(format!(
            "Nothing is proven: {}.",
            report.faults.join("; ")
        )));
    }
    if arguments.json {
        output::json(&report)?;
    } else {
        let mut texts: Vec<_> = report.findings.iter().map(text).collect();
        // What is closed in one version of HTTP is so in the other.
        texts.dedup();
        output::print(texts.join("\n\n"))?;
    }
    let mut sentences = verdict(&report.findings);
    if !report.faults.is_empty() {
        let faults = output::harmless(&report.faults.join("; "));
        sentences.push(format!("Nothing is proven of the rest: {faults}."));
    }
    let sentences = sentences.join(" ");
    match (report.believed, report.faults.is_empty()) {
        (true, _) => Err(Failure::refused(sentences)),
        (false, false) => Err(Failure::unexamined(sentences)),
        (false, true) => Ok(()),
    }
}

fn address(text: &str) -> Result<UpstreamAddress, Failure> {
    text.parse()
        .map_err(|fault| Failure::usage(format!("{text:?} cannot be asked: {fault}.")))
}

/// `host:port` as it stands in an address.
fn host_of(address: Option<&UpstreamAddress>) -> String {
    let text = address.map(ToString::to_string).unwrap_or_default();
    match text.split_once("://") {
        Some((_, authority)) => authority.to_owned(),
        None => "localhost".to_owned(),
    }
}

/// What was found at one door, for people.
fn text(finding: &Finding) -> String {
    let (way, to) = match finding.door {
        Which::Gateway => ("Through the gateway", "the device"),
        Which::Upstream => ("Around the gateway", "whoever asks"),
    };
    let url = output::harmless(&finding.url);
    let http = finding.http.words();
    if let Some(reason) = &finding.closed {
        return format!("{way}: {url} is closed to strangers: {reason}.");
    }
    let status = output::or_dash(finding.status);
    let mut text = format!("{way}: {url} answers {status} to {to} over {http}.");
    if !finding.steady {
        text.push_str(
            " Its answers differ from one request to the next, so only status and echoes were compared.",
        );
    }
    let mut table = Table::new(&["HEADER", "AS IT IS", "x_y_z", "x.y.z", "x-y_z"]);
    let (mut rows, mut rest) = (0, Vec::new());
    for trials in finding.trials.chunk_by(|a, b| a.header == b.header) {
        if trials.iter().all(|trial| nothing(trial.effect)) {
            rest.extend(trials);
            continue;
        }
        rows += 1;
        let cell = |spelling| {
            let of = |trial: &&Trial| trial.spelling == spelling;
            output::or_dash(trials.iter().find(of).map(|trial| trial.effect.words()))
        };
        table.row(
            [trials[0].header.clone()]
                .into_iter()
                .chain(Spelling::ALL.map(cell)),
        );
    }
    if rows > 0 {
        text.push_str(&format!("\n{table}"));
    }
    if !rest.is_empty() {
        text.push_str(&format!("\n{}", summary(&rest, rows > 0)));
    }
    text
}

/// Whether an effect needs no line of its own.
fn nothing(effect: Effect) -> bool {
    match effect {
        Effect::Nothing | Effect::RefusedByTheGateway | Effect::RefusedAsMalformed => true,
        Effect::Reflected | Effect::ChangedTheAnswer => false,
    }
}

fn summary(trials: &[&Trial], others: bool) -> String {
    let count = |effect| trials.iter().filter(|trial| trial.effect == effect).count();
    let parts: Vec<_> = [
        Effect::Nothing,
        Effect::RefusedByTheGateway,
        Effect::RefusedAsMalformed,
    ]
    .into_iter()
    .filter(|effect| count(*effect) > 0)
    .map(|effect| format!("{} {}", count(effect), effect.words()))
    .collect();
    let rest = if others { "the rest of " } else { "" };
    let number = output::count(trials.len() as u64, "forgery", "forgeries");
    format!("Of {rest}{number}: {}.", parts.join(", "))
}

/// Who believes what was forged, in sentences.
fn verdict(findings: &[Finding]) -> Vec<String> {
    let believing = |which| {
        let at = |finding: &&Finding| finding.door == which;
        let trials = findings.iter().filter(at).flat_map(|one| &one.trials);
        trials.filter(|trial| trial.believed).count()
    };
    let mut sentences = Vec::new();
    let through = believing(Which::Gateway);
    if through > 0 {
        sentences.push(format!(
            "{} believed through the gateway, which must never be: report it.",
            were(through)
        ));
    }
    let around = believing(Which::Upstream);
    if around > 0 {
        sentences.push(format!(
            "{} believed around the gateway: whoever reaches the upstream is whom they please. Let it take requests from the gateway alone.",
            were(around)
        ));
    }
    sentences
}

fn were(number: usize) -> String {
    output::count(number as u64, "forgery was", "forgeries were")
}
