//! How new the lists of revoked certificates were that have been in force: what is older is not put in force any more,
//! by whichever way it comes: a reload, a restart, another file or another kind of list (I4).
//!
//! A CA may list devices and CAs apart or together. CRL numbers are counted for each kind of list (RFC 5280, section 5.2.3),
//! so of two kinds only thisUpdate tells which one is older. Half of this file is its tests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use identity::revocation_list::Scope;
use identity::{CaCertificate, Fingerprint, Name, RevocationList, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::kept;
use crate::config::{AnchorConfig, CrlPlace};
use crate::{clock, files};

/// The newest of each CA and kind of list. A CA is known by its name and key, so that a new certificate of it starts nothing anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(BTreeMap<(Fingerprint, Scope), Mark>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    this_update: Timestamp,
    number: Option<[u8; 20]>,
}

/// A list would take the place of a newer one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a list of the anchor {anchor} is older than the one in force or one that was in force before, of {}",
    clock::rfc3339(*.mark)
)]
pub(crate) struct Older {
    pub(super) anchor: Name,
    /// thisUpdate of the newer one.
    mark: Timestamp,
    /// The CA, as marks know it.
    pub(crate) authority: Fingerprint,
    /// Where lists are kept that the anchor's URLs led to: names of files beside the marks.
    pub(crate) kept: Vec<String>,
}

impl Marks {
    /// Fails if something would be in force of a CA that is older than what was.
    pub(crate) fn check(&self, anchors: &[AnchorConfig]) -> Result<(), Older> {
        for anchor in anchors {
            let newest = anchor.newest();
            for ca in &anchor.authorities {
                let of_ca = newest.iter().filter(|one| one.issuer == ca.fingerprint());
                let lists: Vec<&RevocationList> = of_ca.map(|list| list.as_ref()).collect();
                self.check_lists(ca, &lists).map_err(|mark| Older {
                    anchor: anchor.name.clone(),
                    mark,
                    authority: ca.authority(),
                    kept: kept_of(anchor, ca),
                })?;
            }
        }
        Ok(())
    }

    /// Remembers what is in force.
    pub(crate) fn raise(&mut self, anchors: &[AnchorConfig]) {
        for anchor in anchors {
            let newest = anchor.newest();
            for ca in &anchor.authorities {
                for list in newest.iter().filter(|one| one.issuer == ca.fingerprint()) {
                    self.raise_for(ca, list);
                }
            }
        }
    }

    fn raise_for(&mut self, ca: &CaCertificate, list: &RevocationList) {
        let new = Mark::of(list);
        let mark = self.0.entry((ca.authority(), list.scope)).or_insert(new);
        mark.this_update = mark.this_update.max(new.this_update);
        mark.number = mark.number.max(new.number);
    }

    /// `lists` are the newest by one CA, one of each kind. Error: thisUpdate of what was newer.
    fn check_lists(&self, ca: &CaCertificate, lists: &[&RevocationList]) -> Result<(), Timestamp> {
        let authority = ca.authority();
        for list in lists {
            let mark = self.0.get(&(authority, list.scope));
            if let Some(mark) = mark.filter(|mark| !mark.admits(list)) {
                return Err(mark.this_update);
            }
        }
        for about_authorities in [false, true] {
            let speaking = lists
                .iter()
                .filter(|list| list.scope.covers(about_authorities));
            let marks = self
                .0
                .iter()
                .filter(|((of, scope), _)| *of == authority && scope.covers(about_authorities));
            let now = speaking.map(|list| list.this_update).max();
            let before = marks.map(|(_, mark)| mark.this_update).max();
            // Where no list speaks of them, nobody passes by one.
            if let (Some(now), Some(before)) = (now, before)
                && now < before
            {
                return Err(before);
            }
        }
        Ok(())
    }
}

/// The files in which lists by this CA are kept.
fn kept_of(anchor: &AnchorConfig, ca: &CaCertificate) -> Vec<String> {
    let sources = anchor.crl.iter().flat_map(|crl| &crl.sources);
    let urls = sources.filter_map(|source| match &source.place {
        CrlPlace::Url(url) => {
            let mut lists = source.lists.iter();
            let is_of_ca = lists.any(|list| list.issuer == ca.fingerprint());
            is_of_ca.then(|| kept::file_name(url))
        }
        CrlPlace::File(_) => None,
    });
    urls.collect()
}

impl Mark {
    fn of(list: &RevocationList) -> Self {
        Self {
            this_update: list.this_update,
            number: list.number,
        }
    }

    /// Whether a list of the same kind is as new.
    fn admits(&self, list: &RevocationList) -> bool {
        let number_falls = match (&list.number, &self.number) {
            (Some(new), Some(old)) => new < old,
            (None, _) | (_, None) => false,
        };
        list.this_update >= self.this_update && !number_falls
    }
}

/// The marks, and the file that they are kept in.
pub(crate) struct KeptMarks {
    path: PathBuf,
    /// What has been in force.
    marks: Mutex<Marks>,
    /// What the file is to hold: these, and what is about to be in force.
    due: Mutex<Marks>,
    /// What the file holds. Held while it is written.
    written: Arc<tokio::sync::Mutex<Marks>>,
}

impl KeptMarks {
    /// Reads the marks from the data directory. None are there at the first start.
    pub(crate) fn load(data: &Path) -> Result<Self, String> {
        let path = data.join("crl").join(FILE);
        let fault = |error: &dyn std::fmt::Display| {
            format!(
                "{}, which says how new the lists of revoked certificates were that have been in force: {error}; without it, older ones would be taken",
                path.display()
            )
        };
        let marks = match files::read_at_most(&path, LONGEST) {
            Ok(text) => read(&text).map_err(|error| fault(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Marks::default(),
            Err(error) => return Err(fault(&error)),
        };
        Ok(Self {
            path,
            written: Arc::new(tokio::sync::Mutex::new(marks.clone())),
            due: Mutex::new(marks.clone()),
            marks: Mutex::new(marks),
        })
    }

    /// Fails if something would be in force of a CA that is older than what was.
    pub(crate) fn check(&self, anchors: &[AnchorConfig]) -> Result<(), Older> {
        lock(&self.marks).check(anchors)
    }

    /// What is about to be in force: the next [`Self::write`] writes it. Nothing is refused for it yet.
    pub(crate) fn announce(&self, anchors: &[AnchorConfig]) {
        lock(&self.due).raise(anchors);
    }

    /// Remembers what is in force, until [`Self::write`] for the life of the process.
    pub(crate) fn raise(&self, anchors: &[AnchorConfig]) {
        self.announce(anchors);
        lock(&self.marks).raise(anchors);
    }

    /// Writes the marks, if they differ from what is written; they are on the disk when this returns. A disk that takes
    /// longer is not waited for: the writing goes on, holds one thread for as long as it takes, and nothing else is
    /// written meanwhile.
    pub(crate) async fn write(&self, within: Duration) -> io::Result<()> {
        let until = Instant::now() + within;
        let late = |_| not_ended(within);
        let waiting = Arc::clone(&self.written).lock_owned();
        let mut written = timeout_at(until, waiting).await.map_err(late)?;
        let marks = lock(&self.due).clone();
        if *written == marks {
            return Ok(());
        }
        let (path, text) = (self.path.clone(), print(&marks)?);
        let writing = tokio::task::spawn_blocking(move || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            files::write_atomically(&path, &text, 0o600)?;
            *written = marks;
            Ok(())
        });
        let ended = timeout_at(until, writing).await.map_err(late)?;
        ended.map_err(io::Error::other)?
    }

    /// Where they are kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(marks: &Mutex<Marks>) -> MutexGuard<'_, Marks> {
    // Every mark is whole, even after a panic.
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk does not answer.
pub(crate) fn not_ended(within: Duration) -> io::Error {
    let sentence = format!(
        "writing it has taken {} s and has not ended; look at its file system",
        within.as_secs()
    );
    io::Error::new(io::ErrorKind::TimedOut, sentence)
}

/// One mark as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// SHA-256 of the CA's name and key.
    authority: Fingerprint,
    about: About,
    this_update: u64,
    /// 40 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum About {
    All,
    EndEntities,
    Authorities,
}

fn print(marks: &Marks) -> io::Result<Vec<u8>> {
    let lines = marks.0.iter().map(|((authority, scope), mark)| Line {
        authority: *authority,
        about: match scope {
            Scope::All => About::All,
            Scope::EndEntities => About::EndEntities,
            Scope::Authorities => About::Authorities,
        },
        this_update: mark.this_update.0,
        number: mark
            .number
            .map(|number| number.iter().map(|byte| format!("{byte:02x}")).collect()),
    });
    let mut text = serde_json::to_vec_pretty(&lines.collect::<Vec<_>>())?;
    text.push(b'\n');
    Ok(text)
}

fn read(text: &[u8]) -> Result<Marks, String> {
    let lines: Vec<Line> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut marks = Marks::default();
    for line in lines {
        let scope = match line.about {
            About::All => Scope::All,
            About::EndEntities => Scope::EndEntities,
            About::Authorities => Scope::Authorities,
        };
        let number = line
            .number
            .map(|digits| number(&digits).ok_or("a number has not 40 hexadecimal digits"));
        let mark = Mark {
            this_update: Timestamp(line.this_update),
            number: number.transpose()?,
        };
        if marks.0.insert((line.authority, scope), mark).is_some() {
            return Err("a CA stands there twice".to_owned());
        }
    }
    Ok(marks)
}

fn number(digits: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    if digits.len() != 2 * bytes.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (position, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * position..2 * position + 2)?, 16).ok()?;
    }
    Some(bytes)
}

const FILE: &str = "in-force.json";
/// How long a list waits to be put in force until it is written how new it is. Revocations wait no longer for a disk.
pub(crate) const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
/// Of thousands of CAs.
const LONGEST: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use identity::IdRule;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
    };

    use super::*;
    use crate::config::{Crl, CrlPlace, CrlSource};

    struct Ca {
        read: CaCertificate,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca_of(key: &KeyPair, days: u64) -> CaCertificate {
        let mut params = params();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after =
            (std::time::SystemTime::now() + Duration::from_secs(86_400 * days)).into();
        CaCertificate::read(params.self_signed(key).expect("made").der()).expect("made")
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    fn list(by: &Ca, minutes: u64, number: Option<u8>, scope: Scope) -> Arc<RevocationList> {
        let now = std::time::SystemTime::now();
        let begin = now - Duration::from_secs(6_000) + Duration::from_secs(60 * minutes);
        let params = CertificateRevocationListParams {
            this_update: begin.into(),
            next_update: (now + Duration::from_secs(3_600)).into(),
            crl_number: SerialNumber::from(vec![number.unwrap_or(1)]),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let der = params.signed_by(&by.issuer).expect("made");
        let authorities = std::slice::from_ref(&by.read);
        let mut read = RevocationList::read(der.der(), authorities, ca::now()).expect("made");
        (read.scope, read.number) = (
            scope,
            number.map(|number| {
                let mut bytes = [0; 20];
                bytes[19] = number;
                bytes
            }),
        );
        Arc::new(read)
    }

    fn anchor(ca: &CaCertificate, sources: &[&[Arc<RevocationList>]]) -> AnchorConfig {
        let source = |(number, lists): (usize, &&[Arc<RevocationList>])| CrlSource {
            place: CrlPlace::File(format!("{number}.crl").into()),
            lists: lists.to_vec(),
            stamp: None,
        };
        AnchorConfig {
            name: Name::parse("factory").expect("legal"),
            authorities: vec![ca.clone()],
            id_from: IdRule::CommonName,
            crl: Some(Crl {
                sources: sources.iter().enumerate().map(source).collect(),
                refresh: Duration::from_secs(1),
                tls: None,
            }),
        }
    }

    /// Puts one after the other in force, as far as each may be; says which may.
    fn check(ca: &Ca, steps: &[(&[Arc<RevocationList>], bool)]) {
        let mut marks = Marks::default();
        for (number, (lists, is_taken)) in steps.iter().enumerate() {
            let next = [anchor(&ca.read, &[lists])];
            assert_eq!(marks.check(&next).is_ok(), *is_taken, "step {number}");
            if *is_taken {
                marks.raise(&next);
            }
            // What is kept is what is known.
            let kept = read(&print(&marks).expect("printed")).expect("read");
            assert_eq!(kept, marks);
        }
    }

    #[test]
    fn no_older_list_comes_back_by_way_of_another_kind() {
        let key = KeyPair::generate().expect("a key");
        let read = ca_of(&key, 10);
        let ca = Ca {
            read,
            issuer: Issuer::new(params(), key),
        };
        use Scope::{All, Authorities, EndEntities};
        let of = |minutes, number, scope| list(&ca, minutes, Some(number), scope);
        let (all_4, all_5, all_7) = (of(4, 4, All), of(5, 5, All), of(7, 7, All));
        let (devices_3, devices_6) = (of(3, 30, EndEntities), of(6, 1, EndEntities));
        let (cas_3, cas_6) = (of(3, 30, Authorities), of(6, 1, Authorities));
        // Its numbers are counted apart.
        let split = [devices_6.clone(), cas_6.clone()];
        let full = |list: &Arc<RevocationList>| [list.clone()];
        check(
            &ca,
            &[
                (&full(&all_5), true),
                (&split, true),
                (&full(&all_4), false),
                // It was in force, and the newer ones, too.
                (&full(&all_5), false),
                (&full(&all_7), true),
                (&split, false),
            ],
        );
        check(
            &ca,
            &[
                (&full(&all_5), true),
                (&[devices_3.clone(), cas_6.clone()], false),
            ],
        );
        check(
            &ca,
            &[(&full(&all_5), true), (&[devices_6.clone(), cas_3], false)],
        );
        check(
            &ca,
            &[
                (&full(&all_5), true),
                (std::slice::from_ref(&devices_3), false),
                (&[devices_6], true),
            ],
        );
        // Beside a newer one an older one of another kind can only add to what is revoked.
        check(
            &ca,
            &[
                (&full(&all_5), true),
                (&[all_5.clone(), devices_3.clone()], true),
                (&[devices_3], false),
            ],
        );
        // By number, by date, and by number again after a list without one.
        check(
            &ca,
            &[
                (&full(&of(5, 5, All)), true),
                (&full(&of(5, 4, All)), false),
            ],
        );
        check(
            &ca,
            &[
                (&full(&of(5, 5, All)), true),
                (&full(&of(4, 6, All)), false),
            ],
        );
        let without = list(&ca, 6, None, All);
        check(
            &ca,
            &[
                (&full(&of(5, 5, All)), true),
                (&full(&without), true),
                (&full(&of(7, 4, All)), false),
            ],
        );
    }

    #[test]
    fn a_new_certificate_of_a_ca_starts_nothing_anew() {
        let key = KeyPair::generate().expect("a key");
        let (first, second) = (ca_of(&key, 10), ca_of(&key, 20));
        let other = ca_of(&KeyPair::generate().expect("a key"), 20);
        assert_ne!(first.fingerprint(), second.fingerprint());
        assert_eq!(first.authority(), second.authority());
        assert_ne!(first.authority(), other.authority());
        let issuer = Issuer::new(params(), key);
        let mut ca = Ca {
            read: first,
            issuer,
        };
        let newer = list(&ca, 5, Some(5), Scope::All);
        let mut marks = Marks::default();
        marks.raise(&[anchor(&ca.read, &[&[newer]])]);
        ca.read = second;
        let older = list(&ca, 4, Some(4), Scope::All);
        assert!(
            marks
                .check(&[anchor(&ca.read, &[std::slice::from_ref(&older)])])
                .is_err()
        );
        // Of two places the newer list counts.
        let newer = list(&ca, 6, Some(6), Scope::All);
        assert_eq!(
            marks.check(&[anchor(&ca.read, &[&[older], &[newer]])]),
            Ok(())
        );
    }

    #[test]
    fn marks_that_are_damaged_are_none() {
        for text in [
            "",
            "{}",
            "[{}]",
            r#"[{"authority":"00","about":"all","this_update":1}]"#,
            r#"[{"authority":"0000000000000000000000000000000000000000000000000000000000000000","about":"some","this_update":1}]"#,
            r#"[{"authority":"0000000000000000000000000000000000000000000000000000000000000000","about":"all","this_update":1,"number":"+1"}]"#,
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
