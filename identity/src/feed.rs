//! What the CA tells gateways, and what they tell it: the messages that join the two.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::labels::Group;
use crate::name::{DeviceId, Name};
use crate::serial::Index;
use crate::status::{Class, Status};
use crate::timestamp::Timestamp;

/// One certificate's status as of a journal entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusChange {
    /// The journal entry that says so; in a snapshot, the newest entry that the snapshot includes.
    pub seq: u64,
    /// Which certificate.
    pub index: Index,
    /// SHA-256 of the certificate.
    pub certificate: Fingerprint,
    /// SHA-256 of its TBSCertificate: known even when a device altered its own signature's encoding.
    pub tbs: Fingerprint,
    /// The status from now on.
    pub status: Status,
    /// The class from now on.
    pub class: Class,
}

/// What a class stands for. A class that was defined once never stands for anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassDefinition {
    /// Which class; never 0, which is in no group.
    pub class: Class,
    /// The groups that its devices are in.
    pub groups: BTreeSet<Group>,
}

/// Consecutive journal entries, or a part of a snapshot, with what they changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The batch continues after this sequence number.
    pub after: u64,
    /// Once it is applied, everything up to and including this sequence number is.
    pub upto: u64,
    /// Every class that the changes name, if no earlier batch of the same picture defined it; in force before they are.
    pub classes: Vec<ClassDefinition>,
    /// Changes in journal order. Entries that concern no certificate bring none.
    pub changes: Vec<StatusChange>,
}

/// A gateway's word that a batch is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Who says so.
    pub gateway: Name,
    /// As in the batch.
    pub after: u64,
    /// As in the batch.
    pub upto: u64,
    /// Connections that were ended for a change; a change that ended none is left out.
    pub cuts: Vec<Cut>,
}

/// How many connections a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The journal entry.
    pub seq: u64,
    /// Connections ended by it, seen to be gone.
    pub closed: u64,
    /// Connections that had not ended when the gateway answered.
    pub lingering: u64,
}

/// A device was seen: what the gateway observed, for the CA to judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Its certificate.
    pub index: Index,
    /// Its name in that certificate.
    pub device: DeviceId,
    /// When it was let through.
    pub at: Timestamp,
    /// From where.
    pub address: IpAddr,
}
