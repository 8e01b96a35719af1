//! A server certificate in two files: read whole, or the sentence that says what is wrong with which of them.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use gateway::tls::NamedCertificate;
use zeroize::Zeroizing;

/// A certificate, and the files that it was read from.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) read: NamedCertificate,
    /// How the files looked when they were read.
    pub(crate) stamp: Stamp,
}

/// What is wrong with a pair of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilesFault {
    /// The key's file is at fault, rather than the certificate's.
    pub(crate) concerns_key: bool,
    /// The system did not let it be read, which says nothing of what is in it.
    pub(crate) is_unreadable: bool,
    pub(crate) sentence: String,
}

/// What tells that a file is another one, or has another content: of the certificate and of the key, or nothing where
/// there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp([Option<FileStamp>; 2]);

/// Of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds. A change of mode is a change, too: it may be what was missing.
    changed: (i64, i64),
}

impl CertificateFiles {
    /// Reads and judges both files. Nobody but its owner may be able to read the key.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self, FilesFault> {
        let fault = |concerns_key, path: &Path, sentence: &dyn std::fmt::Display| FilesFault {
            concerns_key,
            is_unreadable: false,
            sentence: format!("{}: {sentence}", path.display()),
        };
        let unreadable = |concerns_key, path: &Path, error: io::Error| FilesFault {
            is_unreadable: true,
            ..fault(concerns_key, path, &format!("it cannot be read: {error}"))
        };
        // Before they are read, so that no change behind it is missed.
        let stamp = Stamp::of(certificate, key);
        let (chain, _) =
            read(certificate).map_err(|error| unreadable(false, certificate, error))?;
        let (secret, metadata) = read(key).map_err(|error| unreadable(true, key, error))?;
        #[cfg(feature = "failpoints")]
        hang(certificate);
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let sentence =
                format!("others may read the key (mode {mode:o}); run chmod go-rwx on it");
            return Err(fault(true, key, &sentence));
        }
        let read = NamedCertificate::from_pem(&chain, &secret).map_err(|error| {
            let path = if error.concerns_key() {
                key
            } else {
                certificate
            };
            fault(error.concerns_key(), path, &error)
        });
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            read: read?,
            stamp,
        })
    }
}

impl Stamp {
    /// How the files look now.
    pub(crate) fn of(certificate: &Path, key: &Path) -> Self {
        Self([certificate, key].map(FileStamp::of))
    }
}

impl FileStamp {
    /// How the file looks now; `None` where there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn read(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, Metadata)> {
    let refuse = |sentence: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    // Opening a pipe would wait for whoever writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return refuse("it is not a file");
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    // Room for all of it, so that no copy of a key is left behind by growing.
    let mut content = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64 + 1).read_to_end(&mut content)?;
    if content.len() > LONGEST {
        return refuse("it is longer than 256 KiB, so it is not the file that is meant");
    }
    Ok((content, metadata))
}

/// Where tests let a certificate's file hang, as if its file system did not answer, for as long as there is another one beside
/// it.
#[cfg(feature = "failpoints")]
fn hang(certificate: &Path) {
    fail::fail_point!("certificate::read", |extension| {
        let beside = certificate.with_extension(extension.unwrap_or_default());
        while beside.exists() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
}

/// A chain of the largest certificates.
const LONGEST: usize = 256 * 1024;
