//! An anchor as it was configured, with what was read of it.

use std::sync::Arc;
use std::time::Duration;

use gateway::{ForeignAnchor, Revocation, UpstreamTls};
use identity::{CaCertificate, IdRule, Name, RevocationList};

use super::crl::{CrlPlace, CrlSource};

/// CAs of somebody else whose devices may connect.
#[derive(Clone, Debug)]
pub(crate) struct AnchorConfig {
    pub(crate) name: Name,
    pub(crate) authorities: Vec<CaCertificate>,
    pub(crate) id_from: IdRule,
    /// Where withdrawn certificates are listed; `None` if they are not, which was said in as many words.
    pub(crate) crl: Option<Crl>,
}

/// Where an anchor's lists of revoked certificates come from.
#[derive(Clone, Debug)]
pub(crate) struct Crl {
    pub(crate) sources: Vec<CrlSource>,
    /// How often URLs are asked.
    pub(crate) refresh: Duration,
    /// How `https` URLs are asked.
    pub(crate) tls: Option<UpstreamTls>,
}

impl AnchorConfig {
    /// Every list, of whichever source.
    pub(crate) fn lists(&self) -> impl Iterator<Item = &Arc<RevocationList>> {
        let sources = self.crl.iter().flat_map(|crl| &crl.sources);
        sources.flat_map(|source| &source.lists)
    }

    /// Of each CA and scope the list that counts.
    pub(crate) fn newest(&self) -> Vec<&Arc<RevocationList>> {
        let mut found: Vec<&Arc<RevocationList>> = Vec::new();
        for list in self.lists() {
            let same = |one: &&mut &Arc<RevocationList>| {
                (one.issuer, one.scope) == (list.issuer, list.scope)
            };
            match found.iter_mut().find(same) {
                None => found.push(list),
                Some(other) if list.check_follows(other).is_ok() => *other = list,
                Some(_) => {}
            }
        }
        found
    }

    /// The source with this place.
    pub(crate) fn source(&self, place: &CrlPlace) -> Option<&CrlSource> {
        let mut sources = self.crl.iter().flat_map(|crl| &crl.sources);
        sources.find(|source| source.place == *place)
    }

    /// The same, to be changed.
    pub(crate) fn source_mut(&mut self, place: &CrlPlace) -> Option<&mut CrlSource> {
        let mut sources = self.crl.iter_mut().flat_map(|crl| &mut crl.sources);
        sources.find(|source| source.place == *place)
    }

    /// Whether nothing differs that a reload would put in force.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let places = |anchor: &Self| {
            anchor.crl.as_ref().map(|crl| {
                let sources = crl.sources.iter().map(|source| source.place.clone());
                (sources.collect::<Vec<_>>(), crl.refresh, crl.tls.clone())
            })
        };
        let lists = |anchor: &Self| -> Vec<_> {
            let lists = anchor.lists();
            lists.map(|list| list.fingerprint).collect()
        };
        self.authorities == other.authorities
            && self.id_from == other.id_from
            && places(self) == places(other)
            && lists(self) == lists(other)
    }

    /// As the gateway takes it.
    pub(crate) fn to_gateway(&self) -> ForeignAnchor {
        ForeignAnchor {
            name: self.name.clone(),
            id_from: self.id_from.clone(),
            authorities: self.authorities.clone(),
            revocation: match &self.crl {
                None => Revocation::NotChecked,
                Some(_) => Revocation::Lists(self.lists().cloned().collect()),
            },
        }
    }

    /// The same as far as it is known before URLs are asked.
    pub(crate) fn without_unknown_lists(&self) -> ForeignAnchor {
        let mut anchor = self.to_gateway();
        let mut sources = self.crl.iter().flat_map(|crl| &crl.sources);
        if sources.any(|source| matches!(source.place, CrlPlace::Url(_))) {
            anchor.revocation = Revocation::NotChecked;
        }
        anchor
    }
}
