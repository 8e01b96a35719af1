//! Certificate files that others replace while the server runs: each new pair is put in force if it can serve. One that
//! cannot leaves the old one in force and raises an alarm (I5).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::reload::Reloader;
use crate::clock;
use crate::config::{CertificateFiles, Config, FilesFault, Stamp, uncovered_host};

#[derive(Default)]
struct Watch {
    /// Files that could not be used, by the certificate's.
    tried: BTreeMap<PathBuf, Tried>,
    /// Readings that have not ended because a file system hangs, by the certificate's file: each holds one thread.
    unfinished: BTreeMap<PathBuf, JoinHandle<Looked>>,
}

/// Files that could not be used.
struct Tried {
    stamp: Stamp,
    /// How all files looked whose certificates were in force then.
    beside: Vec<Stamp>,
    at: Instant,
    is_unreadable: bool,
}

/// What became of a certificate's files.
enum Looked {
    /// They are those that are in force.
    AsInForce,
    /// They are as useless as they were, and need not be tried again yet.
    AsTried,
    /// They looked like this before they were read.
    Read(Stamp, Box<Result<CertificateFiles, FilesFault>>),
}

/// Looks for other files until `shutdown`.
pub(super) async fn watch(reloader: &Reloader, shutdown: CancellationToken) {
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
        watch.look(reloader).await;
    }
}

impl Watch {
    async fn look(&mut self, reloader: &Reloader) {
        // Nobody else waits for what is read.
        let all = certificates(&reloader.config()).to_vec();
        let beside: Vec<_> = all.iter().map(|files| files.stamp).collect();
        let is_named = |file: &PathBuf| all.iter().any(|files| files.certificate == *file);
        self.tried.retain(|file, _| is_named(file));
        for files in &all {
            let file = &files.certificate;
            let Some(looked) = self.look_at(reloader, files, &beside).await else {
                continue;
            };
            let mut config = reloader.held();
            // A reload that came in between has read them, too.
            let is_the_same = |one: &CertificateFiles| {
                one.certificate == *file && one.key == files.key && one.stamp == files.stamp
            };
            let Some(place) = certificates(&config).iter().position(is_the_same) else {
                continue;
            };
            let (stamp, read) = match looked {
                Looked::AsTried => continue,
                Looked::AsInForce => {
                    self.tried.remove(file);
                    reloader.in_force().certificate_is_as_in_force(file);
                    continue;
                }
                Looked::Read(stamp, read) => (stamp, *read),
            };
            let is_unreadable = read.as_ref().is_err_and(|fault| fault.is_unreadable);
            let replaced = read
                .map_err(|fault| fault.sentence)
                .and_then(|new| with(&config, place, new))
                .and_then(|next| reloader.publish_certificates(&next).map(|()| next));
            // What is in force is not remembered here: a reload that has read older files may put them in its place.
            let before = self.tried.remove(file);
            match replaced {
                Ok(next) => {
                    *config = Arc::new(next);
                    tracing::info!(file = %file.display(), "a server certificate was replaced");
                    reloader
                        .in_force()
                        .certificate_replaced(file, certificates(&config));
                }
                Err(fault) => {
                    let are_as_they_were = before.is_some_and(|before| before.stamp == stamp);
                    reloader
                        .in_force()
                        .certificate_not_replaced(file, &fault, are_as_they_were);
                    let in_force = certificates(&config).iter();
                    let tried = Tried {
                        stamp,
                        beside: in_force.map(|files| files.stamp).collect(),
                        at: Instant::now(),
                        is_unreadable,
                    };
                    self.tried.insert(file.clone(), tried);
                }
            }
        }
    }

    /// What the files are now; `None` while reading them hangs, which is an alarm.
    async fn look_at(
        &mut self,
        reloader: &Reloader,
        files: &CertificateFiles,
        beside: &[Stamp],
    ) -> Option<Looked> {
        let file = &files.certificate;
        let before = self.unfinished.get(file);
        if before.is_some_and(|reading| !reading.is_finished()) {
            return None;
        }
        // What that one found is looked at anew.
        self.unfinished.remove(file);
        let in_force = files.stamp;
        let useless = self.tried.get(file).and_then(|tried| tried.useless(beside));
        let (certificate, key) = (file.clone(), files.key.clone());
        let mut reading = tokio::task::spawn_blocking(move || {
            let stamp = Stamp::of(&certificate, &key);
            if stamp == in_force {
                return Looked::AsInForce;
            }
            if useless == Some(stamp) {
                return Looked::AsTried;
            }
            let read = CertificateFiles::read(&certificate, &key);
            Looked::Read(stamp, Box::new(read))
        });
        match tokio::time::timeout(READ_WITHIN, &mut reading).await {
            Ok(looked) => looked.ok(),
            Err(_) => {
                self.unfinished.insert(file.clone(), reading);
                let config = reloader.config();
                let is_named = |one: &CertificateFiles| one.certificate == *file;
                if !certificates(&config).iter().any(is_named) {
                    return None;
                }
                let fault = format!(
                    "{}: reading it and its key has taken {} s and has not ended; look at their file system",
                    file.display(),
                    READ_WITHIN.as_secs()
                );
                reloader
                    .in_force()
                    .certificate_not_replaced(file, &fault, false);
                // So that this is not what is told of them once the reading has ended.
                self.tried.remove(file);
                None
            }
        }
    }
}

impl Tried {
    /// How the files looked, if they need not be tried again yet. What cannot be read may be readable at any moment; what
    /// cannot be used may be usable with time, because it was not valid yet, and when a name that it shares has gone from
    /// another certificate.
    fn useless(&self, beside: &[Stamp]) -> Option<Stamp> {
        let holds =
            !self.is_unreadable && self.beside == beside && self.at.elapsed() < TRY_AGAIN_AFTER;
        holds.then_some(self.stamp)
    }
}

fn certificates(config: &Config) -> &[CertificateFiles] {
    let gateway = config.gateway.as_ref();
    gateway.map_or(&[], |gateway| &gateway.certificates)
}

/// The configuration with another certificate at `place`, if that takes away nothing that is served.
fn with(config: &Config, place: usize, new: CertificateFiles) -> Result<Config, String> {
    let file = new.certificate.display();
    let now = clock::now();
    let serves = |files: &CertificateFiles| {
        let validity = files.read.validity;
        validity.not_before <= now && now <= validity.not_after
    };
    if !serves(&new) && serves(&certificates(config)[place]) {
        return Err(format!("{file}: the new one is not valid now"));
    }
    let mut next = config.clone();
    let Some(gateway) = &mut next.gateway else {
        return Err(format!("{file}: there is no gateway"));
    };
    let others = gateway.certificates.iter().enumerate();
    let shared = others
        .filter(|(other, _)| *other != place)
        .find_map(|(_, other)| {
            let mut names = new.read.names.iter();
            names.find(|name| other.read.names.contains(name))
        });
    if let Some(name) = shared {
        return Err(format!(
            "{file}: another certificate has the name {name}, too"
        ));
    }
    let file = file.to_string();
    gateway.certificates[place] = new;
    match uncovered_host(&next) {
        Some(host) => Err(format!(
            "{file}: the new one lacks {host}, for which there is a route"
        )),
        None => Ok(next),
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(2);
const READ_WITHIN: Duration = Duration::from_secs(10);
/// As for lists of revoked certificates.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that looks like no other.
    fn stamp(directory: &tempfile::TempDir, name: &str) -> Stamp {
        let path = directory.path().join(name);
        std::fs::write(&path, name).expect("a file");
        Stamp::of(&path, &path)
    }

    #[test]
    fn what_could_not_be_used_is_tried_again_when_that_may_help() {
        let directory = tempfile::tempdir().expect("a directory");
        let [useless, old, other] = ["useless", "old", "other"].map(|name| stamp(&directory, name));
        let tried = |seconds_ago, is_unreadable| Tried {
            stamp: useless,
            beside: vec![old, other],
            at: Instant::now()
                .checked_sub(Duration::from_secs(seconds_ago))
                .expect("the machine runs that long"),
            is_unreadable,
        };
        assert_eq!(tried(0, false).useless(&[old, other]), Some(useless));
        assert_eq!(tried(50, false).useless(&[old, other]), Some(useless));
        // In time it may have become valid.
        assert_eq!(tried(60, false).useless(&[old, other]), None);
        // What could not be read may be readable.
        assert_eq!(tried(0, true).useless(&[old, other]), None);
        // Another certificate, or this one by a reload, is in force instead, or gone.
        assert_eq!(tried(0, false).useless(&[old, useless]), None);
        assert_eq!(tried(0, false).useless(&[useless, other]), None);
        assert_eq!(tried(0, false).useless(&[old]), None);
    }
}
