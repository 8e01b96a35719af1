//! What a certificate says of its holder, for those who are told in another dialect than ours.
//!
//! Nothing here is an identity: names come as they stand in the certificate, and who prints them sees to it that
//! they can be read in one way only.

use std::fmt;

use x509_parser::asn1_rs::{Class, Oid};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::x509::X509Name;

use crate::certificate::{Parsed, ReadError, element};

/// A certificate's contents, beside its key and signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Whom it is for.
    pub subject: DistinguishedName,
    /// Who issued it.
    pub issuer: DistinguishedName,
    /// The content octets of the serial number's INTEGER: big-endian, in two's complement.
    pub serial: Vec<u8>,
    /// `notBefore`, in seconds since 1970.
    pub not_before: i64,
    /// `notAfter`, in seconds since 1970.
    pub not_after: i64,
    /// The entries of subjectAltName, in their order.
    pub alternative_names: Vec<AlternativeName>,
}

/// A distinguished name (RFC 5280, section 4.1.2.4): its RDNs in their order, each with its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DistinguishedName(pub Vec<Vec<Attribute>>);

/// An attribute of a distinguished name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its type.
    pub kind: ObjectIdentifier,
    /// The tag of its value, of class universal.
    pub tag: u32,
    /// The content octets of its value.
    pub content: Vec<u8>,
}

impl Attribute {
    /// The value, with its tag and length.
    pub fn der(&self) -> Vec<u8> {
        // A universal tag that `Parsed::description` lets pass fits into five bits.
        element((self.tag & 0x1f) as u8, &self.content)
    }
}

/// An object identifier. Printed as its numbers with dots between them.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectIdentifier(Vec<u64>);

impl ObjectIdentifier {
    /// Its numbers.
    pub fn arcs(&self) -> &[u64] {
        &self.0
    }
}

impl fmt::Display for ObjectIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, arc) in self.0.iter().enumerate() {
            let dot = if position == 0 { "" } else { "." };
            write!(f, "{dot}{arc}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ObjectIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An entry of subjectAltName (RFC 5280, section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    /// uniformResourceIdentifier.
    Uri(String),
    /// dNSName.
    Dns(String),
    /// rfc822Name.
    Email(String),
    /// iPAddress: 4 or 16 octets, if it is one.
    Address(Vec<u8>),
    /// One of the other forms.
    Other,
}

impl Parsed<'_> {
    /// What the certificate says, in full.
    pub fn description(&self) -> Result<Description, ReadError> {
        let validity = self.x509().validity();
        Ok(Description {
            subject: distinguished_name(self.x509().subject())?,
            issuer: distinguished_name(self.x509().issuer())?,
            serial: self.x509().raw_serial().to_vec(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            alternative_names: self.alternative_names()?,
        })
    }

    fn alternative_names(&self) -> Result<Vec<AlternativeName>, ReadError> {
        let extension = self
            .x509()
            .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
            .map_err(|_| ReadError::DuplicateExtension)?;
        let Some(extension) = extension else {
            return Ok(Vec::new());
        };
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return Err(ReadError::MalformedExtension);
        };
        names.general_names.iter().map(alternative_name).collect()
    }
}

fn alternative_name(name: &GeneralName<'_>) -> Result<AlternativeName, ReadError> {
    Ok(match name {
        GeneralName::URI(uri) => AlternativeName::Uri((*uri).to_owned()),
        GeneralName::DNSName(name) => AlternativeName::Dns((*name).to_owned()),
        GeneralName::RFC822Name(address) => AlternativeName::Email((*address).to_owned()),
        GeneralName::IPAddress(octets) => AlternativeName::Address(octets.to_vec()),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_) => AlternativeName::Other,
        GeneralName::Invalid(..) => return Err(ReadError::MalformedExtension),
    })
}

fn distinguished_name(name: &X509Name<'_>) -> Result<DistinguishedName, ReadError> {
    let attribute = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let value = attribute.attr_value();
        if value.class() != Class::Universal || value.tag().0 >= 0x1f || value.header.constructed()
        {
            return Err(ReadError::MalformedName);
        }
        Ok(Attribute {
            kind: object_identifier(attribute.attr_type())?,
            tag: value.tag().0,
            content: value.data.to_vec(),
        })
    };
    let rdns: Result<Vec<Vec<Attribute>>, ReadError> = name
        .iter_rdn()
        .map(|rdn| rdn.iter().map(attribute).collect())
        .collect();
    Ok(DistinguishedName(rdns?))
}

fn object_identifier(oid: &Oid<'_>) -> Result<ObjectIdentifier, ReadError> {
    oid.iter()
        .map(|arcs| ObjectIdentifier(arcs.collect()))
        .ok_or(ReadError::MalformedName)
}
