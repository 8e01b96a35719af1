//! What the registry tells about devices and certificates.

use std::collections::BTreeSet;

use identity::{DeviceId, DeviceLabels, Fingerprint, Group, Index, Serial, Status, Timestamp};

use crate::pure::enroll::Standing;

/// A device with all that is known of it.
#[derive(Clone, Debug)]
pub struct DeviceRecord {
    /// Its id, as first written.
    pub id: DeviceId,
    /// How the operators see it.
    pub standing: Standing,
    /// When it was first heard of.
    pub created_at: Timestamp,
    /// When a gateway last let it through.
    pub last_seen_at: Option<Timestamp>,
    /// From where.
    pub last_seen_address: Option<String>,
    /// Its groups and labels.
    pub labels: DeviceLabels,
    /// Tokens that could still be used, were time standing still.
    pub open_tokens: u64,
    /// Its certificates, newest first.
    pub certificates: Vec<CertificateRecord>,
}

/// A device in a listing.
#[derive(Clone, Debug)]
pub struct DeviceSummary {
    /// Its id, as first written.
    pub id: DeviceId,
    /// How the operators see it.
    pub standing: Standing,
    /// When it was first heard of.
    pub created_at: Timestamp,
    /// When a gateway last let it through.
    pub last_seen_at: Option<Timestamp>,
    /// From where.
    pub last_seen_address: Option<String>,
    /// The groups that it is in.
    pub groups: BTreeSet<Group>,
    /// The status and end of its newest certificate.
    pub newest: Option<(Status, Timestamp)>,
}

/// A certificate as recorded.
#[derive(Clone, Debug)]
pub struct CertificateRecord {
    /// Its registry index.
    pub index: Index,
    /// The device that it is for; `None` for a gateway's own.
    pub device: Option<DeviceId>,
    /// Its serial.
    pub serial: Serial,
    /// SHA-256 of it.
    pub certificate: Fingerprint,
    /// SHA-256 of its TBSCertificate.
    pub tbs: Fingerprint,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: Fingerprint,
    /// Its first second.
    pub not_before: Timestamp,
    /// Its last second.
    pub not_after: Timestamp,
    /// Its status.
    pub status: Status,
    /// When the status last changed.
    pub changed_at: Timestamp,
}

/// Which devices to list, and where to go on.
#[derive(Clone, Debug)]
pub struct DeviceFilter {
    /// Only devices in this standing.
    pub standing: Option<Standing>,
    /// Only devices in this group.
    pub group: Option<Group>,
    /// Only devices whose id starts so, in any case.
    pub prefix: Option<String>,
    /// Continue after this id: the last of the previous page.
    pub after: Option<DeviceId>,
    /// At most so many.
    pub limit: usize,
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct DevicePage {
    /// In the order of their ids, case folded.
    pub devices: Vec<DeviceSummary>,
    /// Whether others follow.
    pub more: bool,
}

/// A certificate that the CRL names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Withdrawn {
    pub(crate) serial: Serial,
    pub(crate) since: Timestamp,
    /// Suspended rather than revoked: it may come back.
    pub(crate) on_hold: bool,
}
