//! Lists of revoked certificates that others replace while the server runs: each newer one is put in force, and who it
//! names loses its connections. One that cannot be used leaves the last good one in force and raises an alarm (I5).
//!
//! What time alone ends is seen to here as well: lists past their nextUpdate, and CAs that expire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::UpstreamTls;
use identity::{CaCertificate, Name, RevocationList};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::reload::Reloader;
use crate::clock;
use crate::config::{CrlPlace, CrlSource, FileStamp};
use crate::foreign::{FIRST_WITHIN, anchors_of, fetch, keep, lists_of};

/// A place of one anchor.
type Which = (Name, CrlPlace);

/// What was found at a place: its lists, or a sentence about what is wrong with them.
struct Found {
    which: Which,
    /// By whose certificates the lists were verified.
    authorities: Vec<CaCertificate>,
    stamp: Option<FileStamp>,
    lists: Result<Vec<Arc<RevocationList>>, String>,
    /// What a URL answered, to be kept.
    answer: Vec<u8>,
}

#[derive(Default)]
struct Watch {
    /// Files as they were when they could not be used; they are tried again once they change.
    tried: BTreeMap<Which, Option<FileStamp>>,
    /// When URLs were last asked.
    asked: BTreeMap<Which, Instant>,
    asking: JoinSet<Found>,
}

/// Looks for other lists until `shutdown`.
pub(super) async fn watch(reloader: &Reloader, shutdown: CancellationToken) {
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => watch.look(reloader).await,
            Some(answered) = watch.asking.join_next() => match answered {
                Ok(found) => take(reloader, found).await,
                Err(error) => tracing::error!(%error, "a list of revoked certificates could not be asked for"),
            },
            () = shutdown.cancelled() => return,
        }
    }
}

impl Watch {
    async fn look(&mut self, reloader: &Reloader) {
        reloader.end_those_who_fell();
        reloader.in_force().tell_what_ends(clock::now());
        let (mut files, mut urls) = (Vec::new(), Vec::new());
        {
            let config = reloader.config().await;
            for anchor in anchors_of(&config) {
                let Some(crl) = &anchor.crl else {
                    continue;
                };
                for source in &crl.sources {
                    let which = (anchor.name.clone(), source.place.clone());
                    let authorities = anchor.authorities.clone();
                    match &source.place {
                        CrlPlace::File(_) => files.push((which, authorities, source.stamp)),
                        CrlPlace::Url(_) => {
                            urls.push((which, authorities, crl.refresh, crl.tls.clone()));
                        }
                    }
                }
            }
        }
        for (which, authorities, stamp) in files {
            let known = [Some(stamp), self.tried.get(&which).copied()];
            if let Some(found) = read_if_changed(which, authorities, known).await {
                self.tried.insert(found.which.clone(), found.stamp);
                take(reloader, found).await;
            }
        }
        self.asked
            .retain(|which, _| urls.iter().any(|url| url.0 == *which));
        for (which, authorities, refresh, tls) in urls {
            // What is known of a new one may be what was kept.
            let asked = self.asked.get(&which).map(Instant::elapsed);
            if asked.is_none_or(|ago| ago >= refresh) {
                self.asked.insert(which.clone(), Instant::now());
                self.asking.spawn(ask(which, authorities, tls));
            }
        }
    }
}

/// The file as it looks now and what it holds, if it looks like none of those that are `known`.
async fn read_if_changed(
    which: Which,
    authorities: Vec<CaCertificate>,
    known: [Option<Option<FileStamp>>; 2],
) -> Option<Found> {
    let reading = tokio::task::spawn_blocking(move || {
        let CrlPlace::File(path) = &which.1 else {
            return None;
        };
        let stamp = FileStamp::of(path);
        if known.contains(&Some(stamp)) {
            return None;
        }
        let read = CrlSource::read(which.1.clone(), &authorities);
        // What was replaced meanwhile is read again the next time.
        let unchanged = FileStamp::of(path) == stamp;
        unchanged.then(|| Found {
            lists: read.map(|source| source.lists),
            answer: Vec::new(),
            which,
            authorities,
            stamp,
        })
    });
    // A file system that hangs is asked again the next time.
    tokio::time::timeout(READ_WITHIN, reading)
        .await
        .ok()?
        .ok()?
}

async fn ask(which: Which, authorities: Vec<CaCertificate>, tls: Option<UpstreamTls>) -> Found {
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
    Found {
        lists: lists.map_err(|fault| format!("{}: {fault}", which.1)),
        answer: answer.unwrap_or_default(),
        which,
        authorities,
        stamp: None,
    }
}

/// Puts in force what was found, if it can be, and is what is still wanted.
async fn take(reloader: &Reloader, found: Found) {
    let (name, place) = &found.which;
    let mut config = reloader.config().await;
    let mut next = config.clone();
    let anchors = next
        .gateway
        .iter_mut()
        .flat_map(|gateway| &mut gateway.anchors);
    let mut anchors =
        anchors.filter(|one| one.name == *name && one.authorities == found.authorities);
    let Some(source) = anchors.next().and_then(|anchor| anchor.source_mut(place)) else {
        // A reload has done away with it.
        return;
    };
    let before: Vec<_> = source.lists.iter().map(|list| list.fingerprint).collect();
    let replaced = found.lists.and_then(|lists| {
        let replaced = source.replace(lists, found.stamp);
        replaced.map_err(|fault| format!("{place}: {fault}"))
    });
    let is_new = source
        .lists
        .iter()
        .any(|list| !before.contains(&list.fingerprint));
    let published = replaced.and_then(|()| {
        if is_new {
            reloader.publish_foreign(&next)
        } else {
            Ok(0)
        }
    });
    let in_force = reloader.in_force();
    match published {
        Ok(ended) => {
            if is_new {
                tracing::info!(anchor = %name, crl = %place, connections_ended = ended, "a list of revoked certificates was replaced");
            }
            *config = next;
            in_force.list_replaced(name, place, anchors_of(&config));
            if let CrlPlace::Url(url) = place
                && is_new
            {
                let data = config.data.clone();
                drop(config);
                keep(&data, url, found.answer).await;
            }
        }
        Err(fault) => in_force.list_not_replaced(name, place, &fault),
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of the largest list from a slow disk, and to verify it.
const READ_WITHIN: Duration = Duration::from_secs(60);
