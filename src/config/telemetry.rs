//! What is told of requests, and to whom.

use std::fmt;
use std::path::PathBuf;

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
