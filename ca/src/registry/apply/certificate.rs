//! Certificates: recorded before they leave, activated at their first use; indexes and CRL numbers.

use std::time::Duration;

use identity::feed::Sighting;
use identity::{Class, Index, Status, Timestamp};
use rusqlite::{OptionalExtension, params};

use super::super::operation::{
    CrlNumber, Lifetime, NewCertificate, Outcome, Owner, Recorded, Rejection,
};
use super::super::read;
use super::super::values::{self, integer};
use super::{Applying, By, Failure};
use crate::pure::enroll::{self, BY_TOKEN, Decision};
use crate::pure::journal::{Action, Entry};
use crate::pure::seal;

impl Applying<'_> {
    pub(super) fn record(&mut self, by: &By, new: NewCertificate) -> Result<Outcome, Failure> {
        let (subject, device) = match &new.owner {
            Owner::Gateway(name) => (name.as_str().to_owned(), None),
            Owner::Device {
                requester,
                csr,
                spiffe_id,
            } => {
                // Facts may have changed since the decision to sign: it is taken again, on facts that cannot.
                let facts = read::facts(self.connection, requester, &new.key, by.now)?;
                match enroll::decide(requester, csr, spiffe_id, &facts, by.now) {
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
        let by_token = matches!(
            new.owner,
            Owner::Device {
                requester: enroll::Requester::Token { .. },
                ..
            }
        );
        let seq = self.write(
            Entry {
                seq: self.state.head.seq + 1,
                at: by.at,
                actor: by.actor.clone(),
                action: Action::CertificateIssued,
                subject,
                index: Some(new.index),
                status: Some(Status::Pending),
                certificate: Some(new.certificate),
                reason: by_token.then(|| BY_TOKEN.to_owned()),
                labelled: None,
            },
            device,
        )?;
        let class = match device {
            Some(number) => self.class_of(number)?,
            None => Class::default(),
        };
        self.connection
            .prepare_cached(
                "INSERT INTO certificate (idx, device, serial, sha256, tbs_sha256, key_sha256,
                     not_before, not_after, status, class, issued_seq, changed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                integer(new.index.0),
                device,
                new.serial.as_bytes(),
                new.certificate.0,
                new.tbs.0,
                new.key.0,
                integer(new.not_before.0),
                integer(new.not_after.0),
                Status::Pending.code(),
                class.0,
                integer(seq),
                integer(by.now.0),
            ])?;
        self.state.sum.add(
            self.key,
            &seal::Row {
                index: new.index,
                certificate: new.certificate,
                tbs: new.tbs,
                not_after: new.not_after,
                status: Status::Pending,
                class,
                of_device: device.is_some(),
            },
        );
        self.connection
            .prepare_cached("INSERT INTO certificate_der (idx, der) VALUES (?1, ?2)")?
            .execute(params![integer(new.index.0), new.der])?;
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

    /// A first use makes a pending certificate the active one, and retires those before it.
    pub(super) fn sighted(&mut self, by: &By, sighting: &Sighting) -> Result<Outcome, Failure> {
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

    pub(super) fn lease(&mut self, lifetime: Lifetime, count: u32) -> Result<Outcome, Failure> {
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

    /// A list is never dated back behind the one before, unless that one is so far ahead that a wrong clock
    /// must have dated it: nobody could use a list of the future.
    pub(super) fn start_crl(&mut self, now: Timestamp) -> Result<Outcome, Failure> {
        let (number, previous) = self
            .connection
            .prepare_cached(
                "SELECT coalesce((SELECT value FROM meta WHERE key = 'crl_number'), 0) + 1,
                        coalesce((SELECT value FROM meta WHERE key = 'crl_this_update'), 0)",
            )?
            .query_row([], |row| {
                Ok((values::unsigned(row, 0)?, values::timestamp(row, 1)?))
            })?;
        let this_update = if previous.since(now) > CLOCK_TOLERANCE {
            now
        } else {
            now.max(previous)
        };
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
}

/// Indexes in a segment: what a gateway's status table keeps and drops as one.
const SEGMENT: i64 = 65_536;

/// A clock that was set back by no more than this is believed to have been right before.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60 * 60);
