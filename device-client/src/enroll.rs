//! The first certificate: with a one-time token, from a server whose root the device was told.

use std::path::PathBuf;

use identity::{DeviceId, EnrollmentCode, Fingerprint, ServerAddress, Timestamp, Token};

use crate::acceptance::{AcceptanceFault, Expected, accept};
use crate::back_off::Retry;
use crate::clock;
use crate::csr::{CsrFault, certification_request};
use crate::est::{self, EstError, Right};
use crate::key_store::{Credentials, KeyStore, KeyStoreUri, LockedStore, Settings, StoreError};
use crate::trust::{Roots, RootsError};

/// Everything that an enrollment needs to be told.
#[derive(Clone, Debug)]
pub struct Enrollment {
    /// The enrollment server.
    pub server: ServerAddress,
    /// The device's name, for which the token was made.
    pub device: DeviceId,
    /// The one-time token.
    pub token: Token,
    /// Whom to trust.
    pub trust: Trust,
    /// What to do about a certificate that the key store already holds.
    pub existing: Existing,
}

/// What a device knows of the root before it has met the server.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The root's SHA-256; the certificate itself is fetched from the server.
    Fingerprint(Fingerprint),
    /// The root certificates themselves.
    Roots(Roots),
}

/// What to do about a certificate that the key store already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to enroll.
    Keep,
    /// Enroll the same device, under the same roots, with a new key. The old pair serves until the new one is
    /// there.
    Replace,
}

impl Enrollment {
    /// What an enrollment code says. An existing certificate is kept.
    pub fn from_code(code: &EnrollmentCode) -> Self {
        Self {
            server: code.server.clone(),
            device: code.device.clone(),
            token: code.token.clone(),
            trust: Trust::Fingerprint(code.root),
            existing: Existing::Keep,
        }
    }
}

/// An enrolled device.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// Its key store.
    pub store: KeyStore,
    /// Its key and its certificate.
    pub credentials: Credentials,
}

/// Makes a key, has it certified, and takes the certificate into use.
///
/// The token leaves only over TLS that is verified by the roots in `enrollment`. The key is on the disk before
/// its request leaves, and an attempt that was cut off is continued with the same key.
pub async fn enroll(
    uri: &KeyStoreUri,
    enrollment: &Enrollment,
    retry: Retry,
) -> Result<Enrolled, EnrollError> {
    let Enrollment { server, device, .. } = enrollment;
    // Before the network is used, and again once nobody else can change the store.
    match KeyStore::open(uri) {
        Ok(store) => check_vacant(&store, enrollment, None)?,
        Err(StoreError::Absent { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let roots = trusted_roots(enrollment).await?;
    let authorities = est::ca_certificates(server, &roots).await?;

    let store = KeyStore::create(uri)?;
    let locked = LockedStore::wait(&store).await?;
    // An expired root still tells which one it was.
    let same = |store: &KeyStore| -> Result<bool, StoreError> {
        Ok(store.settings()?.device == *device && store.roots(Timestamp(0))?.same_as(&roots))
    };
    // Only a first enrollment ends here: where a certificate was in use before, what was found may be a
    // renewal of one that this enrollment is to replace.
    let first = !store.is_enrolled()?;
    if locked.recover()? && first && same(&store)? {
        // The certificate had come, and the last step had been cut off.
        let credentials = store.credentials()?;
        return Ok(Enrolled { store, credentials });
    }
    check_vacant(&store, enrollment, Some(&roots))?;
    let gateway = match store.is_enrolled()? {
        true => store.settings()?.gateway,
        false => None,
    };
    let settings = Settings {
        device: device.clone(),
        server: server.clone(),
        gateway,
    };
    locked.begin(&settings, &roots)?;
    let pending = locked.pending_key()?;
    let csr = certification_request(pending.key(), device, None)?;
    let right = Right::Token(device, &enrollment.token);
    let certificate = match est::certificate(server, &roots, &csr, right, retry).await {
        Ok(certificate) => certificate,
        Err(error) if error.has_code(NEVER_FOR_THIS_KEY) => {
            locked.discard(pending)?;
            return Err(EnrollError::KeyGivenUp(error));
        }
        Err(error) => return Err(error.into()),
    };
    let expected = Expected {
        subject_public_key_info: &pending.key().subject_public_key_info(),
        device,
        spiffe_id: None,
        roots: &roots,
        authorities: &authorities,
    };
    let accepted =
        accept(certificate, &expected, clock::now()).map_err(|fault| EnrollError::NotAccepted {
            server: server.clone(),
            fault,
        })?;
    let credentials = locked.install(pending, &accepted)?;
    Ok(Enrolled { store, credentials })
}

/// Fetches the root if only its fingerprint is known. Of what an unverified server sends, the certificate with
/// that fingerprint is taken and nothing else.
async fn trusted_roots(enrollment: &Enrollment) -> Result<Roots, EnrollError> {
    let server = &enrollment.server;
    match &enrollment.trust {
        Trust::Roots(roots) => Ok(roots.clone()),
        Trust::Fingerprint(fingerprint) => {
            let offered = est::unverified_ca_certificates(server).await?;
            Roots::pinned(&offered, *fingerprint, clock::now()).map_err(|fault| EnrollError::Root {
                server: server.clone(),
                expected: *fingerprint,
                fault: Box::new(fault),
            })
        }
    }
}

/// Refuses to overwrite a certificate, unless the same device is to replace its own under the same roots.
fn check_vacant(
    store: &KeyStore,
    enrollment: &Enrollment,
    roots: Option<&Roots>,
) -> Result<(), EnrollError> {
    if !store.is_enrolled()? {
        return Ok(());
    }
    let holds = store.settings()?.device;
    let directory = store.directory().to_owned();
    match enrollment.existing {
        Existing::Keep => Err(EnrollError::AlreadyEnrolled { holds, directory }),
        Existing::Replace if holds != enrollment.device => Err(EnrollError::OtherDevice {
            asked: enrollment.device.clone(),
            holds,
            directory,
        }),
        Existing::Replace => match roots {
            // An expired root still tells which one it was.
            Some(roots) if !store.roots(Timestamp(0))?.same_as(roots) => {
                Err(EnrollError::OtherRoots { directory })
            }
            Some(_) | None => Ok(()),
        },
    }
}

/// Why a device is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The key store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The enrollment server.
    #[error("{0}")]
    Est(#[from] EstError),
    /// The server did not show the root that the code names.
    #[error(
        "{server} is not the server that the enrollment code was made for: {fault} (SHA-256 {expected}). Somebody may be in between, or the code is for another installation. The token was not sent; ask the operator"
    )]
    Root {
        /// The server.
        server: ServerAddress,
        /// The root's SHA-256 in the code.
        expected: Fingerprint,
        /// What is wrong with what the server showed.
        fault: Box<RootsError>,
    },
    /// The store has a certificate.
    #[error("the key store {path} already holds a certificate for {holds}. To get the next one: keybound-device renew. For another device: --keystore with another folder. To enroll {holds} anew, with a new key: --replace", path = .directory.display())]
    AlreadyEnrolled {
        /// The device in the store.
        holds: DeviceId,
        /// The folder.
        directory: PathBuf,
    },
    /// The store is another device's.
    #[error("the key store {path} is that of {holds}, and the code is for {asked}; name another folder with --keystore", path = .directory.display())]
    OtherDevice {
        /// The device in the store.
        holds: DeviceId,
        /// The device to be enrolled.
        asked: DeviceId,
        /// The folder.
        directory: PathBuf,
    },
    /// The store trusts somebody else.
    #[error("the key store {path} trusts other roots than this enrollment does; name another folder with --keystore", path = .directory.display())]
    OtherRoots {
        /// The folder.
        directory: PathBuf,
    },
    /// The key store did not sign.
    #[error("{0}")]
    Csr(#[from] CsrFault),
    /// What came is not what was asked for.
    #[error("the certificate from {server} is not taken into use: {fault}")]
    NotAccepted {
        /// The server.
        server: ServerAddress,
        /// What is wrong with it.
        fault: AcceptanceFault,
    },
    /// The server never certifies this key, so that it was deleted.
    #[error("{0} The key was given up; run the same command again to enroll with a new one")]
    KeyGivenUp(EstError),
}

impl EnrollError {
    /// Whether no server that this device trusts was reached.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Est(error) => error.is_unreachable(),
            Self::Root { .. } => true,
            Self::Store(_)
            | Self::AlreadyEnrolled { .. }
            | Self::OtherDevice { .. }
            | Self::OtherRoots { .. }
            | Self::Csr(_)
            | Self::NotAccepted { .. }
            | Self::KeyGivenUp(_) => false,
        }
    }
}

/// Refusals that hold for this key whatever the device does.
pub(crate) const NEVER_FOR_THIS_KEY: &[&str] =
    &["key-blocked", "key-of-another-device", "key-reserved"];
