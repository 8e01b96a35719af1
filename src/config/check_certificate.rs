//! The check of `[[gateway.certificate]]`, which includes the files: what cannot serve is a mistake like any other.

use std::path::Path;

use super::certificate_files::CertificateFiles;
use super::check::Notes;
use super::file::CertificateTable;

impl Notes {
    /// Reads every certificate. No name is in two of them, so that their order does not matter.
    pub(super) fn certificates(&mut self, tables: Vec<CertificateTable>) -> Vec<CertificateFiles> {
        let mut all: Vec<CertificateFiles> = Vec::with_capacity(tables.len());
        for table in tables {
            let [certificate, key] =
                [("certificate", table.certificate), ("key", table.key)].map(|(name, path)| {
                    match path {
                        Some(path) if path.value.trim().is_empty() => {
                            self.note(path.place, format!("{name} is blank; name a PEM file"));
                            None
                        }
                        Some(path) => Some(path),
                        None => {
                            let sentence =
                                format!("[[gateway.certificate]] has no {name}; name a PEM file");
                            self.note(table.place, sentence);
                            None
                        }
                    }
                });
            let (Some(certificate), Some(key)) = (certificate, key) else {
                continue;
            };
            let read = CertificateFiles::read(Path::new(&certificate.value), Path::new(&key.value));
            match read {
                Ok(files) => {
                    if let Some(name) = shared_name(&all, &files) {
                        self.note(
                            certificate.place,
                            format!("the name {name} is in another [[gateway.certificate]], too; each name needs one certificate"),
                        );
                    }
                    all.push(files);
                }
                Err(fault) => {
                    let place = if fault.concerns_key {
                        key.place
                    } else {
                        certificate.place
                    };
                    self.note(place, fault.sentence);
                }
            }
        }
        all
    }
}

/// A name of `one` that another certificate has, too.
fn shared_name<'o>(others: &[CertificateFiles], one: &'o CertificateFiles) -> Option<&'o str> {
    let taken = |name: &&String| others.iter().any(|other| other.read.names.contains(*name));
    one.read.names.iter().find(taken).map(String::as_str)
}
