//! The registry: every device, certificate, key and token, and the journal of every change.
//!
//! Operations are values: a batch goes in, results come out once they are durable. One writer thread
//! commits them in groups; `seq` and hash of journal entries are assigned inside the commit. No SQL, and
//! no type of the database, crosses this module's border.

mod apply;
mod derived;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod operation;
mod read;
mod records;
mod schema;
mod told;
mod values;
mod witness;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use identity::feed::Batch;
use identity::{DeviceId, Fingerprint, Index, Serial, Timestamp, TrustDomain};
use tokio::sync::{mpsc, oneshot, watch};

use self::witness::WitnessFile;
use self::writer::{Message, Place};
use crate::pure::enroll::{Facts, Requester};
use crate::pure::journal::{Entry, Head};
use crate::pure::seal::SealKey;

pub use operation::{Change, Rejection};
pub(crate) use operation::{
    CrlNumber, DeviceChange, Lifetime, NewCertificate, Operation, Outcome, Owner, Recorded, Request,
};
pub(crate) use records::Withdrawn;
pub use records::{CertificateRecord, DeviceFilter, DevicePage, DeviceRecord, DeviceSummary};
pub use schema::RegistryFault;

/// A handle on the registry. The writer thread ends when the last handle is gone.
pub struct Registry {
    messages: mpsc::Sender<Message>,
    head: watch::Receiver<u64>,
    checked: watch::Receiver<Check>,
    is_witnessed: Arc<AtomicBool>,
    readers: Arc<Readers>,
}

/// How far the check of a long journal is, which goes on after the start.
#[derive(Debug)]
enum Check {
    Running,
    Passed,
    Failed(Arc<RegistryFault>),
}

/// The registry cannot answer: nothing was changed, or it is not known whether it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the registry cannot be used at the moment, or is still being checked after the start; the server's log says why"
)]
pub struct Unavailable;

impl Registry {
    /// Makes a new registry for a CA with this root.
    pub(crate) fn create(
        path: &Path,
        trust_domain: &TrustDomain,
        root: &Fingerprint,
        key: &SealKey,
    ) -> Result<(), RegistryFault> {
        schema::create(path, trust_domain, root, key)?;
        WitnessFile::of(path).write(&Head::START, key);
        Ok(())
    }

    /// Opens an existing one: checks the file, that it is this CA's, and the whole journal. Blocking.
    ///
    /// That it is its newest one is compared with what was written down beside it.
    /// What [`Self::checked`] waits for is left of a journal that is too long to be waited for.
    pub(crate) fn open(
        path: &Path,
        root: &Fingerprint,
        key: SealKey,
    ) -> Result<(Self, TrustDomain), RegistryFault> {
        let opened = schema::open(path, root, &key, witness::read(path, &key))?;
        let trust_domain = opened.trust_domain.clone();
        let (published, head) = watch::channel(opened.state.head.seq);
        let (check, checked) = watch::channel(Check::Running);
        let (messages, queue) = mpsc::channel(QUEUE_LENGTH);
        let mut witness = WitnessFile::of(path);
        witness.write(&opened.state.head, &key);
        let is_witnessed = witness.is_current();
        let place = Place {
            path: path.to_owned(),
            root: *root,
            key,
            witness,
        };
        writer::spawn(opened, place, &messages, queue, published, check)?;
        let registry = Self {
            messages,
            head,
            checked,
            is_witnessed,
            readers: Arc::new(Readers {
                path: path.to_owned(),
                idle: Mutex::new(Vec::new()),
            }),
        };
        Ok((registry, trust_domain))
    }

    /// Submits a batch. Each request succeeds or is rejected for itself; what succeeded is durable.
    pub(crate) async fn submit(
        &self,
        requests: Vec<Request>,
    ) -> Result<Vec<Result<Outcome, Rejection>>, Unavailable> {
        let (reply, results) = oneshot::channel();
        self.messages
            .send(Message::Submission { requests, reply })
            .await
            .map_err(|_| Unavailable)?;
        results.await.map_err(|_| Unavailable)?
    }

    /// Whether the check of a long journal is still going on: devices can be revoked and suspended, and what else is
    /// asked is [`Unavailable`].
    pub fn is_being_checked(&self) -> bool {
        matches!(*self.checked.borrow(), Check::Running)
    }

    /// Whether the journal's end is written down beside the database, where a start compares it.
    pub fn is_witnessed(&self) -> bool {
        self.is_witnessed.load(Ordering::Relaxed)
    }

    /// Waits until the whole journal was followed. If it is not as it was written, nothing is done any more.
    pub async fn checked(&self) -> Result<(), Arc<RegistryFault>> {
        let mut check = self.checked.clone();
        let reached = check
            .wait_for(|check| !matches!(check, Check::Running))
            .await;
        match reached.as_deref() {
            Ok(Check::Failed(fault)) => Err(Arc::clone(fault)),
            Ok(Check::Passed) => Ok(()),
            Ok(Check::Running) | Err(_) => Err(Arc::new(RegistryFault::Unfinished)),
        }
    }

    /// The sequence number of the newest durable journal entry, and word of every later one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// The newest journal entry's number, read from the database now: proof that it can be read.
    pub async fn head(&self) -> Result<u64, Unavailable> {
        self.read(read::head).await
    }

    /// What changed after `seq`, in order, at most `limit` journal entries of it.
    pub async fn changes_after(&self, seq: u64, limit: usize) -> Result<Batch, Unavailable> {
        self.read(move |connection| read::changes_after(connection, seq, limit))
            .await
    }

    /// Every device certificate that ends after `ending_after`, in batches through `batches`, all as of one moment.
    ///
    /// Returns that moment's newest sequence number: changes after it complete the picture.
    pub async fn snapshot(
        &self,
        ending_after: Timestamp,
        batches: mpsc::Sender<Batch>,
    ) -> Result<u64, Unavailable> {
        self.read(move |connection| read::snapshot(connection, ending_after, &batches))
            .await
    }

    pub(crate) async fn facts(
        &self,
        requester: Requester,
        key: Fingerprint,
        now: Timestamp,
    ) -> Result<Facts, Unavailable> {
        self.read(move |connection| read::facts(connection, &requester, &key, now))
            .await
    }

    /// One device with its certificates, newest first.
    pub async fn device(&self, id: &DeviceId) -> Result<Option<DeviceRecord>, Unavailable> {
        let folded = id.folded();
        self.read(move |connection| read::device(connection, &folded))
            .await
    }

    /// Devices in the order of their ids.
    pub async fn devices(&self, filter: DeviceFilter) -> Result<DevicePage, Unavailable> {
        self.read(move |connection| read::devices(connection, &filter))
            .await
    }

    pub(crate) async fn certificate(
        &self,
        index: Index,
        serial: Option<Serial>,
    ) -> Result<Option<CertificateRecord>, Unavailable> {
        self.read(move |connection| read::certificate(connection, index, serial))
            .await
    }

    pub(crate) async fn certificate_der(
        &self,
        index: Index,
    ) -> Result<Option<Vec<u8>>, Unavailable> {
        self.read(move |connection| read::certificate_der(connection, index))
            .await
    }

    /// The newest `limit` journal entries about a device, newest first.
    pub async fn history(&self, id: &DeviceId, limit: usize) -> Result<Vec<Entry>, Unavailable> {
        let folded = id.folded();
        self.read(move |connection| read::history(connection, &folded, limit))
            .await
    }

    pub(crate) async fn withdrawn(&self, now: Timestamp) -> Result<Vec<Withdrawn>, Unavailable> {
        self.read(move |connection| read::withdrawn(connection, now))
            .await
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&rusqlite::Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let readers = Arc::clone(&self.readers);
        let answer = tokio::task::spawn_blocking(move || readers.with(query)).await;
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::error!(%error, "the registry cannot be read");
                Err(Unavailable)
            }
            Err(panicked) => {
                tracing::error!(%panicked, "a registry query failed");
                Err(Unavailable)
            }
        }
    }
}

/// Read-only connections, reused.
struct Readers {
    path: std::path::PathBuf,
    idle: Mutex<Vec<rusqlite::Connection>>,
}

impl Readers {
    fn with<T>(
        &self,
        query: impl FnOnce(&rusqlite::Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, rusqlite::Error> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::reader(&self.path)?,
        };
        let answer = query(&connection);
        // A connection that failed may have seen a fault of the disk; it is not trusted again.
        if answer.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IDLE_READERS {
                idle.push(connection);
            }
        }
        answer
    }
}

/// Submissions that may wait for the writer; whoever comes later waits to submit.
const QUEUE_LENGTH: usize = 1024;

const MAX_IDLE_READERS: usize = 8;
