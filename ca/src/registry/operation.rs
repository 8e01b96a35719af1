//! What can be asked of the registry, as values, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use identity::feed::Sighting;
use identity::labels::LabelChangeError;
use identity::{DeviceId, Fingerprint, Index, LabelChange, Name, Serial, SpiffeId, Timestamp};

use crate::pure::csr::VerifiedCsr;
use crate::pure::enroll::{Refusal, Requester};
use crate::pure::journal::Actor;

/// One operation, by whom, and when.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) actor: Actor,
    pub(crate) now: Timestamp,
    pub(crate) operation: Operation,
}

impl Request {
    /// Whether it may be done while the journal is still being checked, on the word of the seal.
    ///
    /// Revoking and suspending cannot wait, and can do no harm. The rest is what the server needs for itself: a gateway's
    /// certificate, indexes for it, a CRL. None of them asks who may do what.
    pub(super) fn may_go_ahead(&self) -> bool {
        match &self.operation {
            Operation::ChangeDevice { change, .. } => match change {
                DeviceChange::Revoke | DeviceChange::Suspend => true,
                DeviceChange::Restore | DeviceChange::Replace => false,
            },
            Operation::RecordCertificate(new) => match new.owner {
                Owner::Gateway(_) => true,
                Owner::Device { .. } => false,
            },
            Operation::LeaseIndexes { .. } | Operation::StartCrl => true,
            Operation::CreateToken { .. }
            | Operation::LabelDevice { .. }
            | Operation::Sighted(_) => false,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Operation {
    /// A one-time token for a device, which is registered if it is not yet.
    CreateToken {
        device: DeviceId,
        hash: Fingerprint,
        expires_at: Timestamp,
    },
    /// A signed certificate, before it leaves.
    RecordCertificate(Box<NewCertificate>),
    /// What an operator does about a device.
    ChangeDevice {
        device: DeviceId,
        change: DeviceChange,
        reason: Option<String>,
    },
    /// What an operator says about a device.
    LabelDevice {
        device: DeviceId,
        change: LabelChange,
        reason: Option<String>,
    },
    /// A gateway saw a device.
    Sighted(Sighting),
    /// A range of registry indexes that nobody else gets, ever.
    LeaseIndexes { lifetime: Lifetime, count: u32 },
    /// The number and date of the next CRL.
    StartCrl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChange {
    Revoke,
    Suspend,
    Restore,
    Replace,
}

/// A signed certificate with what the registry keeps of it.
#[derive(Debug)]
pub(crate) struct NewCertificate {
    pub(crate) owner: Owner,
    pub(crate) index: Index,
    pub(crate) serial: Serial,
    pub(crate) der: Vec<u8>,
    pub(crate) certificate: Fingerprint,
    pub(crate) tbs: Fingerprint,
    pub(crate) key: Fingerprint,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// For whom a certificate is.
#[derive(Debug)]
pub(crate) enum Owner {
    /// For a device; its right is decided once more in the transaction.
    Device {
        requester: Requester,
        csr: Arc<VerifiedCsr>,
        spiffe_id: SpiffeId,
    },
    /// For a gateway of this installation.
    Gateway(Name),
}

/// Classes of certificate lifetime. Certificates of one class expire at about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lifetime(u8);

impl Lifetime {
    /// The class of a lifetime: days, rounded up to a power of two.
    pub(crate) fn of(life: Duration) -> Self {
        let days = life.as_secs().div_ceil(24 * 60 * 60).max(1);
        Self(days.next_power_of_two().trailing_zeros() as u8)
    }

    pub(crate) fn code(self) -> u8 {
        self.0
    }
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing more to say.
    Done,
    /// The certificate is durably recorded, or was before.
    Recorded(Recorded),
    /// What the change of a device comes to.
    Changed(Change),
    /// `first` and the following `count - 1` indexes.
    Leased { first: Index, count: u32 },
    /// The next CRL's number and date.
    Crl(CrlNumber),
}

#[derive(Debug)]
pub(crate) enum Recorded {
    /// The new certificate may leave.
    New,
    /// The same request was answered before, with the certificate of this index: that one may leave.
    Existing(Index),
}

/// A change of a device, as committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The first and last journal entry; `None` if the device already was as wanted.
    pub entries: Option<(u64, u64)>,
    /// How many certificates changed their status.
    pub certificates: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CrlNumber {
    pub(crate) number: u64,
    pub(crate) this_update: Timestamp,
}

/// Why one request was rejected. The others of its batch are not affected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The enrollment rules refuse it.
    #[error("{0}")]
    Refused(Refusal),
    /// No such device.
    #[error("there is no device {0}; `keybound device list` shows all")]
    UnknownDevice(DeviceId),
    /// The id is taken by one that differs only in upper and lower case.
    #[error("the id is taken by {registered}, which differs only in upper and lower case")]
    SpelledDifferently {
        /// The id as registered.
        registered: DeviceId,
    },
    /// The device is revoked.
    #[error("{0} is revoked; `keybound device replace {0}` lets a new device take its id")]
    DeviceRevoked(DeviceId),
    /// The device is suspended.
    #[error("{0} is suspended; `keybound device restore {0}` lets it go on")]
    DeviceSuspended(DeviceId),
    /// Its groups and labels cannot be changed so.
    #[error("{0}")]
    Labels(LabelChangeError),
    /// There are as many different sets of groups as there can be.
    #[error(
        "65535 different sets of groups were used already, and there can be no more; put the device in groups that another one is in"
    )]
    NoClassLeft,
}
