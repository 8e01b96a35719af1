//! Certificate files that others replace while the server runs: each new pair is put in force if it can serve. One that
//! cannot leaves the old one in force and raises an alarm (I5).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::reload::Reloader;
use crate::clock;
use crate::config::{CertificateFiles, Config, Stamp, uncovered_host};

/// Files as they were when they could not be used, by the certificate's; they are tried again once they change.
type Tried = BTreeMap<PathBuf, Stamp>;

type Read = Option<(Stamp, Result<CertificateFiles, String>)>;

#[derive(Default)]
struct Watch {
    tried: Tried,
    /// Readings that have not ended because a file system hangs, by the certificate's file: each holds one thread.
    unfinished: BTreeMap<PathBuf, JoinHandle<Read>>,
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
        let all = certificates(&*reloader.config().await).to_vec();
        for files in all {
            let file = files.certificate.clone();
            let Some((stamp, read)) = self.read_if_changed(files.clone()).await else {
                continue;
            };
            let mut config = reloader.config().await;
            // A reload that came in between has read them, too.
            let is_the_same = |one: &CertificateFiles| {
                one.certificate == file && one.key == files.key && one.stamp == files.stamp
            };
            let Some(place) = certificates(&config).iter().position(is_the_same) else {
                continue;
            };
            self.tried.insert(file.clone(), stamp);
            let replaced = read
                .and_then(|new| with(&config, place, new))
                .and_then(|next| reloader.publish_certificates(&next).map(|()| next));
            match replaced {
                Ok(next) => {
                    *config = next;
                    tracing::info!(file = %file.display(), "a server certificate was replaced");
                    reloader
                        .in_force()
                        .certificate_replaced(&file, certificates(&config));
                }
                Err(fault) => {
                    let sentence = format!(
                        "A server certificate was not replaced and the old one stays in force. {fault}"
                    );
                    tracing::error!(target: "alarm", "{sentence}");
                    reloader
                        .in_force()
                        .certificate_not_replaced(&file, sentence);
                }
            }
        }
    }

    /// The files as they look now and what they hold, if they look neither as they did when they were put in force nor
    /// when they were last tried.
    async fn read_if_changed(&mut self, files: CertificateFiles) -> Read {
        let file = files.certificate.clone();
        let before = self.unfinished.get(&file);
        if before.is_some_and(|reading| !reading.is_finished()) {
            return None;
        }
        // What that one found is looked at anew.
        self.unfinished.remove(&file);
        let known = [Some(files.stamp), self.tried.get(&file).copied()];
        let mut reading = tokio::task::spawn_blocking(move || {
            let stamp = Stamp::of(&files.certificate, &files.key);
            if known.contains(&Some(stamp)) {
                return None;
            }
            let read = CertificateFiles::read(&files.certificate, &files.key);
            Some((stamp, read.map_err(|fault| fault.sentence)))
        });
        match tokio::time::timeout(READ_WITHIN, &mut reading).await {
            Ok(read) => read.ok()?,
            Err(_) => {
                self.unfinished.insert(file, reading);
                None
            }
        }
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
