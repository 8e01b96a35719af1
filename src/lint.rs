//! What is no mistake yet and will be one: certificates of the server that end soon.

use gateway::tls::NamedCertificate;
use identity::Timestamp;
use identity::certificate::Validity;

use crate::clock;

/// What has to be said of a certificate's validity: it ends soon, which is when a third of its life is left, has
/// ended, or has not begun.
pub(crate) fn expiry(certificate: &NamedCertificate, now: Timestamp) -> Option<String> {
    let name = certificate.names.first().map_or("", String::as_str);
    let Validity {
        not_before,
        not_after,
    } = certificate.validity;
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
        "The server certificate for {name} {what}{joint} {}; put a new one in its place.",
        clock::rfc3339(when)
    ))
}
