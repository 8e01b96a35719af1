//! The store's promises apart from crashes: permissions, the lock, what it refuses.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use identity::DeviceId;
use tempfile::TempDir;

use super::*;
use crate::acceptance::{AcceptedCertificate, Expected, accept};
use crate::test_authority::TestAuthority;

/// Asks `authority` for a certificate, as an enrollment does after its network part.
pub(super) fn certify(
    authority: &TestAuthority,
    key: &DeviceKey,
    roots: &Roots,
) -> AcceptedCertificate {
    let authorities = [authority.device_ca.clone()];
    let expected = Expected {
        subject_public_key_info: &key.subject_public_key_info(),
        device: &DeviceId::parse("a").expect("legal"),
        spiffe_id: None,
        roots,
        authorities: &authorities,
    };
    let der = authority.issue(key, "a", |_| {});
    accept(der, &expected, crate::clock::now()).expect("an acceptable certificate")
}

pub(super) fn roots(authority: &TestAuthority) -> Roots {
    Roots::from_pem(authority.root_pem().as_bytes(), crate::clock::now()).expect("a root")
}

pub(super) fn settings() -> Settings {
    Settings {
        device: DeviceId::parse("a").expect("legal"),
        server: "localhost:8444".parse().expect("legal"),
        gateway: None,
    }
}

/// Enrolls into `store`, or renews. `asked` is called when the request for the key's certificate would leave.
pub(super) fn next_pair(
    store: &KeyStore,
    authority: &TestAuthority,
    asked: impl FnOnce(&DeviceKey),
) -> Credentials {
    let roots = roots(authority);
    let locked = store.lock().expect("nobody else is here");
    locked.recover().expect("in order");
    if !store.is_enrolled().expect("readable") {
        locked.begin(&settings(), &roots).expect("written");
    }
    let pending = locked.pending_key().expect("a key");
    asked(pending.key());
    let certificate = certify(authority, pending.key(), &roots);
    locked.install(pending, &certificate).expect("in use")
}

fn enrolled() -> (TempDir, KeyStore, TestAuthority) {
    let folder = TempDir::new().expect("a folder");
    let authority = TestAuthority::new();
    let store = KeyStore::create(&uri(&folder.path().join("store"))).expect("a store");
    next_pair(&store, &authority, |_| {});
    (folder, store, authority)
}

pub(super) fn uri(path: &Path) -> KeyStoreUri {
    KeyStoreUri::File(path.to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("exists").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

#[test]
fn the_files_are_private_and_readable_by_other_tools() {
    let (_folder, store, authority) = enrolled();
    let directory = store.directory();
    assert_eq!(mode(directory), 0o700);
    assert_eq!(mode(&directory.join("1")), 0o700);
    for name in [
        "key.pem",
        "certificate.pem",
        "roots.pem",
        "store.json",
        "lock",
    ] {
        assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
    }
    let key = fs::read_to_string(directory.join("key.pem")).expect("readable");
    assert!(rcgen::KeyPair::from_pem(&key).is_ok());
    let certificate = fs::read(directory.join("certificate.pem")).expect("readable");
    let certificate = CertificateDer::from_pem_slice(&certificate).expect("PEM");
    assert_eq!(
        certificate,
        store.credentials().expect("a pair").certificate
    );
    assert!(
        store
            .roots(Timestamp(0))
            .expect("roots")
            .same_as(&roots(&authority))
    );
}

#[test]
fn a_renewal_replaces_both_halves_and_removes_the_old_key() {
    let (_folder, store, authority) = enrolled();
    let old = store.credentials().expect("a pair");
    let new = next_pair(&store, &authority, |_| {});
    let found = store.credentials().expect("a pair");
    assert_eq!(found.certificate, new.certificate);
    assert_ne!(found.certificate, old.certificate);
    assert!(found.newer_than(&old) && !old.newer_than(&found));
    assert!(!store.directory().join("1").exists());
    assert!(!store.is_pending().expect("readable"));
}

#[test]
fn a_key_that_others_can_read_is_refused_and_the_error_says_what_to_do() {
    let (_folder, store, _) = enrolled();
    let key = store.directory().join("1/key.pem");
    for bits in [0o640, 0o604, 0o660] {
        set_mode(&key, bits);
        let error = store.credentials().expect_err("others can read it");
        assert!(matches!(&error, StoreError::Exposed { mode, .. } if *mode == bits));
        let advice = format!("chmod 600 {}", key.display());
        assert!(error.to_string().contains(&advice), "{error}");
    }
    set_mode(&key, 0o600);
    assert!(store.credentials().is_ok());
    set_mode(store.directory(), 0o770);
    let opened = KeyStore::open(&uri(store.directory()));
    assert!(matches!(
        opened,
        Err(StoreError::Writable { mode: 0o770, .. })
    ));
}

#[test]
fn one_process_at_a_time_changes_a_store_and_reading_needs_no_lock() {
    let (_folder, store, _) = enrolled();
    let locked = store.lock().expect("nobody else is here");
    assert!(matches!(store.lock(), Err(StoreError::Locked { .. })));
    assert!(store.credentials().is_ok());
    assert!(KeyStore::open(&uri(store.directory())).is_ok());
    drop(locked);
    assert!(store.lock().is_ok());
}

#[test]
fn folders_that_are_no_key_store() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("store");
    let open = || KeyStore::open(&uri(&path));
    assert!(matches!(open(), Err(StoreError::Absent { .. })));
    fs::create_dir(&path).expect("made");
    set_mode(&path, 0o755);
    assert!(matches!(open(), Err(StoreError::Absent { .. })));
    fs::write(path.join("thesis.txt"), "mine").expect("written");
    assert!(matches!(open(), Err(StoreError::NotAStore { .. })));
    assert!(matches!(
        KeyStore::create(&uri(&path)),
        Err(StoreError::NotAStore { .. })
    ));
    assert_eq!(mode(&path), 0o755, "somebody else's folder stays as it is");
    fs::remove_file(path.join("thesis.txt")).expect("removed");
    let store = KeyStore::create(&uri(&path)).expect("an empty folder may become one");
    assert_eq!(mode(&path), 0o700);
    assert!(matches!(
        store.credentials(),
        Err(StoreError::NotEnrolled { .. })
    ));
}

#[test]
fn what_was_changed_by_hand_is_refused() {
    let (_folder, store, _) = enrolled();
    let (_other_folder, other, _) = enrolled();
    let certificate = store.directory().join("1/certificate.pem");
    let own = fs::read(&certificate).expect("readable");

    fs::copy(other.directory().join("certificate.pem"), &certificate).expect("copied");
    assert!(matches!(
        store.credentials(),
        Err(StoreError::Mismatch { .. })
    ));
    fs::write(&certificate, [own.as_slice(), own.as_slice()].concat()).expect("written");
    assert!(matches!(
        store.credentials(),
        Err(StoreError::NotOneCertificate { .. })
    ));
    fs::write(&certificate, vec![b'x'; MAX_TEXT + 1]).expect("written");
    assert!(matches!(
        store.credentials(),
        Err(StoreError::TooLarge { .. })
    ));
    fs::write(&certificate, &own).expect("written");
    assert!(store.credentials().is_ok());

    let key = store.directory().join("1/key.pem");
    fs::rename(&key, store.directory().join("elsewhere")).expect("moved");
    symlink("../elsewhere", &key).expect("linked");
    assert!(matches!(store.credentials(), Err(StoreError::Io { .. })));
    fs::remove_file(&key).expect("removed");
    assert!(matches!(
        store.credentials(),
        Err(StoreError::Incomplete { .. })
    ));
    fs::rename(store.directory().join("elsewhere"), &key).expect("moved");

    let link = store.directory().join("key.pem");
    fs::remove_file(&link).expect("removed");
    fs::write(&link, "a key of their own").expect("written");
    let recovered = store.lock().expect("free").recover();
    assert!(matches!(recovered, Err(StoreError::Occupied { .. })));
}

#[test]
fn a_pending_key_is_kept_for_the_same_device_and_roots_only() {
    let folder = TempDir::new().expect("a folder");
    let authority = TestAuthority::new();
    let store = KeyStore::create(&uri(&folder.path().join("store"))).expect("a store");
    let pending = |settings: &Settings, roots: &Roots| {
        let locked = store.lock().expect("free");
        locked.recover().expect("in order");
        locked.begin(settings, roots).expect("written");
        let pending = locked.pending_key().expect("a key");
        pending.key().subject_public_key_info()
    };
    let ours = roots(&authority);
    let first = pending(&settings(), &ours);
    let moved = Settings {
        server: "elsewhere:8444".parse().expect("legal"),
        ..settings()
    };
    assert_eq!(pending(&moved, &ours), first, "only the server moved");
    let renamed = Settings {
        device: DeviceId::parse("b").expect("legal"),
        ..settings()
    };
    let second = pending(&renamed, &ours);
    assert_ne!(second, first);
    assert_ne!(pending(&renamed, &roots(&TestAuthority::new())), second);
}

#[test]
fn the_first_gateway_is_remembered() {
    let (_folder, store, _) = enrolled();
    let locked = store.lock().expect("free");
    let remember = |address: &str| {
        let gateway = address.parse().expect("legal");
        locked.remember_gateway(&gateway).expect("written")
    };
    assert!(remember("a.example:8443"));
    assert!(!remember("b.example:8443"));
    let gateway = store.settings().expect("readable").gateway;
    assert_eq!(gateway, Some("a.example:8443".parse().expect("legal")));
}
