//! The checks of `[gateway.access_log]` and `[telemetry]`.

use std::path::{Path, PathBuf};

use gateway::{Sample, Scheme, TraceMode, UpstreamAddress};

use super::check::Notes;
use super::file_telemetry::{AccessLogTable, TelemetryTable};
use super::{AccessLogSettings, Collector, Destination, Format, Located, TelemetryConfig, values};

impl Notes {
    /// Judges `[gateway.access_log]`. `None` where there was a mistake.
    pub(super) fn access_log(&mut self, table: AccessLogTable) -> Option<AccessLogSettings> {
        let format = match table.format {
            None => Some(Format::Json),
            Some(Located { place, value }) => self.take(place, values::log_format(&value)),
        };
        let destination = match table.file {
            None => {
                let sentence = "[gateway.access_log] needs file: a path, or \"stdout\"";
                self.note(table.place, sentence);
                None
            }
            Some(Located { place, value }) => self.take(place, destination(&value)),
        };
        Some(AccessLogSettings {
            destination: destination?,
            format: format?,
        })
    }
}

impl Notes {
    /// Judges `[telemetry]`.
    pub(super) fn telemetry(&mut self, table: TelemetryTable) -> TelemetryConfig {
        let mode = table.trace.as_ref().map(|trace| trace.value.as_str());
        let trace = match mode {
            None | Some("pass") => TraceMode::Pass,
            Some("restart") => TraceMode::Restart,
            Some("off") => TraceMode::Off,
            Some(other) => {
                let place = table
                    .trace
                    .as_ref()
                    .map_or(table.place, |trace| trace.place);
                let sentence = format!("trace = {other:?}: write \"pass\", \"restart\" or \"off\"");
                self.note(place, sentence);
                TraceMode::Pass
            }
        };
        let sample = match table.sample {
            Some(Located { place, .. }) if table.otlp.is_none() => {
                self.note(
                    place,
                    "sample is of the spans that are sent to otlp, which is not there",
                );
                None
            }
            Some(Located { place, value }) => self.take(place, share(&value)),
            None => Sample::new(1.0),
        };
        let collector = match table.otlp {
            None => None,
            Some(Located { place, .. }) if trace == TraceMode::Off => {
                self.note(
                    place,
                    "with trace = \"off\" there are no spans to be sent to otlp",
                );
                None
            }
            Some(Located { place, value }) => self.take(place, collector(&value)),
        };
        TelemetryConfig {
            trace,
            export: collector.zip(sample),
        }
    }
}

/// `http://host:port`, to whose default path for spans they are sent, or `http://host:port/path`.
fn collector(text: &str) -> Result<Collector, String> {
    let fault = |why: &str| Err(format!("otlp = {text:?}: {why}"));
    let Some(rest) = text.strip_prefix("http://") else {
        return fault(
            "it must start with http://; a collector on this machine, or one that only the gateway reaches, sends spans on over TLS",
        );
    };
    let (authority, path) = match rest.split_once('/') {
        None | Some((_, "")) => (rest.trim_end_matches('/'), DEFAULT_PATH.to_owned()),
        Some((authority, path)) => (authority, format!("/{path}")),
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    if !path.bytes().all(legal) {
        return fault("its path must be plain: letters, digits, /, -, ., _ and ~");
    }
    match format!("http://{authority}").parse() {
        Ok(UpstreamAddress::Tcp {
            scheme: Scheme::Http,
            ..
        }) if authority.ends_with(']') || !authority.contains(':') => {
            fault("say its port; collectors usually listen on 4318")
        }
        Ok(UpstreamAddress::Tcp { .. }) => Ok(Collector {
            authority: authority.to_ascii_lowercase(),
            path,
        }),
        Ok(UpstreamAddress::Unix(_)) => fault("it must be a host and a port"),
        Err(error) => fault(&error.to_string()),
    }
}

/// `10%` or `0.1%`.
fn share(text: &str) -> Result<Sample, String> {
    let percent = text.strip_suffix('%').map(str::trim);
    let digits = |percent: &&str| {
        percent
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    percent
        .filter(digits)
        .and_then(|percent| percent.parse::<f64>().ok())
        .and_then(|percent| Sample::new(percent / 100.0))
        .ok_or_else(|| {
            format!("sample = {text:?}: write a share from \"0%\" to \"100%\", such as \"5%\"")
        })
}

/// Where a text says that lines go. What is there is looked at; nothing is made.
fn destination(text: &str) -> Result<Destination, String> {
    if text == "stdout" {
        return Ok(Destination::Stdout);
    }
    let path = PathBuf::from(text);
    let fault = |why: &str| Err(format!("the access log {text:?} is refused: {why}"));
    if text.trim().is_empty() || text.ends_with('/') {
        return fault("name a file, or \"stdout\"");
    }
    if text.chars().any(char::is_control) {
        return fault("its name has control characters");
    }
    match path.metadata() {
        Ok(present) if !present.is_file() => return fault("it is not a regular file"),
        Ok(_) => return Ok(Destination::File(path)),
        // It is made.
        Err(_) => {}
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    if directory.is_dir() {
        Ok(Destination::File(path))
    } else {
        fault("its directory is not there")
    }
}

/// OTLP specification, "OTLP/HTTP Request".
const DEFAULT_PATH: &str = "/v1/traces";
