//! The last good lists that URLs led to, kept beside the registry: so that a start does not need whoever serves them, and
//! takes none that is older than it had (RFC 5280 leaves a list in force until its nextUpdate).

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use identity::Fingerprint;
use identity::revocation_list::MAX_LENGTH;

use crate::config::CrlUrl;
use crate::files;

/// What was kept of a URL, if anything was. It is verified like everything that comes from there.
pub(super) async fn read(data: &Path, url: &CrlUrl) -> io::Result<Option<Bytes>> {
    let place = place(data, url);
    let reading = tokio::task::spawn_blocking(move || files::read_at_most(&place, MAX_LENGTH));
    match reading.await.map_err(io::Error::other)? {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps what a URL led to. A failure harms nothing but the next start.
pub(crate) async fn keep(data: &Path, url: &CrlUrl, bytes: Bytes) -> io::Result<()> {
    let place = place(data, url);
    let writing = tokio::task::spawn_blocking(move || write(&place, &bytes));
    writing.await.map_err(io::Error::other)?
}

fn write(place: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    files::write_atomically(place, bytes, 0o600)
}

fn place(data: &Path, url: &CrlUrl) -> PathBuf {
    data.join("crl").join(file_name(url))
}

/// SHA-256 of the URL in hexadecimal, and an extension.
pub(super) fn file_name(url: &CrlUrl) -> String {
    format!("{}.crl", Fingerprint::of(url.to_string().as_bytes()))
}
