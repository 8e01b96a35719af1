//! The authority: keys and registry under one roof, and what operators ask of it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::feed::Sighting;
use identity::{DeviceId, Index, LabelChange, Serial, SerialKey, Token, TrustDomain};
use zeroize::Zeroizing;

use crate::clock;
use crate::crl::SignedCrl;
use crate::directory_lock::DirectoryLock;
use crate::keys::{self, CaCertificate, KeyFault, Keys};
use crate::pure::journal::Actor;
use crate::pure::seal::SealKey;
use crate::registry::{
    CertificateRecord, Change, DeviceChange, Lifetime, Operation, Outcome, Registry, RegistryFault,
    Rejection, Request, Unavailable,
};

/// How to open an authority.
#[derive(Debug)]
pub struct Options {
    /// Where its files are; made on first start.
    pub directory: PathBuf,
    /// The trust domain: fixed on first start, compared afterwards. Absent: `keybound.local`, or whatever it is.
    pub trust_domain: Option<TrustDomain>,
    /// Encrypts the CA keys on first start, and opens them afterwards.
    pub passphrase: Option<Zeroizing<String>>,
    /// How long device certificates live.
    pub device_certificate_life: Duration,
}

/// The certificate authority of one installation.
pub struct Authority {
    pub(crate) keys: Keys,
    pub(crate) serial_key: SerialKey,
    pub(crate) registry: Registry,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) device_certificate_life: Duration,
    pub(crate) crl: Mutex<Arc<SignedCrl>>,
    leases: tokio::sync::Mutex<Vec<Lease>>,
    /// Held for as long as the authority is open: one process per directory.
    _lock: DirectoryLock,
}

/// Indexes that were leased and not yet used.
struct Lease {
    lifetime: Lifetime,
    next: u64,
    end: u64,
}

impl Authority {
    /// Opens the authority in `options.directory`, and makes it first if there is none. Blocking.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let parent = options.directory.parent().unwrap_or(Path::new("."));
        private_directory(parent)?;
        let lock = DirectoryLock::take(parent)?;
        let now = clock::now();
        // A link that leads nowhere is no first start: what it led to is missing.
        match fs::symlink_metadata(&options.directory) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(&options, now)?,
            Err(error) => return Err(OpenError::Files(error)),
        }
        let keys = Keys::load(&options.directory, options.passphrase.as_ref(), now)?;
        let (registry, trust_domain) = Registry::open(
            &options.directory.join(REGISTRY_FILE),
            &keys.root.fingerprint(),
            SealKey::derive(keys.serial_key.as_slice()),
        )?;
        if let Some(wanted) = options.trust_domain
            && wanted != trust_domain
        {
            return Err(OpenError::OtherTrustDomain {
                wanted,
                fixed: trust_domain,
            });
        }
        Ok(Self {
            serial_key: SerialKey::new(&keys.serial_key),
            keys,
            registry,
            trust_domain,
            device_certificate_life: options.device_certificate_life,
            crl: Mutex::new(Arc::new(SignedCrl::NONE_YET)),
            leases: tokio::sync::Mutex::new(Vec::new()),
            _lock: lock,
        })
    }

    /// The trust domain, as fixed on first start.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root.
    pub fn root(&self) -> &CaCertificate {
        &self.keys.root
    }

    /// The CA that issues device certificates: the gateway's anchor.
    pub fn device_ca(&self) -> &CaCertificate {
        self.keys.device.certificate()
    }

    /// The CA that issues gateways' own certificates.
    pub fn infrastructure_ca(&self) -> &CaCertificate {
        self.keys.infrastructure.certificate()
    }

    /// The key that gateways need to find a certificate's registry index in its serial.
    pub fn serial_key(&self) -> SerialKey {
        SerialKey::new(&self.keys.serial_key)
    }

    /// What devices and certificates there are, and the feed.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The newest CRL; without a single byte until [`Self::publish`] has signed the first.
    pub fn crl(&self) -> Arc<SignedCrl> {
        Arc::clone(&self.crl.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One-time tokens, one for each device, that expire after `life`. Unknown devices are registered.
    pub async fn new_tokens(
        &self,
        actor: &Actor,
        devices: &[DeviceId],
        life: Duration,
    ) -> Result<Vec<Result<Token, TokenError>>, Unavailable> {
        let now = clock::now();
        let mut tokens = Vec::with_capacity(devices.len());
        let mut requests = Vec::with_capacity(devices.len());
        for device in devices {
            let mut random = [0; 16];
            keys::fill_random(&mut random);
            let token = Token::new(random);
            requests.push(Request {
                actor: actor.clone(),
                now,
                operation: Operation::CreateToken {
                    device: device.clone(),
                    hash: token.hash(),
                    expires_at: now.plus(life),
                },
            });
            tokens.push(token);
        }
        let results = self.registry.submit(requests).await?;
        Ok(tokens
            .into_iter()
            .zip(results)
            .map(|(token, result)| result.map(|_| token).map_err(TokenError))
            .collect())
    }

    /// Withdraws a device for ever: certificates, tokens and keys; its id stays blocked until replaced.
    pub async fn revoke(
        &self,
        actor: &Actor,
        device: &DeviceId,
        reason: Option<&str>,
    ) -> Result<Change, ChangeError> {
        self.change(actor, device, DeviceChange::Revoke, reason)
            .await
    }

    /// Stops a device until it is restored.
    pub async fn suspend(
        &self,
        actor: &Actor,
        device: &DeviceId,
        reason: Option<&str>,
    ) -> Result<Change, ChangeError> {
        self.change(actor, device, DeviceChange::Suspend, reason)
            .await
    }

    /// Lets a suspended device go on where it was.
    pub async fn restore(
        &self,
        actor: &Actor,
        device: &DeviceId,
        reason: Option<&str>,
    ) -> Result<Change, ChangeError> {
        self.change(actor, device, DeviceChange::Restore, reason)
            .await
    }

    /// Withdraws whatever the device still has and lets a new device take its id.
    pub async fn replace(
        &self,
        actor: &Actor,
        device: &DeviceId,
        reason: Option<&str>,
    ) -> Result<Change, ChangeError> {
        self.change(actor, device, DeviceChange::Replace, reason)
            .await
    }

    /// Changes a device's groups and labels. Its certificates get the groups at once, and its next ones as well.
    pub async fn label(
        &self,
        actor: &Actor,
        device: &DeviceId,
        change: LabelChange,
        reason: Option<&str>,
    ) -> Result<Change, ChangeError> {
        let operation = Operation::LabelDevice {
            device: device.clone(),
            change,
            reason: bounded(reason),
        };
        self.submit_change(actor, operation).await
    }

    /// What gateways saw. Unknown certificates are passed over.
    pub async fn sighted(&self, sightings: Vec<Sighting>) -> Result<(), Unavailable> {
        let now = clock::now();
        let requests = sightings
            .into_iter()
            .map(|sighting| Request {
                actor: Actor::Device(sighting.device.clone()),
                now,
                operation: Operation::Sighted(sighting),
            })
            .collect();
        self.registry.submit(requests).await.map(|_results| ())
    }

    /// The certificate with this serial.
    pub async fn certificate(
        &self,
        serial: &Serial,
    ) -> Result<Option<CertificateRecord>, Unavailable> {
        let index = self.serial_key.open(serial);
        self.registry.certificate(index, Some(*serial)).await
    }

    async fn change(
        &self,
        actor: &Actor,
        device: &DeviceId,
        change: DeviceChange,
        reason: Option<&str>,
    ) -> Result<Change, ChangeError> {
        let operation = Operation::ChangeDevice {
            device: device.clone(),
            change,
            reason: bounded(reason),
        };
        self.submit_change(actor, operation).await
    }

    async fn submit_change(
        &self,
        actor: &Actor,
        operation: Operation,
    ) -> Result<Change, ChangeError> {
        match self.submit_one(actor.clone(), operation).await?? {
            Outcome::Changed(change) => Ok(change),
            Outcome::Done | Outcome::Recorded(_) | Outcome::Leased { .. } | Outcome::Crl(_) => {
                Err(ChangeError::Unavailable(Unavailable))
            }
        }
    }

    pub(crate) async fn submit_one(
        &self,
        actor: Actor,
        operation: Operation,
    ) -> Result<Result<Outcome, Rejection>, Unavailable> {
        let request = Request {
            actor,
            now: clock::now(),
            operation,
        };
        let mut results = self.registry.submit(vec![request]).await?;
        results.pop().ok_or(Unavailable)
    }

    /// An index that nothing else has or gets.
    pub(crate) async fn next_index(&self, lifetime: Lifetime) -> Result<Index, Unavailable> {
        let mut leases = self.leases.lock().await;
        if let Some(lease) = leases.iter_mut().find(|lease| lease.lifetime == lifetime)
            && lease.next < lease.end
        {
            lease.next += 1;
            return Ok(Index(lease.next - 1));
        }
        let operation = Operation::LeaseIndexes {
            lifetime,
            count: LEASE_SIZE,
        };
        let Ok(Outcome::Leased { first, count }) =
            self.submit_one(Actor::System, operation).await?
        else {
            return Err(Unavailable);
        };
        leases.retain(|lease| lease.lifetime != lifetime);
        leases.push(Lease {
            lifetime,
            next: first.0 + 1,
            end: first.0 + u64::from(count),
        });
        Ok(first)
    }
}

fn bounded(reason: Option<&str>) -> Option<String> {
    reason.map(|reason| reason.chars().take(LONGEST_REASON).collect())
}

/// Why an authority cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Files cannot be made or read.
    #[error("the data directory cannot be used: {0}")]
    Files(io::Error),
    /// The lock cannot be opened.
    #[error("{} cannot be opened: {error}; remove it", .file.display())]
    Lock {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has it.
    #[error("another process uses {}; stop it, or choose another directory with --data", .directory.display())]
    InUse {
        /// The data directory.
        directory: PathBuf,
    },
    /// A key or CA certificate.
    #[error("{0}")]
    Keys(#[from] KeyFault),
    /// The registry.
    #[error("{0}")]
    Registry(#[from] RegistryFault),
    /// The trust domain cannot be changed.
    #[error(
        "the trust domain is {fixed}, fixed when the CA was made, and not {wanted}; leave it out, or start with a new data directory"
    )]
    OtherTrustDomain {
        /// What the options say.
        wanted: TrustDomain,
        /// What it is.
        fixed: TrustDomain,
    },
}

/// Why there is no token for a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TokenError(pub Rejection);

/// Why a device was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It may not be.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// The registry cannot be used.
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
}

/// Makes the files beside their place and moves them there whole, so that a crash leaves all or nothing.
fn create(options: &Options, now: identity::Timestamp) -> Result<(), OpenError> {
    let mut unfinished = options.directory.clone().into_os_string();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(OpenError::Files(error));
        }
        Ok(()) | Err(_) => {}
    }
    private_directory(&unfinished)?;
    let trust_domain = match &options.trust_domain {
        Some(trust_domain) => trust_domain.clone(),
        None => TrustDomain::parse(DEFAULT_TRUST_DOMAIN).expect("the default is legal"),
    };
    let passphrase = options.passphrase.as_ref();
    Keys::create(&unfinished, &trust_domain, passphrase, now)?;
    let keys = Keys::load(&unfinished, passphrase, now)?;
    Registry::create(
        &unfinished.join(REGISTRY_FILE),
        &trust_domain,
        &keys.root.fingerprint(),
        &SealKey::derive(keys.serial_key.as_slice()),
    )?;
    sync_directory(&unfinished)?;
    fs::rename(&unfinished, &options.directory).map_err(OpenError::Files)?;
    sync_directory(options.directory.parent().unwrap_or(Path::new(".")))
}

fn private_directory(path: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(OpenError::Files)
}

fn sync_directory(path: &Path) -> Result<(), OpenError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(OpenError::Files)
}

const REGISTRY_FILE: &str = "registry.sqlite";
const DEFAULT_TRUST_DOMAIN: &str = "keybound.local";
const LONGEST_REASON: usize = 500;

/// Indexes leased at a time: one durable write for so many certificates; at most so many are lost to a crash.
const LEASE_SIZE: u32 = 1024;
