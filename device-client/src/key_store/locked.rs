//! Changing a key store: only with its lock, and only in the order that a crash cannot spoil.

use std::fs;
use std::fs::File;
use std::io;
use std::time::Duration;

use identity::{ServerAddress, Timestamp};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::files;
use super::generation::Generation;
use super::{
    CERTIFICATE, CURRENT, Credentials, KEY, KeyStore, LOCK, ROOTS, SETTINGS, Settings, StoreError,
    failed, file_key, pair,
};
use crate::acceptance::AcceptedCertificate;
use crate::device_key::DeviceKey;
use crate::trust::Roots;

/// A key store that this process alone may change, until it is dropped.
pub(crate) struct LockedStore {
    store: KeyStore,
    /// The kernel releases the lock with it, also if the process is killed.
    _lock: File,
}

/// A key on the disk for which no certificate has come yet.
pub(crate) struct PendingKey {
    generation: Generation,
    key: DeviceKey,
}

impl PendingKey {
    pub(crate) fn key(&self) -> &DeviceKey {
        &self.key
    }
}

impl LockedStore {
    /// Takes the lock, unless another process has it.
    pub(super) fn acquire(store: &KeyStore) -> Result<Self, StoreError> {
        let path = store.path(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| failed("opened", &path, error.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                store: store.clone(),
                _lock: lock.into(),
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked {
                directory: store.directory.clone(),
            }),
            Err(error) => Err(failed("locked", &path, error.into())),
        }
    }

    /// Waits up to ten seconds for another process to finish.
    pub(crate) async fn wait(store: &KeyStore) -> Result<Self, StoreError> {
        for _ in 0..200 {
            match Self::acquire(store) {
                Err(StoreError::Locked { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                acquired => return acquired,
            }
        }
        Self::acquire(store)
    }

    /// Finishes what a crash interrupted. Says whether it took a certificate into use.
    ///
    /// A generation that has its certificate was accepted before that was written, so it becomes the
    /// current one. What is older goes, and so does a directory whose key was never completed: no request
    /// has left with that key. A pending key stays.
    pub(crate) fn recover(&self) -> Result<bool, StoreError> {
        for name in [KEY, CERTIFICATE, CURRENT, ROOTS, SETTINGS] {
            let name = format!("{name}{}", files::TEMPORARY);
            files::remove_file(&self.store.path(&name))?;
        }
        self.ensure_links()?;
        let adopted = self.adopt_complete_generation()?;
        self.remove_leftovers()?;
        Ok(adopted)
    }

    /// Starts an enrollment: whose store it is, whom it trusts.
    ///
    /// A pending key is kept if it was made for the same device under the same roots, since its certificate
    /// may exist already; otherwise it goes, since a key belongs to one device for ever.
    pub(crate) fn begin(&self, settings: &Settings, roots: &Roots) -> Result<(), StoreError> {
        let same = match self.store.settings() {
            Ok(old) => {
                // Whether it has expired does not matter for telling which root it was.
                let old_roots = self.store.roots(Timestamp(0));
                old.device == settings.device && old_roots.is_ok_and(|old| old.same_as(roots))
            }
            Err(StoreError::Absent { .. }) => false,
            Err(error) => return Err(error),
        };
        if !same {
            let current = self.store.current()?;
            for generation in self.store.generations()? {
                if Some(generation) > current {
                    self.remove_generation(generation)?;
                }
            }
        }
        files::write(
            &self.store.directory,
            ROOTS,
            roots.to_pem().as_bytes(),
            0o600,
        )?;
        self.write_settings(settings)
    }

    /// Puts the settings on the disk.
    pub(crate) fn write_settings(&self, settings: &Settings) -> Result<(), StoreError> {
        let mut json = serde_json::to_vec_pretty(settings)
            .expect("names and addresses always have a JSON form");
        json.push(b'\n');
        files::write(&self.store.directory, SETTINGS, &json, 0o600)
    }

    /// Remembers the gateway, unless one is remembered already. Says whether it did.
    pub(crate) fn remember_gateway(&self, gateway: &ServerAddress) -> Result<bool, StoreError> {
        let settings = self.store.settings()?;
        if settings.gateway.is_some() {
            return Ok(false);
        }
        self.write_settings(&Settings {
            gateway: Some(gateway.clone()),
            ..settings
        })?;
        Ok(true)
    }

    /// The key to ask a certificate for: the one that still waits for its certificate, or a new one.
    ///
    /// It is on the disk, synced, before this returns, and so before any request can leave. Call
    /// [`Self::recover`] first.
    pub(crate) fn pending_key(&self) -> Result<PendingKey, StoreError> {
        let current = self.store.current()?;
        let newest = self.store.generations()?.last().copied().max(current);
        if newest > current
            && let Some(generation) = newest
            && let Some(key) = self.store.load_key(generation)?
        {
            return Ok(PendingKey { generation, key });
        }
        let generation = Generation::after(newest);
        let directory = self.store.generation_path(generation);
        files::make_directory(&directory)?;
        let pem = file_key::new_key_pem().ok_or(StoreError::Generate)?;
        files::write(&directory, KEY, pem.as_bytes(), 0o600)?;
        // What signs is what was read back: a key that the disk does not hold is asked for by nobody.
        let key = self.store.load_key(generation)?.ok_or(StoreError::Key {
            path: directory.join(KEY),
        })?;
        Ok(PendingKey { generation, key })
    }

    /// Gives up a pending key that no CA will ever certify.
    pub(crate) fn discard(&self, pending: PendingKey) -> Result<(), StoreError> {
        self.remove_generation(pending.generation)
    }

    /// Takes a certificate into use: certificate on the disk, then the link, then the old pair goes.
    pub(crate) fn install(
        &self,
        pending: PendingKey,
        certificate: &AcceptedCertificate,
    ) -> Result<Credentials, StoreError> {
        let PendingKey { generation, key } = pending;
        let directory = self.store.generation_path(generation);
        let der = certificate.der().clone();
        let credentials = pair(key, der, generation, &directory.join(CERTIFICATE))?;
        let section = pem::Pem::new("CERTIFICATE", certificate.der().as_ref());
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let text = pem::encode_config(&section, config);
        files::write(&directory, CERTIFICATE, text.as_bytes(), 0o600)?;
        self.make_current(generation)?;
        self.remove_leftovers()?;
        Ok(credentials)
    }

    fn make_current(&self, generation: Generation) -> Result<(), StoreError> {
        files::link(&self.store.directory, CURRENT, &generation.to_string())
    }

    fn adopt_complete_generation(&self) -> Result<bool, StoreError> {
        let current = self.store.current()?;
        for generation in self.store.generations()?.into_iter().rev() {
            if Some(generation) > current && self.store.load(generation)?.is_some() {
                self.make_current(generation)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove_leftovers(&self) -> Result<(), StoreError> {
        let current = self.store.current()?;
        for generation in self.store.generations()? {
            let old = Some(generation) < current;
            if old || (Some(generation) > current && self.store.load_key(generation)?.is_none()) {
                self.remove_generation(generation)?;
            }
        }
        Ok(())
    }

    fn remove_generation(&self, generation: Generation) -> Result<(), StoreError> {
        let directory = self.store.generation_path(generation);
        for name in [KEY, CERTIFICATE] {
            files::remove_file(&directory.join(name))?;
            files::remove_file(&directory.join(format!("{name}{}", files::TEMPORARY)))?;
        }
        match files::remove_directory(&directory) {
            // Somebody's own files stay; key and certificate are gone.
            Err(StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::DirectoryNotEmpty =>
            {
                files::sync_directory(&directory)
            }
            result => result,
        }
    }

    fn ensure_links(&self) -> Result<(), StoreError> {
        for name in [KEY, CERTIFICATE] {
            let (path, target) = (self.store.path(name), format!("{CURRENT}/{name}"));
            match fs::read_link(&path) {
                Ok(found) if found.as_os_str() == target.as_str() => {}
                Ok(_) => return Err(StoreError::Occupied { path }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    files::link(&self.store.directory, name, &target)?;
                }
                // Not a link at all.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(StoreError::Occupied { path });
                }
                Err(source) => return Err(failed("read", &path, source)),
            }
        }
        Ok(())
    }
}
