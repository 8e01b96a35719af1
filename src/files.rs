//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
    // Two may write the same file at the same time, and each is to put a whole one in its place.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}.{number}", std::process::id()));
    let unfinished = Unfinished(directory.join(name));
    #[cfg(feature = "failpoints")]
    hang(path);
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

/// Removes what processes that were killed had begun to write into this directory. For whoever is the only one to write there.
pub(crate) fn remove_unfinished(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(is_unfinished);
        if is_ours && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a file's name is one that [`put`] gives before the file is whole.
fn is_unfinished(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut parts = name.rsplitn(3, '.');
    let numbers = [parts.next(), parts.next()];
    let rest = parts.next().unwrap_or_default();
    numbers.into_iter().all(|part| part.is_some_and(is_number))
        && rest.len() > 1
        && rest.starts_with('.')
}

/// How many files this process has begun to write.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Where tests let the writing of a file hang, as if its disk did not answer, for as long as there is another one beside it.
#[cfg(feature = "failpoints")]
fn hang(path: &Path) {
    fail::fail_point!("files::put", |extension| {
        let beside = path.with_extension(extension.unwrap_or_default());
        while beside.exists() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
}

/// Removed if it did not reach its place.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_finished_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = [
            ".list.crl.1.0",
            ".list.77.1234",
            "list.1.2",
            ".list.1",
            ".list.x.1",
            "..1.2",
        ];
        for name in names {
            fs::write(folder.path().join(name), name).expect("written");
        }
        // Only files are ours.
        fs::create_dir(folder.path().join(".list.2.2")).expect("made");
        remove_unfinished(folder.path()).expect("removed");
        remove_unfinished(&folder.path().join("none")).expect("nothing to do");
        let mut left: Vec<_> = (fs::read_dir(folder.path()).expect("read"))
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["..1.2", ".list.1", ".list.2.2", ".list.x.1", "list.1.2"]
        );
    }

    #[test]
    fn two_who_write_the_same_file_each_write_a_whole_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list");
        let written: Vec<Vec<u8>> = (0..4_u8).map(|byte| vec![byte; 1 << 20]).collect();
        std::thread::scope(|scope| {
            for content in &written {
                scope.spawn(|| {
                    for _ in 0..50 {
                        replace(&path, content, 0o600).expect("written");
                        let read = fs::read(&path).expect("it is there");
                        assert!(written.contains(&read), "{} bytes", read.len());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1);
    }
}
