//! The headers that configurations of nginx set from `$ssl_client_*`, byte for byte as nginx has them.
//!
//! Empty names make empty values here, where nginx would send no header.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::distinguished_name::{Escapes, rfc2253};
use super::encoding::{hex, pem, percent};
use super::{Inexpressible, Proven, Texts, describe, serial};
use crate::pure::identity_names::preset;

pub(super) fn fields(proven: Proven<'_>) -> Result<Texts, Inexpressible> {
    let description = describe(proven.leaf)?;
    let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, proven.leaf);
    Ok(vec![
        // Nobody else gets here: `ssl_client_verify` is never FAILED or NONE behind this gateway.
        (preset::SSL_VERIFY, "SUCCESS".to_owned()),
        (
            preset::SSL_S_DN,
            rfc2253(&description.subject, Escapes::Characters)?,
        ),
        (
            preset::SSL_I_DN,
            rfc2253(&description.issuer, Escapes::Characters)?,
        ),
        (preset::SSL_SERIAL, serial(&description)?),
        (preset::SSL_FINGERPRINT, hex(sha1.as_ref())),
        (preset::SSL_CERT, percent(&pem(proven.leaf), b"")),
    ])
}
