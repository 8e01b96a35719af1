//! The one writer: takes what is waiting, applies it in one transaction, commits, and only then answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::Fingerprint;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::apply::{Applying, Failure};
use super::operation::{Outcome, Rejection, Request};
use super::schema::{self, Opened, RegistryFault, State};
use super::witness::WitnessFile;
use super::{Check, Unavailable};
use crate::clock;
use crate::pure::journal::Head;
use crate::pure::seal::SealKey;
use crate::pure::witness::Witness;

type Results = Vec<Result<Outcome, Rejection>>;

/// What the writer is told.
pub(super) enum Message {
    /// A batch with the place for its answer.
    Submission {
        requests: Vec<Request>,
        reply: Reply,
    },
    /// How the check of a long journal ended.
    Checked(Result<(), RegistryFault>),
}

type Reply = oneshot::Sender<Result<Results, Unavailable>>;

/// Starts the writer, and the check of the journal where [`schema::open`] left it to be done.
pub(super) fn spawn(
    opened: Opened,
    place: Place,
    messages: &mpsc::Sender<Message>,
    queue: mpsc::Receiver<Message>,
    published: watch::Sender<u64>,
    checked: watch::Sender<Check>,
) -> Result<(), RegistryFault> {
    let behind = opened.state.head.at.since(clock::now());
    if behind > CLOCK_TOLERANCE {
        tracing::error!(
            target: "alarm", seconds = behind.as_secs(),
            "the system's clock is behind the newest entry of the journal: it is wrong now, or was then; certificates that \
             had expired may be valid again"
        );
    }
    let writer = Writer {
        connection: Some(opened.connection),
        place,
        state: opened.state,
        published,
        messages: messages.downgrade(),
        checked,
        doubtful: false,
    };
    if opened.unchecked {
        writer.check_later()?;
    } else {
        writer.checked.send_replace(Check::Passed);
    }
    thread("registry", move || writer.run(queue))
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), RegistryFault> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(|_handle| ())
        .map_err(RegistryFault::Thread)
}

/// Follows a long journal, while devices are served on the word of the seal.
fn check(path: &Path) -> Result<(), RegistryFault> {
    tracing::info!(
        "checking the journal; until that is done, nothing is done but to revoke and suspend"
    );
    let began = Instant::now();
    // Traffic goes first. A system that does not allow this is only slower.
    let _ = rustix::process::nice(CHECKING_NICENESS);
    let connection = schema::reader(path)?;
    schema::widen(&connection)?;
    // All of it as of one moment: devices may be revoked meanwhile.
    let transaction = connection.unchecked_transaction()?;
    schema::check(&transaction)?;
    tracing::info!(took = ?began.elapsed(), "the journal is as it was written");
    Ok(())
}

/// Where the registry is, and what proves that it is this CA's.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) root: Fingerprint,
    pub(super) key: SealKey,
    /// Where its end is written down.
    pub(super) witness: WitnessFile,
}

struct Writer {
    /// `None` after a failed commit: what is on the disk is not known until it is read again.
    connection: Option<Connection>,
    place: Place,
    /// As of the last commit that is known to be durable.
    state: State,
    published: watch::Sender<u64>,
    /// Its own queue, for the end of a check. It does not keep the writer alive.
    messages: mpsc::WeakSender<Message>,
    checked: watch::Sender<Check>,
    /// The last commit failed: only one that really writes shows that the disk is well again.
    doubtful: bool,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        while let Some(message) = queue.blocking_recv() {
            let mut group = match message {
                Message::Submission { requests, reply } => vec![(requests, reply)],
                Message::Checked(Ok(())) => {
                    self.checked.send_replace(Check::Passed);
                    continue;
                }
                Message::Checked(Err(fault)) => {
                    // Whoever waits, or comes later, is told that the registry cannot be used.
                    self.checked.send_replace(Check::Failed(Arc::new(fault)));
                    return;
                }
            };
            if let Err(error) = self.reopen_if_doubtful() {
                self.refuse(group.into_iter().map(|(_, reply)| reply), &error);
                continue;
            }
            if self.is_being_checked() {
                let (now, refused): (Vec<_>, Vec<_>) = group
                    .into_iter()
                    .partition(|(requests, _)| requests.iter().all(Request::may_go_ahead));
                for (_, reply) in refused {
                    let _ = reply.send(Err(Unavailable));
                }
                group = now;
            } else {
                while group.iter().map(|(r, _)| r.len()).sum::<usize>() < LARGEST_GROUP {
                    let Ok(Message::Submission { requests, reply }) = queue.try_recv() else {
                        break;
                    };
                    group.push((requests, reply));
                }
            }
            if !group.is_empty() {
                self.answer(group);
            }
        }
    }

    /// Checks the whole registry on another thread; until that is done, little is written.
    fn check_later(&self) -> Result<(), RegistryFault> {
        self.checked.send_replace(Check::Running);
        let (path, messages) = (self.place.path.clone(), self.messages.clone());
        thread("registry-check", move || {
            let result = check(&path);
            // Without a writer nobody is left who could be misled.
            if let Some(messages) = messages.upgrade() {
                let _ = messages.blocking_send(Message::Checked(result));
            }
        })
    }

    fn answer(&mut self, group: Vec<(Vec<Request>, Reply)>) {
        let (requests, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        match self.commit(requests) {
            Ok(results) => {
                if std::mem::take(&mut self.doubtful) {
                    tracing::warn!("the registry can be written again");
                }
                self.published.send_replace(self.state.head.seq);
                for (reply, results) in replies.into_iter().zip(results) {
                    // Whoever asked may have gone; what was committed stays.
                    let _ = reply.send(Ok(results));
                }
            }
            Err(error) => self.refuse(replies, &error),
        }
    }

    fn refuse(&mut self, replies: impl IntoIterator<Item = Reply>, error: &RegistryFault) {
        tracing::error!(%error, "the registry cannot be written; nothing is issued or changed");
        self.connection = None;
        self.doubtful = true;
        for reply in replies {
            let _ = reply.send(Err(Unavailable));
        }
    }

    fn is_being_checked(&self) -> bool {
        matches!(*self.checked.borrow(), Check::Running)
    }

    fn commit(&mut self, batches: Vec<Vec<Request>>) -> Result<Vec<Results>, RegistryFault> {
        let connection = self.connection.take().ok_or(RegistryFault::Unfinished)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut applying = Applying::new(&connection, &self.place.key, self.state);
        let mut results = Vec::with_capacity(batches.len());
        for requests in batches {
            let mut batch = Vec::with_capacity(requests.len());
            for request in requests {
                batch.push(one(&connection, &mut applying, request)?);
            }
            results.push(batch);
        }
        let state = applying.finish()?;
        if self.doubtful {
            // A group without a change would commit without touching the disk; and a full disk may have room for a
            // page, and none for a certificate.
            connection.execute(
                "INSERT OR REPLACE INTO meta (key, value) VALUES ('room', zeroblob(65536))",
                [],
            )?;
        }
        fail::fail_point!("ca::before-commit");
        connection.execute_batch("COMMIT")?;
        fail::fail_point!("ca::after-commit");
        self.state = state;
        self.connection = Some(connection);
        let Place { key, witness, .. } = &mut self.place;
        witness.write(&state.head, key);
        Ok(results)
    }

    /// After a failed commit the file is read anew and must hold the journal that was known to be durable,
    /// or that with the one group more whose commit was reported as failed.
    ///
    /// After a failed sync the kernel may count pages as written that are not, so nothing of the log is relied on:
    /// what it holds is written to the database itself, and synced there, before anybody is answered by it. A long
    /// journal is followed again as after a start: later, and until then little is written.
    fn reopen_if_doubtful(&mut self) -> Result<(), RegistryFault> {
        if self.connection.is_some() {
            return Ok(());
        }
        let Place {
            path, root, key, ..
        } = &self.place;
        let Head { seq, hash, .. } = self.state.head;
        let opened = schema::open(path, root, key, Some(Witness { seq, hash }))?;
        let seq = opened.state.head.seq;
        let busy: bool =
            opened
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy {
            return Err(RegistryFault::Busy);
        }
        // One at a time: a check under way has the same rows before it.
        if opened.unchecked && !self.is_being_checked() {
            self.check_later()?;
        }
        tracing::warn!(seq, "the registry was opened and checked again");
        self.state = opened.state;
        self.connection = Some(opened.connection);
        Ok(())
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

/// Two machines' clocks may differ by so much.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

const CHECKING_NICENESS: i32 = 10;

/// Requests in one transaction: enough to share the disk's sync, few enough to answer soon.
const LARGEST_GROUP: usize = 256;
