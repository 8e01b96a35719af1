//! Groups and labels: what operators say of a device is journaled, reaches every certificate that may pass, and is
//! there again after a restart.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::path::Path;
use std::time::Duration;

use ca::{Actor, Authority, ChangeError, DeviceFilter, Options, Rejection};
use identity::feed::{Batch, Sighting};
use identity::labels::LabelChangeError;
use identity::{Class, DeviceId, LabelChange, Status, Tag, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};

fn open(directory: &Path) -> Authority {
    let mut tries = 0;
    loop {
        let opened = Authority::open(Options {
            directory: directory.join("ca"),
            trust_domain: None,
            passphrase: None,
            device_certificate_life: Duration::from_secs(90 * 24 * 60 * 60),
        });
        match opened {
            // The writer of the one before ends on its own.
            Err(ca::OpenError::InUse { .. }) if tries < 500 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
}

fn id(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn operator() -> Actor {
    Actor::Operator("test".into())
}

fn tags(names: &[&str]) -> std::collections::BTreeSet<Tag> {
    names.iter().map(|name| Tag::parse(name).unwrap()).collect()
}

fn add(groups: &[&str]) -> LabelChange {
    LabelChange {
        add_groups: tags(groups),
        ..LabelChange::default()
    }
}

fn remove(groups: &[&str]) -> LabelChange {
    LabelChange {
        remove_groups: tags(groups),
        ..LabelChange::default()
    }
}

async fn sign(authority: &Authority, device: &str) -> ca::Issued {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap();
    authority
        .sign(&operator(), &id(device), csr.der())
        .await
        .unwrap()
}

async fn label(authority: &Authority, device: &str, change: LabelChange) -> ca::Change {
    authority
        .label(&operator(), &id(device), change, Some("why"))
        .await
        .unwrap()
}

/// What the feed says of classes after `seq`: each change's status and groups.
async fn told(authority: &Authority, after: u64) -> (u64, Vec<(Status, Vec<String>)>) {
    let batch = authority
        .registry()
        .changes_after(after, 1000)
        .await
        .unwrap();
    (batch.upto, groups_in(&batch))
}

fn groups_in(batch: &Batch) -> Vec<(Status, Vec<String>)> {
    let mut found = Vec::new();
    for change in &batch.changes {
        let definition = batch.classes.iter().find(|one| one.class == change.class);
        let groups = definition.map(|one| one.groups.iter().map(ToString::to_string).collect());
        assert_eq!(change.class == Class(0), groups.is_none());
        found.push((change.status, groups.unwrap_or_default()));
    }
    found
}

/// Who is in green, what a snapshot says of classes, and the groups and labels of `a`.
async fn state(authority: &Authority) -> (Vec<String>, Vec<(Status, Vec<String>)>, String) {
    let registry = authority.registry();
    let filter = DeviceFilter {
        standing: None,
        group: Some(Tag::parse("green").unwrap()),
        prefix: None,
        after: None,
        limit: 10,
    };
    let devices = registry.devices(filter).await.unwrap().devices;
    let in_green = devices.iter().map(|device| device.id.to_string());
    let (batches, mut received) = tokio::sync::mpsc::channel(8);
    registry.snapshot(Timestamp(0), batches).await.unwrap();
    let mut told = Vec::new();
    while let Some(batch) = received.recv().await {
        told.extend(groups_in(&batch));
    }
    let labels = registry.device(&id("a")).await.unwrap().unwrap().labels;
    (in_green.collect(), told, labels.to_text())
}

#[tokio::test]
async fn every_certificate_that_may_pass_gets_the_groups() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path());
    let first = sign(&authority, "a").await;
    sign(&authority, "a").await;
    sign(&authority, "b").await;
    let (seq, _) = told(&authority, 0).await;

    let done = label(&authority, "a", add(&["green", "blue"])).await;
    assert_eq!(done.entries, Some((seq + 1, seq + 3)));
    assert_eq!(done.certificates, 2);
    let blue_green = || vec!["blue".to_owned(), "green".to_owned()];
    let (seq, changes) = told(&authority, seq).await;
    assert_eq!(
        changes,
        [
            (Status::Pending, blue_green()),
            (Status::Pending, blue_green())
        ]
    );
    // Said again it is nothing new; nor is a label a matter of certificates.
    let again = label(&authority, "a", add(&["blue"])).await;
    assert_eq!((again.entries, again.certificates), (None, 0));
    let site = LabelChange {
        set: [(Tag::parse("site").unwrap(), "Berlin".parse().unwrap())].into(),
        ..LabelChange::default()
    };
    let done = label(&authority, "a", site).await;
    assert_eq!(
        (done.entries, done.certificates),
        (Some((seq + 1, seq + 1)), 0)
    );
    // The same groups in another order of events are the same class; the next certificate has it from the start.
    label(&authority, "b", add(&["green"])).await;
    label(&authority, "b", add(&["blue"])).await;
    let newest = sign(&authority, "a").await;
    let (seq, changes) = told(&authority, seq).await;
    assert_eq!(
        changes,
        [
            // As of now, not as of the entry.
            (Status::Pending, blue_green()),
            (Status::Pending, blue_green()),
            (Status::Pending, blue_green()),
        ]
    );

    // What is suspended gets them too, what is revoked does not.
    authority
        .suspend(&operator(), &id("a"), None)
        .await
        .unwrap();
    authority.revoke(&operator(), &id("b"), None).await.unwrap();
    let (seq, _) = told(&authority, seq).await;
    assert_eq!(
        label(&authority, "a", remove(&["blue"])).await.certificates,
        3
    );
    assert_eq!(
        label(&authority, "b", remove(&["blue"])).await.certificates,
        0
    );
    let (_, changes) = told(&authority, seq).await;
    assert_eq!(
        changes,
        vec![(Status::Suspended, vec!["green".to_owned()]); 3]
    );
    authority
        .restore(&operator(), &id("a"), None)
        .await
        .unwrap();
    let record = authority.certificate(&first.serial).await.unwrap();
    assert_eq!(record.unwrap().status, Status::Pending);
    // The newest one is used, and the others are retired; they get the groups all the same.
    authority
        .sighted(vec![Sighting {
            index: newest.index,
            device: id("a"),
            at: Timestamp(1),
            address: [127, 0, 0, 1].into(),
        }])
        .await
        .unwrap();
    label(&authority, "a", add(&["red"])).await;

    let before = state(&authority).await;
    assert_eq!(before.0, ["a", "b"]);
    assert_eq!(
        before.2,
        r#"{"groups":["green","red"],"labels":{"site":"Berlin"}}"#
    );
    drop(authority);
    let authority = open(directory.path());
    assert_eq!(state(&authority).await, before);
    // A device that takes the place keeps what was said of the id.
    authority
        .replace(&operator(), &id("b"), None)
        .await
        .unwrap();
    sign(&authority, "b").await;
    let (_, mut changes) = told(&authority, 0).await;
    assert_eq!(
        changes.pop(),
        Some((Status::Pending, vec!["green".to_owned()]))
    );
    let history = authority.registry().history(&id("a"), 100).await.unwrap();
    assert!(history.iter().any(|entry| {
        let groups = entry.labelled.as_ref().map(|one| one.labels.groups.len());
        groups == Some(2) && entry.reason.as_deref() == Some("why")
    }));
    drop(authority);
    drop(open(directory.path()));
}

#[tokio::test]
async fn a_gateway_may_have_the_name_of_a_device_in_a_group() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path());
    sign(&authority, "gateway-1").await;
    label(&authority, "gateway-1", add(&["blue"])).await;
    let key = KeyPair::generate().unwrap();
    authority
        .issue_server_certificate(
            &identity::Name::parse("gateway-1").unwrap(),
            &["localhost".to_owned()],
            &key.subject_public_key_info(),
        )
        .await
        .unwrap();
    drop(authority);
    drop(open(directory.path()));
}

#[tokio::test]
async fn what_cannot_be_said_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path());
    let refused = |device: &'static str, change| {
        let authority = &authority;
        async move {
            let done = authority
                .label(&operator(), &id(device), change, None)
                .await;
            done.unwrap_err()
        }
    };
    assert_eq!(
        refused("nobody", add(&["blue"])).await,
        ChangeError::Rejected(Rejection::UnknownDevice(id("nobody")))
    );
    sign(&authority, "a").await;
    let many: Vec<String> = (0..17).map(|number| format!("g{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        refused("a", add(&many)).await,
        ChangeError::Rejected(Rejection::Labels(LabelChangeError::TooManyGroups))
    );
    let both = LabelChange {
        remove_groups: tags(&["blue"]),
        ..add(&["blue"])
    };
    assert_eq!(
        refused("a", both).await,
        ChangeError::Rejected(Rejection::Labels(LabelChangeError::Contradiction))
    );
    let record = authority
        .registry()
        .device(&id("a"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.labels, Default::default());
    assert!(
        label(&authority, "a", add(&many[..16]))
            .await
            .entries
            .is_some()
    );
}

/// The last class that there can be is given, and the one after it is not. The table is filled behind the registry's
/// back, which only a start would notice.
#[tokio::test]
async fn there_are_so_many_sets_of_groups_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path());
    sign(&authority, "a").await;
    let connection = rusqlite::Connection::open(directory.path().join("ca/registry.sqlite"));
    connection
        .unwrap()
        .execute(
            "INSERT INTO class (number, members) VALUES (65534, 'x')",
            [],
        )
        .unwrap();
    label(&authority, "a", add(&["last"])).await;
    let (_, mut changes) = told(&authority, 0).await;
    assert_eq!(
        changes.pop(),
        Some((Status::Pending, vec!["last".to_owned()]))
    );
    let refused = authority
        .label(&operator(), &id("a"), add(&["more"]), None)
        .await;
    assert_eq!(
        refused.unwrap_err(),
        ChangeError::Rejected(Rejection::NoClassLeft)
    );
    assert!(
        label(&authority, "a", remove(&["last"]))
            .await
            .entries
            .is_some()
    );
}
