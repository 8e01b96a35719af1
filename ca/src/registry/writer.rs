//! The one writer: takes what is waiting, applies it in one transaction, commits, and only then answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use identity::Fingerprint;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::apply::{Applying, Failure};
use super::operation::{Outcome, Rejection, Request};
use super::schema::{self, Opened, RegistryFault, State};
use super::{Check, Unavailable};
use crate::pure::seal::SealKey;

type Results = Vec<Result<Outcome, Rejection>>;

/// A batch with the place for its answer.
pub(super) struct Submission {
    pub(super) requests: Vec<Request>,
    pub(super) reply: oneshot::Sender<Result<Results, Unavailable>>,
}

pub(super) fn spawn(
    opened: Opened,
    path: PathBuf,
    root: Fingerprint,
    key: SealKey,
    queue: mpsc::Receiver<Submission>,
    published: watch::Sender<u64>,
    checked: watch::Sender<Check>,
) -> Result<(), RegistryFault> {
    let writer = Writer {
        connection: Some(opened.connection),
        path,
        root,
        key,
        state: opened.state,
        published,
    };
    std::thread::Builder::new()
        .name("registry".into())
        .spawn(move || {
            if opened.unchecked
                && let Err(fault) = writer.check()
            {
                // Whoever waits in the queue, or comes later, is told that the registry cannot be used.
                checked.send_replace(Check::Failed(Arc::new(fault)));
                return;
            }
            checked.send_replace(Check::Passed);
            writer.run(queue);
        })
        .map(|_handle| ())
        .map_err(RegistryFault::Thread)
}

struct Writer {
    /// `None` after a failed commit: what is on the disk is not known until it is read again.
    connection: Option<Connection>,
    path: PathBuf,
    root: Fingerprint,
    key: SealKey,
    /// As of the last commit that is known to be durable.
    state: State,
    published: watch::Sender<u64>,
}

impl Writer {
    /// Follows a long journal, while devices are served on the word of the seal.
    fn check(&self) -> Result<(), RegistryFault> {
        let entries = self.state.head.seq;
        tracing::info!(
            entries,
            "checking the journal; nothing is issued or changed until it is done"
        );
        let began = Instant::now();
        if let Some(connection) = &self.connection {
            schema::check(connection)?;
        }
        tracing::info!(entries, took = ?began.elapsed(), "the journal is as it was written");
        Ok(())
    }

    fn run(mut self, mut queue: mpsc::Receiver<Submission>) {
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.iter().map(|s| s.requests.len()).sum::<usize>() < LARGEST_GROUP {
                let Ok(next) = queue.try_recv() else { break };
                group.push(next);
            }
            let (replies, requests): (Vec<_>, Vec<_>) = group
                .into_iter()
                .map(|submission| (submission.reply, submission.requests))
                .unzip();
            match self.commit(requests) {
                Ok(results) => {
                    self.published.send_replace(self.state.head.seq);
                    for (reply, results) in replies.into_iter().zip(results) {
                        // Whoever asked may have gone; what was committed stays.
                        let _ = reply.send(Ok(results));
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the registry cannot be written; nothing is issued or changed");
                    self.connection = None;
                    for reply in replies {
                        let _ = reply.send(Err(Unavailable));
                    }
                }
            }
        }
    }

    fn commit(&mut self, batches: Vec<Vec<Request>>) -> Result<Vec<Results>, RegistryFault> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.reopen()?,
        };
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut applying = Applying::new(&connection, &self.key, self.state);
        let mut results = Vec::with_capacity(batches.len());
        for requests in batches {
            let mut batch = Vec::with_capacity(requests.len());
            for request in requests {
                batch.push(one(&connection, &mut applying, request)?);
            }
            results.push(batch);
        }
        let state = applying.finish()?;
        fail::fail_point!("ca::before-commit");
        connection.execute_batch("COMMIT")?;
        fail::fail_point!("ca::after-commit");
        self.state = state;
        self.connection = Some(connection);
        Ok(results)
    }

    /// After a failed commit the file is read anew and must hold the journal that was known to be durable,
    /// or that with the one group more whose commit was reported as failed.
    fn reopen(&mut self) -> Result<Connection, RegistryFault> {
        let opened = schema::open(&self.path, &self.root, &self.key)?;
        if opened.unchecked {
            schema::check(&opened.connection)?;
        }
        let seq = opened.state.head.seq;
        if seq < self.state.head.seq {
            return Err(RegistryFault::Journal { after: seq });
        }
        tracing::warn!(seq, "the registry was opened and checked again");
        self.state = opened.state;
        Ok(opened.connection)
    }
}

/// Applies one request; a rejected one leaves no trace and does not disturb the others.
fn one(
    connection: &Connection,
    applying: &mut Applying<'_>,
    request: Request,
) -> Result<Result<Outcome, Rejection>, RegistryFault> {
    let state = applying.state();
    connection.execute_batch("SAVEPOINT request")?;
    match applying.apply(request) {
        Ok(outcome) => {
            connection.execute_batch("RELEASE request")?;
            Ok(Ok(outcome))
        }
        Err(Failure::Rejected(rejection)) => {
            connection.execute_batch("ROLLBACK TO request; RELEASE request")?;
            applying.rewind(state);
            Ok(Err(rejection))
        }
        Err(Failure::Database(error)) => Err(error.into()),
    }
}

/// Requests in one transaction: enough to share the disk's sync, few enough to answer soon.
const LARGEST_GROUP: usize = 256;
