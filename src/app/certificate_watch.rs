//! Certificate files that others replace while the server runs: each new pair is put in force if it can serve. One that
//! cannot leaves the old one in force and raises an alarm (I5).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::reload::Reloader;
use crate::clock;
use crate::config::{CertificateFiles, Config, Stamp, uncovered_host};

/// Files as they were when they could not be used, by the certificate's; they are tried again once they change.
type Tried = BTreeMap<PathBuf, Stamp>;

/// Looks for other files until `shutdown`.
pub(super) async fn watch(reloader: &Reloader, shutdown: CancellationToken) {
    let mut tried = Tried::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
        look(reloader, &mut tried).await;
    }
}

async fn look(reloader: &Reloader, tried: &mut Tried) {
    let mut config = reloader.config().await;
    let number = certificates(&config).len();
    for place in 0..number {
        let files = certificates(&config)[place].clone();
        let file = files.certificate.clone();
        let known = [Some(files.stamp), tried.get(&file).copied()];
        let Some((stamp, read)) = read_if_changed(files, known).await else {
            continue;
        };
        tried.insert(file.clone(), stamp);
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

fn certificates(config: &Config) -> &[CertificateFiles] {
    let gateway = config.gateway.as_ref();
    gateway.map_or(&[], |gateway| &gateway.certificates)
}

/// The files as they look now and what they hold, if they look like none of those that are `known`.
async fn read_if_changed(
    files: CertificateFiles,
    known: [Option<Stamp>; 2],
) -> Option<(Stamp, Result<CertificateFiles, String>)> {
    let reading = tokio::task::spawn_blocking(move || {
        let stamp = Stamp::of(&files.certificate, &files.key);
        if known.contains(&Some(stamp)) {
            return None;
        }
        let read = CertificateFiles::read(&files.certificate, &files.key);
        Some((stamp, read.map_err(|fault| fault.sentence)))
    });
    // A file system that hangs is asked again the next time.
    tokio::time::timeout(READ_WITHIN, reading)
        .await
        .ok()?
        .ok()?
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
