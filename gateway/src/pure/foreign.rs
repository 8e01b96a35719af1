//! Devices of other CAs: which anchor's, what they are called, and whether their certificates stand.
//!
//! What the registry says of our own devices, lists of revoked certificates say of these. A list that is not there, or
//! is past its nextUpdate, proves nothing, and who cannot be judged is refused.

use std::collections::HashMap;
use std::sync::Arc;

use identity::certificate::{Parsed, Validity};
use identity::revocation_list::RevocationList;
use identity::{
    CaCertificate, Fingerprint, ForeignId, ForeignLeaf, ForeignSerial, IdRule, Name, ReadError,
    Timestamp, TrustDomain, refuse_names_of,
};
use rustls_pki_types::CertificateDer;

use super::authorize::Denial;

/// CAs of somebody else that are believed, and by what their devices are known.
#[derive(Clone, Debug)]
pub struct ForeignAnchor {
    /// Goes before the ids of its devices.
    pub name: Name,
    /// Where these ids come from.
    pub id_from: IdRule,
    /// The CAs that issue devices' certificates.
    pub authorities: Vec<CaCertificate>,
    /// What is known of certificates that were withdrawn.
    pub revocation: Revocation,
}

/// How certificates of an anchor are withdrawn.
#[derive(Clone, Debug)]
pub enum Revocation {
    /// By these lists; the anchor's CAs signed them. Of two by the same CA and about the same, the newer one counts.
    Lists(Vec<Arc<RevocationList>>),
    /// Not at all: the operator said so.
    NotChecked,
}

/// All anchors of other CAs, as they are in force.
#[derive(Debug, Default)]
pub struct ForeignAnchors {
    anchors: Vec<Arc<Anchor>>,
    /// By the CA's certificate.
    authorities: HashMap<Fingerprint, Authority>,
    certificates: Vec<CertificateDer<'static>>,
    /// Names in it are for our own CA to give.
    own: Option<TrustDomain>,
}

/// Whose devices they are and what they are called.
#[derive(Debug)]
struct Anchor {
    name: Name,
    id_from: IdRule,
}

/// One CA.
#[derive(Debug)]
struct Authority {
    anchor: Arc<Anchor>,
    validity: Validity,
    /// Whether another CA of the anchor has withdrawn its certificate.
    is_revoked: bool,
    /// About the certificates of devices; none if withdrawal is not checked.
    lists: Option<Vec<Arc<RevocationList>>>,
    /// When the first of the lists that speak for it or of it ends.
    lists_end: Option<Timestamp>,
}

/// How a certificate was vouched for in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voucher {
    /// SHA-256 of the CA certificate at the end of its chain.
    pub authority: Fingerprint,
    /// Whether that CA issued it, rather than a CA below that one, which the client sent.
    pub is_issuer: bool,
}

/// Everything about a foreign certificate that may change while a connection is open depends on this.
#[derive(Debug)]
pub(crate) struct Lineage {
    anchor: Arc<Anchor>,
    id: ForeignId,
    voucher: Voucher,
    serial: ForeignSerial,
    certificate: Fingerprint,
}

/// Why anchors cannot stand beside each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignFault {
    /// Two anchors have the same name.
    #[error("another anchor has the name {0}, too")]
    SameName(Name),
    /// A CA stands there twice, so that it would not be known whose devices are whose.
    #[error(
        "the CA certificate with SHA-256 {0} is of the same CA, by name and key, as another one of this or another anchor; \
         keep the one that lives longer"
    )]
    SameAuthority(Fingerprint),
    /// No list speaks for a CA.
    #[error(
        "no list speaks for the certificates that the CA with SHA-256 {0} issued to devices; add its list to crl, or take the \
         CA out of certificates if it issues none"
    )]
    NoList(Fingerprint),
    /// No list speaks for the CAs below a CA.
    #[error(
        "no list of the CA with SHA-256 {0} speaks for the CAs below it, which could not be withdrawn; add its list about CAs to crl"
    )]
    NoListAboutAuthorities(Fingerprint),
    /// A CA below another one could not be withdrawn.
    #[error("the serial of the CA certificate with SHA-256 {0} is none that a list could name")]
    AuthoritySerial(Fingerprint),
}

impl ForeignAnchors {
    /// Puts anchors beside each other. Error: every reason why they cannot stand so, and of which anchor, by its position.
    pub fn new(anchors: &[ForeignAnchor]) -> Result<Self, Vec<(usize, ForeignFault)>> {
        let mut faults = Vec::new();
        let mut all = Self::default();
        let mut seen: Vec<&CaCertificate> = Vec::new();
        for (position, written) in anchors.iter().enumerate() {
            if all.anchors.iter().any(|one| one.name == written.name) {
                faults.push((position, ForeignFault::SameName(written.name.clone())));
            }
            let anchor = Arc::new(Anchor {
                name: written.name.clone(),
                id_from: written.id_from.clone(),
            });
            for ca in &written.authorities {
                let fingerprint = ca.fingerprint();
                if seen.iter().any(|other| other.is_same_authority(ca)) {
                    faults.push((position, ForeignFault::SameAuthority(fingerprint)));
                }
                seen.push(ca);
                match Authority::judge(&anchor, ca, written) {
                    Ok(authority) => {
                        all.authorities.insert(fingerprint, authority);
                        all.certificates.push(ca.der().clone());
                    }
                    Err(fault) => faults.push((position, fault)),
                }
            }
            all.anchors.push(anchor);
        }
        if faults.is_empty() {
            Ok(all)
        } else {
            Err(faults)
        }
    }

    /// The same beside a CA of ours, in whose trust domain none of them may name anybody.
    pub fn beside(mut self, own: TrustDomain) -> Self {
        self.own = Some(own);
        self
    }

    /// Every CA certificate.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whether a list or a CA ends after `since` and not after `now`, so that devices are refused from now on that were
    /// not before.
    pub(crate) fn something_ended(&self, since: Timestamp, now: Timestamp) -> bool {
        self.authorities.values().any(|authority| {
            let ends = [
                authority.lists_end,
                // Its last second is still good.
                Some(Timestamp(authority.validity.not_after.0.saturating_add(1))),
            ];
            ends.into_iter()
                .flatten()
                .any(|end| since < end && end <= now)
        })
    }

    /// Reads a certificate that was vouched for. `None`: the CA is no anchor any more. Error: it names no device.
    pub(crate) fn read(
        &self,
        certificate: &CertificateDer<'_>,
        voucher: Voucher,
    ) -> Option<Result<(Arc<Lineage>, Validity), ReadError>> {
        let anchor = &self.authorities.get(&voucher.authority)?.anchor;
        let leaf = Parsed::from_der(certificate).and_then(|parsed| {
            if let Some(own) = &self.own {
                refuse_names_of(own, &parsed)?;
            }
            ForeignLeaf::read(&parsed, &anchor.id_from)
        });
        Some(leaf.map(|leaf| {
            let lineage = Lineage {
                id: ForeignId {
                    anchor: anchor.name.clone(),
                    id: leaf.id,
                },
                anchor: Arc::clone(anchor),
                voucher,
                serial: leaf.serial,
                certificate: leaf.certificate,
            };
            (Arc::new(lineage), leaf.validity)
        }))
    }

    /// Whether a certificate stands now. Its own validity is not looked at. A revocation holds however old the list is.
    pub(crate) fn check(&self, lineage: &Lineage, now: Timestamp) -> Result<(), Denial> {
        let authority = self
            .authorities
            .get(&lineage.voucher.authority)
            .filter(|authority| lineage.is_of(&authority.anchor))
            .ok_or(Denial::AnchorRemoved)?;
        let Validity {
            not_before,
            not_after,
        } = authority.validity;
        if now < not_before || now > not_after {
            return Err(Denial::AnchorExpired);
        }
        if authority.is_revoked {
            return Err(Denial::Revoked);
        }
        let Some(lists) = &authority.lists else {
            return Ok(());
        };
        if !lineage.voucher.is_issuer {
            return Err(Denial::CrlMissing);
        }
        if lists.iter().any(|list| list.has(&lineage.serial)) {
            return Err(Denial::Revoked);
        }
        if authority.lists_end.is_some_and(|end| now >= end) {
            return Err(Denial::CrlStale);
        }
        Ok(())
    }
}

impl Lineage {
    /// What the device is called.
    pub(crate) fn id(&self) -> &ForeignId {
        &self.id
    }

    /// The certificate's serial.
    pub(crate) fn serial(&self) -> ForeignSerial {
        self.serial
    }

    /// SHA-256 of the certificate.
    pub(crate) fn certificate(&self) -> Fingerprint {
        self.certificate
    }

    /// Whether the device is called by this anchor what it was called when it connected.
    fn is_of(&self, anchor: &Arc<Anchor>) -> bool {
        if Arc::ptr_eq(&self.anchor, anchor) {
            return true;
        }
        self.anchor.name == anchor.name
            && match (&self.anchor.id_from, &anchor.id_from) {
                (IdRule::Table(_), IdRule::Table(table)) => {
                    table.id_of(&self.certificate) == Some(&self.id.id)
                }
                (before, after) => before == after,
            }
    }
}

impl Authority {
    fn judge(
        anchor: &Arc<Anchor>,
        ca: &CaCertificate,
        written: &ForeignAnchor,
    ) -> Result<Self, ForeignFault> {
        let Revocation::Lists(lists) = &written.revocation else {
            return Ok(Self {
                anchor: Arc::clone(anchor),
                validity: ca.validity(),
                is_revoked: false,
                lists: None,
                lists_end: None,
            });
        };
        let own: Vec<_> = newest(lists, ca, false);
        if own.is_empty() {
            return Err(ForeignFault::NoList(ca.fingerprint()));
        }
        let mut is_revoked = false;
        let mut ends: Vec<_> = own.iter().map(|list| list.next_update).collect();
        // Up to the top: what a CA above has withdrawn takes all below it along.
        let mut line = vec![ca];
        let mut done = 0;
        while let Some(below) = line.get(done).copied() {
            done += 1;
            let superiors = (written.authorities.iter())
                .filter(|other| !below.is_self_issued() && below.names_as_issuer(other));
            for superior in superiors {
                let serial = below.serial();
                let serial = serial.ok_or(ForeignFault::AuthoritySerial(below.fingerprint()))?;
                let about_it = newest(lists, superior, true);
                if about_it.is_empty() {
                    let superior = superior.fingerprint();
                    return Err(ForeignFault::NoListAboutAuthorities(superior));
                }
                is_revoked |= about_it.iter().any(|list| list.has(&serial));
                ends.extend(about_it.iter().map(|list| list.next_update));
                let is_known = |one: &&CaCertificate| one.fingerprint() == superior.fingerprint();
                if !line.iter().any(is_known) {
                    line.push(superior);
                }
            }
        }
        Ok(Self {
            anchor: Arc::clone(anchor),
            validity: ca.validity(),
            is_revoked,
            lists_end: ends.into_iter().min(),
            lists: Some(own),
        })
    }
}

/// The lists by a CA about its certificates for CAs, or for devices: the newest of each scope.
fn newest(
    lists: &[Arc<RevocationList>],
    issuer: &CaCertificate,
    about_authorities: bool,
) -> Vec<Arc<RevocationList>> {
    let mut found: Vec<Arc<RevocationList>> = Vec::new();
    for list in lists {
        if list.issuer != issuer.fingerprint() || !list.scope.covers(about_authorities) {
            continue;
        }
        match found.iter_mut().find(|other| other.scope == list.scope) {
            None => found.push(Arc::clone(list)),
            Some(other) if list.check_follows(other).is_ok() => *other = Arc::clone(list),
            Some(_) => {}
        }
    }
    found
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
