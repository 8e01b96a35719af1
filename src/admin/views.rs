//! From the CA's records to the messages of [`super::api`].

use ca::{
    Authority, CertificateRecord, DeviceRecord, DeviceSummary, JournalEntry, Standing, Unavailable,
};
use identity::{DeviceId, Status, Timestamp};

use super::api;
use crate::clock::{self, rfc3339};

/// How a device stands, as people see it.
fn device_status(
    standing: Standing,
    newest: Option<(Status, Timestamp)>,
    now: Timestamp,
) -> api::DeviceStatus {
    match (standing, newest) {
        (Standing::Revoked, _) => api::DeviceStatus::Revoked,
        (Standing::Suspended, _) => api::DeviceStatus::Suspended,
        (Standing::Good, None) => api::DeviceStatus::Waiting,
        (Standing::Good, Some((status, not_after))) => match status {
            // The newest certificate of a replaced device is revoked; the device waits for its next one.
            Status::Revoked | Status::Unknown => api::DeviceStatus::Waiting,
            Status::Suspended => api::DeviceStatus::Suspended,
            Status::Quarantined => api::DeviceStatus::Quarantined,
            Status::Pending | Status::Active | Status::Retired | Status::Restricted
                if now > not_after =>
            {
                api::DeviceStatus::Expired
            }
            Status::Pending => api::DeviceStatus::Pending,
            Status::Active => api::DeviceStatus::Active,
            Status::Retired => api::DeviceStatus::Retired,
            Status::Restricted => api::DeviceStatus::Restricted,
        },
    }
}

/// A device in a listing.
pub(super) fn device_line(summary: DeviceSummary, now: Timestamp) -> api::DeviceLine {
    api::DeviceLine {
        status: device_status(summary.standing, summary.newest, now),
        id: summary.id,
        groups: summary.groups,
        not_after: summary.newest.map(|(_, not_after)| rfc3339(not_after)),
        created_at: rfc3339(summary.created_at),
        last_seen_at: summary.last_seen_at.map(rfc3339),
        last_seen_address: summary.last_seen_address,
    }
}

/// A device with its certificates and its newest journal entries, if there is such a device.
pub(super) async fn known_device(
    authority: &Authority,
    id: &DeviceId,
) -> Result<Option<api::Device>, Unavailable> {
    let registry = authority.registry();
    let Some(record) = registry.device(id).await? else {
        return Ok(None);
    };
    let history = registry.history(id, MOST_HISTORY).await?;
    Ok(Some(device(record, history, clock::now())))
}

fn device(record: DeviceRecord, history: Vec<JournalEntry>, now: Timestamp) -> api::Device {
    let newest = record
        .certificates
        .first()
        .map(|newest| (newest.status, newest.not_after));
    let serial_of = |index| {
        record
            .certificates
            .iter()
            .find(|certificate| certificate.index == index)
            .map(|certificate| certificate.serial)
    };
    api::Device {
        history: history
            .into_iter()
            .map(|entry| api::HistoryEntry {
                seq: entry.seq,
                at: rfc3339(entry.at),
                actor: entry.actor,
                action: entry.action.as_str().to_owned(),
                serial: entry.index.and_then(serial_of),
                status: entry.status,
                reason: entry.reason,
            })
            .collect(),
        status: device_status(record.standing, newest, now),
        certificates: record
            .certificates
            .iter()
            .map(|record| certificate(record, now))
            .collect(),
        id: record.id,
        created_at: rfc3339(record.created_at),
        last_seen_at: record.last_seen_at.map(rfc3339),
        last_seen_address: record.last_seen_address,
        groups: record.labels.groups,
        labels: record.labels.labels,
        open_tokens: record.open_tokens,
    }
}

/// A certificate as the registry has it.
pub(super) fn certificate(record: &CertificateRecord, now: Timestamp) -> api::CertificateState {
    api::CertificateState {
        serial: record.serial,
        device: record.device.clone(),
        status: record.status,
        expired: now > record.not_after,
        not_before: rfc3339(record.not_before),
        not_after: rfc3339(record.not_after),
        changed_at: rfc3339(record.changed_at),
        certificate: record.certificate,
    }
}

const MOST_HISTORY: usize = 20;
