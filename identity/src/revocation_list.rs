//! A list of revoked certificates that another CA signed (RFC 5280, section 5): read once, verified once, and
//! looked up by serial from then on.
//!
//! What makes a list say less than "these, and of everything I issued no others" is refused by name: deltas, parts,
//! lists of other issuers' certificates, and critical extensions that nobody here understands.
//! The grammar is followed from top to bottom in this one file.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use der::asn1::{GeneralizedTime, UtcTime};
use der::{DateTime, Decode as _};
use rustls_pki_types::pem::{self, SectionKind};

use crate::ca_certificate::{CaCertificate, SignatureFault};
use crate::element::{
    self, BIT_STRING, BOOLEAN, ENUMERATED, Element, Elements, INTEGER, NotDer, OBJECT_IDENTIFIER,
    OCTET_STRING, SEQUENCE,
};
use crate::fingerprint::Fingerprint;
use crate::foreign::ForeignSerial;
use crate::timestamp::Timestamp;

/// A list whose signature was verified.
#[derive(Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// SHA-256 of the CA certificate whose key signed it.
    pub issuer: Fingerprint,
    /// Which of the issuer's certificates it is about.
    pub scope: Scope,
    /// When it was made.
    pub this_update: Timestamp,
    /// When the next one is there at the latest: from then on this one proves nothing.
    pub next_update: Timestamp,
    /// CRLNumber (RFC 5280, section 5.2.3), padded with zeros, where it stands.
    pub number: Option<[u8; 20]>,
    /// SHA-256 of the list.
    pub fingerprint: Fingerprint,
    /// Sorted, each once.
    serials: Box<[ForeignSerial]>,
}

/// Which certificates of its issuer a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All.
    All,
    /// Those of no CAs.
    EndEntities,
    /// Those of CAs.
    Authorities,
}

impl Scope {
    /// Whether certificates of CAs, or of no CAs, are among those that a list is about.
    pub fn covers(self, authority: bool) -> bool {
        match self {
            Self::All => true,
            Self::EndEntities => !authority,
            Self::Authorities => authority,
        }
    }
}

impl RevocationList {
    /// Reads one list in DER that one of `issuers` signed, and verifies the signature.
    pub fn read(der: &[u8], issuers: &[CaCertificate], now: Timestamp) -> Result<Self, CrlFault> {
        check_length(der)?;
        let whole = element::only(der, SEQUENCE)?;
        let mut parts = Elements::of(whole.content)?;
        let tbs = parts.expect(SEQUENCE).map_err(|_| CrlFault::NotAList)?;
        let algorithm = parts.expect(SEQUENCE).map_err(|_| CrlFault::NotAList)?;
        let signature = parts.expect(BIT_STRING).map_err(|_| CrlFault::NotAList)?;
        parts.finish().map_err(|_| CrlFault::NotAList)?;
        let fields = Fields::of(tbs.content)?;
        if fields.algorithm != algorithm.whole {
            return Err(CrlFault::NotAList);
        }
        let [0, signature @ ..] = signature.content else {
            return Err(CrlFault::NotAList);
        };
        // Nothing of the list counts before this.
        let issuer = signer(&fields, issuers, algorithm.content, tbs.whole, signature)?;
        let this_update = fields.this_update;
        let next_update = fields.next_update.ok_or(CrlFault::NoNextUpdate)?;
        if this_update > now.plus(CLOCK_TOLERANCE) {
            return Err(CrlFault::NotYetValid);
        }
        if next_update <= this_update {
            return Err(CrlFault::EmptyLife);
        }
        let Extensions { scope, number } = fields.extensions()?;
        Ok(Self {
            issuer,
            scope,
            this_update,
            next_update,
            number,
            fingerprint: Fingerprint::of(der),
            serials: fields.serials()?,
        })
    }

    /// Whether a certificate is revoked, by its serial.
    pub fn has(&self, serial: &ForeignSerial) -> bool {
        self.serials.binary_search(serial).is_ok()
    }

    /// How many certificates are revoked.
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    /// Every revoked certificate's serial, ascending.
    pub fn serials(&self) -> &[ForeignSerial] {
        &self.serials
    }

    /// Whether the list still says what is revoked.
    pub fn is_current(&self, now: Timestamp) -> bool {
        now < self.next_update
    }

    /// Whether less than a third of its life is left.
    pub fn is_ageing(&self, now: Timestamp) -> bool {
        let life = self.next_update.since(self.this_update);
        self.next_update.since(now) < life / 3
    }

    /// Fails if this list is older than one of the same issuer and scope that is in force.
    pub fn check_follows(&self, in_force: &Self) -> Result<(), CrlFault> {
        let numbers_fall = match (&self.number, &in_force.number) {
            (Some(new), Some(old)) => new < old,
            (None, _) | (_, None) => false,
        };
        if self.this_update < in_force.this_update || numbers_fall {
            Err(CrlFault::Older)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationList")
            .field("issuer", &self.issuer)
            .field("this_update", &self.this_update)
            .field("next_update", &self.next_update)
            .field("entries", &self.serials.len())
            .finish_non_exhaustive()
    }
}

/// The lists of a file or an answer, in DER: one in DER, or any number in PEM.
///
/// In PEM there may be text between them, and nothing else; a list whose end is missing is a fault.
/// One in DER is not copied: it can be a quarter of a gigabyte.
pub fn lists_in(bytes: &[u8]) -> Result<Vec<Cow<'_, [u8]>>, CrlFault> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(CrlFault::Empty);
    }
    check_length(bytes)?;
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(vec![Cow::Borrowed(bytes)]);
    }
    let mut rest = bytes;
    let mut lists = Vec::new();
    while let Some((kind, list)) = pem::from_buf(&mut rest).map_err(|_| CrlFault::NotPem)? {
        if kind != SectionKind::Crl {
            return Err(CrlFault::NotAList);
        }
        lists.push(Cow::Owned(list));
    }
    if lists.is_empty() {
        Err(CrlFault::NotAList)
    } else {
        Ok(lists)
    }
}

/// What [`RevocationList::read`] finds in a list, whoever signed it.
#[cfg(fuzzing)]
pub fn read_unsigned(der: &[u8]) -> Result<Box<[ForeignSerial]>, CrlFault> {
    let whole = element::only(der, SEQUENCE)?;
    let tbs = Elements::of(whole.content)?.expect(SEQUENCE)?;
    let fields = Fields::of(tbs.content)?;
    fields.extensions()?;
    fields.serials()
}

/// Why a list is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CrlFault {
    /// There are no bytes.
    #[error("it is empty")]
    Empty,
    /// More bytes than any list may have.
    #[error("it has more than {} MiB", MAX_LENGTH >> 20)]
    TooLarge,
    /// Neither DER nor a whole one of it.
    #[error("it is not DER, or a part of it is missing")]
    NotDer,
    /// Neither PEM nor a whole one of it.
    #[error("it is not PEM, or a part of it is missing")]
    NotPem,
    /// Something else in DER or PEM.
    #[error("it is no list of revoked certificates (X509 CRL)")]
    NotAList,
    /// None of the anchor's certificates has its issuer's name.
    #[error("its issuer is none of the CA certificates that are configured for the anchor")]
    UnknownIssuer,
    /// The issuer's KeyUsage lacks cRLSign.
    #[error("the KeyUsage of its issuer's certificate lacks cRLSign")]
    IssuerMayNotSign,
    /// No trusted algorithm.
    #[error(
        "its signature has an algorithm that is not trusted, such as SHA-1, or not its issuer's key's"
    )]
    Algorithm,
    /// Not the issuer's signature.
    #[error("it does not bear its issuer's signature")]
    BadSignature,
    /// No nextUpdate.
    #[error("it has no nextUpdate, so that nobody would notice its age")]
    NoNextUpdate,
    /// thisUpdate lies in the future.
    #[error("its thisUpdate lies in the future; check the clocks")]
    NotYetValid,
    /// nextUpdate does not come after thisUpdate.
    #[error("its nextUpdate does not come after its thisUpdate")]
    EmptyLife,
    /// A critical extension of the list or an entry that nobody here understands.
    #[error("it has a critical extension that is not understood")]
    CriticalExtension,
    /// An extension that matters cannot be read, or stands there twice.
    #[error("an extension of it cannot be read")]
    MalformedExtension,
    /// A delta CRL.
    #[error("it is a delta CRL; give the complete one")]
    Delta,
    /// An indirect CRL.
    #[error("it is an indirect CRL, with other issuers' certificates; give each issuer's own")]
    Indirect,
    /// Only some of the issuer's certificates or of the reasons.
    #[error(
        "it is about a part of its issuer's certificates only, or about some reasons; give the complete one"
    )]
    Partial,
    /// An entry cannot be read.
    #[error("an entry of it cannot be read")]
    MalformedEntry,
    /// Older than the one in force.
    #[error("it is older than the one in force")]
    Older,
    /// One that is in force is missing beside it.
    #[error(
        "a list that is in force, by one of its CAs, is not there any more; a reload takes it out"
    )]
    Missing,
}

impl From<NotDer> for CrlFault {
    fn from(NotDer: NotDer) -> Self {
        Self::NotDer
    }
}

/// The fields of TBSCertList (RFC 5280, section 5.1).
struct Fields<'a> {
    algorithm: &'a [u8],
    issuer: &'a [u8],
    this_update: Timestamp,
    next_update: Option<Timestamp>,
    /// The content of revokedCertificates.
    entries: &'a [u8],
    /// The content of the SEQUENCE of crlExtensions.
    extensions: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn of(tbs: &'a [u8]) -> Result<Self, CrlFault> {
        let not_a_list = |_| CrlFault::NotAList;
        let mut fields = Elements::of(tbs)?;
        let version = fields.optional(INTEGER)?;
        // Version 1 is told by its absence; `openssl ca -gencrl` makes that unless it is told otherwise.
        if version.is_some_and(|version| version.content != [1]) {
            return Err(CrlFault::NotAList);
        }
        let algorithm = fields.expect(SEQUENCE).map_err(not_a_list)?.whole;
        let issuer = fields.expect(SEQUENCE).map_err(not_a_list)?.whole;
        let this_update = time(fields.next()?).ok_or(CrlFault::NotAList)?;
        let next_update = match fields.peek() {
            Some(element::UTC_TIME | element::GENERALIZED_TIME) => {
                Some(time(fields.next()?).ok_or(CrlFault::NotAList)?)
            }
            Some(_) | None => None,
        };
        let entries = fields
            .optional(SEQUENCE)?
            .map_or(&[][..], |all| all.content);
        let extensions = match fields.optional(EXTENSIONS)? {
            Some(_) if version.is_none() => return Err(CrlFault::NotAList),
            Some(wrapper) => Some(element::only(wrapper.content, SEQUENCE)?.content),
            None => None,
        };
        fields.finish().map_err(not_a_list)?;
        Ok(Self {
            algorithm,
            issuer,
            this_update,
            next_update,
            entries,
            extensions,
        })
    }

    fn extensions(&self) -> Result<Extensions, CrlFault> {
        let mut found = Extensions {
            scope: Scope::All,
            number: None,
        };
        let mut seen: Vec<&[u8]> = Vec::new();
        let mut all = Elements::of(self.extensions.unwrap_or_default())?;
        while let Some(extension) = all.next()? {
            let Extension {
                oid,
                critical,
                value,
            } = Extension::of(extension)?;
            if seen.contains(&oid) {
                return Err(CrlFault::MalformedExtension);
            }
            seen.push(oid);
            match oid {
                CRL_NUMBER => found.number = Some(crl_number(value)?),
                DELTA_CRL_INDICATOR => return Err(CrlFault::Delta),
                ISSUING_DISTRIBUTION_POINT => found.scope = scope(value)?,
                _ if critical => return Err(CrlFault::CriticalExtension),
                _ => {}
            }
        }
        Ok(found)
    }

    fn serials(&self) -> Result<Box<[ForeignSerial]>, CrlFault> {
        let mut serials = Vec::new();
        let mut entries = Elements::of(self.entries)?;
        while let Some(entry) = entries.next()? {
            if entry.tag != SEQUENCE {
                return Err(CrlFault::MalformedEntry);
            }
            let malformed = |_| CrlFault::MalformedEntry;
            let mut fields = Elements::of(entry.content)?;
            let serial = fields.expect(INTEGER).map_err(malformed)?;
            time(fields.next()?).ok_or(CrlFault::MalformedEntry)?;
            if let Some(extensions) = fields.optional(SEQUENCE)? {
                check_entry(extensions.content)?;
            }
            fields.finish().map_err(malformed)?;
            // Another serial is none that a certificate can have and be read here.
            serials.extend(ForeignSerial::from_der_content(serial.content));
        }
        serials.sort_unstable();
        serials.dedup();
        Ok(serials.into_boxed_slice())
    }
}

/// What of a list's extensions matters.
struct Extensions {
    scope: Scope,
    number: Option<[u8; 20]>,
}

/// One extension (RFC 5280, section 4.1.2.9).
struct Extension<'a> {
    oid: &'a [u8],
    critical: bool,
    value: &'a [u8],
}

impl<'a> Extension<'a> {
    fn of(extension: Element<'a>) -> Result<Self, CrlFault> {
        let malformed = |_| CrlFault::MalformedExtension;
        if extension.tag != SEQUENCE {
            return Err(CrlFault::MalformedExtension);
        }
        let mut fields = Elements::of(extension.content)?;
        let oid = fields.expect(OBJECT_IDENTIFIER).map_err(malformed)?.content;
        let critical = fields.optional(BOOLEAN)?;
        let value = fields.expect(OCTET_STRING).map_err(malformed)?.content;
        fields.finish().map_err(malformed)?;
        Ok(Self {
            oid,
            critical: critical.map_or(Ok(false), boolean)?,
            value,
        })
    }
}

/// The CA that signed a list. Several may have its name, of which one made the signature.
fn signer(
    fields: &Fields<'_>,
    issuers: &[CaCertificate],
    algorithm: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<Fingerprint, CrlFault> {
    let mut fault = CrlFault::UnknownIssuer;
    for issuer in issuers {
        if issuer.subject() != fields.issuer {
            continue;
        }
        match issuer.verify(algorithm, message, signature) {
            Ok(()) if issuer.signs_lists() => return Ok(issuer.fingerprint()),
            Ok(()) => fault = CrlFault::IssuerMayNotSign,
            Err(SignatureFault::Algorithm) => fault = CrlFault::Algorithm,
            Err(SignatureFault::Bad) => fault = CrlFault::BadSignature,
        }
    }
    Err(fault)
}

/// IssuingDistributionPoint (RFC 5280, section 5.2.5).
fn scope(value: &[u8]) -> Result<Scope, CrlFault> {
    let malformed = |_| CrlFault::MalformedExtension;
    let point = element::only(value, SEQUENCE).map_err(malformed)?;
    let mut fields = Elements::of(point.content).map_err(malformed)?;
    let mut scope = Scope::All;
    while let Some(field) = fields.next().map_err(malformed)? {
        match field.tag {
            // Only certificates that name the same point are meant, or only some reasons.
            0xa0 | 0x83 => return Err(CrlFault::Partial),
            0x81 if boolean(field)? && scope == Scope::All => scope = Scope::EndEntities,
            0x82 if boolean(field)? && scope == Scope::All => scope = Scope::Authorities,
            0x84 if boolean(field)? => return Err(CrlFault::Indirect),
            // Certificates of attributes are none that anybody connects with.
            0x85 if boolean(field)? => return Err(CrlFault::Partial),
            _ => return Err(CrlFault::MalformedExtension),
        }
    }
    Ok(scope)
}

fn crl_number(value: &[u8]) -> Result<[u8; 20], CrlFault> {
    let number = element::only(value, INTEGER).map_err(|_| CrlFault::MalformedExtension)?;
    element::unsigned(number.content).ok_or(CrlFault::MalformedExtension)
}

/// The extensions of an entry (RFC 5280, section 5.3).
fn check_entry(extensions: &[u8]) -> Result<(), CrlFault> {
    let mut all = Elements::of(extensions)?;
    while let Some(extension) = all.next()? {
        let Extension {
            oid,
            critical,
            value,
        } = Extension::of(extension)?;
        match oid {
            CERTIFICATE_ISSUER => return Err(CrlFault::Indirect),
            REASON_CODE => {
                let reason =
                    element::only(value, ENUMERATED).map_err(|_| CrlFault::MalformedEntry)?;
                // Only a delta takes something back.
                if reason.content == [REMOVE_FROM_CRL] {
                    return Err(CrlFault::Delta);
                }
            }
            _ if critical => return Err(CrlFault::CriticalExtension),
            _ => {}
        }
    }
    Ok(())
}

fn boolean(element: Element<'_>) -> Result<bool, CrlFault> {
    match element.content {
        [0xff] => Ok(true),
        [0] => Ok(false),
        _ => Err(CrlFault::MalformedExtension),
    }
}

/// UTCTime or GeneralizedTime, as RFC 5280 writes them: with seconds, in UTC. A time before 1970 is none.
fn time(element: Option<Element<'_>>) -> Option<Timestamp> {
    let element = element?;
    let date: DateTime = match element.tag {
        element::UTC_TIME => UtcTime::from_der(element.whole).ok()?.to_date_time(),
        element::GENERALIZED_TIME => GeneralizedTime::from_der(element.whole)
            .ok()?
            .to_date_time(),
        _ => return None,
    };
    Some(Timestamp(date.unix_duration().as_secs()))
}

fn check_length(bytes: &[u8]) -> Result<(), CrlFault> {
    if bytes.len() > MAX_LENGTH {
        Err(CrlFault::TooLarge)
    } else {
        Ok(())
    }
}

/// Room for more than six million entries.
pub const MAX_LENGTH: usize = 256 << 20;
/// How far the issuer's clock may be ahead.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// crlExtensions, `[0] EXPLICIT`.
const EXTENSIONS: u8 = 0xa0;
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 20];
const REASON_CODE: &[u8] = &[0x55, 0x1d, 21];
const DELTA_CRL_INDICATOR: &[u8] = &[0x55, 0x1d, 27];
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 28];
const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 29];
const REMOVE_FROM_CRL: u8 = 8;

#[cfg(test)]
#[path = "revocation_list_tests.rs"]
mod tests;
