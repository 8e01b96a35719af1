//! A file or URL with lists of revoked certificates.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use identity::revocation_list::{MAX_LENGTH, lists_in};
use identity::{CaCertificate, CrlFault, RevocationList};

use super::certificate_files::FileStamp;
use super::crl_url::CrlUrl;
use crate::files;

/// Where lists come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CrlPlace {
    File(PathBuf),
    Url(CrlUrl),
}

/// A place, and the lists that were last found there and could be used.
#[derive(Clone, Debug)]
pub(crate) struct CrlSource {
    pub(crate) place: CrlPlace,
    /// None behind a URL that was not asked yet.
    pub(crate) lists: Vec<Arc<RevocationList>>,
    /// How the file looked when it was read.
    pub(crate) stamp: Option<FileStamp>,
}

impl CrlPlace {
    /// A URL if it looks like one. The error is the sentence that says what to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return CrlUrl::parse(text).map(Self::Url);
        }
        if text.trim().is_empty() {
            return Err("crl is blank; name a file or URL, or write \"none\"".to_owned());
        }
        Ok(Self::File(PathBuf::from(text)))
    }

    pub(crate) fn is_tls(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Url(url) => url.is_tls,
        }
    }
}

impl fmt::Display for CrlPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl CrlSource {
    /// Reads a file, and leaves what is behind a URL for later. The error is a sentence about the file.
    pub(crate) fn read(place: CrlPlace, authorities: &[CaCertificate]) -> Result<Self, String> {
        let CrlPlace::File(path) = &place else {
            return Ok(Self {
                place,
                lists: Vec::new(),
                stamp: None,
            });
        };
        // Before it is read, so that no change behind it is missed.
        let stamp = FileStamp::of(path);
        let lists = read_file(path)
            .and_then(|bytes| read_lists(bytes, authorities).map_err(|fault| fault.to_string()))
            .map_err(|fault| format!("{place}: {fault}"))?;
        Ok(Self {
            lists,
            stamp,
            place,
        })
    }

    /// Takes what was found there now, unless a list of it is older than the one before.
    pub(crate) fn replace(
        &mut self,
        lists: Vec<Arc<RevocationList>>,
        stamp: Option<FileStamp>,
    ) -> Result<(), CrlFault> {
        for list in &lists {
            let mut same = self.lists.iter();
            let same = same.find(|one| (one.issuer, one.scope) == (list.issuer, list.scope));
            if let Some(before) = same {
                list.check_follows(before)?;
            }
        }
        self.lists = lists;
        self.stamp = stamp;
        Ok(())
    }
}

/// Reads and verifies lists.
pub(crate) fn read_lists(
    bytes: Vec<u8>,
    authorities: &[CaCertificate],
) -> Result<Vec<Arc<RevocationList>>, CrlFault> {
    let now = ca::now();
    let lists = lists_in(bytes)?;
    let read = |der: &Vec<u8>| RevocationList::read(der, authorities, now).map(Arc::new);
    lists.iter().map(read).collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("it cannot be read: {error}");
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    // A pipe would be waited for.
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    // Without reading it first.
    if metadata.len() > MAX_LENGTH as u64 {
        return Err(CrlFault::TooLarge.to_string());
    }
    files::read_at_most(path, MAX_LENGTH).map_err(cannot)
}
