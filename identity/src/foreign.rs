//! Certificates of other CAs: where a device's id stands in them, byte for byte.
//!
//! An anchor says once where its devices' ids come from. Then there is exactly one such name in a certificate, or
//! the certificate names nobody: no second name is passed over, nothing is folded, trimmed or decoded, so that
//! two certificates never mean one device unless their bytes say so.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
};

use crate::TrustDomain;
use crate::certificate::{Parsed, ReadError, Validity};
use crate::element::{self, Elements, NotDer};
use crate::fingerprint::Fingerprint;
use crate::name::{DeviceId, Name};

/// Where the ids of an anchor's devices come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdRule {
    /// The one URI among the subjectAltNames, after this prefix.
    UriSan {
        /// Compared byte for byte, e.g. `spiffe://factory.example/device/`.
        prefix: String,
    },
    /// The one DNS name among the subjectAltNames, in lower case.
    DnsSan,
    /// The one common name of the subject.
    CommonName,
    /// A table that says whose each certificate is.
    Table(Table),
}

/// From the SHA-256 of certificates to ids. Cloning is cheap.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Table(Arc<HashMap<Fingerprint, DeviceId>>);

/// Whose a certificate is: the anchor's name keeps the ids of several CAs apart, and from the registry's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForeignId {
    /// The anchor.
    pub anchor: Name,
    /// The id, unique among the anchor's devices.
    pub id: DeviceId,
}

/// A serial number of up to 20 bytes (RFC 5280, section 4.1.2.2), padded with zeros to 20.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForeignSerial([u8; 20]);

/// What a certificate of another CA says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignLeaf {
    /// The id.
    pub id: DeviceId,
    /// The serial.
    pub serial: ForeignSerial,
    /// When it holds.
    pub validity: Validity,
    /// SHA-256 of the whole certificate.
    pub certificate: Fingerprint,
}

impl ForeignLeaf {
    /// Reads an end-entity certificate for a TLS client by its anchor's rule.
    ///
    /// KeyUsage and ExtendedKeyUsage restrict it where they stand: many CAs leave them out. A name that is said
    /// to be a client's must be one, so `anyExtendedKeyUsage` alone is refused.
    pub fn read(parsed: &Parsed<'_>, rule: &IdRule) -> Result<Self, ReadError> {
        parsed.check_extensions()?;
        check_usages(parsed)?;
        let certificate = Fingerprint::of(parsed.der());
        let id = match rule {
            IdRule::UriSan { prefix } => {
                let uri = name_of_type(parsed, URI)?;
                let id = uri.strip_prefix(prefix.as_bytes());
                device_id(id.ok_or(ReadError::UriPrefix)?)?
            }
            IdRule::DnsSan => {
                let name = name_of_type(parsed, DNS_NAME)?;
                if !is_lower_case_dns_name(name) {
                    return Err(ReadError::NotDnsName);
                }
                device_id(name)?
            }
            IdRule::CommonName => device_id(common_name(parsed)?)?,
            IdRule::Table(table) => table
                .id_of(&certificate)
                .cloned()
                .ok_or(ReadError::NotInTable)?,
        };
        Ok(Self {
            id,
            serial: ForeignSerial::from_der_content(parsed.x509().raw_serial())
                .ok_or(ReadError::SerialOutOfRange)?,
            validity: parsed.validity(),
            certificate,
        })
    }
}

impl ForeignSerial {
    /// Reads the content octets of a DER INTEGER.
    ///
    /// `None` if it is zero, negative, longer than 20 bytes or not in its shortest form.
    pub fn from_der_content(content: &[u8]) -> Option<Self> {
        let bytes = element::unsigned(content)?;
        (bytes != [0; 20]).then_some(Self(bytes))
    }
}

impl fmt::Display for ForeignSerial {
    /// As `openssl x509 -serial` prints it: whole bytes, without leading zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.iter().position(|byte| *byte != 0).unwrap_or(19);
        self.0[start..]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl std::str::FromStr for ForeignSerial {
    type Err = crate::fingerprint::HexError;

    /// Takes what people copy from other tools too: lower case, and colons between bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        crate::fingerprint::parse_hex(&format!("{digits:0>40}")).map(Self)
    }
}

impl fmt::Debug for ForeignSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ForeignId {
    /// `<anchor>:<id>`: no device id has a colon, so no id of ours and no other anchor's reads like this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.anchor, self.id)
    }
}

impl Serialize for ForeignId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Table {
    /// Reads lines of `fingerprint,id`, after an optional first line of these two words.
    ///
    /// A fingerprint is the SHA-256 of the certificate in hexadecimal digits, with or without colons. Several
    /// certificates may be one device's; ids that differ in nothing but case are a mistake. Empty lines and lines
    /// that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, TableFault> {
        let mut table = HashMap::new();
        let mut spellings: HashMap<String, DeviceId> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line_number = number + 1;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.is_empty() || line.starts_with('#') || (number == 0 && line == TITLE) {
                continue;
            }
            let fault = |kind| TableFault {
                line: line_number,
                kind,
            };
            let (fingerprint, id) = line
                .split_once(',')
                .ok_or(fault(TableFaultKind::NotTwoFields))?;
            let digits: String = fingerprint.chars().filter(|c| *c != ':').collect();
            let fingerprint: Fingerprint = digits
                .parse()
                .map_err(|_| fault(TableFaultKind::Fingerprint))?;
            let id = DeviceId::parse(id).map_err(|error| fault(TableFaultKind::Id(error)))?;
            let spelling = spellings.entry(id.folded()).or_insert_with(|| id.clone());
            if *spelling != id {
                return Err(fault(TableFaultKind::SameButForCase));
            }
            if table.insert(fingerprint, id).is_some() {
                return Err(fault(TableFaultKind::Twice));
            }
            if table.len() > MAX_TABLE {
                return Err(fault(TableFaultKind::TooMany));
            }
        }
        Ok(Self(Arc::new(table)))
    }

    /// Whose a certificate is.
    pub fn id_of(&self, certificate: &Fingerprint) -> Option<&DeviceId> {
        self.0.get(certificate)
    }

    /// How many certificates it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} certificates)", self.len())
    }
}

/// Why a table is refused, and in which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct TableFault {
    /// From 1.
    pub line: usize,
    /// What is wrong there.
    pub kind: TableFaultKind,
}

/// What is wrong with a line of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableFaultKind {
    /// No comma.
    #[error("it is not a fingerprint and an id with a comma between them")]
    NotTwoFields,
    /// No SHA-256.
    #[error("its first field is no SHA-256 of a certificate: 64 hexadecimal digits")]
    Fingerprint,
    /// No device id.
    #[error("its second field is no device id: {0}")]
    Id(crate::name::NameError),
    /// Another line spells the id otherwise.
    #[error("another line has the same id in other letter case")]
    SameButForCase,
    /// A fingerprint stands there twice.
    #[error("another line has the same fingerprint")]
    Twice,
    /// More lines than a table may have.
    #[error("the table has more than {MAX_TABLE} certificates")]
    TooMany,
}

fn check_usages(parsed: &Parsed<'_>) -> Result<(), ReadError> {
    match parsed.extension(&OID_X509_EXT_BASIC_CONSTRAINTS, Tag::Sequence)? {
        None => {}
        Some(ParsedExtension::BasicConstraints(constraints))
            if !constraints.ca && constraints.path_len_constraint.is_none() => {}
        Some(ParsedExtension::BasicConstraints(_)) => return Err(ReadError::IsCa),
        Some(_) => return Err(ReadError::MalformedExtension),
    }
    match parsed.extension(&OID_X509_EXT_KEY_USAGE, Tag::BitString)? {
        None => {}
        Some(ParsedExtension::KeyUsage(usage)) if usage.key_cert_sign() => {
            return Err(ReadError::IsCa);
        }
        Some(ParsedExtension::KeyUsage(usage)) if usage.digital_signature() => {}
        Some(ParsedExtension::KeyUsage(_)) => return Err(ReadError::NoDigitalSignature),
        Some(_) => return Err(ReadError::MalformedExtension),
    }
    match parsed.extension(&OID_X509_EXT_EXTENDED_KEY_USAGE, Tag::Sequence)? {
        None => Ok(()),
        Some(ParsedExtension::ExtendedKeyUsage(usage)) if usage.client_auth => Ok(()),
        Some(ParsedExtension::ExtendedKeyUsage(_)) => Err(ReadError::NoClientAuth),
        Some(_) => Err(ReadError::MalformedExtension),
    }
}

/// Fails if a URI among a certificate's subjectAltNames lies in this trust domain, whoever may have meant what by it: back ends
/// that are told a certificate's names take it for one of ours.
pub fn refuse_names_of(domain: &TrustDomain, parsed: &Parsed<'_>) -> Result<(), ReadError> {
    let extension = parsed
        .x509()
        .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
        .map_err(|_| ReadError::DuplicateExtension)?;
    let Some(extension) = extension else {
        return Ok(());
    };
    let malformed = |NotDer| ReadError::MalformedExtension;
    let names = element::only(extension.value, element::SEQUENCE).map_err(malformed)?;
    let mut names = Elements::of(names.content).map_err(malformed)?;
    let ours = format!("spiffe://{domain}");
    while let Some(name) = names.next().map_err(malformed)? {
        let begins = name.content.get(..ours.len());
        let after = name.content.get(ours.len());
        if name.tag == URI
            && begins.is_some_and(|begin| begin.eq_ignore_ascii_case(ours.as_bytes()))
            && matches!(after, None | Some(b'/' | b':' | b'?' | b'#'))
        {
            return Err(ReadError::OwnTrustDomain);
        }
    }
    Ok(())
}

/// The content of the one subjectAltName with this tag. Names of other types may stand beside it.
fn name_of_type<'a>(parsed: &Parsed<'a>, tag: u8) -> Result<&'a [u8], ReadError> {
    let extension = parsed
        .x509()
        .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
        .map_err(|_| ReadError::DuplicateExtension)?
        .ok_or(ReadError::NoName)?;
    let malformed = |NotDer| ReadError::MalformedExtension;
    let names = element::only(extension.value, element::SEQUENCE).map_err(malformed)?;
    let mut names = Elements::of(names.content).map_err(malformed)?;
    let mut found = None;
    let mut count = 0;
    while let Some(name) = names.next().map_err(malformed)? {
        if !GENERAL_NAMES.contains(&name.tag) {
            return Err(ReadError::MalformedExtension);
        }
        if name.tag == tag {
            count += 1;
            found = Some(name.content);
        }
    }
    found
        .filter(|_| count == 1)
        .ok_or(ReadError::NamesOfType { count })
}

/// The content of the one common name (RFC 5280, appendix A.1), alone in its RDN.
fn common_name<'a>(parsed: &Parsed<'a>) -> Result<&'a [u8], ReadError> {
    let not_der = |NotDer| ReadError::NotDer;
    // The parser keeps the whole certificate's lifetime in its names.
    let subject: &'a [u8] = parsed.x509().tbs_certificate.subject.as_raw();
    let name = element::only(subject, element::SEQUENCE).map_err(not_der)?;
    let mut parts = Elements::of(name.content).map_err(not_der)?;
    let mut found = None;
    let mut count = 0;
    let mut shared = false;
    while let Some(rdn) = parts.next().map_err(not_der)? {
        if rdn.tag != element::SET {
            return Err(ReadError::NotDer);
        }
        let mut attributes = Elements::of(rdn.content).map_err(not_der)?;
        let (mut attributes_here, mut names_here) = (0, 0);
        while let Some(attribute) = attributes.next().map_err(not_der)? {
            attributes_here += 1;
            let mut fields = Elements::of(attribute.content).map_err(not_der)?;
            let oid = fields.expect(element::OBJECT_IDENTIFIER).map_err(not_der)?;
            let value = fields.next().map_err(not_der)?.ok_or(ReadError::NotDer)?;
            fields.finish().map_err(not_der)?;
            if oid.content == COMMON_NAME {
                names_here += 1;
                found = Some(value);
            }
        }
        count += names_here;
        shared |= names_here > 0 && attributes_here > 1;
    }
    let value = found
        .filter(|_| count == 1)
        .ok_or(ReadError::NamesOfType { count })?;
    if shared {
        return Err(ReadError::CommonNameShared);
    }
    if value.tag != element::PRINTABLE_STRING && value.tag != element::UTF8_STRING {
        return Err(ReadError::CommonNameType);
    }
    Ok(value.content)
}

fn device_id(bytes: &[u8]) -> Result<DeviceId, ReadError> {
    // Bytes that are no UTF-8 have a character that no id has, at the first of them.
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ReadError::NotId(crate::name::NameError::Character {
            character: char::REPLACEMENT_CHARACTER,
            position: error.valid_up_to(),
        })
    })?;
    DeviceId::parse(text).map_err(ReadError::NotId)
}

/// Letters in lower case, digits and hyphens in labels of 1–63 (RFC 1123, section 2.1): no wildcard, no trailing dot.
fn is_lower_case_dns_name(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'.').all(|label| {
        (1..=63).contains(&label.len())
            && label
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
    })
}

/// Tags of GeneralName (RFC 5280, section 4.2.1.6).
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const GENERAL_NAMES: [u8; 9] = [0xa0, 0x81, DNS_NAME, 0xa3, 0xa4, 0xa5, URI, 0x87, 0x88];
/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const TITLE: &str = "fingerprint,id";
const MAX_TABLE: usize = 4_000_000;

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
