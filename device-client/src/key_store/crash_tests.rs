//! What a crash leaves behind: the folder is copied after every single file operation, and each copy must
//! open to a pair that works, or to the pending key whose request may already have left.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::rc::Rc;

use tempfile::TempDir;

use super::files::observer::OBSERVER;
use super::tests::{next_pair, uri};
use super::*;
use crate::test_authority::TestAuthority;

/// The folder as it was after some operation.
struct Moment {
    folder: TempDir,
    /// The operation, and on what.
    operation: String,
    /// The public key for which a certificate had been asked by then.
    asked: Option<Vec<u8>>,
}

impl Moment {
    fn store(&self) -> KeyStore {
        KeyStore {
            directory: self.folder.path().join("store"),
        }
    }
}

/// Runs one enrollment or renewal in `directory` and returns a copy of the folder for each operation.
fn moments_of_next_pair(directory: &Path, authority: &TestAuthority) -> Vec<Moment> {
    let moments = Rc::new(RefCell::new(Vec::<Moment>::new()));
    let asked = Rc::new(RefCell::new(None));
    let observer = {
        let (moments, asked, directory) = (moments.clone(), asked.clone(), directory.to_owned());
        move |operation: &'static str, path: &Path| {
            let path = path.strip_prefix(&directory).unwrap_or(path).display();
            let folder = TempDir::new().expect("a folder");
            copy(&directory, &folder.path().join("store"));
            moments.borrow_mut().push(Moment {
                folder,
                operation: format!("{operation} {path}").trim_end().to_owned(),
                asked: asked.borrow().clone(),
            });
        }
    };
    OBSERVER.set(Some(Box::new(observer)));
    let store = KeyStore::create(&uri(directory)).expect("a store");
    next_pair(&store, authority, |key| {
        *asked.borrow_mut() = Some(key.subject_public_key_info());
    });
    OBSERVER.set(None);
    moments.take()
}

fn copy(from: &Path, to: &Path) {
    let kind = fs::symlink_metadata(from).expect("exists").file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from).expect("a link"), to).expect("a link");
    } else if kind.is_dir() {
        fs::create_dir(to).expect("a directory");
        fs::set_permissions(to, fs::metadata(from).expect("exists").permissions()).expect("ours");
        for entry in fs::read_dir(from).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::copy(from, to).expect("a file");
    }
}

/// What other tools see through the links belongs together.
fn check_links(store: &KeyStore) {
    let key = fs::read_to_string(store.path(KEY)).expect("a key");
    let key = rcgen::KeyPair::from_pem(&key).expect("PKCS #8");
    let certificate = fs::read(store.path(CERTIFICATE)).expect("a certificate");
    let certificate = CertificateDer::from_pem_slice(&certificate).expect("PEM");
    let (_, x509) = X509Certificate::from_der(&certificate).expect("DER");
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    assert_eq!(x509.public_key().raw, public);
}

/// Starts again after the crash, as `enroll` and `renew` do, and returns the pair in the end.
fn resume(moment: &Moment, authority: &TestAuthority) -> Credentials {
    let uri = uri(&moment.store().directory);
    let store = KeyStore::create(&uri).expect("still a store");
    let adopted = store.lock().expect("free").recover().expect("mended");
    let done = adopted || (moment.asked.is_some() && !store.is_pending().expect("readable"));
    if !done {
        next_pair(&store, authority, |_| {});
    }
    check_links(&store);
    assert!(!store.is_pending().expect("readable"));
    assert_eq!(store.generations().expect("readable").len(), 1);
    store.credentials().expect("a pair")
}

fn public_key(credentials: &Credentials) -> Vec<u8> {
    credentials.key.subject_public_key_info()
}

#[test]
fn an_enrollment_survives_a_crash_after_any_operation() {
    let authority = TestAuthority::new();
    let folder = TempDir::new().expect("a folder");
    let moments = moments_of_next_pair(&folder.path().join("store"), &authority);
    assert!(moments.len() > 20, "{} operations", moments.len());
    assert!(moments.iter().any(|moment| moment.asked.is_none()));
    for (number, moment) in moments.iter().enumerate() {
        let resumed = resume(moment, &authority);
        if let Some(asked) = &moment.asked {
            assert_eq!(public_key(&resumed), *asked, "after operation {number}");
        }
    }
}

#[test]
fn a_renewal_survives_a_crash_after_any_operation_and_never_goes_back() {
    let authority = TestAuthority::new();
    let folder = TempDir::new().expect("a folder");
    let directory = folder.path().join("store");
    moments_of_next_pair(&directory, &authority);
    let store = KeyStore::open(&uri(&directory)).expect("a store");
    let old = store.credentials().expect("a pair");
    let moments = moments_of_next_pair(&directory, &authority);
    let new = store.credentials().expect("a pair");
    assert!(new.newer_than(&old));

    let mut renewed = false;
    for (number, moment) in moments.iter().enumerate() {
        let found = moment.store().credentials().expect("a pair at any time");
        check_links(&moment.store());
        let is_new = public_key(&found) == public_key(&new);
        assert!(is_new || public_key(&found) == public_key(&old));
        assert!(is_new || !renewed, "went back after operation {number}");
        renewed |= is_new;

        let resumed = resume(moment, &authority);
        assert_ne!(public_key(&resumed), public_key(&old));
        if let Some(asked) = &moment.asked {
            assert_eq!(public_key(&resumed), *asked, "after operation {number}");
        }
    }
    assert!(renewed);
}

#[test]
fn a_second_crash_while_mending_the_first_does_no_harm() {
    let authority = TestAuthority::new();
    let folder = TempDir::new().expect("a folder");
    let directory = folder.path().join("store");
    moments_of_next_pair(&directory, &authority);
    for first in moments_of_next_pair(&directory, &authority) {
        let Some(asked) = first.asked.clone() else {
            continue;
        };
        for second in moments_of_next_pair(&first.store().directory, &authority) {
            let store = second.store();
            store.credentials().expect("a pair at any time");
            let went_on = second.asked.as_ref().is_some_and(|later| *later != asked);
            assert!(went_on || holds(&store, &asked), "the asked key was lost");
            resume(&second, &authority);
        }
    }
}

fn holds(store: &KeyStore, public_key: &[u8]) -> bool {
    let generations = store.generations().expect("readable");
    generations.into_iter().any(|generation| {
        let key = store.load_key(generation).expect("readable");
        key.is_some_and(|key| key.subject_public_key_info() == public_key)
    })
}

/// What a loss of power could undo is synced before anything relies on it: the key before its request leaves, the
/// certificate before the link leads to it, the link before the old pair goes.
#[test]
fn a_renewal_takes_these_steps_in_this_order() {
    let authority = TestAuthority::new();
    let folder = TempDir::new().expect("a folder");
    let directory = folder.path().join("store");
    moments_of_next_pair(&directory, &authority);
    let moments = moments_of_next_pair(&directory, &authority);
    let steps = |asked: bool| -> Vec<&str> {
        let moments = moments.iter();
        moments
            .filter(|moment| moment.asked.is_some() == asked)
            .map(|moment| moment.operation.as_str())
            .collect()
    };
    let before_the_request = [
        "made 2",
        "synced",
        "made 2/key.pem.new",
        "written 2/key.pem.new",
        "synced 2/key.pem.new",
        "renamed 2/key.pem.new",
        "synced 2",
    ];
    assert_eq!(steps(false), before_the_request);
    let after_the_request = [
        "made 2/certificate.pem.new",
        "written 2/certificate.pem.new",
        "synced 2/certificate.pem.new",
        "renamed 2/certificate.pem.new",
        "synced 2",
        "made current.new",
        "renamed current.new",
        "synced",
        "removed 1/key.pem",
        "removed 1/certificate.pem",
        "removed 1",
        "synced",
    ];
    assert_eq!(steps(true), after_the_request);
}
