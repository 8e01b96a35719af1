//! The printer of distinguished names: RFC 2253, as OpenSSL writes it with `XN_FLAG_RFC2253`.
//!
//! The last RDN comes first. Everything that is not printable ASCII is escaped octet by octet, so that the outcome
//! always fits into a header, and what has no short name or no text is written as the hexadecimal digits of its DER.

use std::borrow::Cow;
use std::fmt::Write as _;

use identity::description::{Attribute, DistinguishedName};

use super::Inexpressible;
use super::encoding::upper_hex;

/// How a value is written that has characters with a meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escapes {
    /// With a backslash before each of them.
    Characters,
    /// Whole, as `#` and the hexadecimal digits of its DER: then there is no backslash anywhere.
    WholeValues,
}

/// The name in the form of RFC 2253. Names with different texts never have the same one.
pub(super) fn rfc2253(name: &DistinguishedName, escapes: Escapes) -> Result<String, Inexpressible> {
    let mut text = String::new();
    for (position, rdn) in name.0.iter().rev().enumerate() {
        if position > 0 {
            text.push(',');
        }
        for (position, attribute) in rdn.iter().rev().enumerate() {
            if position > 0 {
                text.push('+');
            }
            push(&mut text, attribute, escapes)?;
        }
    }
    Ok(text)
}

fn push(text: &mut String, attribute: &Attribute, escapes: Escapes) -> Result<(), Inexpressible> {
    let short = short_name(attribute.kind.arcs());
    match short {
        Some(short) => text.push_str(short),
        None => write!(text, "{}", attribute.kind).expect("a String takes everything"),
    }
    text.push('=');
    let characters = match short {
        Some(_) => characters(attribute)?,
        None => None,
    };
    let Some(characters) = characters else {
        push_der(text, attribute);
        return Ok(());
    };
    let mut escaped = String::with_capacity(characters.len());
    let last = characters.len().saturating_sub(1);
    for (position, octet) in characters.bytes().enumerate() {
        let at_an_end =
            octet == b' ' && (position == 0 || position == last) || octet == b'#' && position == 0;
        match octet {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                escaped.push('\\');
                escaped.push(char::from(octet));
            }
            _ if at_an_end => {
                escaped.push('\\');
                escaped.push(char::from(octet));
            }
            b' '..=b'~' => escaped.push(char::from(octet)),
            _ => write!(escaped, "\\{octet:02X}").expect("a String takes everything"),
        }
    }
    match escapes {
        Escapes::WholeValues if escaped.contains('\\') => push_der(text, attribute),
        Escapes::WholeValues | Escapes::Characters => text.push_str(&escaped),
    }
    Ok(())
}

fn push_der(text: &mut String, attribute: &Attribute) {
    text.push('#');
    text.push_str(&upper_hex(&attribute.der()));
}

/// A value's text.
pub(super) fn text(attribute: &Attribute) -> Result<String, Inexpressible> {
    characters(attribute)?
        .map(Cow::into_owned)
        .ok_or(Inexpressible::Text)
}

/// A value's text; `None` if its type is no text.
fn characters(attribute: &Attribute) -> Result<Option<Cow<'_, str>>, Inexpressible> {
    let content = attribute.content.as_slice();
    let of = |text: Option<String>| {
        text.map(|text| Some(Cow::Owned(text)))
            .ok_or(Inexpressible::Text)
    };
    match attribute.tag {
        UTF8_STRING => std::str::from_utf8(content)
            .map(|text| Some(Cow::Borrowed(text)))
            .map_err(|_| Inexpressible::Text),
        NUMERIC_STRING | PRINTABLE_STRING | TELETEX_STRING | IA5_STRING | UTC_TIME
        | GENERALIZED_TIME | VISIBLE_STRING => {
            // One octet each; Latin-1 is what everybody takes TeletexString for.
            of(Some(content.iter().copied().map(char::from).collect()))
        }
        UNIVERSAL_STRING | BMP_STRING => {
            let width = if attribute.tag == BMP_STRING { 2 } else { 4 };
            let units = content.chunks(width).map(|unit| {
                let value = unit
                    .iter()
                    .fold(0, |value, octet| value << 8 | u32::from(*octet));
                (unit.len() == width).then_some(value)
            });
            of(units.map(|unit| unit.and_then(char::from_u32)).collect())
        }
        _ => Ok(None),
    }
}

// Tags (ITU-T X.680, section 8.4).
const UTF8_STRING: u32 = 12;
const NUMERIC_STRING: u32 = 18;
const PRINTABLE_STRING: u32 = 19;
const TELETEX_STRING: u32 = 20;
const IA5_STRING: u32 = 22;
const UTC_TIME: u32 = 23;
const GENERALIZED_TIME: u32 = 24;
const VISIBLE_STRING: u32 = 26;
const UNIVERSAL_STRING: u32 = 28;
const BMP_STRING: u32 = 30;

/// The name by which OpenSSL writes an attribute's type.
fn short_name(arcs: &[u64]) -> Option<&'static str> {
    Some(match arcs {
        [2, 5, 4, 3] => "CN",
        [2, 5, 4, 4] => "SN",
        [2, 5, 4, 5] => "serialNumber",
        [2, 5, 4, 6] => "C",
        [2, 5, 4, 7] => "L",
        [2, 5, 4, 8] => "ST",
        [2, 5, 4, 9] => "street",
        [2, 5, 4, 10] => "O",
        [2, 5, 4, 11] => "OU",
        [2, 5, 4, 12] => "title",
        [2, 5, 4, 13] => "description",
        [2, 5, 4, 15] => "businessCategory",
        [2, 5, 4, 17] => "postalCode",
        [2, 5, 4, 18] => "postOfficeBox",
        [2, 5, 4, 20] => "telephoneNumber",
        [2, 5, 4, 41] => "name",
        [2, 5, 4, 42] => "GN",
        [2, 5, 4, 43] => "initials",
        [2, 5, 4, 44] => "generationQualifier",
        [2, 5, 4, 45] => "x500UniqueIdentifier",
        [2, 5, 4, 46] => "dnQualifier",
        [2, 5, 4, 51] => "houseIdentifier",
        [2, 5, 4, 65] => "pseudonym",
        [2, 5, 4, 72] => "role",
        [2, 5, 4, 97] => "organizationIdentifier",
        [0, 9, 2342, 19_200_300, 100, 1, 1] => "UID",
        [0, 9, 2342, 19_200_300, 100, 1, 25] => "DC",
        [1, 2, 840, 113_549, 1, 9, 1] => "emailAddress",
        [1, 2, 840, 113_549, 1, 9, 2] => "unstructuredName",
        [1, 2, 840, 113_549, 1, 9, 8] => "unstructuredAddress",
        [1, 3, 6, 1, 4, 1, 311, 60, 2, 1, 1] => "jurisdictionL",
        [1, 3, 6, 1, 4, 1, 311, 60, 2, 1, 2] => "jurisdictionST",
        [1, 3, 6, 1, 4, 1, 311, 60, 2, 1, 3] => "jurisdictionC",
        _ => return None,
    })
}
