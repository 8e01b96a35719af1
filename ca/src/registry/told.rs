//! What the journal tells, word for word, and whether the tables say the same.

use std::collections::{BTreeMap, HashMap, hash_map};

use identity::{Class, Fingerprint, Index, LabelValue, Status, Tag};
use rusqlite::Connection;

use super::schema::RegistryFault;
use super::values;
use crate::pure::enroll::Standing;
use crate::pure::journal::{Action, Entry, Head, Labelled};

/// Follows the journal, and fails with what a table says otherwise.
pub(super) fn check(connection: &Connection) -> Result<(), RegistryFault> {
    follow(connection)?.compare(connection)
}

/// Follows the journal from the first entry to the last.
fn follow(connection: &Connection) -> Result<Told, RegistryFault> {
    let sql = format!("SELECT {} FROM journal ORDER BY seq", values::ENTRY_COLUMNS);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut head = Head::START;
    let mut told = Told::default();
    while let Some(row) = rows.next()? {
        let journal = RegistryFault::Journal { after: head.seq };
        let Ok((entry, hash)) = values::entry(row) else {
            return Err(journal);
        };
        head = head.advance(&entry, &hash).ok_or(journal)?;
        told.follow(&entry);
    }
    Ok(told)
}

/// What the journal tells: the last word on every certificate, and on every device that there is one on.
#[derive(Default)]
struct Told {
    certificates: HashMap<Index, Certificate>,
    standings: HashMap<String, Standing>,
    labels: HashMap<String, Labelled>,
    /// What each class stands for, from class 1 on.
    classes: Vec<String>,
    /// The first entry that gave a class another meaning, or another status than the entries before it.
    contradiction: Option<u64>,
}

#[derive(PartialEq, Eq)]
struct Certificate {
    status: Status,
    /// Where a suspended one returns to.
    resume: Option<Status>,
    sha256: Option<Fingerprint>,
    class: Class,
}

impl Told {
    fn follow(&mut self, entry: &Entry) {
        let subject = || entry.subject.to_ascii_lowercase();
        if let Some(labelled) = &entry.labelled {
            self.define(entry.seq, labelled);
            self.labels.insert(subject(), labelled.clone());
        }
        if let (Some(index), Some(status)) = (entry.index, entry.status) {
            let class = || {
                let labelled = self.labels.get(&subject());
                labelled.map(|labelled| labelled.class).unwrap_or_default()
            };
            match self.certificates.entry(index) {
                hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(Certificate {
                        status,
                        resume: None,
                        sha256: entry.certificate,
                        class: class(),
                    });
                }
                hash_map::Entry::Occupied(known) if entry.action == Action::ClassChanged => {
                    let known = known.into_mut();
                    known.class = class();
                    if known.status != status {
                        self.contradiction.get_or_insert(entry.seq);
                    }
                }
                hash_map::Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.resume = (status == Status::Suspended).then_some(known.status);
                    known.status = status;
                }
            }
        }
        let standing = match entry.action {
            Action::DeviceRevoked => Standing::Revoked,
            Action::DeviceSuspended => Standing::Suspended,
            Action::DeviceRestored | Action::DeviceReplaced => Standing::Good,
            Action::TokenCreated
            | Action::CertificateIssued
            | Action::StatusChanged
            | Action::DeviceLabelled
            | Action::ClassChanged => return,
        };
        self.standings.insert(subject(), standing);
    }

    /// Classes are numbered in the order of their first use, and keep their meaning.
    fn define(&mut self, seq: u64, labelled: &Labelled) {
        let Some(place) = usize::from(labelled.class.0).checked_sub(1) else {
            return;
        };
        let members = values::members(&labelled.labels.groups);
        match self.classes.get(place) {
            Some(known) if *known == members => {}
            None if place == self.classes.len() => self.classes.push(members),
            Some(_) | None => {
                self.contradiction.get_or_insert(seq);
            }
        }
    }

    fn compare(&self, connection: &Connection) -> Result<(), RegistryFault> {
        if let Some(seq) = self.contradiction {
            return Err(RegistryFault::Contradiction(format!("entry {seq}")));
        }
        self.compare_certificates(connection)?;
        self.compare_classes(connection)?;
        let mut found = 0;
        let mut statement = connection.prepare("SELECT folded, standing FROM device")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let folded: String = row.get(0)?;
            let told = self.standings.get(&folded);
            if told.copied().unwrap_or(Standing::Good) != values::standing(row, 1)? {
                return Err(RegistryFault::Contradiction(format!("device {folded}")));
            }
            found += usize::from(told.is_some());
        }
        if found != self.standings.len() {
            return Err(RegistryFault::Contradiction("a missing device".into()));
        }
        self.compare_labels(connection)
    }

    fn compare_certificates(&self, connection: &Connection) -> Result<(), RegistryFault> {
        let mut found = 0;
        let mut statement = connection.prepare(
            "SELECT idx, status, resume_status, sha256, class, device IS NOT NULL FROM certificate",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let index = values::index(row, 0)?;
            let contradiction = || RegistryFault::Contradiction(format!("certificate {index}"));
            let told = self.certificates.get(&index).ok_or_else(contradiction)?;
            let of_device: bool = row.get(5)?;
            let recorded = Certificate {
                status: values::status(row, 1)?,
                resume: values::optional(row, 2, values::status)?,
                sha256: Some(values::fingerprint(row, 3)?),
                // A gateway may have the name of a device, and is in none of its groups.
                class: match (of_device, values::class(row, 4)?) {
                    (false, Class(0)) => told.class,
                    (false, _) => return Err(contradiction()),
                    (true, class) => class,
                },
            };
            if *told != recorded {
                return Err(contradiction());
            }
            found += 1;
        }
        if found != self.certificates.len() {
            return Err(RegistryFault::Contradiction("a missing certificate".into()));
        }
        Ok(())
    }

    fn compare_classes(&self, connection: &Connection) -> Result<(), RegistryFault> {
        let mut statement =
            connection.prepare("SELECT number, members FROM class ORDER BY number")?;
        let recorded: Vec<(i64, String)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let told = (1..).zip(self.classes.iter().cloned());
        if told.eq(recorded) {
            Ok(())
        } else {
            Err(RegistryFault::Contradiction("a class of groups".into()))
        }
    }

    fn compare_labels(&self, connection: &Connection) -> Result<(), RegistryFault> {
        let mut recorded: HashMap<i64, BTreeMap<Tag, LabelValue>> = HashMap::new();
        let mut statement = connection.prepare("SELECT device, key, value FROM label")?;
        let mut rows = statement.query([])?;
        let contradiction = |device: &str| {
            RegistryFault::Contradiction(format!("the groups and labels of {device}"))
        };
        while let Some(row) = rows.next()? {
            let (key, value) =
                values::label(row, 1, 2).map_err(|_| contradiction("some device"))?;
            recorded.entry(row.get(0)?).or_default().insert(key, value);
        }
        let (mut devices, mut labels) = (0, recorded.len());
        let mut statement = connection.prepare("SELECT number, folded, class FROM device")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let folded: String = row.get(1)?;
            let told = self.labels.get(&folded);
            let of_device = recorded.get(&row.get(0)?);
            let same = match told {
                Some(told) => {
                    told.class == values::class(row, 2)?
                        && told
                            .labels
                            .labels
                            .iter()
                            .eq(of_device.into_iter().flatten())
                }
                None => values::class(row, 2)? == Class::default() && of_device.is_none(),
            };
            if !same {
                return Err(contradiction(&folded));
            }
            devices += usize::from(told.is_some());
            labels -= usize::from(of_device.is_some());
        }
        // Labels of no device, and devices that are gone.
        if devices != self.labels.len() || labels > 0 {
            return Err(contradiction("a missing device"));
        }
        Ok(())
    }
}
