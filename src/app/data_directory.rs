//! The data directory: who may write to it, and the file that says where everything listens.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::StartFault;
use crate::files;

/// Where everything listens: the content of `addresses.json`, as somebody on this machine reaches it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Addresses {
    pub(crate) gateway: Option<SocketAddr>,
    pub(crate) enrollment: Option<SocketAddr>,
    pub(crate) health: Option<SocketAddr>,
    pub(crate) admin: PathBuf,
}

impl Addresses {
    /// Says where everything listens, once everything does.
    pub(super) fn announce(&self, data: &Path) -> Result<(), StartFault> {
        let path = data.join(ADDRESSES);
        let text = serde_json::to_vec_pretty(self)
            .expect("addresses and a path that came from text have a JSON form");
        files::write_atomically(&path, &text, 0o600)
            .map_err(|error| StartFault::File { path, error })
    }

    /// Says no more that anything listens.
    pub(super) fn withdraw(data: &Path) -> Result<(), StartFault> {
        remove_if_present(&data.join(ADDRESSES))
    }
}

/// Removes what processes that were killed left unfinished. What cannot be removed is in nobody's way but the disk's.
pub(super) fn remove_unfinished(data: &Path) {
    for folder in ["", "ca", "crl", "gateway"] {
        let folder = data.join(folder);
        if let Err(error) = files::remove_unfinished(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "an unfinished file cannot be removed");
        }
    }
}

/// Makes the data directory for its owner alone; one that is there is closed to others, unless they could
/// have put something into it.
pub(super) fn prepare(directory: &Path) -> Result<(), StartFault> {
    let fault = |error| StartFault::File {
        path: directory.to_owned(),
        error,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(fault)?;
    let mode = fs::metadata(directory).map_err(fault)?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StartFault::OpenToOthers {
            directory: directory.to_owned(),
            mode,
        });
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(fault)?;
    // A first start makes a CA. Where there was one, a new one would turn every device away.
    let exists = |name: &str| fs::symlink_metadata(directory.join(name)).is_ok();
    if exists("gateway") && !exists("ca") {
        return Err(StartFault::CaMissing {
            directory: directory.to_owned(),
        });
    }
    Ok(())
}

/// Removes a file that may be gone already.
pub(super) fn remove_if_present(path: &Path) -> Result<(), StartFault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StartFault::File {
            path: path.to_owned(),
            error,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The file in the data directory that says where everything listens.
const ADDRESSES: &str = "addresses.json";
