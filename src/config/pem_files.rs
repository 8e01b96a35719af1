//! Certificates and keys from PEM files (RFC 7468). A file with anything else in it is not the one that is meant.

use std::path::Path;

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

use crate::files;

/// All certificates of a file, in their order; at least one. The error says what is wrong with the file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut certificates = Vec::new();
    for (kind, content) in sections(path)? {
        if kind != SectionKind::Certificate {
            return Err(format!(
                "{} has a {} in it; it must have certificates only",
                path.display(),
                name(kind)
            ));
        }
        certificates.push(CertificateDer::from(content));
    }
    if certificates.is_empty() {
        return Err(format!(
            "{} has no certificate in it; it must be a PEM file with BEGIN CERTIFICATE lines",
            path.display()
        ));
    }
    Ok(certificates)
}

/// The only private key of a file. The error says what is wrong with the file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let mut keys = Vec::new();
    for (kind, content) in sections(path)? {
        let key = match kind {
            SectionKind::PrivateKey => PrivatePkcs8KeyDer::from(content).into(),
            SectionKind::EcPrivateKey => PrivateSec1KeyDer::from(content).into(),
            SectionKind::RsaPrivateKey => PrivatePkcs1KeyDer::from(content).into(),
            SectionKind::Certificate
            | SectionKind::PublicKey
            | SectionKind::Crl
            | SectionKind::Csr
            | SectionKind::EchConfigList
            | _ => {
                return Err(format!(
                    "{} has a {} in it; it must have one private key only",
                    path.display(),
                    name(kind)
                ));
            }
        };
        keys.push(key);
    }
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok(key),
        (Some(_), _) => Err(format!(
            "{} has several keys in it; it must have one",
            path.display()
        )),
        (None, _) => Err(format!(
            "{} has no private key in it that can be read; it must be a PEM file, and not encrypted",
            path.display()
        )),
    }
}

fn sections(path: &Path) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    // A pipe would be waited for.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let text = files::read_at_most(path, LONGEST).map_err(cannot)?;
    <(SectionKind, Vec<u8>)>::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| format!("{} is damaged: it is not PEM (RFC 7468)", path.display()))
}

fn name(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "certificate",
        SectionKind::PublicKey => "public key",
        SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
            "private key"
        }
        SectionKind::Crl => "CRL",
        SectionKind::Csr => "certificate request",
        SectionKind::EchConfigList => "ECH configuration",
        // The library may learn of more.
        _ => "section that is none of them",
    }
}

/// Thousands of certificates.
const LONGEST: usize = 1024 * 1024;
