//! Operations applied inside a transaction, with the journal entries that they leave.

use identity::feed::Sighting;
use identity::{DeviceId, Fingerprint, Index, Status, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::operation::{
    Change, CrlNumber, DeviceChange, Lifetime, NewCertificate, Operation, Outcome, Owner, Recorded,
    Rejection, Request,
};
use super::read;
use super::values::{self, integer};
use crate::pure::enroll::{self, Decision, Standing};
use crate::pure::journal::{Action, Entry, Head};

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
    started_at: Head,
    head: Head,
}

impl<'c> Applying<'c> {
    pub(super) fn new(connection: &'c Connection, head: Head) -> Self {
        Self {
            connection,
            started_at: head,
            head,
        }
    }

    /// Where the journal ends as of the operations so far.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Forgets the entries of an operation that was rolled back.
    pub(super) fn rewind(&mut self, head: Head) {
        self.head = head;
    }

    /// Writes down the head, before the commit.
    pub(super) fn finish(self) -> Result<Head, rusqlite::Error> {
        if self.head != self.started_at {
            self.connection
                .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('head', ?1)")?
                .execute([self.head.hash.0])?;
        }
        Ok(self.head)
    }

    pub(super) fn apply(&mut self, request: Request) -> Result<Outcome, Failure> {
        let Request {
            actor,
            now,
            operation,
        } = request;
        // The journal's time never runs backwards, whatever the system's clock does.
        let by = By {
            actor: actor.to_string(),
            at: now.max(self.head.at),
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
            Operation::Sighted(sighting) => self.sighted(&by, &sighting),
            Operation::LeaseIndexes { lifetime, count } => self.lease(lifetime, count),
            Operation::StartCrl => self.start_crl(by.at),
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
                integer(by.at.0),
                integer(expires_at.0)
            ])?;
        self.append(
            by,
            Action::TokenCreated,
            device.as_str(),
            Some(number),
            None,
            None,
        )?;
        Ok(Outcome::Done)
    }

    fn record(&mut self, by: &By, new: NewCertificate) -> Result<Outcome, Failure> {
        let (subject, device) = match &new.owner {
            Owner::Gateway(name) => (name.as_str().to_owned(), None),
            Owner::Device {
                requester,
                csr,
                spiffe_id,
            } => {
                // Facts may have changed since the decision to sign: it is taken again, on facts that cannot.
                let facts = read::facts(self.connection, requester, &new.key, by.at)?;
                match enroll::decide(requester, csr, spiffe_id, &facts, by.at) {
                    Err(refusal) => return Err(Rejection::Refused(refusal).into()),
                    Ok(Decision::Repeat(index)) => {
                        return Ok(Outcome::Recorded(Recorded::Existing(index)));
                    }
                    Ok(Decision::Issue(_)) => {}
                }
                let device = requester.device();
                let (number, _) = self.register(by, device)?;
                (device.as_str().to_owned(), Some(number))
            }
        };
        let seq = self.append(
            by,
            Action::CertificateIssued,
            &subject,
            device,
            Some((new.index, Status::Pending)),
            Some(new.certificate),
        )?;
        self.connection
            .prepare_cached(
                "INSERT INTO certificate (idx, device, serial, der, sha256, tbs_sha256, key_sha256,
                     not_before, not_after, status, issued_seq, changed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                integer(new.index.0),
                device,
                new.serial.as_bytes(),
                new.der,
                new.certificate.0,
                new.tbs.0,
                new.key.0,
                integer(new.not_before.0),
                integer(new.not_after.0),
                Status::Pending.code(),
                integer(seq),
                integer(by.at.0),
            ])?;
        if let (Owner::Device { requester, .. }, Some(number)) = (&new.owner, device) {
            self.connection
                .prepare_cached(
                    "INSERT OR IGNORE INTO device_key (sha256, device) VALUES (?1, ?2)",
                )?
                .execute(params![new.key.0, number])?;
            if let enroll::Requester::Token { hash, .. } = requester {
                self.connection
                    .prepare_cached(
                        "UPDATE token SET spent_key = ?2, spent_index = ?3 WHERE hash = ?1",
                    )?
                    .execute(params![hash.0, new.key.0, integer(new.index.0)])?;
            }
        }
        Ok(Outcome::Recorded(Recorded::New))
    }

    fn change_device(
        &mut self,
        by: &By,
        device: &DeviceId,
        change: DeviceChange,
        reason: Option<String>,
    ) -> Result<Outcome, Failure> {
        let (number, id, standing) = self
            .find(device)?
            .ok_or_else(|| Rejection::UnknownDevice(device.clone()))?;
        let before = self.head.seq;
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
            entries: (self.head.seq > before).then_some((before + 1, self.head.seq)),
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

    /// A first use makes a pending certificate the active one, and retires those before it.
    fn sighted(&mut self, by: &By, sighting: &Sighting) -> Result<Outcome, Failure> {
        let row = self
            .connection
            .prepare_cached(
                "SELECT c.device, d.id, c.status, c.issued_seq
                 FROM certificate c JOIN device d ON d.number = c.device WHERE c.idx = ?1",
            )?
            .query_row([integer(sighting.index.0)], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    values::device_id(row, 1)?,
                    values::status(row, 2)?,
                    row.get::<_, i64>(3)?,
                ))
            })
            .optional()?;
        let Some((number, id, status, issued_seq)) = row else {
            return Ok(Outcome::Done);
        };
        self.connection
            .prepare_cached(
                "UPDATE device SET last_seen_at = ?2, last_seen_address = ?3
                 WHERE number = ?1 AND coalesce(last_seen_at, 0) <= ?2",
            )?
            .execute(params![
                number,
                integer(sighting.at.0),
                sighting.address.to_string()
            ])?;
        if status == Status::Pending {
            self.set_status(by, &id, number, sighting.index, Status::Active, None)?;
            let older: Vec<Index> = self
                .connection
                .prepare_cached(
                    "SELECT idx FROM certificate
                     WHERE device = ?1 AND issued_seq < ?2 AND status IN (1, 2, 5) ORDER BY idx",
                )?
                .query_map(params![number, issued_seq], |row| values::index(row, 0))?
                .collect::<Result<_, _>>()?;
            for index in older {
                self.set_status(by, &id, number, index, Status::Retired, None)?;
            }
        }
        Ok(Outcome::Done)
    }

    fn lease(&mut self, lifetime: Lifetime, count: u32) -> Result<Outcome, Failure> {
        let leased: Option<(i64, i64)> = self
            .connection
            .prepare_cached("SELECT next, end FROM lease WHERE lifetime = ?1")?
            .query_row([lifetime.code()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (first, end) = match leased {
            Some((next, end)) if next + i64::from(count) <= end => (next, end),
            Some(_) | None => {
                let segment: i64 = self
                    .connection
                    .prepare_cached("SELECT coalesce(max(end) / ?1, 1) FROM lease")?
                    .query_row([SEGMENT], |row| row.get(0))?;
                (segment * SEGMENT, (segment + 1) * SEGMENT)
            }
        };
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO lease (lifetime, next, end) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![lifetime.code(), first + i64::from(count), end])?;
        Ok(Outcome::Leased {
            first: Index(first.unsigned_abs()),
            count,
        })
    }

    fn start_crl(&mut self, now: Timestamp) -> Result<Outcome, Failure> {
        let (number, this_update) = self
            .connection
            .prepare_cached(
                "SELECT coalesce((SELECT value FROM meta WHERE key = 'crl_number'), 0) + 1,
                        max(coalesce((SELECT value FROM meta WHERE key = 'crl_this_update'), 0), ?1)",
            )?
            .query_row([integer(now.0)], |row| {
                Ok((values::unsigned(row, 0)?, values::timestamp(row, 1)?))
            })?;
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO meta (key, value)
                 VALUES ('crl_number', ?1), ('crl_this_update', ?2)",
            )?
            .execute([integer(number), integer(this_update.0)])?;
        Ok(Outcome::Crl(CrlNumber {
            number,
            this_update,
        }))
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
            .execute(params![device.folded(), device.as_str(), integer(by.at.0)])?;
        Ok((self.connection.last_insert_rowid(), Standing::Good))
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
                seq: self.head.seq + 1,
                at: by.at,
                actor: by.actor.clone(),
                action,
                subject: id.as_str().to_owned(),
                index: None,
                status: None,
                certificate: None,
                reason,
            },
            Some(number),
        )?;
        Ok(())
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
        self.connection
            .prepare_cached(
                "UPDATE certificate SET status = ?2, resume_status = ?3, changed_at = ?4
                 WHERE idx = ?1",
            )?
            .execute(params![
                integer(index.0),
                status.code(),
                resume.map(Status::code),
                integer(by.at.0)
            ])?;
        self.append(
            by,
            Action::StatusChanged,
            id.as_str(),
            Some(number),
            Some((index, status)),
            None,
        )?;
        Ok(())
    }

    fn certificates(
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

    fn append(
        &mut self,
        by: &By,
        action: Action,
        subject: &str,
        device: Option<i64>,
        change: Option<(Index, Status)>,
        certificate: Option<Fingerprint>,
    ) -> Result<u64, rusqlite::Error> {
        self.write(
            Entry {
                seq: self.head.seq + 1,
                at: by.at,
                actor: by.actor.clone(),
                action,
                subject: subject.to_owned(),
                index: change.map(|(index, _)| index),
                status: change.map(|(_, status)| status),
                certificate,
                reason: None,
            },
            device,
        )
    }

    /// Adds an entry and its hash to the journal.
    fn write(&mut self, entry: Entry, device: Option<i64>) -> Result<u64, rusqlite::Error> {
        let hash = entry.hash(&self.head.hash);
        self.connection
            .prepare_cached(
                "INSERT INTO journal (seq, at, actor, action, subject, device, idx, status,
                     certificate, reason, hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
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
                hash.0,
            ])?;
        self.head = Head {
            seq: entry.seq,
            at: entry.at,
            hash,
        };
        Ok(entry.seq)
    }
}

/// Who acts, and the time that the journal gives it.
struct By {
    actor: String,
    at: Timestamp,
}

/// Indexes in a segment: what a gateway's status table keeps and drops as one.
const SEGMENT: i64 = 65_536;
