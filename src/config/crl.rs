//! A file or URL with lists of revoked certificates.

use std::borrow::Cow;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use identity::revocation_list::{MAX_LENGTH, lists_in};
use identity::{CaCertificate, CrlFault, RevocationList};

use super::certificate_files::FileStamp;
use super::crl_url::CrlUrl;

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

/// Why there is no list in a file.
#[derive(Debug)]
pub(crate) enum ReadFault {
    /// It cannot be read, which may be over at any moment.
    Unreadable(String),
    /// What it holds cannot be used.
    Unusable(CrlFault),
    /// It changed whenever it was read.
    Changing,
}

/// Why there is no list in a file, and how the file looked then.
#[derive(Debug)]
pub(crate) struct FileFault {
    pub(crate) fault: ReadFault,
    pub(crate) stamp: Option<FileStamp>,
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(sentence) => f.write_str(sentence),
            Self::Unusable(fault) => fault.fmt(f),
            Self::Changing => f.write_str(
                "it was being written while it was read; put a whole file in its place, by renaming it",
            ),
        }
    }
}

impl CrlSource {
    /// Reads a file, and leaves what is behind a URL for later.
    pub(crate) fn read(place: CrlPlace, authorities: &[CaCertificate]) -> Result<Self, FileFault> {
        let CrlPlace::File(path) = &place else {
            return Ok(Self {
                place,
                lists: Vec::new(),
                stamp: None,
            });
        };
        // Half of one list and half of another would be a fault that is none, or, between two lists of a file, worse.
        for _ in 0..ATTEMPTS {
            let stamp = FileStamp::of(path);
            let read = read_file(path)
                .and_then(|bytes| read_lists(&bytes, authorities).map_err(ReadFault::Unusable));
            #[cfg(feature = "failpoints")]
            hang(path);
            if FileStamp::of(path) == stamp {
                return match read {
                    Ok(lists) => Ok(Self {
                        lists,
                        stamp,
                        place,
                    }),
                    Err(fault) => Err(FileFault { fault, stamp }),
                };
            }
            std::thread::sleep(PAUSE);
        }
        let stamp = FileStamp::of(path);
        let fault = ReadFault::Changing;
        Err(FileFault { fault, stamp })
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
    bytes: &[u8],
    authorities: &[CaCertificate],
) -> Result<Vec<Arc<RevocationList>>, CrlFault> {
    let now = ca::now();
    let lists = lists_in(bytes)?.into_iter();
    // Each is given back as soon as it is read.
    let read = |der: Cow<'_, [u8]>| RevocationList::read(&der, authorities, now).map(Arc::new);
    lists.map(read).collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, ReadFault> {
    let cannot = |error: io::Error| ReadFault::Unreadable(format!("it cannot be read: {error}"));
    // Opening a pipe would otherwise wait for whoever writes to it.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(NO_WAITING);
    let file = options.open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(ReadFault::Unreadable("it is not a file".to_owned()));
    }
    // Without reading it first.
    let too_large = || ReadFault::Unusable(CrlFault::TooLarge);
    if metadata.len() > MAX_LENGTH as u64 {
        return Err(too_large());
    }
    let mut content = Vec::with_capacity(metadata.len() as usize + 1);
    file.take(MAX_LENGTH as u64 + 1)
        .read_to_end(&mut content)
        .map_err(cannot)?;
    if content.len() > MAX_LENGTH {
        return Err(too_large());
    }
    Ok(content)
}

/// Where tests let a file hang, as if its file system did not answer, for as long as there is another one beside it; or let
/// the reading of it panic.
#[cfg(feature = "failpoints")]
fn hang(path: &Path) {
    fail::fail_point!("crl::read", |extension| {
        let panics = path.with_extension("panics");
        assert!(!panics.exists(), "injected");
        let beside = path.with_extension(extension.unwrap_or_default());
        while beside.exists() {
            std::thread::sleep(PAUSE);
        }
    });
}

const NO_WAITING: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;
/// For whoever writes a file in its place.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

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
