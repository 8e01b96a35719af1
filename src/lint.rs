//! What is no mistake yet and will be one: certificates of the server and towards upstreams, CAs and lists that end soon.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway::Route;
use gateway::tls::NamedCertificate;
use identity::Timestamp;
use identity::certificate::Validity;

use crate::clock;
use crate::config::AnchorConfig;

/// What has to be said of a certificate's validity: it ends soon, which is when a third of its life is left, has
/// ended, or has not begun.
pub(crate) fn expiry(certificate: &NamedCertificate, now: Timestamp) -> Option<String> {
    let name = certificate.names.first().map_or("", String::as_str);
    let sentence = ends(
        &format!("The server certificate for {name}"),
        certificate.validity,
        now,
    )?;
    Some(format!("{sentence}; put a new one in its place."))
}

/// The certificates that upstreams are shown: the upstream's name, and when its is valid.
pub(crate) fn shown(routes: &[Route]) -> BTreeMap<String, Validity> {
    let shown = routes.iter().filter_map(|route| {
        let (name, tls) = (&route.upstream.name, &route.upstream.tls);
        Some((name.clone()?, tls.as_ref()?.own_validity()?))
    });
    shown.collect()
}

/// What has to be said of a certificate that an upstream is shown, as of the server's. Its file is read by a reload alone.
pub(crate) fn upstream(name: &str, shown: Validity, now: Timestamp) -> Option<String> {
    let what = format!("The certificate that the upstream {name} is shown");
    let sentence = ends(&what, shown, now)?;
    Some(format!(
        "{sentence}; put a new one in its place, and reload."
    ))
}

fn ends(certificate: &str, validity: Validity, now: Timestamp) -> Option<String> {
    let Validity {
        not_before,
        not_after,
    } = validity;
    let (what, when) = if now > not_after {
        ("has ended", not_after)
    } else if now < not_before {
        ("is not valid yet, but from", not_before)
    } else if not_after.since(now) <= not_after.since(not_before) / 3 {
        ("ends soon,", not_after)
    } else {
        return None;
    };
    let joint = if now > not_after { " on" } else { "" };
    Some(format!(
        "{certificate} {what}{joint} {}",
        clock::rfc3339(when)
    ))
}

/// What has to be said of an anchor: CA certificates that end within two months or a third of their life, and lists of
/// revoked certificates of whose time less than a third is left.
pub(crate) fn anchor(anchor: &AnchorConfig, now: Timestamp) -> Vec<String> {
    let name = &anchor.name;
    let mut sentences = Vec::new();
    for ca in &anchor.authorities {
        let Validity {
            not_before,
            not_after,
        } = ca.validity();
        let notice = (not_after.since(not_before) / 3).min(NOTICE);
        let sha256 = ca.fingerprint();
        if now > not_after {
            let when = clock::rfc3339(not_after);
            sentences.push(format!(
                "A CA certificate of the anchor {name} has ended on {when}, and its devices are refused; put a new one in its place (SHA-256 {sha256})."
            ));
        } else if not_after.since(now) <= notice {
            let when = clock::rfc3339(not_after);
            sentences.push(format!(
                "A CA certificate of the anchor {name} ends soon, {when}; put a new one in its place (SHA-256 {sha256})."
            ));
        }
    }
    for list in anchor.newest() {
        let when = clock::rfc3339(list.next_update);
        if !list.is_current(now) {
            sentences.push(format!(
                "A list of revoked certificates of the anchor {name} should have been replaced by {when}, and the devices of its CA are refused; find out why there is no newer one."
            ));
        } else if list.is_ageing(now) {
            sentences.push(format!(
                "A list of revoked certificates of the anchor {name} ends soon, {when}; find out why there is no newer one."
            ));
        }
    }
    sentences
}

const NOTICE: Duration = Duration::from_secs(60 * 24 * 60 * 60);
