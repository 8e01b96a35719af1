//! The dialects in which certificates are told to upstreams: from a certificate and its verified path to headers.
//!
//! A dialect says the whole truth in its own grammar, or nothing: what its grammar cannot hold in one reading is
//! [`Inexpressible`], and the request is refused. `docs/identity-headers.md` describes each header.

mod aws_alb;
mod cloudflare;
mod decimal;
mod distinguished_name;
mod encoding;
mod nginx;
mod rfc9440;
mod traefik;
mod xfcc;

use http::{HeaderName, HeaderValue};
use identity::ReadError;
use identity::certificate::Parsed;
use identity::description::Description;
use rustls_pki_types::CertificateDer;

/// A header and its value.
pub(crate) type Field = (HeaderName, HeaderValue);

/// A dialect that depends on the certificate and its path alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    ClientCert,
    ClientCertChain,
    Xfcc,
    Nginx,
    Traefik,
    AwsAlb,
    Cloudflare,
}

impl Dialect {
    pub(crate) const COUNT: usize = 7;

    /// Whether the dialect says more than the certificate itself.
    pub(crate) fn needs_issuers(self) -> bool {
        match self {
            Self::ClientCertChain | Self::Xfcc => true,
            Self::ClientCert | Self::Nginx | Self::Traefik | Self::AwsAlb | Self::Cloudflare => {
                false
            }
        }
    }
}

/// A certificate, and the CA certificates of the path that proved it, each certifying the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proven<'a> {
    pub(crate) leaf: &'a CertificateDer<'a>,
    /// Looked at only where [`Dialect::needs_issuers`].
    pub(crate) issuers: &'a [CertificateDer<'a>],
}

/// The headers of a dialect. Their values are marked as sensitive, so that HTTP/2 does not index them (RFC 9440,
/// section 3.2).
pub(crate) fn fields(dialect: Dialect, proven: Proven<'_>) -> Result<Vec<Field>, Inexpressible> {
    let texts = match dialect {
        Dialect::ClientCert => rfc9440::certificate(proven),
        Dialect::ClientCertChain => rfc9440::chain(proven),
        Dialect::Xfcc => xfcc::fields(proven)?,
        Dialect::Nginx => nginx::fields(proven)?,
        Dialect::Traefik => traefik::fields(proven)?,
        Dialect::AwsAlb => aws_alb::fields(proven)?,
        Dialect::Cloudflare => cloudflare::fields(proven),
    };
    texts
        .into_iter()
        .map(|(name, text)| {
            // Visible ASCII alone.
            let mut value = HeaderValue::from_str(&text).map_err(|_| Inexpressible::Character)?;
            value.set_sensitive(true);
            Ok((HeaderName::from_static(name), value))
        })
        .collect()
}

/// Names of headers with what they say.
type Texts = Vec<(&'static str, String)>;

/// Why a certificate cannot be told in a dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Inexpressible {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(#[from] ReadError),
    /// Its path cannot be proven again.
    #[error("its chain cannot be proven")]
    Path,
    /// A part of a name has no text, or none that is well-formed.
    #[error("a name in it has no well-formed text")]
    Text,
    /// A name has a character that the header cannot hold in one reading.
    #[error("a name in it has a character that the header cannot hold")]
    Character,
    /// The header has one place, and the name two values.
    #[error("a name in it has two values where the header has one place")]
    Several,
    /// The serial number is negative or empty.
    #[error("its serial number is not positive")]
    Serial,
    /// A time that the header has no form for.
    #[error("its validity lies outside the years 1970 to 9999")]
    Time,
}

/// What the certificate says.
fn describe(leaf: &CertificateDer<'_>) -> Result<Description, Inexpressible> {
    Ok(Parsed::from_der(leaf)?.description()?)
}

/// The serial number as OpenSSL prints it: two upper-case hexadecimal digits per octet, without leading zeros.
fn serial(description: &Description) -> Result<String, Inexpressible> {
    Ok(encoding::upper_hex(magnitude(description)?))
}

/// The serial number, which no CA makes negative (RFC 5280, section 4.1.2.2), without leading zeros.
fn magnitude(description: &Description) -> Result<&[u8], Inexpressible> {
    match description.serial.as_slice() {
        [] | [0x80..=0xff, ..] => Err(Inexpressible::Serial),
        [0, rest @ ..] if !rest.is_empty() => Ok(rest),
        whole => Ok(whole),
    }
}
