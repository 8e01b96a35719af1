//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Reads a file of at most `limit` bytes; a longer one is refused without reading it all.
pub(crate) fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut content)?;
    if content.len() > limit {
        let sentence =
            format!("it is longer than {limit} bytes, so it is not the file that is meant");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, sentence));
    }
    Ok(content)
}

/// Replaces a file by its new content, which is on the disk when this returns.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, true)
}

/// Replaces a file by its new content; after a power failure it may be damaged.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, false)
}

fn put(path: &Path, content: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}", std::process::id()));
    let unfinished = Unfinished(directory.join(name));
    // Left over by a process of the same number that was killed.
    let _ = fs::remove_file(&unfinished.0);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&unfinished.0)?;
    file.write_all(content)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&unfinished.0, path)?;
    if durable {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Removed if it did not reach its place.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
