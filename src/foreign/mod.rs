//! Other CAs: from what is configured of an anchor to what the gateway judges its devices by, and the lists of revoked
//! certificates that change while the server runs.
//!
//! A list that cannot be used leaves the one before it in force and raises an alarm (I5); past its nextUpdate nobody
//! passes by that one either, which the gateway sees to.

mod anchor;
mod fetch;
mod kept;

pub(crate) use anchor::gateway_anchors;
pub(crate) use fetch::fetch;
pub(crate) use kept::keep;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use identity::{CaCertificate, RevocationList};

use self::anchor::{check_follows, refuse_own};
use crate::config::{AnchorConfig, Config, CrlPlace, read_lists};

/// The anchors of a configuration.
pub(crate) fn anchors_of(config: &Config) -> &[AnchorConfig] {
    let gateway = config.gateway.as_ref();
    gateway.map_or(&[], |gateway| &gateway.anchors)
}

/// Gets what a configuration needs from elsewhere before it can be put in force: what URLs lead to, unless `old` has it. No
/// CA of ours may be taken for somebody else's.
pub(crate) async fn complete(
    new: &mut Config,
    old: &[AnchorConfig],
    own: &[CaCertificate],
) -> Result<(), String> {
    let Some(gateway) = &mut new.gateway else {
        return Ok(());
    };
    refuse_own(&gateway.anchors, own)?;
    carry_over(&mut gateway.anchors, old);
    for anchor in &mut gateway.anchors {
        fill(anchor, &new.data).await?;
    }
    Ok(())
}

/// Goes on from the lists of URLs that are in force, and takes no older ones than any that is.
pub(crate) fn follow(new: &mut Config, old: &[AnchorConfig]) -> Result<(), String> {
    let Some(gateway) = &mut new.gateway else {
        return Ok(());
    };
    carry_over(&mut gateway.anchors, old);
    check_follows(&gateway.anchors, old)
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

/// Gets the lists that are behind an anchor's URLs and are not known yet.
async fn fill(anchor: &mut AnchorConfig, data: &Path) -> Result<(), String> {
    let Some(crl) = &mut anchor.crl else {
        return Ok(());
    };
    for source in &mut crl.sources {
        let url = match &source.place {
            CrlPlace::Url(url) if source.lists.is_empty() => url.clone(),
            CrlPlace::Url(_) | CrlPlace::File(_) => continue,
        };
        if let Some(kept) = kept::read(data, &url) {
            // What was kept for other CAs, or is damaged, is as good as nothing.
            let lists = lists_of(kept, anchor.authorities.clone()).await;
            source.lists = lists.unwrap_or_default();
        }
        let within = if source.lists.is_empty() {
            FIRST_WITHIN
        } else {
            ONCE_MORE_WITHIN
        };
        let taken = match fetch(&url, crl.tls.as_ref(), within).await {
            Ok(bytes) => match lists_of(bytes.clone(), anchor.authorities.clone()).await {
                Ok(lists) => {
                    let replaced = source.replace(lists, None);
                    replaced.map(|()| bytes).map_err(|fault| fault.to_string())
                }
                Err(fault) => Err(fault),
            },
            Err(fault) => Err(fault.to_string()),
        };
        match taken {
            Ok(bytes) => keep(data, &url, bytes).await,
            Err(fault) if source.lists.is_empty() => {
                return Err(format!("the anchor {}: crl: {url}: {fault}", anchor.name));
            }
            // It is asked again at once, and then told of.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Reads and verifies lists, away from those who must not wait. Millions of entries take seconds.
pub(crate) async fn lists_of(
    bytes: Vec<u8>,
    authorities: Vec<CaCertificate>,
) -> Result<Vec<Arc<RevocationList>>, String> {
    let reading = tokio::task::spawn_blocking(move || read_lists(bytes, &authorities));
    match reading.await {
        Ok(read) => read.map_err(|fault| fault.to_string()),
        Err(_) => Err("reading it failed; the server's log says more".to_owned()),
    }
}

/// For the largest list over a slow line.
pub(crate) const FIRST_WITHIN: Duration = Duration::from_secs(60);
/// Where there is a list to go on from.
const ONCE_MORE_WITHIN: Duration = Duration::from_secs(5);
