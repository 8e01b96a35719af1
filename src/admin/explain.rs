//! What is known of a device, a serial, an address or a request.

use std::net::{IpAddr, SocketAddr};

use ca::{Authority, Unavailable};
use identity::{CertificateSerial, DeviceName, ForeignSerial, Serial, Tag};

use super::{api, views};
use crate::clock;
use crate::decisions::{Decisions, Subject};

/// All that is known of `query`, read as everything that it can be; `None` if that is nothing.
pub(crate) async fn explain(
    authority: &Authority,
    decisions: &Decisions,
    query: &str,
) -> Result<Option<api::Explanation>, Unavailable> {
    let name = query.parse::<DeviceName>().ok();
    let serial = query.parse::<Serial>().ok();
    let address = address(query);
    let mut device = match name.as_ref().and_then(DeviceName::own) {
        Some(id) => views::known_device(authority, id).await?,
        None => None,
    };
    let certificate = match &serial {
        Some(serial) => authority.certificate(serial).await?,
        None => None,
    };
    let certificate = certificate.map(|record| views::certificate(&record, clock::now()));
    let found = decisions.about(
        &Subject {
            // Also one behind a gateway in front, whose id is none of ours.
            device: Some(query.to_ascii_lowercase()),
            serials: serials(query),
            address,
            request_id: Some(query.to_ascii_lowercase()),
        },
        MOST_DECISIONS,
    );
    let mut summary = Vec::new();
    if let Some(device) = &device {
        summary.extend(about_device(device));
    }
    if let Some(certificate) = &certificate {
        summary.push(about_certificate(certificate));
    }
    if device.is_none() {
        // The device behind a serial or a request tells the rest of the story; that of an address would be anybody's.
        let behind = certificate
            .as_ref()
            .and_then(|certificate| certificate.device.clone())
            .or_else(|| {
                let of_request = found.first().filter(|_| address.is_none());
                of_request.and_then(|decision| decision.device.as_ref()?.own().cloned())
            });
        if let Some(behind) = behind {
            device = views::known_device(authority, &behind).await?;
            if let Some(device) = &device {
                summary.extend(about_device(device));
            }
        }
    }
    if let Some(DeviceName::Foreign(foreign)) = found.iter().find_map(|one| one.device.as_ref())
        && address.is_none()
    {
        summary.push(format!(
            "{foreign} is a device of the anchor {}: its CA says who it is and what is withdrawn, and the registry knows nothing of it.",
            foreign.anchor
        ));
    }
    if let Some(address) = address {
        summary.push(match found.len() {
            0 => format!("No decision about {address} is remembered."),
            number => format!("{number} decisions about {address} are shown, newest first."),
        });
    } else if device.is_some() && found.is_empty() {
        summary.push("No decision about it is remembered since the server's start.".into());
    }
    let nothing = device.is_none() && certificate.is_none() && found.is_empty();
    if nothing && address.is_none() {
        return Ok(None);
    }
    Ok(Some(api::Explanation {
        query: query.to_owned(),
        summary,
        device,
        certificate,
        decisions: found,
    }))
}

/// How the device stands and what an operator last did about it.
fn about_device(device: &api::Device) -> Vec<String> {
    let id = &device.id;
    let meaning = match device.status {
        api::DeviceStatus::Waiting => {
            "it has no certificate that could be used, and can enroll with a code"
        }
        api::DeviceStatus::Pending => "it has a certificate, which no gateway has seen yet",
        api::DeviceStatus::Active => "its certificate is in use and passes",
        api::DeviceStatus::Expired => "its certificate has expired; it needs a new enrollment code",
        api::DeviceStatus::Retired => "its newest certificate was replaced",
        api::DeviceStatus::Restricted => "it passes only where restricted devices are admitted",
        api::DeviceStatus::Quarantined => "it was set aside because of suspicious use",
        api::DeviceStatus::Suspended => "it is refused until `keybound device restore`",
        api::DeviceStatus::Revoked => {
            "it is refused for ever; `keybound device replace` frees its id"
        }
    };
    let mut sentences = vec![format!("{id} is {}: {meaning}.", device.status)];
    let last_act = device
        .history
        .iter()
        .find(|entry| entry.action.starts_with("device-") && entry.action != "device-labelled");
    if let Some(entry) = last_act {
        let done = entry.action.trim_start_matches("device-");
        let why = match &entry.reason {
            Some(reason) => format!(": {reason}"),
            None => ", without a reason given".into(),
        };
        sentences.push(format!(
            "It was {done} by {} at {}{why}.",
            entry.actor, entry.at
        ));
    }
    if !device.groups.is_empty() {
        let groups: Vec<&str> = device.groups.iter().map(Tag::as_str).collect();
        sentences.push(format!("It is in the groups {}.", groups.join(", ")));
    }
    sentences
}

fn about_certificate(certificate: &api::CertificateState) -> String {
    let of = match &certificate.device {
        Some(device) => format!("belongs to {device}"),
        None => "belongs to this server".into(),
    };
    let until = if certificate.expired { "ended" } else { "ends" };
    format!(
        "The certificate with serial {} {of} and is {} since {}; its validity {until} at {}.",
        certificate.serial, certificate.status, certificate.changed_at, certificate.not_after
    )
}

/// What a serial may be read as: ours, or another CA's.
fn serials(query: &str) -> Vec<CertificateSerial> {
    let own = query.parse::<Serial>().map(CertificateSerial::Own);
    let foreign = query
        .parse::<ForeignSerial>()
        .map(CertificateSerial::Foreign);
    own.into_iter().chain(foreign).collect()
}

/// An address, with or without a port.
fn address(query: &str) -> Option<IpAddr> {
    query
        .parse::<IpAddr>()
        .ok()
        .or_else(|| query.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|address| address.to_canonical())
}

const MOST_DECISIONS: usize = 20;
