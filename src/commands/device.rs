//! `keybound device`

use std::collections::{BTreeMap, BTreeSet};

use identity::{LabelChange, LabelValue, Tag};

use super::output::{self, Table, or_dash};
use super::{Failure, device_id, token};
use crate::admin::api::{
    ChangeDevice, Device, DeviceChange, DeviceChanged, DeviceLine, DevicePage, DeviceStatus,
    LabelDevice, Receipt,
};
use crate::admin::client::Client;
use crate::cli::{ChangeArguments, DeviceCommand, LabelArguments, ReplaceArguments};

pub(super) async fn run(client: &Client, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::List {
            status,
            group,
            json,
        } => list(client, status, group.as_deref(), json).await,
        DeviceCommand::Show { id, json } => show(client, &id, json).await,
        DeviceCommand::Revoke(arguments) => change(client, DeviceChange::Revoke, arguments).await,
        DeviceCommand::Suspend(arguments) => change(client, DeviceChange::Suspend, arguments).await,
        DeviceCommand::Restore(arguments) => change(client, DeviceChange::Restore, arguments).await,
        DeviceCommand::Replace(arguments) => replace(client, arguments).await,
        DeviceCommand::Label(arguments) => label(client, arguments).await,
    }
}

/// Page by page, so that a fleet of any size can be listed.
async fn list(
    client: &Client,
    status: Option<DeviceStatus>,
    group: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let group = group.map(tag).transpose()?;
    let mut listing = Listing::new(json);
    let mut after = None;
    loop {
        let mut path = "/v1/devices?".to_owned();
        if let Some(status) = status {
            path.push_str(&format!("status={status}&"));
        }
        if let Some(group) = &group {
            path.push_str(&format!("group={group}&"));
        }
        if let Some(after) = &after {
            path.push_str(&format!("after={after}"));
        }
        let page: DevicePage = client.get(&path).await?;
        listing.page(page.devices)?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if listing.finish()? == 0 && !json {
        output::note(match (&group, status) {
            (Some(group), Some(status)) => format!("No device in {group} is {status}."),
            (Some(group), None) => format!("No device is in {group}."),
            (None, Some(status)) => format!("No device is {status}."),
            (None, None) => "There is no device yet. Make an enrollment code for one: keybound token new --device ID".into(),
        });
    }
    Ok(())
}

/// A table or a JSON array that is printed as it comes.
struct Listing {
    json: bool,
    printed: usize,
    table: Table,
}

impl Listing {
    fn new(json: bool) -> Self {
        Self {
            json,
            printed: 0,
            table: Table::new(&["ID", "STATUS", "VALID UNTIL", "LAST SEEN", "FROM", "GROUPS"]),
        }
    }

    fn page(&mut self, devices: Vec<DeviceLine>) -> Result<(), Failure> {
        if devices.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::with_capacity(devices.len());
        for device in devices {
            if self.json {
                let before = if self.printed == 0 { "[" } else { "," };
                lines.push(format!("{before}{}", output::one_line(&device)?));
            } else {
                self.table.row([
                    device.id.to_string(),
                    device.status.to_string(),
                    or_dash(device.not_after),
                    or_dash(device.last_seen_at),
                    or_dash(device.last_seen_address),
                    listed(&device.groups),
                ]);
            }
            self.printed += 1;
        }
        if self.json {
            output::print(lines.join("\n"))
        } else {
            output::print(self.table.take())
        }
    }

    /// How many devices were listed.
    fn finish(self) -> Result<usize, Failure> {
        if self.json {
            output::print(if self.printed == 0 { "[]" } else { "]" })?;
        }
        Ok(self.printed)
    }
}

async fn show(client: &Client, id: &str, json: bool) -> Result<(), Failure> {
    let id = device_id(id)?;
    let device: Device = client.get(&format!("/v1/devices/{id}")).await?;
    if json {
        return output::json(&device);
    }
    output::print(describe(&device))
}

/// A device as people read it.
pub(super) fn describe(device: &Device) -> String {
    let seen = match (&device.last_seen_at, &device.last_seen_address) {
        (Some(at), Some(address)) => format!("{at} from {}", output::harmless(address)),
        (Some(at), None) => at.clone(),
        (None, _) => "never".into(),
    };
    let mut text = format!(
        "{} is {}.\n  registered   {}\n  last seen    {seen}\n  open tokens  {}\n",
        device.id, device.status, device.created_at, device.open_tokens
    );
    text.push_str(&format!("  groups       {}\n", listed(&device.groups)));
    for (key, value) in &device.labels {
        let value = output::harmless(value.as_str());
        text.push_str(&format!("  label        {key} = {value}\n"));
    }
    if device.certificates.is_empty() {
        text.push_str("\nIt has no certificate yet.\n");
    } else {
        let mut table = Table::new(&["SERIAL", "STATUS", "SINCE", "VALID FROM", "VALID UNTIL"]);
        for certificate in &device.certificates {
            let expired = if certificate.expired { ", expired" } else { "" };
            table.row([
                certificate.serial.to_string(),
                format!("{}{expired}", certificate.status),
                certificate.changed_at.clone(),
                certificate.not_before.clone(),
                certificate.not_after.clone(),
            ]);
        }
        text.push_str(&format!("\n{table}\n"));
    }
    let mut table = Table::new(&["ENTRY", "AT", "BY", "WHAT", "CERTIFICATE", "STATUS", "WHY"]);
    for entry in &device.history {
        table.row([
            entry.seq.to_string(),
            entry.at.clone(),
            entry.actor.clone(),
            entry.action.clone(),
            or_dash(entry.serial),
            or_dash(entry.status),
            or_dash(entry.reason.as_ref()),
        ]);
    }
    text.push_str(&format!("\n{table}"));
    text
}

async fn change(
    client: &Client,
    change: DeviceChange,
    arguments: ChangeArguments,
) -> Result<(), Failure> {
    let json = arguments.json;
    let changed = ask(client, change, arguments).await?;
    if json {
        output::json(&changed)?;
    } else {
        output::print(sentence(&changed))?;
    }
    unless_incomplete(&changed)
}

async fn replace(client: &Client, arguments: ReplaceArguments) -> Result<(), Failure> {
    let life = token::life(&arguments.ttl)?;
    let json = arguments.change.json;
    let changed = ask(client, DeviceChange::Replace, arguments.change).await?;
    // The code goes to standard output alone, as with `token new`.
    output::note(sentence(&changed));
    token::one(client, changed.device.clone(), life, json).await?;
    unless_incomplete(&changed)
}

async fn label(client: &Client, arguments: LabelArguments) -> Result<(), Failure> {
    let id = device_id(&arguments.change.id)?;
    let tags = |texts: &[String]| -> Result<BTreeSet<Tag>, Failure> {
        texts.iter().map(|text| tag(text)).collect()
    };
    let mut set = BTreeMap::new();
    for text in &arguments.labels_set {
        let (key, value) = labelled(text)?;
        if set.insert(key, value).is_some() {
            return Err(Failure::usage(format!(
                "--label {text}: the label is there twice."
            )));
        }
    }
    let message = LabelDevice {
        labels: LabelChange {
            add_groups: tags(&arguments.groups)?,
            remove_groups: tags(&arguments.no_groups)?,
            set,
            unset: tags(&arguments.no_labels)?,
        },
        reason: arguments.change.reason,
        wait: !arguments.change.no_wait,
    };
    let changed: DeviceChanged = client
        .post(&format!("/v1/devices/{id}/label"), &message)
        .await?;
    if arguments.change.json {
        output::json(&changed)?;
    } else {
        output::print(sentence(&changed))?;
    }
    unless_incomplete(&changed)
}

fn tag(text: &str) -> Result<Tag, Failure> {
    Tag::parse(text).map_err(|error| Failure::usage(format!("{text:?} is refused: {error}.")))
}

/// `KEY=VALUE`; what follows the first equals sign is the value.
fn labelled(text: &str) -> Result<(Tag, LabelValue), Failure> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        Failure::usage(format!(
            "--label {text:?} has no equals sign; write KEY=VALUE."
        ))
    })?;
    let value = LabelValue::parse(value)
        .map_err(|error| Failure::usage(format!("The value of {key:?} is refused: {error}.")))?;
    Ok((tag(key)?, value))
}

fn listed(groups: &BTreeSet<Tag>) -> String {
    let groups: Vec<&str> = groups.iter().map(Tag::as_str).collect();
    or_dash((!groups.is_empty()).then(|| groups.join(", ")))
}

async fn ask(
    client: &Client,
    change: DeviceChange,
    arguments: ChangeArguments,
) -> Result<DeviceChanged, Failure> {
    let id = device_id(&arguments.id)?;
    let message = ChangeDevice {
        reason: arguments.reason,
        wait: !arguments.no_wait,
    };
    let path = format!("/v1/devices/{id}/{}", change.as_str());
    client.post(&path, &message).await
}

/// The receipt in a sentence.
fn sentence(changed: &DeviceChanged) -> String {
    let DeviceChanged {
        device,
        change,
        already,
        receipt,
        ..
    } = changed;
    let done = match change {
        DeviceChange::Restore if *already => "not suspended, and goes on".to_owned(),
        DeviceChange::Label if *already => "labelled so already".to_owned(),
        DeviceChange::Revoke | DeviceChange::Suspend | DeviceChange::Replace if *already => {
            format!("already {}", change.participle())
        }
        DeviceChange::Revoke
        | DeviceChange::Suspend
        | DeviceChange::Restore
        | DeviceChange::Replace
        | DeviceChange::Label => change.participle().to_owned(),
    };
    let done = if *already {
        format!("{device} was {done}")
    } else {
        format!("{device} {done}")
    };
    let Some(receipt) = receipt else {
        return format!("{done}; not waiting for the gateways");
    };
    let Receipt {
        acknowledged,
        gateways,
        closed,
        lingering,
        milliseconds,
        ..
    } = receipt;
    let closed = match change {
        DeviceChange::Restore | DeviceChange::Label => String::new(),
        DeviceChange::Revoke | DeviceChange::Suspend | DeviceChange::Replace => format!(
            ", {} closed",
            output::count(*closed, "connection", "connections")
        ),
    };
    let lingering = match lingering {
        0 => String::new(),
        _ => format!(
            ", {} not gone yet",
            output::count(*lingering, "connection", "connections")
        ),
    };
    format!("{done}: {acknowledged} of {gateways} gateways{closed}{lingering}, {milliseconds} ms")
}

fn unless_incomplete(changed: &DeviceChanged) -> Result<(), Failure> {
    match changed.receipt {
        Some(receipt) if !receipt.complete => Err(Failure::unacknowledged(format!(
            "The change is durable, but not every gateway has carried it out yet; it goes on by itself. \
             Run the same command again for another receipt, and look at /readyz and the server's log. \
             ({} of {} gateways acknowledged)",
            receipt.acknowledged, receipt.gateways
        ))),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use identity::DeviceId;

    use super::*;

    fn check(change: DeviceChange, already: bool, receipt: Option<Receipt>, expected: &str) {
        let changed = DeviceChanged {
            device: DeviceId::parse("thermostat-7").expect("legal"),
            change,
            already,
            certificates: 1,
            receipt,
        };
        assert_eq!(sentence(&changed), expected);
        let complete = receipt.is_none_or(|receipt| receipt.complete);
        assert_eq!(unless_incomplete(&changed).is_ok(), complete);
    }

    #[test]
    fn receipts_in_sentences() {
        let receipt = Receipt {
            acknowledged: 1,
            gateways: 1,
            closed: 4,
            lingering: 0,
            milliseconds: 41,
            complete: true,
        };
        check(
            DeviceChange::Revoke,
            false,
            Some(receipt),
            "thermostat-7 revoked: 1 of 1 gateways, 4 connections closed, 41 ms",
        );
        check(
            DeviceChange::Suspend,
            false,
            None,
            "thermostat-7 suspended; not waiting for the gateways",
        );
        check(
            DeviceChange::Revoke,
            true,
            Some(Receipt {
                closed: 0,
                ..receipt
            }),
            "thermostat-7 was already revoked: 1 of 1 gateways, 0 connections closed, 41 ms",
        );
        check(
            DeviceChange::Restore,
            false,
            Some(Receipt {
                closed: 0,
                ..receipt
            }),
            "thermostat-7 restored: 1 of 1 gateways, 41 ms",
        );
        check(
            DeviceChange::Revoke,
            false,
            Some(Receipt {
                closed: 1,
                lingering: 1,
                complete: false,
                ..receipt
            }),
            "thermostat-7 revoked: 1 of 1 gateways, 1 connection closed, 1 connection not gone yet, 41 ms",
        );
    }
}
