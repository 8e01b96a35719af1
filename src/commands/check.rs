//! `keybound check`: every mistake at once, nothing started.

use std::path::PathBuf;

use serde::Serialize;

use super::{Failure, output, up};
use crate::config::Purpose;
use crate::configuration::{Fault, Flags, Source};
use crate::{clock, foreign, lint};

#[derive(Serialize)]
struct Report {
    mistakes: Vec<String>,
}

pub(super) fn run(data: Option<PathBuf>, path: PathBuf, json: bool) -> Result<(), Failure> {
    let source = Source {
        file: Some(path),
        flags: Flags {
            data: data.map(up::text).transpose()?,
            ..Flags::default()
        },
        purpose: Purpose::Serve,
    };
    let judged = source.load();
    if json {
        let mistakes = match &judged {
            Ok(_) => Vec::new(),
            Err(Fault::Mistakes { mistakes, .. }) => {
                mistakes.iter().map(ToString::to_string).collect()
            }
            Err(Fault::Unreadable { .. } | Fault::Contradiction { .. }) => {
                return judged.map(drop).map_err(Into::into);
            }
        };
        output::json(&Report { mistakes })?;
    } else if let Ok(loaded) = &judged {
        output::print(format!("{}: no mistakes", source.name()))?;
        let gateway = loaded.config.gateway.as_ref();
        for files in gateway.map_or(&[][..], |gateway| &gateway.certificates) {
            if let Some(warning) = lint::expiry(&files.read, clock::now()) {
                output::note(warning);
            }
        }
        let shown = lint::shown(gateway.map_or(&[][..], |gateway| &gateway.routes));
        for (upstream, validity) in &shown {
            if let Some(warning) = lint::upstream(upstream, *validity, clock::now()) {
                output::note(warning);
            }
        }
        for older in foreign::older_files(&loaded.config) {
            output::note(format!(
                "{older}; a start would be refused, and a reload would change nothing"
            ));
        }
        for anchor in foreign::anchors_of(&loaded.config) {
            for warning in lint::anchor(anchor, clock::now()) {
                output::note(warning);
            }
        }
    }
    judged.map(drop).map_err(Into::into)
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Contradiction { .. } => Self::usage(fault.to_string()),
            Fault::Unreadable { .. } | Fault::Mistakes { .. } => Self::refused(fault.to_string()),
        }
    }
}
