//! Operations applied inside a transaction, with the journal entries that they leave.

mod certificate;
mod device;
mod labels;

use identity::{DeviceId, Fingerprint, Index, Status, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::operation::{Operation, Outcome, Rejection, Request};
use super::read;
use super::schema::State;
use super::values::{self, integer};
use crate::pure::enroll::Standing;
use crate::pure::journal::{Action, Entry, Head};
use crate::pure::seal::SealKey;

/// Why an operation did not go through.
pub(super) enum Failure {
    /// It is not allowed; others are.
    Rejected(Rejection),
    /// The database failed; nothing of the whole group holds.
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// A transaction in progress.
pub(super) struct Applying<'c> {
    connection: &'c Connection,
    key: &'c SealKey,
    started_at: State,
    state: State,
}

impl<'c> Applying<'c> {
    pub(super) fn new(connection: &'c Connection, key: &'c SealKey, state: State) -> Self {
        Self {
            connection,
            key,
            started_at: state,
            state,
        }
    }

    /// Where journal and sum are as of the operations so far.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Forgets what an operation added that was rolled back.
    pub(super) fn rewind(&mut self, state: State) {
        self.state = state;
    }

    /// Writes down the journal's end and the seal, before the commit.
    pub(super) fn finish(self) -> Result<State, rusqlite::Error> {
        let State { head, sum } = self.state;
        if self.state != self.started_at {
            self.connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO meta (key, value) VALUES ('head', ?1), ('seal', ?2)",
                )?
                .execute([head.hash.0, self.key.tag(&sum, &head)])?;
        }
        Ok(self.state)
    }

    pub(super) fn apply(&mut self, request: Request) -> Result<Outcome, Failure> {
        let Request {
            actor,
            now,
            operation,
        } = request;
        let by = By {
            actor: actor.to_string(),
            now,
            // The journal's time never runs backwards, whatever the system's clock does. Nothing is decided by
            // it: a clock that was once ahead must not make everything expire.
            at: now.max(self.state.head.at),
        };
        match operation {
            Operation::CreateToken {
                device,
                hash,
                expires_at,
            } => self.create_token(&by, &device, &hash, expires_at),
            Operation::RecordCertificate(certificate) => self.record(&by, *certificate),
            Operation::ChangeDevice {
                device,
                change,
                reason,
            } => self.change_device(&by, &device, change, reason),
            Operation::LabelDevice {
                device,
                change,
                reason,
            } => self.label_device(&by, &device, &change, reason),
            Operation::Sighted(sighting) => self.sighted(&by, &sighting),
            Operation::LeaseIndexes { lifetime, count } => self.lease(lifetime, count),
            Operation::StartCrl => self.start_crl(now),
        }
    }

    fn create_token(
        &mut self,
        by: &By,
        device: &DeviceId,
        hash: &Fingerprint,
        expires_at: Timestamp,
    ) -> Result<Outcome, Failure> {
        let (number, standing) = self.register(by, device)?;
        match standing {
            Standing::Good => {}
            Standing::Suspended => return Err(Rejection::DeviceSuspended(device.clone()).into()),
            Standing::Revoked => return Err(Rejection::DeviceRevoked(device.clone()).into()),
        }
        self.connection
            .prepare_cached(
                "INSERT INTO token (hash, device, created_at, expires_at) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                hash.0,
                number,
                integer(by.now.0),
                integer(expires_at.0)
            ])?;
        self.append(
            by,
            Action::TokenCreated,
            device.as_str(),
            Some(number),
            None,
        )?;
        Ok(Outcome::Done)
    }

    fn find(
        &self,
        device: &DeviceId,
    ) -> Result<Option<(i64, DeviceId, Standing)>, rusqlite::Error> {
        self.connection
            .prepare_cached("SELECT number, id, standing FROM device WHERE folded = ?1")?
            .query_row([device.folded()], |row| {
                Ok((
                    row.get(0)?,
                    values::device_id(row, 1)?,
                    values::standing(row, 2)?,
                ))
            })
            .optional()
    }

    /// The device's number and standing; registers it if it is new.
    fn register(&mut self, by: &By, device: &DeviceId) -> Result<(i64, Standing), Failure> {
        if let Some((number, registered, standing)) = self.find(device)? {
            if registered != *device {
                return Err(Rejection::SpelledDifferently { registered }.into());
            }
            return Ok((number, standing));
        }
        self.connection
            .prepare_cached(
                "INSERT INTO device (folded, id, standing, created_at) VALUES (?1, ?2, 0, ?3)",
            )?
            .execute(params![device.folded(), device.as_str(), integer(by.now.0)])?;
        Ok((self.connection.last_insert_rowid(), Standing::Good))
    }

    fn set_status(
        &mut self,
        by: &By,
        id: &DeviceId,
        number: i64,
        index: Index,
        status: Status,
        resume: Option<Status>,
    ) -> Result<(), Failure> {
        let mut row = self
            .connection
            .prepare_cached(&format!(
                "SELECT {} FROM certificate WHERE idx = ?1",
                read::SEALED_COLUMNS
            ))?
            .query_row([integer(index.0)], read::sealed)?;
        self.state.sum.remove(self.key, &row);
        row.status = status;
        self.state.sum.add(self.key, &row);
        self.connection
            .prepare_cached(
                "UPDATE certificate SET status = ?2, resume_status = ?3, changed_at = ?4
                 WHERE idx = ?1",
            )?
            .execute(params![
                integer(index.0),
                status.code(),
                resume.map(Status::code),
                integer(by.now.0)
            ])?;
        self.append(
            by,
            Action::StatusChanged,
            id.as_str(),
            Some(number),
            Some((index, status)),
        )?;
        Ok(())
    }

    fn append(
        &mut self,
        by: &By,
        action: Action,
        subject: &str,
        device: Option<i64>,
        change: Option<(Index, Status)>,
    ) -> Result<u64, rusqlite::Error> {
        self.write(
            Entry {
                seq: self.state.head.seq + 1,
                at: by.at,
                actor: by.actor.clone(),
                action,
                subject: subject.to_owned(),
                index: change.map(|(index, _)| index),
                status: change.map(|(_, status)| status),
                certificate: None,
                reason: None,
                labelled: None,
            },
            device,
        )
    }

    /// Adds an entry and its hash to the journal.
    fn write(&mut self, entry: Entry, device: Option<i64>) -> Result<u64, rusqlite::Error> {
        let hash = entry.hash(&self.state.head.hash);
        self.connection
            .prepare_cached(
                "INSERT INTO journal (seq, at, actor, action, subject, device, idx, status,
                     certificate, reason, labels, hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                integer(entry.seq),
                integer(entry.at.0),
                entry.actor,
                entry.action.as_str(),
                entry.subject,
                device,
                entry.index.map(|index| integer(index.0)),
                entry.status.map(Status::code),
                entry.certificate.map(|certificate| certificate.0),
                entry.reason,
                entry.labelled.map(|labelled| labelled.to_text()),
                hash.0,
            ])?;
        self.state.head = Head {
            seq: entry.seq,
            at: entry.at,
            hash,
        };
        Ok(entry.seq)
    }
}

/// Who acts, when, and the time that the journal gives it.
struct By {
    now: Timestamp,
    actor: String,
    at: Timestamp,
}
