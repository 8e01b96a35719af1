//! The messages between the commands and the server, in one place. `--json` prints them as they are.
//!
//! Times are RFC 3339 in UTC.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use identity::{
    DeviceId, DeviceName, Fingerprint, Group, LabelChange, LabelValue, Serial, Tag, TrustDomain,
};
use serde::{Deserialize, Serialize};

/// Devices, tokens or requests in one message: enough to share a commit, few enough to answer soon.
pub(crate) const MAX_BATCH: usize = 256;

/// `POST /v1/tokens`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTokens {
    pub(crate) devices: Vec<DeviceId>,
    pub(crate) life_seconds: u64,
}

/// One result for each device, in their order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TokensMade {
    pub(crate) expires_at: String,
    pub(crate) results: Vec<TokenResult>,
}

/// What became of the token for one device.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TokenResult {
    pub(crate) device: DeviceId,
    #[serde(flatten)]
    pub(crate) outcome: TokenOutcome,
}

/// Either a token or the reason why there is none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TokenOutcome {
    Made { code: String, token: String },
    Refused(Refused),
}

/// A refusal: a stable code, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// `POST /v1/certificates`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignRequests {
    pub(crate) requests: Vec<SignRequest>,
}

/// One certificate request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignRequest {
    pub(crate) device: DeviceId,
    /// Base64 of the PEM or DER.
    pub(crate) csr: String,
}

/// One result for each request, in their order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Signed {
    pub(crate) results: Vec<SignResult>,
}

/// What became of one request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SignResult {
    pub(crate) device: DeviceId,
    #[serde(flatten)]
    pub(crate) outcome: SignOutcome,
}

/// Either a certificate or the reason why there is none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SignOutcome {
    Issued(Certificate),
    Refused(Refused),
}

/// A certificate as it left.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) serial: Serial,
    pub(crate) not_after: String,
    /// The same request had been answered with it before.
    pub(crate) repeated: bool,
    pub(crate) pem: String,
}

/// How a device stands, as people see it: its own standing, or else the state of its newest certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceStatus {
    /// Registered, without a certificate yet.
    Waiting,
    /// It has a certificate that it has not used yet.
    Pending,
    /// Its certificate is in use.
    Active,
    /// Its certificate has expired.
    Expired,
    /// Its newest certificate was replaced.
    Retired,
    /// Admitted only where restricted devices are.
    Restricted,
    /// Set aside because of suspicious use.
    Quarantined,
    /// Stopped until restored.
    Suspended,
    /// Withdrawn until replaced.
    Revoked,
}

impl fmt::Display for DeviceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Retired => "retired",
            Self::Restricted => "restricted",
            Self::Quarantined => "quarantined",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        })
    }
}

/// `GET /v1/devices`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceQuery {
    pub(crate) status: Option<DeviceStatus>,
    pub(crate) group: Option<Group>,
    /// Continue after this id.
    pub(crate) after: Option<DeviceId>,
}

/// One page of devices in the order of their ids. A page may be empty and still have a `next`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DevicePage {
    pub(crate) devices: Vec<DeviceLine>,
    /// Ask again after this id.
    pub(crate) next: Option<DeviceId>,
}

/// A device in a listing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeviceLine {
    pub(crate) id: DeviceId,
    pub(crate) status: DeviceStatus,
    pub(crate) groups: BTreeSet<Group>,
    pub(crate) not_after: Option<String>,
    pub(crate) created_at: String,
    pub(crate) last_seen_at: Option<String>,
    pub(crate) last_seen_address: Option<String>,
}

/// `GET /v1/devices/{id}`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) status: DeviceStatus,
    pub(crate) created_at: String,
    pub(crate) last_seen_at: Option<String>,
    pub(crate) last_seen_address: Option<String>,
    /// Which routes admit it that ask for a group.
    pub(crate) groups: BTreeSet<Group>,
    /// What people know of it.
    pub(crate) labels: BTreeMap<Tag, LabelValue>,
    /// Tokens that were neither used nor voided; some may have expired.
    pub(crate) open_tokens: u64,
    /// Newest first.
    pub(crate) certificates: Vec<CertificateState>,
    /// The newest journal entries about it, newest first.
    pub(crate) history: Vec<HistoryEntry>,
}

/// A certificate as the registry has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CertificateState {
    pub(crate) serial: Serial,
    /// The device; absent for a certificate of the server itself.
    pub(crate) device: Option<DeviceId>,
    pub(crate) status: identity::Status,
    pub(crate) expired: bool,
    pub(crate) not_before: String,
    pub(crate) not_after: String,
    /// When the status last changed.
    pub(crate) changed_at: String,
    /// SHA-256 of the certificate.
    pub(crate) certificate: Fingerprint,
}

/// A journal entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HistoryEntry {
    pub(crate) seq: u64,
    pub(crate) at: String,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) serial: Option<Serial>,
    pub(crate) status: Option<identity::Status>,
    pub(crate) reason: Option<String>,
}

/// `POST /v1/devices/{id}/revoke`, `suspend`, `restore`, `replace`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeDevice {
    pub(crate) reason: Option<String>,
    /// Answer only when every gateway has acknowledged, or the time for that is over.
    pub(crate) wait: bool,
}

/// `POST /v1/devices/{id}/label`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LabelDevice {
    pub(crate) labels: LabelChange,
    pub(crate) reason: Option<String>,
    /// As in [`ChangeDevice`].
    pub(crate) wait: bool,
}

/// What was changed; it is durable.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeviceChanged {
    pub(crate) device: DeviceId,
    pub(crate) change: DeviceChange,
    /// The device had been as wanted before.
    pub(crate) already: bool,
    /// How many certificates changed their status or class.
    pub(crate) certificates: usize,
    /// Absent if nobody wanted to wait for it.
    pub(crate) receipt: Option<Receipt>,
}

/// What an operator does about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceChange {
    Revoke,
    Suspend,
    Restore,
    Replace,
    Label,
}

impl DeviceChange {
    /// The last segment of the path.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Suspend => "suspend",
            Self::Restore => "restore",
            Self::Replace => "replace",
            Self::Label => "label",
        }
    }

    /// What the device is afterwards.
    pub(crate) fn participle(self) -> &'static str {
        match self {
            Self::Revoke => "revoked",
            Self::Suspend => "suspended",
            Self::Restore => "restored",
            Self::Replace => "replaced",
            Self::Label => "labelled",
        }
    }
}

/// The word of the gateways that a change is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// Gateways that acknowledged.
    pub(crate) acknowledged: usize,
    /// Gateways that there are.
    pub(crate) gateways: usize,
    /// Connections that were ended, and seen to be gone.
    pub(crate) closed: u64,
    /// Connections that had not ended when their gateway answered.
    pub(crate) lingering: u64,
    /// From the commit to the last acknowledgement, or to giving up.
    pub(crate) milliseconds: u64,
    /// Every gateway acknowledged and no connection lingers.
    pub(crate) complete: bool,
}

/// `POST /v1/explain`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Explain {
    /// A device id, serial, address or request id: whatever it can be read as is looked for.
    pub(crate) query: String,
}

/// All that is known about the query.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) query: String,
    /// What follows, in sentences.
    pub(crate) summary: Vec<String>,
    /// The device that the query names, or whose certificate or request it names.
    pub(crate) device: Option<Device>,
    /// The certificate, if the query is a serial.
    pub(crate) certificate: Option<CertificateState>,
    /// The last decisions, newest first.
    pub(crate) decisions: Vec<Decision>,
}

/// A decision about a handshake or a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decision {
    pub(crate) at: String,
    pub(crate) listener: Listener,
    /// The peer's address and port.
    pub(crate) address: String,
    pub(crate) request_id: Option<String>,
    pub(crate) device: Option<DeviceName>,
    pub(crate) serial: Option<String>,
    pub(crate) sni: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    /// The device for which [`Self::device`], a gateway in front, asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_behalf_of: Option<String>,
    /// `forwarded`, `issued`, …, or the code of the refusal.
    pub(crate) outcome: String,
    /// The code with which the request would have been refused, had its route not only reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reported: Option<String>,
    /// The HTTP status that was answered; none if it did not come to HTTP.
    pub(crate) status: Option<u16>,
    pub(crate) milliseconds: u64,
    /// Why, in a full sentence.
    pub(crate) reason: String,
}

/// Where a decision was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Listener {
    Gateway,
    Enrollment,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gateway => "gateway",
            Self::Enrollment => "enrollment",
        })
    }
}

/// `GET /v1/ca`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CertificateAuthorities {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) root: CaCertificate,
    pub(crate) device_ca: CaCertificate,
    pub(crate) infrastructure_ca: CaCertificate,
}

/// A CA's certificate.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CaCertificate {
    /// SHA-256 of the DER.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) pem: String,
}

/// `GET /v1/ca/crl`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Crl {
    pub(crate) number: u64,
    pub(crate) this_update: String,
    pub(crate) next_update: String,
    pub(crate) entries: usize,
    pub(crate) pem: String,
}

/// `POST /v1/reload`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// The configuration file, or else the command that the server was started with.
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) outcome: ReloadOutcome,
}

/// What is different now; or every mistake, because of which nothing is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ReloadOutcome {
    Changes(Vec<String>),
    Mistakes(Vec<String>),
}
