//! The `file:` key store: a folder whose files other tools read as they are.
//!
//! ```text
//! keybound-device/     0700
//!   key.pem         -> current/key.pem
//!   certificate.pem -> current/certificate.pem
//!   current         -> 2
//!   2/                 the generation in use: key.pem (0600, PKCS #8) and certificate.pem (the leaf)
//!   3/                 a renewal under way: key.pem, and certificate.pem once it has come
//!   roots.pem          whom the device trusts
//!   store.json         whose store it is, enrollment server, gateway
//!   lock               held by the one process that changes the store
//! ```
//!
//! Key and certificate change together, by the rename of one link, and only forwards: a generation is
//! complete and on the disk before `current` names it, and older ones are deleted after that. A crash at
//! any point leaves a usable pair, or a pending key that the next attempt asks for again. Reading takes no
//! lock; changing does, and only a `LockedStore` can.

mod error;
mod file_key;
mod files;
mod generation;
mod locked;
mod settings;
mod uri;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use identity::certificate::Parsed;
use identity::{Leaf, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::device_key::DeviceKey;
use crate::trust::{Roots, RootsError};
use files::failed;
use generation::Generation;

pub use error::StoreError;
pub use file_key::FileKey;
pub(crate) use locked::LockedStore;
pub use settings::Settings;
pub use uri::{KeyStoreUri, UriError};

/// A device's key store, to be read. Cheap to clone; nothing is cached.
#[derive(Clone, Debug)]
pub struct KeyStore {
    directory: PathBuf,
}

/// A key and the certificate for it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The key.
    pub key: DeviceKey,
    /// The certificate in DER; servers know the CA above it.
    pub certificate: CertificateDer<'static>,
    /// What the certificate says.
    pub leaf: Leaf,
    generation: Generation,
}

impl Credentials {
    /// Whether `other` was there before this pair.
    pub(crate) fn newer_than(&self, other: &Self) -> bool {
        self.generation > other.generation
    }
}

impl KeyStore {
    /// Opens a store in which an enrollment was at least begun.
    pub fn open(uri: &KeyStoreUri) -> Result<Self, StoreError> {
        let store = Self::at(uri);
        if !exists(&store.directory)? {
            return Err(store.absent());
        }
        store.check_directory()?;
        if !exists(&store.path(SETTINGS))? {
            return Err(match exists(&store.path(LOCK))? || store.is_empty()? {
                true => store.absent(),
                false => store.not_a_store(),
            });
        }
        Ok(store)
    }

    /// Opens a store, or makes an empty one; a folder with other things in it is refused.
    pub fn create(uri: &KeyStoreUri) -> Result<Self, StoreError> {
        let store = Self::at(uri);
        let directory = &store.directory;
        if !exists(directory)? {
            let parent = files::parent(directory);
            fs::create_dir_all(parent).map_err(|source| failed("made", parent, source))?;
            files::make_directory(directory)?;
        } else if !exists(&store.path(LOCK))? {
            if !store.is_empty()? {
                return Err(store.not_a_store());
            }
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
                .map_err(|source| failed("closed to others", directory, source))?;
        }
        store.check_directory()?;
        Ok(store)
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whose store it is, and its servers.
    pub fn settings(&self) -> Result<Settings, StoreError> {
        let path = self.path(SETTINGS);
        let content = files::read(&path, MAX_TEXT)?.ok_or_else(|| self.absent())?;
        serde_json::from_slice(&content.bytes)
            .map_err(|source| StoreError::Settings { path, source })
    }

    /// The roots that were pinned at enrollment.
    pub fn roots(&self, now: Timestamp) -> Result<Roots, StoreError> {
        let path = self.path(ROOTS);
        let content =
            files::read(&path, crate::trust::MAX_PEM_LENGTH)?.ok_or(StoreError::Roots {
                path: path.clone(),
                fault: RootsError::None,
            })?;
        Roots::from_pem(&content.bytes, now).map_err(|fault| StoreError::Roots { path, fault })
    }

    /// The key and certificate in use.
    ///
    /// Where a first enrollment was cut off between receiving its certificate and taking it into use, this
    /// takes it into use.
    pub fn credentials(&self) -> Result<Credentials, StoreError> {
        // A renewal may remove the generation between the two reads; then `current` names a newer one.
        for _ in 0..READ_ATTEMPTS {
            let Some(current) = self.current()? else {
                if !self.has_complete_generation()? {
                    return Err(StoreError::NotEnrolled {
                        directory: self.directory.clone(),
                    });
                }
                self.lock()?.recover()?;
                continue;
            };
            if let Some(credentials) = self.load(current)? {
                return Ok(credentials);
            }
        }
        Err(StoreError::Incomplete {
            path: self.path(CURRENT),
        })
    }

    /// Whether the store holds a certificate in use.
    pub(crate) fn is_enrolled(&self) -> Result<bool, StoreError> {
        Ok(self.current()?.is_some())
    }

    /// Whether a key waits for its certificate: an enrollment or renewal was begun and not finished.
    pub fn is_pending(&self) -> Result<bool, StoreError> {
        let current = self.current()?;
        for generation in self.generations()? {
            if Some(generation) > current && exists(&self.generation_path(generation).join(KEY))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The right to change the store, unless another process has it.
    pub(crate) fn lock(&self) -> Result<LockedStore, StoreError> {
        LockedStore::acquire(self)
    }

    fn at(uri: &KeyStoreUri) -> Self {
        match uri {
            KeyStoreUri::File(path) => Self {
                directory: path.clone(),
            },
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        let entries = fs::read_dir(&self.directory);
        entries
            .map(|mut entries| entries.next().is_none())
            .map_err(|source| failed("read", &self.directory, source))
    }

    /// Who may write to the folder may exchange what is in it.
    fn check_directory(&self) -> Result<(), StoreError> {
        let metadata = fs::metadata(&self.directory)
            .map_err(|source| failed("read", &self.directory, source))?;
        if !metadata.is_dir() {
            return Err(self.not_a_store());
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StoreError::Writable {
                path: self.directory.clone(),
                mode,
            });
        }
        Ok(())
    }

    fn current(&self) -> Result<Option<Generation>, StoreError> {
        let path = self.path(CURRENT);
        match fs::read_link(&path) {
            Ok(target) => target
                .to_str()
                .and_then(Generation::parse)
                .map(Some)
                .ok_or(StoreError::Incomplete { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path, source)),
        }
    }

    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        let list = || -> io::Result<Vec<Generation>> {
            let mut generations = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    generations.extend(entry.file_name().to_str().and_then(Generation::parse));
                }
            }
            generations.sort_unstable();
            Ok(generations)
        };
        list().map_err(|source| failed("read", &self.directory, source))
    }

    fn has_complete_generation(&self) -> Result<bool, StoreError> {
        for generation in self.generations()? {
            if self.load(generation)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn generation_path(&self, generation: Generation) -> PathBuf {
        self.path(&generation.to_string())
    }

    /// The pair of a generation; `None` if one of its halves is not there.
    fn load(&self, generation: Generation) -> Result<Option<Credentials>, StoreError> {
        let Some(key) = self.load_key(generation)? else {
            return Ok(None);
        };
        let path = self.generation_path(generation).join(CERTIFICATE);
        let Some(content) = files::read(&path, MAX_TEXT)? else {
            return Ok(None);
        };
        let mut sections = CertificateDer::pem_slice_iter(&content.bytes);
        let (Some(Ok(certificate)), None) = (sections.next(), sections.next()) else {
            return Err(StoreError::NotOneCertificate { path });
        };
        pair(key, certificate, generation, &path).map(Some)
    }

    fn load_key(&self, generation: Generation) -> Result<Option<DeviceKey>, StoreError> {
        let path = self.generation_path(generation).join(KEY);
        let Some(content) = files::read(&path, MAX_TEXT)? else {
            return Ok(None);
        };
        if content.mode & 0o077 != 0 {
            return Err(StoreError::Exposed {
                path,
                mode: content.mode,
            });
        }
        match FileKey::from_pem(&content.bytes) {
            Some(key) => Ok(Some(DeviceKey::File(key))),
            None => Err(StoreError::Key { path }),
        }
    }

    fn absent(&self) -> StoreError {
        StoreError::Absent {
            directory: self.directory.clone(),
        }
    }

    fn not_a_store(&self) -> StoreError {
        StoreError::NotAStore {
            directory: self.directory.clone(),
        }
    }
}

/// Joins a key and a certificate, if they belong together.
fn pair(
    key: DeviceKey,
    certificate: CertificateDer<'static>,
    generation: Generation,
    path: &Path,
) -> Result<Credentials, StoreError> {
    let leaf = Parsed::from_der(&certificate)
        .and_then(|parsed| parsed.leaf())
        .map_err(|fault| StoreError::Certificate {
            path: path.to_owned(),
            fault,
        })?;
    let belongs = X509Certificate::from_der(&certificate)
        .is_ok_and(|(_, x509)| x509.public_key().raw == key.subject_public_key_info());
    if !belongs {
        return Err(StoreError::Mismatch {
            path: path.to_owned(),
        });
    }
    Ok(Credentials {
        key,
        certificate,
        leaf,
        generation,
    })
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists()
        .map_err(|source| failed("read", path, source))
}

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.pem";
const CURRENT: &str = "current";
const ROOTS: &str = "roots.pem";
const SETTINGS: &str = "store.json";
const LOCK: &str = "lock";

/// Keys, certificates and settings have less than 4 KiB.
const MAX_TEXT: usize = 64 * 1024;
const READ_ATTEMPTS: usize = 8;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
