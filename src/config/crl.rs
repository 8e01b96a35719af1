//! A file or URL with lists of revoked certificates.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use identity::revocation_list::{MAX_LENGTH, lists_in};
use identity::{CaCertificate, CrlFault, RevocationList};

use super::certificate_files::FileStamp;
use super::crl_url::CrlUrl;
use crate::files;

/// Where lists come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CrlPlace {
    File(PathBuf),
    Url(CrlUrl),
}

/// A place, and the lists that were last found there and could be used.
#[derive(Clone, Debug)]
pub(crate) struct CrlSource {
    pub(crate) place: CrlPlace,
    /// None behind a URL that was not asked yet.
    pub(crate) lists: Vec<Arc<RevocationList>>,
    /// How the file looked when it was read.
    pub(crate) stamp: Option<FileStamp>,
}

impl CrlPlace {
    /// A URL if it looks like one. The error is the sentence that says what to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return CrlUrl::parse(text).map(Self::Url);
        }
        if text.trim().is_empty() {
            return Err("crl is blank; name a file or URL, or write \"none\"".to_owned());
        }
        Ok(Self::File(PathBuf::from(text)))
    }

    pub(crate) fn is_tls(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Url(url) => url.is_tls,
        }
    }
}

impl fmt::Display for CrlPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl CrlSource {
    /// Reads a file, and leaves what is behind a URL for later. The error is a sentence about the file.
    pub(crate) fn read(place: CrlPlace, authorities: &[CaCertificate]) -> Result<Self, String> {
        let CrlPlace::File(path) = &place else {
            return Ok(Self {
                place,
                lists: Vec::new(),
                stamp: None,
            });
        };
        // Before it is read, so that no change behind it is missed.
        let stamp = FileStamp::of(path);
        let lists = read_file(path)
            .and_then(|bytes| read_lists(bytes, authorities).map_err(|fault| fault.to_string()))
            .map_err(|fault| format!("{place}: {fault}"))?;
        Ok(Self {
            lists,
            stamp,
            place,
        })
    }

    /// Takes what was found there now, unless a list of it is older than the one before, or one from before is missing: an
    /// older one could come in its place later, with nothing to compare it with.
    pub(crate) fn replace(
        &mut self,
        lists: Vec<Arc<RevocationList>>,
        stamp: Option<FileStamp>,
    ) -> Result<(), CrlFault> {
        for before in &self.lists {
            let mut same = (lists.iter())
                .filter(|one| (one.issuer, one.scope) == (before.issuer, before.scope))
                .peekable();
            if same.peek().is_none() {
                return Err(CrlFault::Missing);
            }
            same.try_for_each(|list| list.check_follows(before))?;
        }
        self.lists = lists;
        self.stamp = stamp;
        Ok(())
    }
}

/// Reads and verifies lists.
pub(crate) fn read_lists(
    bytes: Vec<u8>,
    authorities: &[CaCertificate],
) -> Result<Vec<Arc<RevocationList>>, CrlFault> {
    let now = ca::now();
    let lists = lists_in(bytes)?;
    let read = |der: &Vec<u8>| RevocationList::read(der, authorities, now).map(Arc::new);
    lists.iter().map(read).collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("it cannot be read: {error}");
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    // A pipe would be waited for.
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    // Without reading it first.
    if metadata.len() > MAX_LENGTH as u64 {
        return Err(CrlFault::TooLarge.to_string());
    }
    files::read_at_most(path, MAX_LENGTH).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
    };

    use super::*;

    struct Ca {
        read: CaCertificate,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("made");
        let certificate = params.self_signed(&key).expect("made");
        Ca {
            read: CaCertificate::read(certificate.der()).expect("made"),
            issuer: Issuer::new(params, key),
        }
    }

    fn list(by: &Ca, number: u8) -> Arc<RevocationList> {
        let now = std::time::SystemTime::now();
        let seconds = std::time::Duration::from_secs;
        let params = CertificateRevocationListParams {
            this_update: (now - seconds(600) + seconds(u64::from(number))).into(),
            next_update: (now + seconds(3_600)).into(),
            crl_number: SerialNumber::from(vec![number]),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let der = params.signed_by(&by.issuer).expect("made");
        let authorities = std::slice::from_ref(&by.read);
        Arc::new(RevocationList::read(der.der(), authorities, ca::now()).expect("made"))
    }

    #[test]
    fn a_list_that_is_in_force_is_not_left_out() {
        let (root, issuing) = (ca("Root"), ca("Issuing"));
        let of_root = list(&root, 1);
        let (older, current, newer) = (list(&issuing, 5), list(&issuing, 6), list(&issuing, 7));
        let mut source = CrlSource {
            place: CrlPlace::File("bundle.pem".into()),
            lists: vec![Arc::clone(&of_root), Arc::clone(&current)],
            stamp: None,
        };
        let mut check =
            |lists: &[&Arc<RevocationList>], expected, then: &[&Arc<RevocationList>]| {
                let lists = lists.iter().map(|list| Arc::clone(list)).collect();
                assert_eq!(source.replace(lists, None), expected);
                let held: Vec<_> = source.lists.iter().map(|list| list.fingerprint).collect();
                let then: Vec<_> = then.iter().map(|list| list.fingerprint).collect();
                assert_eq!(held, then);
            };
        let both = [&of_root, &current];
        // In two steps an older one would have come in.
        check(&[&of_root], Err(CrlFault::Missing), &both);
        check(&[&of_root, &older], Err(CrlFault::Older), &both);
        check(&[], Err(CrlFault::Missing), &both);
        check(&[&newer, &of_root], Ok(()), &[&newer, &of_root]);
        // Nor does one that is newer hide one beside it that is not.
        let two = [&newer, &current, &of_root];
        check(&two, Err(CrlFault::Older), &[&newer, &of_root]);
    }
}
