//! Why the server does not start, or ended.

use std::io;
use std::path::PathBuf;

use tokio::task::JoinError;

use crate::foreign::Older;
use crate::service_manager::InheritedFault;
use crate::{assertion_key, server_certificate};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartFault {
    #[error("{0}")]
    Open(#[from] ca::OpenError),
    #[error("{} is writable by others (mode {mode:o}), who could replace the CA's keys; run chmod go-w on it, or choose another directory with --data", .directory.display())]
    OpenToOthers { directory: PathBuf, mode: u32 },
    #[error("{} has a server certificate and no CA; put back its folder ca from a backup, or choose an empty directory with --data", .directory.display())]
    CaMissing { directory: PathBuf },
    #[error("{} cannot be used: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Listen(String),
    #[error("{0}")]
    Foreign(String),
    #[error(
        "{older}; {} If its CA began to number its lists anew, or its clock was wrong, and so there is none: take the entries with the authority {} out of {}{}",
        first(.unanswered.as_deref()),
        .older.authority,
        .marks.display(),
        also_remove(.older)
    )]
    OlderList {
        marks: PathBuf,
        older: Box<Older>,
        /// What is wrong with the URLs that may have a newer one.
        unanswered: Option<String>,
    },
    #[error("{0}")]
    Inherited(#[from] InheritedFault),
    #[error("the admin socket {} cannot be made: {error}; its path may have at most 107 bytes, in a directory that the server may write to", .path.display())]
    AdminSocket { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Certificate(#[from] server_certificate::Fault),
    #[error("{0}")]
    AssertionKey(#[from] assertion_key::Fault),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the CA's certificate cannot be an anchor: {0}")]
    Anchor(#[from] identity::chain::AnchorError),
    #[error("the gateway {0}")]
    Gateway(#[from] gateway::StartFault),
    #[error("{0}")]
    Unavailable(#[from] ca::Unavailable),
    #[error("the access log has no thread: {0}")]
    AccessLogThread(io::Error),
    #[error("{0}")]
    AccessLog(String),
    #[error("a part of the server failed while it started; its log says more")]
    Panicked,
}

/// What is to be done first.
fn first(unanswered: Option<&str>) -> String {
    match unanswered {
        None => "put a newer one in its place.".to_owned(),
        Some(fault) => format!(
            "a URL that may have a newer one gave none: {fault}. See that it answers, or wait for it, and start again; nothing has to be forgotten for that."
        ),
    }
}

/// Lists that were kept of URLs are taken up again with a start.
fn also_remove(older: &Older) -> String {
    match &*older.kept {
        [] => String::new(),
        files => format!(
            ", and remove {} beside it, if it is there",
            files.join(" and ")
        ),
    }
}

/// Why the server ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the part {0:?} of the server ended by itself; its log says more")]
    Part(&'static str),
    #[error("{0}")]
    Registry(std::sync::Arc<ca::RegistryFault>),
}

impl Ended {
    pub(super) fn of(ended: Option<Result<&'static str, JoinError>>) -> Self {
        let part = match ended {
            Some(Ok(part)) => part,
            Some(Err(error)) => {
                tracing::error!(%error, "a part of the server failed");
                "unknown"
            }
            None => "all",
        };
        Self::Part(part)
    }
}
