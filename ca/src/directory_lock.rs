//! One process per data directory.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::authority::OpenError;

/// Held for as long as an authority is open.
pub(crate) struct DirectoryLock(File);

impl DirectoryLock {
    /// Takes the lock of a directory, or says who has it: somebody.
    pub(crate) fn take(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| OpenError::Lock { file: path, error })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse {
                directory: directory.to_owned(),
            }),
            Err(error) => Err(OpenError::Files(error.into())),
        }
    }
}

impl Drop for DirectoryLock {
    /// Closing the file would do, but for a child that another thread has just forked: it holds the file open, and with it the
    /// lock, until it executes its program.
    fn drop(&mut self) {
        // What cannot be unlocked is closed next.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
