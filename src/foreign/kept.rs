//! The last good lists that URLs led to, kept beside the registry: so that a start does not need whoever serves them, and
//! takes none that is older than it had (RFC 5280 leaves a list in force until its nextUpdate).

use std::io;
use std::path::{Path, PathBuf};

use identity::Fingerprint;
use identity::revocation_list::MAX_LENGTH;

use crate::config::CrlUrl;
use crate::files;

/// What was kept of a URL. It is verified like everything that comes from there.
pub(super) fn read(data: &Path, url: &CrlUrl) -> Option<Vec<u8>> {
    files::read_at_most(&place(data, url), MAX_LENGTH).ok()
}

/// Keeps what a URL led to. A failure is told in the log, and harms nothing but the next start.
pub(crate) async fn keep(data: &Path, url: &CrlUrl, bytes: Vec<u8>) {
    let place = place(data, url);
    let written = tokio::task::spawn_blocking(move || write(&place, &bytes)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(crl = %url, %error, "a list of revoked certificates cannot be kept for the next start");
        }
        Err(error) => tracing::error!(crl = %url, %error, "keeping a list failed"),
    }
}

fn write(place: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    files::write_atomically(place, bytes, 0o600)
}

fn place(data: &Path, url: &CrlUrl) -> PathBuf {
    let name = Fingerprint::of(url.to_string().as_bytes());
    data.join("crl").join(format!("{name}.crl"))
}
