//! Lists of revoked certificates that others replace while the server runs: each newer one is put in force, and who it
//! names loses its connections. One that cannot be used leaves the last good one in force and raises an alarm, which lasts
//! as long as that does (I5).
//!
//! Every place is looked at by itself, and at most once at the same time: one that hangs holds one thread or one
//! connection, and no other place. What time alone ends is seen to here as well: lists past their nextUpdate, and CAs that
//! expire.
//!
//! How new a list is is on the disk before it is in force, so that no crash lets the one before it come back; but a disk
//! that does not answer holds up no revocation.
//!
//! Long, because what is done with a file, a URL and a disk is one machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::UpstreamTls;
use identity::{CaCertificate, RevocationList};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::reload::Reloader;
use crate::clock;
use crate::config::{Config, CrlPlace, CrlSource, FileStamp, ReadFault};
use crate::foreign::{
    FIRST_WITHIN, KeptMarks, WRITTEN_WITHIN, Which, anchors_of, fetch, keep, lists_of, not_ended,
};

/// Looks for other lists until `shutdown`.
pub(super) async fn watch(reloader: &Reloader, shutdown: CancellationToken) {
    let mut watch = Watch::default();
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_EVERY, LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => watch.look(reloader),
            Some(ended) = watch.jobs.join_next_with_id() => watch.ended(reloader, ended),
            () = shutdown.cancelled() => break,
        }
    }
    watch.finish(reloader).await;
}

#[derive(Default)]
struct Watch {
    /// What is under way.
    busy: BTreeMap<Work, Busy>,
    jobs: JoinSet<Done>,
    /// Files that could not be used.
    tried: BTreeMap<Which, Tried>,
    /// When URLs were last asked.
    asked: BTreeMap<Which, Instant>,
    /// What URLs led to last and is yet to be kept; who waits for that hears of it when its sender is dropped.
    to_keep: BTreeMap<Which, (Bytes, Option<oneshot::Sender<()>>)>,
}

/// What is done once at the same time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// Looking at a file, for all anchors that name it.
    File(PathBuf),
    /// Asking a URL for an anchor.
    Url(Which),
    /// Keeping what a URL led to.
    Keep(Which),
    /// Writing how new the lists in force are.
    Marks,
}

struct Busy {
    job: Id,
    since: Instant,
    /// Whether there is an alarm because it takes so long.
    is_told: bool,
}

enum Done {
    Seen(Seen),
    /// It is written how new it is, or why not.
    Remembered(Seen, io::Result<()>),
    Kept(Which, io::Result<()>),
    Written(io::Result<()>),
}

/// What was seen of a place.
enum Seen {
    /// A file, for all anchors that name it.
    File(PathBuf, Vec<Looked>),
    Url {
        found: Found,
        /// None once it is being kept.
        answer: Option<Bytes>,
    },
}

/// A file that an anchor names.
struct Wanted {
    which: Which,
    authorities: Vec<CaCertificate>,
    /// How it looked when what is in force was read.
    in_force: Option<FileStamp>,
    /// How it looked when it could not be used, if it need not be tried again yet.
    useless: Option<Option<FileStamp>>,
}

/// What became of a file, for one anchor.
enum Looked {
    /// It is the one whose lists are in force.
    AsInForce(Which, FileStamp),
    /// It is as useless as it was.
    AsTried,
    Read(Found, Readable),
}

/// Whether a file could be read at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readable {
    Yes,
    /// Or not now.
    No,
    /// Somebody is writing it.
    Changing,
}

/// What was found at a place: its lists, or a sentence about what is wrong with them.
struct Found {
    which: Which,
    /// By whose certificates the lists were verified.
    authorities: Vec<CaCertificate>,
    stamp: Option<FileStamp>,
    lists: Result<Vec<Arc<RevocationList>>, String>,
}

/// A file that could not be used.
struct Tried {
    stamp: Option<FileStamp>,
    at: Instant,
    readable: Readable,
    /// Since when somebody has been writing it.
    changing_since: Instant,
}

impl Watch {
    fn look(&mut self, reloader: &Reloader) {
        reloader.end_those_who_fell();
        reloader.in_force().tell_what_ends(clock::now());
        let mut files: BTreeMap<PathBuf, Vec<Wanted>> = BTreeMap::new();
        let mut urls = BTreeMap::new();
        let config = reloader.config();
        for anchor in anchors_of(&config) {
            let Some(crl) = &anchor.crl else {
                continue;
            };
            for source in &crl.sources {
                let which = (anchor.name.clone(), source.place.clone());
                let authorities = anchor.authorities.clone();
                match &source.place {
                    CrlPlace::File(path) => files.entry(path.clone()).or_default().push(Wanted {
                        useless: self.tried.get(&which).and_then(Tried::useless),
                        in_force: source.stamp,
                        which,
                        authorities,
                    }),
                    CrlPlace::Url(_) => {
                        urls.insert(which, (authorities, crl.refresh, crl.tls.clone()));
                    }
                }
            }
        }
        let named: BTreeSet<&Which> = files.values().flatten().map(|one| &one.which).collect();
        self.tried.retain(|which, _| named.contains(which));
        self.asked.retain(|which, _| urls.contains_key(which));
        self.tell_of_keeping(reloader, |which| urls.contains_key(which));
        for (path, wanted) in files {
            self.look_at(reloader, path, wanted);
        }
        for (which, (authorities, refresh, tls)) in urls {
            // What is known of a new one may be what was kept.
            let asked = self.asked.get(&which).map(Instant::elapsed);
            let is_due = asked.is_none_or(|ago| ago >= refresh);
            let work = Work::Url(which.clone());
            if is_due && !self.busy.contains_key(&work) {
                self.asked.insert(which.clone(), Instant::now());
                self.begin(work, ask(which, authorities, tls));
            }
        }
        self.write_marks(reloader);
        self.keep(reloader);
    }

    /// An alarm for what is still being kept. It ends with the keeping.
    fn tell_of_keeping(&self, reloader: &Reloader, is_wanted: impl Fn(&Which) -> bool) {
        for (work, busy) in &self.busy {
            if let Work::Keep(which) = work
                && busy.since.elapsed() >= SLOW
                && is_wanted(which)
            {
                reloader.in_force().list_not_kept(which, &not_ended(SLOW));
            }
        }
    }

    fn look_at(&mut self, reloader: &Reloader, path: PathBuf, wanted: Vec<Wanted>) {
        let work = Work::File(path.clone());
        let Some(busy) = self.busy.get_mut(&work) else {
            let failed: Vec<Looked> = wanted.iter().map(Wanted::failed).collect();
            let place = path.clone();
            let looking = tokio::task::spawn_blocking(move || {
                let looked = wanted.into_iter().map(|one| one.look_at(&place));
                looked.collect()
            });
            self.begin(work, async move {
                // The panic is in the log.
                Done::Seen(Seen::File(path, looking.await.unwrap_or(failed)))
            });
            return;
        };
        if busy.since.elapsed() >= SLOW && !busy.is_told {
            busy.is_told = true;
            for one in wanted {
                let fault = format!(
                    "{}: reading it has taken {} s and has not ended; look at its file system",
                    path.display(),
                    SLOW.as_secs()
                );
                reloader
                    .in_force()
                    .list_not_replaced(&one.which, &fault, false);
                // So that this is not what is told of it once the reading has ended.
                self.tried.remove(&one.which);
            }
        }
    }

    fn ended(&mut self, reloader: &Reloader, ended: Result<(Id, Done), JoinError>) {
        let (id, done) = match ended {
            Ok((id, done)) => (id, Some(done)),
            Err(error) => {
                tracing::error!(%error, "looking for a list of revoked certificates failed");
                (error.id(), None)
            }
        };
        let work = self.busy.iter().find(|(_, busy)| busy.job == id);
        let work = work.map(|(work, _)| work.clone());
        self.busy.retain(|_, busy| busy.job != id);
        let in_force = reloader.in_force();
        match done {
            None => failed(reloader, work),
            Some(Done::Seen(mut seen)) => {
                if announce(reloader, &seen) {
                    let marks = Arc::clone(reloader.marks());
                    let kept = self.keep_first(reloader, &mut seen);
                    self.begin(seen.work(), remember(marks, seen, kept));
                } else {
                    self.take(reloader, seen);
                }
            }
            Some(Done::Remembered(seen, written)) => {
                in_force.marks_written(reloader.marks().path(), written);
                self.take(reloader, seen);
            }
            Some(Done::Kept(which, kept)) => {
                match kept {
                    Ok(()) => in_force.list_kept(&which),
                    Err(error) if self.asked.contains_key(&which) => {
                        in_force.list_not_kept(&which, &error);
                    }
                    // A reload has taken it out meanwhile.
                    Err(_) => {}
                }
                // What came meanwhile.
                self.keep(reloader);
            }
            Some(Done::Written(written)) => {
                in_force.marks_written(reloader.marks().path(), written);
            }
        }
    }

    /// Puts in force what was seen, as far as it can be.
    fn take(&mut self, reloader: &Reloader, seen: Seen) {
        let (found, answer) = match seen {
            Seen::File(_, all) => {
                for one in all {
                    self.looked(reloader, one);
                }
                return;
            }
            Seen::Url { found, answer } => (found, answer),
        };
        let which = found.which.clone();
        let in_force = reloader.in_force();
        match take(reloader, found) {
            Taken::Same if !in_force.is_not_kept(&which) => {}
            Taken::New | Taken::Same => {
                if let Some(answer) = answer {
                    self.to_keep.insert(which, (answer, None));
                }
                self.keep(reloader);
            }
            Taken::Unwanted => {}
            Taken::No(fault) => in_force.list_not_replaced(&which, &fault, false),
        }
    }

    fn looked(&mut self, reloader: &Reloader, looked: Looked) {
        let (found, readable) = match looked {
            Looked::AsTried => return,
            Looked::AsInForce(which, stamp) => {
                self.tried.remove(&which);
                let config = reloader.config();
                let mut anchors = anchors_of(&config).iter();
                let source = anchors
                    .find(|anchor| anchor.name == which.0)
                    .and_then(|anchor| anchor.source(&which.1));
                if source.is_some_and(|source| source.stamp == Some(stamp)) {
                    reloader.in_force().list_is_as_in_force(&which);
                }
                return;
            }
            Looked::Read(found, readable) => (found, readable),
        };
        let (which, stamp) = (found.which.clone(), found.stamp);
        match take(reloader, found) {
            Taken::New | Taken::Same | Taken::Unwanted => {
                self.tried.remove(&which);
            }
            Taken::No(fault) => {
                let before = self.tried.remove(&which);
                let is_as_it_was = before.as_ref().is_some_and(|one| one.stamp == stamp);
                let changing_since = before
                    .filter(|one| one.readable == Readable::Changing)
                    .map_or_else(Instant::now, |one| one.changing_since);
                // Whoever writes a file for long is told of; most have ended by the next look.
                if readable != Readable::Changing || changing_since.elapsed() >= SLOW {
                    let in_force = reloader.in_force();
                    in_force.list_not_replaced(&which, &fault, is_as_it_was);
                }
                let tried = Tried {
                    stamp,
                    at: Instant::now(),
                    readable,
                    changing_since,
                };
                self.tried.insert(which, tried);
            }
        }
    }

    /// Begins to keep what a URL led to, if it did. The next start finds what was kept no older than what was remembered, so
    /// that it does not need the URL.
    fn keep_first(
        &mut self,
        reloader: &Reloader,
        seen: &mut Seen,
    ) -> Option<oneshot::Receiver<()>> {
        let Seen::Url { found, answer } = seen else {
            return None;
        };
        let (waiting, kept) = oneshot::channel();
        let answer = (answer.take()?, Some(waiting));
        self.to_keep.insert(found.which.clone(), answer);
        self.keep(reloader);
        Some(kept)
    }

    /// Keeps what URLs led to for the next start. Of each one thing is kept at a time, and of what comes meanwhile the last.
    fn keep(&mut self, reloader: &Reloader) {
        let of_reloads = reloader.to_keep().drain(..).collect::<Vec<_>>();
        let of_reloads = of_reloads.into_iter();
        self.to_keep
            .extend(of_reloads.map(|(which, answer)| (which, (answer, None))));
        if self.to_keep.is_empty() {
            return;
        }
        let data = reloader.config().data.clone();
        for (which, (answer, waiting)) in std::mem::take(&mut self.to_keep) {
            let CrlPlace::Url(url) = which.1.clone() else {
                continue;
            };
            let work = Work::Keep(which.clone());
            if self.busy.contains_key(&work) {
                self.to_keep.insert(which, (answer, waiting));
                continue;
            }
            let data = data.clone();
            self.begin(work, async move {
                let kept = keep(&data, &url, answer).await;
                drop(waiting);
                Done::Kept(which, kept)
            });
        }
    }

    /// What is yet to be written, before the process ends.
    async fn finish(mut self, reloader: &Reloader) {
        let marks = reloader.marks();
        let written = marks.write(LAST_WITHIN).await;
        reloader.in_force().marks_written(marks.path(), written);
        let keeping = async {
            self.keep(reloader);
            let is_keeping = |work: &Work| matches!(work, Work::Keep(_));
            while self.busy.keys().any(is_keeping) {
                let Some(ended) = self.jobs.join_next_with_id().await else {
                    return;
                };
                // Nothing else is put in force any more.
                let (id, done) = match ended {
                    Ok((id, done)) => (id, Some(done)),
                    Err(error) => (error.id(), None),
                };
                self.busy.retain(|_, busy| busy.job != id);
                if let Some(Done::Kept(which, Err(error))) = done {
                    reloader.in_force().list_not_kept(&which, &error);
                }
                self.keep(reloader);
            }
        };
        if tokio::time::timeout(LAST_WITHIN, keeping).await.is_err() {
            tracing::error!(target: "alarm", "a list of revoked certificates could not be kept for the next start before the end");
        }
    }

    /// Writes how new the lists in force are, if that has changed.
    fn write_marks(&mut self, reloader: &Reloader) {
        if !self.busy.contains_key(&Work::Marks) {
            let marks = Arc::clone(reloader.marks());
            self.begin(Work::Marks, async move {
                Done::Written(marks.write(WRITTEN_WITHIN).await)
            });
        }
    }

    fn begin(&mut self, work: Work, job: impl Future<Output = Done> + Send + 'static) {
        let busy = Busy {
            job: self.jobs.spawn(job).id(),
            since: Instant::now(),
            is_told: false,
        };
        self.busy.insert(work, busy);
    }
}

impl Seen {
    /// During which it was seen.
    fn work(&self) -> Work {
        match self {
            Self::File(path, _) => Work::File(path.clone()),
            Self::Url { found, .. } => Work::Url(found.which.clone()),
        }
    }

    fn found(&self) -> Vec<&Found> {
        match self {
            Self::File(_, all) => (all.iter())
                .filter_map(|one| match one {
                    Looked::Read(found, _) => Some(found),
                    Looked::AsInForce(..) | Looked::AsTried => None,
                })
                .collect(),
            Self::Url { found, .. } => vec![found],
        }
    }
}

/// Of what a panic ended.
fn failed(reloader: &Reloader, work: Option<Work>) {
    let in_force = reloader.in_force();
    let error = || io::Error::other(FAILED);
    match work {
        Some(Work::Url(which)) => {
            in_force.list_not_replaced(&which, &format!("{}: {FAILED}", which.1), false);
        }
        Some(Work::Keep(which)) => in_force.list_not_kept(&which, &error()),
        Some(Work::Marks) => in_force.marks_written(reloader.marks().path(), Err(error())),
        // Reading is done elsewhere, whose panics are told of.
        Some(Work::File(_)) | None => {}
    }
}

/// Announces how new the lists are that are about to be put in force. Returns whether any is.
fn announce(reloader: &Reloader, seen: &Seen) -> bool {
    let config = reloader.config();
    let mut is_any = false;
    for found in seen.found() {
        if let Ok((next, true)) = with(reloader, &config, found) {
            reloader.marks().announce(anchors_of(&next));
            is_any = true;
        }
    }
    is_any
}

/// Has written how new the lists are that were seen, once they are kept, if they are to be. A disk that hangs is not waited for
/// long.
async fn remember(marks: Arc<KeptMarks>, seen: Seen, kept: Option<oneshot::Receiver<()>>) -> Done {
    if let Some(kept) = kept {
        // The sender is dropped, and sends nothing.
        let _ = tokio::time::timeout(KEPT_WITHIN, kept).await;
    }
    let written = marks.write(WRITTEN_WITHIN).await;
    Done::Remembered(seen, written)
}

impl Wanted {
    /// What is told of it if a panic ends the reading.
    fn failed(&self) -> Looked {
        let found = Found {
            which: self.which.clone(),
            authorities: self.authorities.clone(),
            stamp: None,
            lists: Err(format!("{}: {FAILED}", self.which.1)),
        };
        Looked::Read(found, Readable::No)
    }

    fn look_at(self, path: &Path) -> Looked {
        let stamp = FileStamp::of(path);
        if let Some(stamp) = stamp.filter(|_| stamp == self.in_force) {
            return Looked::AsInForce(self.which, stamp);
        }
        if self.useless == Some(stamp) {
            return Looked::AsTried;
        }
        let read = CrlSource::read(self.which.1.clone(), &self.authorities);
        let (stamp, lists, readable) = match read {
            Ok(source) => (source.stamp, Ok(source.lists), Readable::Yes),
            Err(found) => {
                let readable = match &found.fault {
                    ReadFault::Unusable(_) => Readable::Yes,
                    ReadFault::Unreadable(_) => Readable::No,
                    ReadFault::Changing => Readable::Changing,
                };
                let sentence = format!("{}: {}", self.which.1, found.fault);
                (found.stamp, Err(sentence), readable)
            }
        };
        let found = Found {
            which: self.which,
            authorities: self.authorities,
            stamp,
            lists,
        };
        Looked::Read(found, readable)
    }
}

impl Tried {
    /// How it looked, if it need not be tried again yet. What cannot be read may be readable at any moment, and what
    /// cannot be used may be usable with time: a list whose thisUpdate was in the future, for one.
    fn useless(&self) -> Option<Option<FileStamp>> {
        let holds = self.readable == Readable::Yes && self.at.elapsed() < TRY_AGAIN_AFTER;
        holds.then_some(self.stamp)
    }
}

async fn ask(which: Which, authorities: Vec<CaCertificate>, tls: Option<UpstreamTls>) -> Done {
    let answer = match &which.1 {
        CrlPlace::Url(url) => fetch(url, tls.as_ref(), FIRST_WITHIN)
            .await
            .map_err(|fault| fault.to_string()),
        CrlPlace::File(_) => Err("it is no URL".to_owned()),
    };
    let lists = match &answer {
        Ok(bytes) => lists_of(bytes.clone(), authorities.clone()).await,
        Err(fault) => Err(fault.clone()),
    };
    let found = Found {
        lists: lists.map_err(|fault| format!("{}: {fault}", which.1)),
        which,
        authorities,
        stamp: None,
    };
    let answer = answer.ok();
    Done::Seen(Seen::Url { found, answer })
}

/// What became of what was found.
enum Taken {
    /// It is in force.
    New,
    /// It was in force before.
    Same,
    /// A reload has done away with its place.
    Unwanted,
    /// It cannot be used; the sentence says why.
    No(String),
}

/// The configuration with what was found, and whether that has a list that is not in force yet. The error says why it
/// cannot be put in force.
fn with(reloader: &Reloader, config: &Config, found: &Found) -> Result<(Config, bool), Taken> {
    let (name, place) = &found.which;
    let mut next = config.clone();
    let anchors = next
        .gateway
        .iter_mut()
        .flat_map(|gateway| &mut gateway.anchors);
    let mut anchors =
        anchors.filter(|one| one.name == *name && one.authorities == found.authorities);
    let Some(source) = anchors.next().and_then(|anchor| anchor.source_mut(place)) else {
        return Err(Taken::Unwanted);
    };
    let lists = found.lists.clone().map_err(Taken::No)?;
    let before: Vec<_> = source.lists.iter().map(|list| list.fingerprint).collect();
    let is_new = lists.iter().any(|list| !before.contains(&list.fingerprint));
    source
        .replace(lists, found.stamp)
        .map_err(|fault| Taken::No(format!("{place}: {fault}")))?;
    reloader
        .marks()
        .check(anchors_of(&next))
        .map_err(|older| Taken::No(format!("{place}: {older}")))?;
    Ok((next, is_new))
}

/// Puts in force what was found, if it can be, and is what is still wanted.
fn take(reloader: &Reloader, found: Found) -> Taken {
    let (name, place) = &found.which;
    let mut config = reloader.held();
    let (next, is_new) = match with(reloader, &config, &found) {
        Ok(next) => next,
        Err(why) => return why,
    };
    let anchors = anchors_of(&next);
    if is_new {
        match reloader.publish_foreign(&next) {
            Ok(ended) => {
                tracing::info!(anchor = %name, crl = %place, connections_ended = ended, "a list of revoked certificates was replaced");
            }
            Err(fault) => return Taken::No(fault),
        }
        reloader.marks().raise(anchors);
    }
    reloader.in_force().list_replaced(&found.which, anchors);
    *config = Arc::new(next);
    if is_new { Taken::New } else { Taken::Same }
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For the largest list from a slow disk.
const SLOW: Duration = Duration::from_secs(30);
/// Before it is written how new it is.
const KEPT_WITHIN: Duration = Duration::from_secs(2);
/// What cannot be used costs as much as what can.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// With what else ends, within the time that the process has to end (`FLUSH_WITHIN`).
const LAST_WITHIN: Duration = Duration::from_millis(1_500);
const FAILED: &str = "reading it failed; the server's log says more";
