//! `keybound check`: every mistake at once, nothing started.

use std::path::Path;

use serde::Serialize;

use super::{Failure, output};
use crate::config::file::ConfigFile;
use crate::config::{self, Config, Mistake, Place, Purpose};
use crate::files;

#[derive(Serialize)]
struct Report {
    mistakes: Vec<String>,
}

pub(super) fn run(path: &Path, json: bool) -> Result<(), Failure> {
    let (file, mistakes) = read(path)?;
    let judged = config::check(file, Purpose::Serve, host_name().as_deref(), mistakes);
    let mistakes = judged.err().unwrap_or_default();
    if json {
        output::json(&Report {
            mistakes: mistakes.iter().map(ToString::to_string).collect(),
        })?;
    } else if mistakes.is_empty() {
        output::print(format!("{}: no mistakes", path.display()))?;
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(report(&path.display(), &mistakes)))
}

/// The file as written, with what cannot be read of it.
pub(super) fn read(path: &Path) -> Result<(ConfigFile, Vec<Mistake>), Failure> {
    let source = files::read_at_most(path, LONGEST_FILE)
        .map_err(|error| Failure::file("read", path, &error))?;
    let valid = match std::str::from_utf8(&source) {
        Ok(text) => return Ok(ConfigFile::parse(text)),
        Err(error) => error.valid_up_to(),
    };
    // The rest of it is read all the same, so that every mistake is in one report.
    let (file, mut mistakes) = ConfigFile::parse(&String::from_utf8_lossy(&source));
    let lines_before = source[..valid].iter().filter(|byte| **byte == b'\n');
    mistakes.push(Mistake {
        place: Place::Line(lines_before.count() + 1),
        sentence: "this is not UTF-8; save the file in that encoding".to_owned(),
    });
    Ok((file, mistakes))
}

/// The configuration, or all its mistakes as one failure.
pub(super) fn judge(
    name: &dyn std::fmt::Display,
    file: ConfigFile,
    mistakes: Vec<Mistake>,
    purpose: Purpose,
) -> Result<Config, Failure> {
    config::check(file, purpose, host_name().as_deref(), mistakes)
        .map_err(|mistakes| Failure::refused(report(name, &mistakes)))
}

fn report(name: &dyn std::fmt::Display, mistakes: &[Mistake]) -> String {
    let number = output::count(mistakes.len() as u64, "mistake", "mistakes");
    let mut text = format!("{name}: {number}");
    for mistake in mistakes {
        text.push_str(&format!("\n  {mistake}"));
    }
    text
}

/// This machine's name, if it is text.
fn host_name() -> Option<String> {
    rustix::system::uname()
        .nodename()
        .to_str()
        .ok()
        .map(str::to_owned)
}

/// Thousands of routes fit.
const LONGEST_FILE: usize = 1024 * 1024;
