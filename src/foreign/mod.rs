//! Other CAs: from what is configured of an anchor to what the gateway judges its devices by, and the lists of revoked
//! certificates that change while the server runs.
//!
//! A list that cannot be used leaves the one before it in force and raises an alarm (I5); past its nextUpdate nobody
//! passes by that one either, which the gateway sees to.

mod anchor;
mod fetch;
mod kept;
mod marks;

pub(crate) use anchor::gateway_anchors;
pub(crate) use fetch::fetch;
pub(crate) use kept::keep;
pub(crate) use marks::{KeptMarks, Older, WRITTEN_WITHIN, not_ended};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway::UpstreamTls;
use identity::{CaCertificate, Name, RevocationList};
use tokio::task::JoinSet;

use self::anchor::refuse_own;
use crate::config::{AnchorConfig, Config, CrlPlace, CrlSource, CrlUrl, read_lists};

/// A place of one anchor.
pub(crate) type Which = (Name, CrlPlace);

/// A URL that was asked before a configuration was put in force.
pub(crate) struct Asked {
    pub(crate) which: Which,
    /// Why what it led to before stays in force, if it does.
    pub(crate) fault: Option<String>,
    /// What it led to, if it is to be kept for the next start once it is accepted.
    pub(crate) answer: Option<Bytes>,
    /// Why it could not be kept, if it could not.
    pub(crate) not_kept: Option<io::Error>,
}

/// Keeps what URLs led to, now that it is accepted.
pub(crate) async fn keep_all(data: &Path, asked: &mut [Asked]) {
    for one in asked {
        if let (CrlPlace::Url(url), Some(answer)) = (&one.which.1, one.answer.take()) {
            one.not_kept = keep(data, url, answer).await.err();
        }
    }
}

/// Lists in files that a start would refuse because newer ones have been in force. Where a URL is asked, too, only a start
/// can tell. Whoever may not read the data directory is told of none.
pub(crate) fn older_files(config: &Config) -> Vec<Older> {
    let Ok(marks) = KeptMarks::load(&config.data) else {
        return Vec::new();
    };
    let of_files = anchors_of(config).iter().filter(|anchor| {
        let mut sources = anchor.crl.iter().flat_map(|crl| &crl.sources);
        sources.all(|source| matches!(source.place, CrlPlace::File(_)))
    });
    let checked = of_files.map(|anchor| marks.check(std::slice::from_ref(anchor)));
    checked.filter_map(Result::err).collect()
}

/// What URLs of an anchor could not be had, where what was kept of them is older than what has been in force: whoever asks
/// them again is likely to get a newer list.
pub(crate) fn unanswered(asked: &[Asked], older: &Older) -> Option<String> {
    let of_anchor = asked.iter().filter(|one| one.which.0 == older.anchor);
    let faults: Vec<&str> = of_anchor.filter_map(|one| one.fault.as_deref()).collect();
    (!faults.is_empty()).then(|| faults.join("; "))
}

/// The anchors of a configuration.
pub(crate) fn anchors_of(config: &Config) -> &[AnchorConfig] {
    let gateway = config.gateway.as_ref();
    gateway.map_or(&[], |gateway| &gateway.anchors)
}

/// Gets what a configuration needs from elsewhere before it can be put in force: what URLs lead to, unless `old` has it.
/// Returns those that were asked. No CA of ours may be taken for somebody else's.
pub(crate) async fn complete(
    new: &mut Config,
    old: &[AnchorConfig],
    own: &[CaCertificate],
) -> Result<Vec<Asked>, String> {
    let Some(gateway) = &mut new.gateway else {
        return Ok(Vec::new());
    };
    refuse_own(&gateway.anchors, own)?;
    carry_over(&mut gateway.anchors, old);
    fill(&mut gateway.anchors, &new.data).await
}

/// Goes on from the lists that are in force `now`: those of URLs, and those of files that were replaced since `before`,
/// when `new` began to be read. So what was read is not taken for an older list that somebody put there.
pub(crate) fn follow(new: &mut Config, before: &[AnchorConfig], now: &[AnchorConfig]) {
    if let Some(gateway) = &mut new.gateway {
        carry_over(&mut gateway.anchors, now);
        go_on_from_files(&mut gateway.anchors, before, now);
    }
}

fn go_on_from_files(new: &mut [AnchorConfig], before: &[AnchorConfig], now: &[AnchorConfig]) {
    for anchor in new {
        let of = |all: &'_ [AnchorConfig], place: &CrlPlace| {
            let same = |one: &&AnchorConfig| {
                one.name == anchor.name && one.authorities == anchor.authorities
            };
            let found = all.iter().find(same);
            found.and_then(|anchor| anchor.source(place)).cloned()
        };
        let replaced: Vec<CrlSource> = (anchor.crl.iter().flat_map(|crl| &crl.sources))
            .filter(|source| matches!(source.place, CrlPlace::File(_)))
            .filter_map(|source| {
                let old = of(before, &source.place)?;
                let current = of(now, &source.place)?;
                (old.stamp != current.stamp).then_some(current)
            })
            .collect();
        for current in replaced {
            if let Some(source) = anchor.source_mut(&current.place) {
                // Fails if what was read is newer still.
                let _ = source.replace(current.lists, current.stamp);
            }
        }
    }
}

fn carry_over(anchors: &mut [AnchorConfig], old: &[AnchorConfig]) {
    for anchor in anchors {
        // A list that another CA's certificate proved is read anew.
        let before = old
            .iter()
            .find(|one| one.name == anchor.name && one.authorities == anchor.authorities);
        for source in anchor.crl.iter_mut().flat_map(|crl| &mut crl.sources) {
            let known = before.and_then(|before| before.source(&source.place));
            if let (CrlPlace::Url(_), Some(known)) = (&source.place, known) {
                source.lists = known.lists.clone();
            }
        }
    }
}

/// Gets the lists that are behind URLs and are not known yet, of all at the same time.
async fn fill(anchors: &mut [AnchorConfig], data: &Path) -> Result<Vec<Asked>, String> {
    let mut asking = JoinSet::new();
    for anchor in anchors.iter() {
        let Some(crl) = &anchor.crl else {
            continue;
        };
        for source in &crl.sources {
            if let CrlPlace::Url(url) = &source.place
                && source.lists.is_empty()
            {
                let first = First {
                    anchor: anchor.name.clone(),
                    url: url.clone(),
                    source: source.clone(),
                    authorities: anchor.authorities.clone(),
                    tls: crl.tls.clone(),
                    data: data.to_owned(),
                };
                asking.spawn(first.ask());
            }
        }
    }
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    for outcome in asking.join_all().await {
        match outcome {
            Ok((source, asked)) => {
                let anchor = anchors.iter_mut().find(|one| one.name == asked.which.0);
                if let Some(known) = anchor.and_then(|anchor| anchor.source_mut(&source.place)) {
                    *known = source;
                }
                all.push(asked);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() {
        Ok(all)
    } else {
        faults.sort();
        Err(faults.join("; "))
    }
}

/// A URL that is asked for the first time.
struct First {
    anchor: Name,
    url: CrlUrl,
    source: CrlSource,
    authorities: Vec<CaCertificate>,
    tls: Option<UpstreamTls>,
    data: PathBuf,
}

impl First {
    /// The lists behind the URL, or those that were kept of it. Error: neither can be had.
    async fn ask(mut self) -> Result<(CrlSource, Asked), String> {
        let useless = match kept::read(&self.data, &self.url).await {
            Ok(None) => None,
            Ok(Some(kept)) => match lists_of(kept, self.authorities.clone()).await {
                Ok(lists) => {
                    self.source.lists = lists;
                    None
                }
                Err(fault) => Some(fault),
            },
            Err(error) => Some(format!("it cannot be read: {error}")),
        };
        if let Some(fault) = &useless {
            tracing::error!(
                target: "alarm",
                anchor = %self.anchor,
                crl = %self.url,
                "what was kept of a list of revoked certificates cannot be used: {fault}"
            );
        }
        let asked = |fault, answer| Asked {
            which: (self.anchor.clone(), self.source.place.clone()),
            fault,
            answer,
            not_kept: None,
        };
        match self.fetch().await {
            Ok((bytes, lists)) => {
                let asked = asked(None, Some(bytes));
                self.source.lists = lists;
                Ok((self.source, asked))
            }
            Err(fault) if self.source.lists.is_empty() => {
                let also = useless.map_or_else(String::new, |fault| {
                    format!("; and what was kept of it cannot be used: {fault}")
                });
                let (anchor, url) = (&self.anchor, &self.url);
                Err(format!("the anchor {anchor}: crl: {url}: {fault}{also}"))
            }
            Err(fault) => {
                let asked = asked(Some(format!("{}: {fault}", self.url)), None);
                Ok((self.source, asked))
            }
        }
    }

    async fn fetch(&self) -> Result<(Bytes, Vec<Arc<RevocationList>>), String> {
        let within = if self.source.lists.is_empty() {
            FIRST_WITHIN
        } else {
            ONCE_MORE_WITHIN
        };
        let bytes = fetch(&self.url, self.tls.as_ref(), within)
            .await
            .map_err(|fault| fault.to_string())?;
        let lists = lists_of(bytes.clone(), self.authorities.clone()).await?;
        let mut known = self.source.clone();
        known
            .replace(lists, None)
            .map_err(|fault| fault.to_string())?;
        Ok((bytes, known.lists))
    }
}

/// Reads and verifies lists, away from those who must not wait. Millions of entries take seconds.
pub(crate) async fn lists_of(
    bytes: Bytes,
    authorities: Vec<CaCertificate>,
) -> Result<Vec<Arc<RevocationList>>, String> {
    let reading = tokio::task::spawn_blocking(move || read_lists(&bytes, &authorities));
    match reading.await {
        Ok(read) => read.map_err(|fault| fault.to_string()),
        Err(_) => Err("reading it failed; the server's log says more".to_owned()),
    }
}

/// For the largest list over a slow line.
pub(crate) const FIRST_WITHIN: Duration = Duration::from_secs(60);
/// Where there is a list to go on from.
const ONCE_MORE_WITHIN: Duration = Duration::from_secs(5);
