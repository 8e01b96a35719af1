//! What is told of requests, and to whom.

use std::fmt;
use std::path::PathBuf;

use gateway::{Sample, TraceMode};

/// Where the lines of the access log go, and how they look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccessLogSettings {
    pub(crate) destination: Destination,
    pub(crate) format: Format,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Stdout,
    File(PathBuf),
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON object.
    Json,
    /// As Apache and nginx call it, with the request's id at its end.
    Combined,
}

/// What traces are told of requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TelemetryConfig {
    pub(crate) trace: TraceMode,
    /// Where spans are sent, and how many of them.
    pub(crate) export: Option<(Collector, Sample)>,
}

/// A collector of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    /// `host:port`, an IPv6 address in brackets.
    pub(crate) authority: String,
    /// Where spans are sent to.
    pub(crate) path: String,
}

impl fmt::Display for AccessLogSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = match self.format {
            Format::Json => "json",
            Format::Combined => "combined",
        };
        match &self.destination {
            Destination::Stdout => write!(f, "stdout, {format}"),
            Destination::File(path) => write!(f, "{}, {format}", path.display()),
        }
    }
}
