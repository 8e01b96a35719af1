//! The next certificate: for a new key, by the right of the current certificate.

use std::time::Duration;

use identity::certificate::Validity;
use identity::{ServerAddress, Timestamp};

use crate::acceptance::{AcceptanceFault, Expected, accept};
use crate::back_off::Retry;
use crate::clock;
use crate::csr::{CsrFault, certification_request};
use crate::enroll::NEVER_FOR_THIS_KEY;
use crate::est::{self, EstError, Right};
use crate::key_store::{Credentials, KeyStore, LockedStore, StoreError};

/// When to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At once.
    Now,
    /// When two thirds of the certificate's life are over.
    IfDue,
}

/// What became of a renewal.
#[derive(Clone, Debug)]
pub enum Renewal {
    /// The new pair is in use.
    Renewed(Box<Credentials>),
    /// It is too early.
    NotDue {
        /// When it is time.
        due_at: Timestamp,
    },
}

/// When a certificate should be renewed: after two thirds of its life.
pub fn due_at(validity: Validity) -> Timestamp {
    let life = validity.not_after.since(validity.not_before).as_secs();
    validity.not_before.plus(Duration::from_secs(life / 3 * 2))
}

/// Makes a new key, has it certified, and takes the new pair into use.
///
/// The current pair serves until then, and is deleted after that. A renewal that was cut off is continued with
/// the same key, for which the server gives the same certificate.
pub async fn renew(
    store: &KeyStore,
    schedule: Schedule,
    retry: Retry,
) -> Result<Renewal, RenewError> {
    if let Some(due_at) = not_due(schedule, &store.credentials()?) {
        return Ok(Renewal::NotDue { due_at });
    }
    let locked = LockedStore::wait(store).await?;
    locked.recover()?;
    // Another process may have renewed while this one waited.
    let current = store.credentials()?;
    if let Some(due_at) = not_due(schedule, &current) {
        return Ok(Renewal::NotDue { due_at });
    }
    let settings = store.settings()?;
    let (server, device) = (&settings.server, &settings.device);
    let roots = store.roots(clock::now())?;
    let authorities = est::ca_certificates(server, &roots).await?;

    let pending = locked.pending_key()?;
    let spiffe_id = Some(&current.leaf.spiffe_id);
    let csr = certification_request(pending.key(), device, spiffe_id)?;
    let right = Right::Certificate(&current);
    let certificate = match est::certificate(server, &roots, &csr, right, retry).await {
        Ok(certificate) => certificate,
        Err(error) if error.has_code(NEVER_FOR_THIS_KEY) => {
            locked.discard(pending)?;
            return Err(RenewError::KeyGivenUp(error));
        }
        Err(error) => return Err(error.into()),
    };
    let expected = Expected {
        subject_public_key_info: &pending.key().subject_public_key_info(),
        device,
        spiffe_id,
        roots: &roots,
        authorities: &authorities,
    };
    let accepted =
        accept(certificate, &expected, clock::now()).map_err(|fault| RenewError::NotAccepted {
            server: server.clone(),
            fault,
        })?;
    let renewed = locked.install(pending, &accepted)?;
    Ok(Renewal::Renewed(Box::new(renewed)))
}

fn not_due(schedule: Schedule, credentials: &Credentials) -> Option<Timestamp> {
    let due_at = due_at(credentials.leaf.validity);
    match schedule {
        Schedule::Now => None,
        Schedule::IfDue => (clock::now() < due_at).then_some(due_at),
    }
}

/// Why a certificate was not renewed. The current one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The key store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The enrollment server.
    #[error("{0}")]
    Est(#[from] EstError),
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
    #[error("{0} The new key was given up; run the same command again to renew with another one")]
    KeyGivenUp(EstError),
}

impl RenewError {
    /// Whether no server that this device trusts was reached.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Est(error) => error.is_unreachable(),
            Self::Store(_) | Self::Csr(_) | Self::NotAccepted { .. } | Self::KeyGivenUp(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_due_after_two_thirds_of_the_life() {
        let due = |not_before, not_after| {
            due_at(Validity {
                not_before: Timestamp(not_before),
                not_after: Timestamp(not_after),
            })
        };
        assert_eq!(due(1000, 1090), Timestamp(1060));
        assert_eq!(due(0, 90 * 86_400), Timestamp(60 * 86_400));
        assert_eq!(due(10, 5), Timestamp(10));
    }
}
