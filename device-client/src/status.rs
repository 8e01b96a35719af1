//! What a key store holds, for people and programs.

use identity::{DeviceId, Fingerprint, Serial, ServerAddress, Timestamp};
use serde::{Serialize, Serializer};

use crate::clock;
use crate::key_store::{KeyStore, StoreError};
use crate::renew::due_at;

/// A key store at a glance. Times serialize as RFC 3339 in UTC.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The device.
    pub device: DeviceId,
    /// The store's folder.
    pub keystore: String,
    /// Where the device is in its life.
    pub state: State,
    /// Whether a key waits for its certificate: an enrollment or a renewal was cut off.
    pub pending: bool,
    /// The certificate in use.
    pub certificate: Option<CertificateStatus>,
    /// SHA-256 of the trusted roots.
    pub roots: Vec<Fingerprint>,
    /// The enrollment server.
    pub server: ServerAddress,
    /// The gateway, once a request has reached one.
    pub gateway: Option<ServerAddress>,
}

/// Where a device is in its life, as far as it can tell by itself: a revocation is known to servers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No certificate has come yet.
    NotEnrolled,
    /// The certificate's time has not come, by this device's clock.
    NotYetValid,
    /// The certificate is valid.
    Valid,
    /// It is valid, and should be renewed.
    RenewalDue,
    /// It has expired.
    Expired,
}

impl State {
    /// The state in the words that JSON has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotEnrolled => "not-enrolled",
            Self::NotYetValid => "not-yet-valid",
            Self::Valid => "valid",
            Self::RenewalDue => "renewal-due",
            Self::Expired => "expired",
        }
    }
}

/// A certificate at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// The name in it.
    pub spiffe_id: String,
    /// Its serial.
    pub serial: Serial,
    /// SHA-256 of it.
    pub fingerprint: Fingerprint,
    /// Its first second.
    #[serde(serialize_with = "rfc3339")]
    pub not_before: Timestamp,
    /// Its last second.
    #[serde(serialize_with = "rfc3339")]
    pub not_after: Timestamp,
    /// From when on `renew --if-due` renews it.
    #[serde(serialize_with = "rfc3339")]
    pub renewal_due_at: Timestamp,
}

/// Looks at a key store. Nothing is sent.
pub fn status(store: &KeyStore) -> Result<Status, StoreError> {
    let now = clock::now();
    let settings = store.settings()?;
    let credentials = match store.credentials() {
        Ok(credentials) => Some(credentials),
        Err(StoreError::NotEnrolled { .. }) => None,
        Err(error) => return Err(error),
    };
    let certificate = credentials.map(|credentials| CertificateStatus {
        spiffe_id: credentials.leaf.spiffe_id.to_string(),
        serial: credentials.leaf.serial,
        fingerprint: credentials.leaf.certificate,
        not_before: credentials.leaf.validity.not_before,
        not_after: credentials.leaf.validity.not_after,
        renewal_due_at: due_at(credentials.leaf.validity),
    });
    Ok(Status {
        state: state(certificate.as_ref(), now),
        device: settings.device,
        keystore: store.directory().display().to_string(),
        pending: store.is_pending()?,
        certificate,
        // An expired root is shown like any other: that is what a status is for.
        roots: store.roots(Timestamp(0))?.fingerprints(),
        server: settings.server,
        gateway: settings.gateway,
    })
}

fn state(certificate: Option<&CertificateStatus>, now: Timestamp) -> State {
    match certificate {
        None => State::NotEnrolled,
        Some(certificate) if now > certificate.not_after => State::Expired,
        Some(certificate) if now < certificate.not_before => State::NotYetValid,
        Some(certificate) if now >= certificate.renewal_due_at => State::RenewalDue,
        Some(_) => State::Valid,
    }
}

fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&clock::rfc3339(*time))
}
