//! `X-Forwarded-Client-Cert` as Envoy writes it: `Key="value"` with semicolons between, for the one hop that this is.
//!
//! Every value is quoted. Readers of this grammar agree that `\"` is a quotation mark, and on nothing else about
//! backslashes: some take `\\` for one character and some for two, some refuse other escapes. So there is no other
//! backslash in here. A name in the subject that would need one is written as the hexadecimal digits of its DER
//! (RFC 4514, section 2.4), and an alternative name that has one cannot be told.
//!
//! There is no `By`: it would name the gateway, and says nothing of the device.

use identity::Fingerprint;
use identity::description::AlternativeName;

use super::distinguished_name::{Escapes, rfc2253};
use super::encoding::{pem, percent};
use super::{Inexpressible, Proven, Texts, describe};
use crate::pure::identity_names::preset;

pub(super) fn fields(proven: Proven<'_>) -> Result<Texts, Inexpressible> {
    let description = describe(proven.leaf)?;
    let leaf = percent(&pem(proven.leaf), b"");
    let chain = proven
        .issuers
        .iter()
        .fold(leaf.clone(), |chain, one| chain + &percent(&pem(one), b""));
    let mut value = format!(
        "Hash=\"{}\";Cert=\"{leaf}\";Chain=\"{chain}\";Subject=\"{}\"",
        Fingerprint::of(proven.leaf),
        rfc2253(&description.subject, Escapes::WholeValues)?
    );
    let names = &description.alternative_names;
    for name in names {
        if let AlternativeName::Uri(uri) = name {
            push(&mut value, "URI", uri)?;
        }
    }
    for name in names {
        if let AlternativeName::Dns(dns) = name {
            push(&mut value, "DNS", dns)?;
        }
    }
    Ok(vec![(preset::XFCC, value)])
}

fn push(value: &mut String, key: &str, text: &str) -> Result<(), Inexpressible> {
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || text.contains('\\') {
        return Err(Inexpressible::Character);
    }
    let quoted = text.replace('"', "\\\"");
    value.push_str(&format!(";{key}=\"{quoted}\""));
    Ok(())
}
