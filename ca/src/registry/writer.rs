//! The one writer: takes what is waiting, applies it in one transaction, commits, and only then answers.

use std::path::PathBuf;

use identity::Fingerprint;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::Unavailable;
use super::apply::{Applying, Failure};
use super::operation::{Outcome, Rejection, Request};
use super::schema::{self, RegistryFault};
use crate::pure::journal::Head;

type Results = Vec<Result<Outcome, Rejection>>;

/// A batch with the place for its answer.
pub(super) struct Submission {
    pub(super) requests: Vec<Request>,
    pub(super) reply: oneshot::Sender<Result<Results, Unavailable>>,
}

pub(super) fn spawn(
    connection: Connection,
    path: PathBuf,
    root: Fingerprint,
    head: Head,
    queue: mpsc::Receiver<Submission>,
    published: watch::Sender<u64>,
) -> Result<(), RegistryFault> {
    let writer = Writer {
        connection: Some(connection),
        path,
        root,
        head,
        published,
    };
    std::thread::Builder::new()
        .name("registry".into())
        .spawn(move || writer.run(queue))
        .map(|_handle| ())
        .map_err(RegistryFault::Thread)
}

struct Writer {
    /// `None` after a failed commit: what is on the disk is not known until it is read again.
    connection: Option<Connection>,
    path: PathBuf,
    root: Fingerprint,
    /// The end of the journal as of the last commit that is known to be durable.
    head: Head,
    published: watch::Sender<u64>,
}

impl Writer {
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
                    self.published.send_replace(self.head.seq);
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
        let mut applying = Applying::new(&connection, self.head);
        let mut results = Vec::with_capacity(batches.len());
        for requests in batches {
            let mut batch = Vec::with_capacity(requests.len());
            for request in requests {
                batch.push(one(&connection, &mut applying, request)?);
            }
            results.push(batch);
        }
        let head = applying.finish()?;
        fail::fail_point!("ca::before-commit");
        connection.execute_batch("COMMIT")?;
        fail::fail_point!("ca::after-commit");
        self.head = head;
        self.connection = Some(connection);
        Ok(results)
    }

    /// After a failed commit the file is read anew and must hold the journal that was known to be durable,
    /// or that with the one group more whose commit was reported as failed.
    fn reopen(&mut self) -> Result<Connection, RegistryFault> {
        let (connection, _, head) = schema::open(&self.path, &self.root)?;
        if head.seq < self.head.seq {
            return Err(RegistryFault::Journal { after: head.seq });
        }
        tracing::warn!(seq = head.seq, "the registry was opened and checked again");
        self.head = head;
        Ok(connection)
    }
}

/// Applies one request; a rejected one leaves no trace and does not disturb the others.
fn one(
    connection: &Connection,
    applying: &mut Applying<'_>,
    request: Request,
) -> Result<Result<Outcome, Rejection>, RegistryFault> {
    let head = applying.head();
    connection.execute_batch("SAVEPOINT request")?;
    match applying.apply(request) {
        Ok(outcome) => {
            connection.execute_batch("RELEASE request")?;
            Ok(Ok(outcome))
        }
        Err(Failure::Rejected(rejection)) => {
            connection.execute_batch("ROLLBACK TO request; RELEASE request")?;
            applying.rewind(head);
            Ok(Err(rejection))
        }
        Err(Failure::Database(error)) => Err(error.into()),
    }
}

/// Requests in one transaction: enough to share the disk's sync, few enough to answer soon.
const LARGEST_GROUP: usize = 256;
