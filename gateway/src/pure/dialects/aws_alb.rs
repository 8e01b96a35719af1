//! The headers of an AWS Application Load Balancer that verifies: serial, names, validity, and the certificate in
//! percent-encoded PEM with `+`, `=` and `/` as they are.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::distinguished_name::{Escapes, rfc2253};
use super::encoding::{pem, percent};
use super::{Inexpressible, Proven, Texts, describe, serial};
use crate::pure::identity_names::preset;

pub(super) fn fields(proven: Proven<'_>) -> Result<Texts, Inexpressible> {
    let description = describe(proven.leaf)?;
    let validity = format!(
        "NotBefore={};NotAfter={}",
        rfc3339(description.not_before)?,
        rfc3339(description.not_after)?
    );
    Ok(vec![
        (preset::AMZN_SERIAL, serial(&description)?),
        (
            preset::AMZN_ISSUER,
            rfc2253(&description.issuer, Escapes::Characters)?,
        ),
        (
            preset::AMZN_SUBJECT,
            rfc2253(&description.subject, Escapes::Characters)?,
        ),
        (preset::AMZN_VALIDITY, validity),
        (preset::AMZN_LEAF, percent(&pem(proven.leaf), b"+=/")),
    ])
}

/// `2026-09-21T01:50:17Z`
fn rfc3339(seconds: i64) -> Result<String, Inexpressible> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .filter(|_| seconds >= 0)
        .and_then(|time| time.format(&Rfc3339).ok())
        .ok_or(Inexpressible::Time)
}
