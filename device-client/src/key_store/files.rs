//! File operations that survive a loss of power: what a function here reports as done is on the disk.
//!
//! A file is written under another name, synced and renamed, and the directory is synced after that, so
//! that under its own name it is only ever whole. The names that end in `.new` are nobody's: whoever holds
//! the store's lock may remove them.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use super::StoreError;

/// Makes a directory that only its owner may enter.
pub(super) fn make_directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|source| failed("made", path, source))?;
    observed("made", path);
    sync_directory(parent(path))
}

/// Puts `bytes` at `directory/name`, in place of what is there.
pub(super) fn write(
    directory: &Path,
    name: &str,
    bytes: &[u8],
    mode: u32,
) -> Result<(), StoreError> {
    let (temporary, path) = (temporary(directory, name), directory.join(name));
    remove_file(&temporary)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || -> io::Result<()> {
        let mut file = File::from(rustix::fs::open(
            &temporary,
            flags,
            Mode::from_raw_mode(mode),
        )?);
        observed("made", &temporary);
        file.write_all(bytes)?;
        observed("written", &temporary);
        file.sync_all()
    };
    write().map_err(|source| failed("written", &temporary, source))?;
    observed("synced", &temporary);
    fs::rename(&temporary, &path).map_err(|source| failed("renamed", &temporary, source))?;
    observed("renamed", &temporary);
    sync_directory(directory)
}

/// Makes `directory/name` a symbolic link to `target`, in place of the link that is there.
pub(super) fn link(directory: &Path, name: &str, target: &str) -> Result<(), StoreError> {
    let (temporary, path) = (temporary(directory, name), directory.join(name));
    remove_file(&temporary)?;
    symlink(target, &temporary).map_err(|source| failed("made", &temporary, source))?;
    observed("made", &temporary);
    fs::rename(&temporary, &path).map_err(|source| failed("renamed", &temporary, source))?;
    observed("renamed", &temporary);
    sync_directory(directory)
}

/// Removes a file or a link; it is no error if there is none.
pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => {
            observed("removed", path);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("removed", path, source)),
    }
}

/// Removes an empty directory.
pub(super) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    fs::remove_dir(path).map_err(|source| failed("removed", path, source))?;
    observed("removed", path);
    sync_directory(parent(path))
}

/// What a file holds, and its permission bits.
pub(super) struct Content {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) mode: u32,
}

/// Reads a file of at most `limit` bytes that is no symbolic link; `None` if there is none.
///
/// The permission bits are those of the very file that was read.
pub(super) fn read(path: &Path, limit: usize) -> Result<Option<Content>, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed("opened", path, error.into())),
    };
    let read = || -> io::Result<Content> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
        (&file)
            .take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1))
            .read_to_end(&mut bytes)?;
        Ok(Content {
            bytes,
            mode: metadata.mode() & 0o7777,
        })
    };
    let content = read().map_err(|source| failed("read", path, source))?;
    if content.bytes.len() > limit {
        return Err(StoreError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(Some(content))
}

/// Makes what was created, renamed or removed in `path` durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| failed("synced", path, source))?;
    observed("synced", path);
    Ok(())
}

/// The directory that holds `path`; of a bare name, the current one.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn temporary(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}{TEMPORARY}"))
}

/// How the names end that a crash may leave behind.
pub(super) const TEMPORARY: &str = ".new";

/// Where a crash could happen: tests look at the folder here, after every single operation.
#[cfg(not(test))]
fn observed(_operation: &'static str, _path: &Path) {}

#[cfg(test)]
fn observed(operation: &'static str, path: &Path) {
    observer::OBSERVER.with_borrow_mut(|observer| {
        if let Some(observer) = observer {
            observer(operation, path);
        }
    });
}

#[cfg(test)]
pub(super) mod observer {
    use std::cell::RefCell;

    use std::path::Path;

    pub(in super::super) type Observer = Box<dyn FnMut(&'static str, &Path)>;

    thread_local! {
        pub(in super::super) static OBSERVER: RefCell<Option<Observer>> = RefCell::default();
    }
}
