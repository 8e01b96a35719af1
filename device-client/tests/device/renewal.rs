//! The next certificate.

use device_client::{EstError, KeyStore, RenewError, Renewal, Schedule, StoreError, due_at, renew};

use crate::server::{Fault, Server, public_key, quickly};

async fn renewed(store: &KeyStore) -> device_client::Credentials {
    match renew(store, Schedule::Now, quickly()).await.unwrap() {
        Renewal::Renewed(credentials) => *credentials,
        Renewal::NotDue { .. } => panic!("it was not to wait"),
    }
}

#[tokio::test]
async fn a_renewal_presents_the_current_leaf_and_asks_for_a_new_key_under_the_same_name() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    let new = renewed(&enrolled.store).await;

    let last = server.state().seen.last().cloned().unwrap();
    assert_eq!(last.path, "/.well-known/est/simplereenroll");
    assert_eq!(
        last.presented,
        Some(enrolled.credentials.certificate.clone())
    );
    assert_eq!(last.chain_length, 1);
    assert_eq!(last.authorization, None);
    let csr = last.csr.unwrap();
    assert_eq!(csr.public_key, public_key(&new));
    assert_ne!(csr.public_key, public_key(&enrolled.credentials));
    assert_eq!(csr.subject, "CN=a");
    assert_eq!(
        csr.uri.as_deref(),
        Some("URI(spiffe://keybound.local/device/a)")
    );
    let found = enrolled.store.credentials().unwrap();
    assert_eq!(found.certificate, new.certificate);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key_also_by_the_next_run() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    server.state().lose_answers = 5;
    let error = renew(&enrolled.store, Schedule::Now, quickly())
        .await
        .unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    let current = enrolled.store.credentials().unwrap();
    assert_eq!(current.certificate, enrolled.credentials.certificate);

    let new = renewed(&enrolled.store).await;
    let asked: Vec<_> = server
        .csrs()
        .into_iter()
        .skip(1)
        .map(|csr| csr.public_key)
        .collect();
    assert_eq!(asked, vec![public_key(&new); 6]);
}

#[tokio::test]
async fn a_refused_or_wrong_renewal_leaves_the_current_pair_in_use() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    for fault in [
        Fault::Refuse(403, "suspended"),
        Fault::OtherKey,
        Fault::OtherAuthority,
    ] {
        server.state().fault = fault;
        let error = renew(&enrolled.store, Schedule::Now, quickly())
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                RenewError::NotAccepted { .. } | RenewError::Est(EstError::Refused { .. })
            ),
            "{error:?}"
        );
        let current = enrolled.store.credentials().unwrap();
        assert_eq!(current.certificate, enrolled.credentials.certificate);
    }
}

#[tokio::test]
async fn if_due_waits_until_two_thirds_of_the_life_are_over() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    let seen = server.state().seen.len();
    let renewal = renew(&enrolled.store, Schedule::IfDue, quickly())
        .await
        .unwrap();
    let Renewal::NotDue { due_at: due } = renewal else {
        panic!("{renewal:?}");
    };
    assert_eq!(due, due_at(enrolled.credentials.leaf.validity));
    assert_eq!(server.state().seen.len(), seen, "nothing was sent");
}

#[tokio::test]
async fn two_renewals_at_once_follow_one_another() {
    let server = Server::start().await;
    let enrolled = server.enrolled("store").await;
    let (first, second) = tokio::join!(renewed(&enrolled.store), renewed(&enrolled.store));
    assert_ne!(public_key(&first), public_key(&second));
    let current = enrolled.store.credentials().unwrap();
    let newer = [&first, &second].map(|pair| pair.certificate == current.certificate);
    assert!(newer[0] != newer[1]);
}

#[tokio::test]
async fn without_a_certificate_there_is_nothing_to_renew() {
    let server = Server::start().await;
    server.state().lose_answers = 4;
    let uri = server.uri("store");
    let _ = device_client::enroll(&uri, &server.enrollment(), quickly()).await;
    let store = KeyStore::open(&uri).unwrap();
    let error = renew(&store, Schedule::Now, quickly()).await.unwrap_err();
    assert!(
        matches!(error, RenewError::Store(StoreError::NotEnrolled { .. })),
        "{error:?}"
    );
}
