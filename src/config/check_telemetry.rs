//! The checks of what is told of requests.

use std::path::{Path, PathBuf};

use super::check::Notes;
use super::file_telemetry::AccessLogTable;
use super::{AccessLogSettings, Destination, Format, Located, values};

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
