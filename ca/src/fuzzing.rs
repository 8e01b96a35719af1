//! What the fuzz targets (`tests/fuzz`) see of this crate's inside. Only there with `--cfg fuzzing`.

use std::time::Duration;

use identity::{DeviceId, Fingerprint, Identity, Index, Serial, SpiffeId, Timestamp};

use crate::authority::Authority;
use crate::crl;
use crate::pure::csr::VerifiedCsr;
use crate::pure::draft::{Draft, Particulars};
use crate::pure::enroll::{Decision, Facts, Requester, decide};
use crate::pure::est_encoding;
use crate::pure::journal::{Entry, Head};
use crate::registry::{CrlNumber, Withdrawn};

pub use crate::registry::fuzzing::{Journal, Stored};

/// The certificate that an operator's word brings this request: always with the same serial and times.
pub fn certificate(
    authority: &Authority,
    device: &DeviceId,
    csr: &VerifiedCsr,
    serial: Serial,
    now: Timestamp,
) -> Option<Vec<u8>> {
    let requester = Requester::Operator {
        device: device.clone(),
    };
    let spiffe_id = SpiffeId {
        trust_domain: authority.trust_domain.clone(),
        identity: Identity::Device(device.clone()),
    };
    let grant = match decide(&requester, csr, &spiffe_id, &Facts::default(), now) {
        Ok(Decision::Issue(grant)) => grant,
        Ok(Decision::Repeat(_)) | Err(_) => return None,
    };
    let particulars = Particulars {
        index: Index(1),
        serial,
        now,
        life: Duration::from_secs(24 * 60 * 60),
        issuer_not_after: authority.keys.device.not_after(),
    };
    let draft = Draft::of_device(grant, &authority.trust_domain, particulars).ok()?;
    let der = authority.keys.device.sign(&draft).ok()?;
    Some(der.to_vec())
}

/// The CRL with these entries: serial, time in seconds since 1970, and whether it may come back.
pub fn crl(
    authority: &Authority,
    entries: &[(Serial, u64, bool)],
    number: u64,
    this_update: u64,
) -> Option<Vec<u8>> {
    let withdrawn: Vec<_> = entries
        .iter()
        .map(|(serial, since, on_hold)| Withdrawn {
            serial: *serial,
            since: Timestamp(*since),
            on_hold: *on_hold,
        })
        .collect();
    let start = CrlNumber {
        number,
        this_update: Timestamp(this_update),
    };
    let list = crl::list(&withdrawn, start, authority.device_ca().der()).ok()?;
    authority.keys.device.sign_crl(&list).ok()
}

/// EST's reading of a body.
pub fn est_decode(body: &[u8]) -> Option<Vec<u8>> {
    est_encoding::decode(body)
}

/// EST's bag of certificates, as it leaves: base64 of a certs-only CMS.
pub fn est_certificates(certificates: &[&[u8]]) -> Option<Vec<u8>> {
    let bag = est_encoding::certs_only(certificates).ok()?;
    Some(est_encoding::encode(&bag))
}

/// The hash that stands beside an entry.
pub fn journal_hash(entry: &Entry, previous: &Fingerprint) -> Fingerprint {
    entry.hash(previous)
}

/// How many entries, from the first, continue each other.
pub fn journal_follow(entries: &[(Entry, Fingerprint)]) -> usize {
    let mut head = Head::START;
    entries
        .iter()
        .take_while(|(entry, hash)| match head.advance(entry, hash) {
            Some(next) => {
                head = next;
                true
            }
            None => false,
        })
        .count()
}
