//! Groups and labels: what operators say about a device, and the class that its certificates get from it.

use std::collections::BTreeSet;

use identity::labels::{Group, LabelChange};
use identity::{Class, DeviceId, Index, Status};
use rusqlite::{OptionalExtension, params};

use super::super::operation::{Change, Outcome, Rejection};
use super::super::read;
use super::super::values::{self, integer};
use super::{Applying, By, Failure};
use crate::pure::journal::{Action, Entry, Labelled};

impl Applying<'_> {
    pub(super) fn label_device(
        &mut self,
        by: &By,
        device: &DeviceId,
        change: &LabelChange,
        reason: Option<String>,
    ) -> Result<Outcome, Failure> {
        let (number, id, _) = self
            .find(device)?
            .ok_or_else(|| Rejection::UnknownDevice(device.clone()))?;
        let before = read::labelled(self.connection, number)?;
        let labels = before.labels.changed(change).map_err(Rejection::Labels)?;
        if labels == before.labels {
            return Ok(Outcome::Changed(Change {
                entries: None,
                certificates: 0,
            }));
        }
        let first = self.state.head.seq + 1;
        let class = self.intern(&labels.groups)?;
        self.connection
            .prepare_cached("UPDATE device SET class = ?2 WHERE number = ?1")?
            .execute(params![number, class.0])?;
        self.connection
            .prepare_cached("DELETE FROM label WHERE device = ?1")?
            .execute([number])?;
        for (key, value) in &labels.labels {
            self.connection
                .prepare_cached("INSERT INTO label (device, key, value) VALUES (?1, ?2, ?3)")?
                .execute(params![number, key.as_str(), value.as_str()])?;
        }
        self.write(
            Entry {
                seq: first,
                at: by.at,
                actor: by.actor.clone(),
                action: Action::DeviceLabelled,
                subject: id.as_str().to_owned(),
                index: None,
                status: None,
                certificate: None,
                reason,
                labelled: Some(Labelled { class, labels }),
            },
            Some(number),
        )?;
        let certificates = if class == before.class {
            0
        } else {
            self.classify(by, &id, number, class)?
        };
        Ok(Outcome::Changed(Change {
            entries: Some((first, self.state.head.seq)),
            certificates,
        }))
    }

    /// The class of a device's next certificate.
    pub(super) fn class_of(&self, number: i64) -> Result<Class, rusqlite::Error> {
        self.connection
            .prepare_cached("SELECT class FROM device WHERE number = ?1")?
            .query_row([number], |row| values::class(row, 0))
    }

    /// The class of a set of groups; a new one if nobody had this set before. Classes are never given another meaning,
    /// so that no gateway can take one for what it was.
    fn intern(&mut self, groups: &BTreeSet<Group>) -> Result<Class, Failure> {
        if groups.is_empty() {
            return Ok(Class::default());
        }
        let members = values::members(groups);
        let known = self
            .connection
            .prepare_cached("SELECT number FROM class WHERE members = ?1")?
            .query_row([&members], |row| values::class(row, 0))
            .optional()?;
        if let Some(known) = known {
            return Ok(known);
        }
        let last = self
            .connection
            .prepare_cached("SELECT coalesce(max(number), 0) FROM class")?
            .query_row([], |row| values::class(row, 0))?;
        let class = Class(last.0.checked_add(1).ok_or(Rejection::NoClassLeft)?);
        self.connection
            .prepare_cached("INSERT INTO class (number, members) VALUES (?1, ?2)")?
            .execute(params![class.0, members])?;
        self.state.sum.add_class(self.key, class, &members);
        Ok(class)
    }

    /// Gives a device's certificates a class. Revoked ones keep theirs: nobody asks for it any more.
    fn classify(
        &mut self,
        by: &By,
        id: &DeviceId,
        number: i64,
        class: Class,
    ) -> Result<usize, Failure> {
        let certificates = self.certificates(
            "SELECT idx, status FROM certificate WHERE device = ?1 AND status <> 7 ORDER BY idx",
            number,
        )?;
        for (index, status) in &certificates {
            self.set_class(*index, class)?;
            self.append(
                by,
                Action::ClassChanged,
                id.as_str(),
                Some(number),
                Some((*index, *status)),
            )?;
        }
        Ok(certificates.len())
    }

    fn set_class(&mut self, index: Index, class: Class) -> Result<(), rusqlite::Error> {
        let mut row = self
            .connection
            .prepare_cached(&format!(
                "SELECT {} FROM certificate WHERE idx = ?1",
                read::SEALED_COLUMNS
            ))?
            .query_row([integer(index.0)], read::sealed)?;
        debug_assert_ne!(row.status, Status::Revoked);
        self.state.sum.remove(self.key, &row);
        row.class = class;
        self.state.sum.add(self.key, &row);
        self.connection
            .prepare_cached("UPDATE certificate SET class = ?2 WHERE idx = ?1")?
            .execute(params![integer(index.0), class.0])?;
        Ok(())
    }
}
