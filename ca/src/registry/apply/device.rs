//! What operators do about devices.

use identity::{DeviceId, Index, Status};
use rusqlite::params;

use super::super::operation::{Change, DeviceChange, Outcome, Rejection};
use super::super::values;
use super::{Applying, By, Failure};
use crate::pure::enroll::Standing;
use crate::pure::journal::{Action, Entry};

impl Applying<'_> {
    pub(super) fn change_device(
        &mut self,
        by: &By,
        device: &DeviceId,
        change: DeviceChange,
        reason: Option<String>,
    ) -> Result<Outcome, Failure> {
        let (number, id, standing) = self
            .find(device)?
            .ok_or_else(|| Rejection::UnknownDevice(device.clone()))?;
        let before = self.state.head.seq;
        let certificates = match (change, standing) {
            (DeviceChange::Revoke, Standing::Revoked)
            | (DeviceChange::Suspend, Standing::Suspended)
            | (DeviceChange::Restore, Standing::Good) => 0,
            (DeviceChange::Suspend | DeviceChange::Restore, Standing::Revoked) => {
                return Err(Rejection::DeviceRevoked(id).into());
            }
            (DeviceChange::Revoke, Standing::Good | Standing::Suspended) => {
                self.stand(
                    by,
                    Action::DeviceRevoked,
                    &id,
                    number,
                    Standing::Revoked,
                    reason,
                )?;
                self.withdraw(by, &id, number)?
            }
            (DeviceChange::Replace, _) => {
                self.stand(
                    by,
                    Action::DeviceReplaced,
                    &id,
                    number,
                    Standing::Good,
                    reason,
                )?;
                self.withdraw(by, &id, number)?
            }
            (DeviceChange::Suspend, Standing::Good) => {
                self.stand(
                    by,
                    Action::DeviceSuspended,
                    &id,
                    number,
                    Standing::Suspended,
                    reason,
                )?;
                self.suspend(by, &id, number)?
            }
            (DeviceChange::Restore, Standing::Suspended) => {
                self.stand(
                    by,
                    Action::DeviceRestored,
                    &id,
                    number,
                    Standing::Good,
                    reason,
                )?;
                self.restore(by, &id, number)?
            }
        };
        Ok(Outcome::Changed(Change {
            entries: (self.state.head.seq > before).then_some((before + 1, self.state.head.seq)),
            certificates,
        }))
    }

    /// Revokes every certificate, voids every token and blocks every key of a device.
    fn withdraw(&mut self, by: &By, id: &DeviceId, number: i64) -> Result<usize, Failure> {
        self.connection
            .prepare_cached("UPDATE token SET voided = 1 WHERE device = ?1")?
            .execute([number])?;
        self.connection
            .prepare_cached("UPDATE device_key SET blocked = 1 WHERE device = ?1")?
            .execute([number])?;
        let certificates = self.certificates(
            "SELECT idx, status FROM certificate WHERE device = ?1 AND status <> 7 ORDER BY idx",
            number,
        )?;
        for (index, _) in &certificates {
            self.set_status(by, id, number, *index, Status::Revoked, None)?;
        }
        Ok(certificates.len())
    }

    fn suspend(&mut self, by: &By, id: &DeviceId, number: i64) -> Result<usize, Failure> {
        let certificates = self.certificates(
            "SELECT idx, status FROM certificate
             WHERE device = ?1 AND status IN (1, 2, 5) ORDER BY idx",
            number,
        )?;
        for (index, status) in &certificates {
            self.set_status(by, id, number, *index, Status::Suspended, Some(*status))?;
        }
        Ok(certificates.len())
    }

    fn restore(&mut self, by: &By, id: &DeviceId, number: i64) -> Result<usize, Failure> {
        let certificates = self.certificates(
            "SELECT idx, resume_status FROM certificate
             WHERE device = ?1 AND status = 4 ORDER BY idx",
            number,
        )?;
        for (index, status) in &certificates {
            self.set_status(by, id, number, *index, *status, None)?;
        }
        Ok(certificates.len())
    }

    fn stand(
        &mut self,
        by: &By,
        action: Action,
        id: &DeviceId,
        number: i64,
        standing: Standing,
        reason: Option<String>,
    ) -> Result<(), Failure> {
        self.connection
            .prepare_cached("UPDATE device SET standing = ?2 WHERE number = ?1")?
            .execute(params![number, values::standing_code(standing)])?;
        self.write(
            Entry {
                seq: self.state.head.seq + 1,
                at: by.at,
                actor: by.actor.clone(),
                action,
                subject: id.as_str().to_owned(),
                index: None,
                status: None,
                certificate: None,
                reason,
                labelled: None,
            },
            Some(number),
        )?;
        Ok(())
    }

    pub(super) fn certificates(
        &self,
        sql: &str,
        device: i64,
    ) -> Result<Vec<(Index, Status)>, rusqlite::Error> {
        self.connection
            .prepare_cached(sql)?
            .query_map([device], |row| {
                Ok((values::index(row, 0)?, values::status(row, 1)?))
            })?
            .collect()
    }
}
