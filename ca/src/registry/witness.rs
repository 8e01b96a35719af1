//! The file with the witness (`crate::pure::witness`): compared at a start, written after every commit.
//!
//! It is written after the commit is durable and before it is answered, in place and without a sync: so it is never
//! ahead of the database, a process that is killed leaves it as far as its last answer, and a machine that loses its
//! power leaves it a little behind, which only notices less.
//!
//! Without the file, or with one that cannot be read, a start goes on, with an alarm, and writes it anew. It is no
//! more than a second opinion on a database that has passed every check of its own; a refusal would turn a lost
//! line into a lost service, and stop no one: who can take away a part of the database can take the line away, too.
//! And a backup without it, or of a version before it, must start. For the same reason a line that cannot be written
//! is an alarm, and does not stop issuance.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::schema::RegistryFault;
use crate::pure::journal::Head;
use crate::pure::seal::SealKey;
use crate::pure::witness::{LENGTH, Witness};

/// The file, once the registry beside it was believed.
pub(super) struct WitnessFile {
    path: PathBuf,
    /// `None` until it could be written.
    file: Option<File>,
    written: Option<Witness>,
    /// That it cannot be written.
    told: bool,
    /// Whether the newest entry is in it, for others to read.
    is_current: Arc<AtomicBool>,
}

/// What the file of this registry says, if there is one that says something.
pub(super) fn read(registry: &Path, key: &SealKey) -> Option<Witness> {
    let path = beside(registry);
    match read_line(&path) {
        Ok(line) => {
            let witness = Witness::parse(&line, key);
            if witness.is_none() {
                tracing::error!(
                    target: "alarm", file = %path.display(),
                    "what was written down of the journal's end cannot be read: it was altered, or is another CA's. It \
                     is written anew; whether the registry is its newest one was not compared"
                );
            }
            witness
        }
        Err(error) => {
            tracing::error!(
                target: "alarm", file = %path.display(), %error,
                "what was written down of the journal's end is not there, as after the first start of a newer version. It \
                 is written anew; whether the registry is its newest one was not compared"
            );
            None
        }
    }
}

/// Compares a registry that is whole with what its file said. `entry` is the journal's hash at a number.
pub(super) fn compare(
    registry: &Path,
    witness: &Witness,
    head: &Head,
    entry: Option<identity::Fingerprint>,
) -> Result<(), RegistryFault> {
    let file = beside(registry);
    if witness.seq > head.seq {
        return Err(RegistryFault::Older {
            ends: head.seq,
            witnessed: witness.seq,
            file,
        });
    }
    if witness.seq > 0 && entry != Some(witness.hash) {
        return Err(RegistryFault::OtherPast {
            seq: witness.seq,
            file,
        });
    }
    Ok(())
}

impl WitnessFile {
    pub(super) fn of(registry: &Path) -> Self {
        Self {
            path: beside(registry),
            file: None,
            written: None,
            told: false,
            is_current: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Whether the newest entry is in it, from now on.
    pub(super) fn is_current(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_current)
    }

    /// Writes down where the journal ends. If that fails it is told once, and tried again after the next commit.
    pub(super) fn write(&mut self, head: &Head, key: &SealKey) {
        let witness = Witness {
            seq: head.seq,
            hash: head.hash,
        };
        if self.written == Some(witness) {
            return;
        }
        match self.try_write(witness.line(key).as_bytes()) {
            Ok(()) => {
                self.written = Some(witness);
                self.told = false;
                self.is_current.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                // It may have been the file: the next time it is made anew.
                self.file = None;
                self.written = None;
                self.is_current.store(false, Ordering::Relaxed);
                if !std::mem::replace(&mut self.told, true) {
                    tracing::error!(
                        target: "alarm", file = %self.path.display(), %error,
                        "the journal's end cannot be written down; until it can, a start may not notice that the \
                         registry's newest part is missing"
                    );
                }
            }
        }
    }

    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        match &self.file {
            // One small write to one block: it is there as a whole, or not at all.
            Some(file) => file.write_all_at(line, 0),
            None => {
                self.file = Some(replace(&self.path, line)?);
                Ok(())
            }
        }
    }
}

/// `registry.head` beside `registry.sqlite`.
fn beside(registry: &Path) -> PathBuf {
    registry.with_extension("head")
}

fn read_line(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        // Opening a pipe must not wait for who writes to it.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let mut line = Vec::with_capacity(LENGTH + 1);
    file.take(LENGTH as u64 + 1).read_to_end(&mut line)?;
    Ok(line)
}

/// A file with this content in the place of whatever is there, which stays until then.
fn replace(path: &Path, content: &[u8]) -> io::Result<File> {
    let new = path.with_extension("head.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all_at(content, 0)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(file)
}
