//! Whoever has no right token is told the same, whether there is such a device or not, whatever it has.

use http::HeaderMap;
use identity::Token;

use crate::rig::{Csr, HOUR, Key, enroll_request, fixture, names, token};

#[tokio::test]
async fn a_wrong_token_is_answered_alike_for_every_device() {
    let fixture = fixture().await;
    let authority = &fixture.authority;
    let key_of_good = Key::new();
    let blocked = Key::new();
    for (id, key) in [
        ("good", &key_of_good),
        ("suspended", &Key::new()),
        ("revoked", &blocked),
    ] {
        let csr = Csr::new(key).der();
        fixture.sign(id, &csr).await.unwrap();
    }
    fixture.suspend("suspended").await;
    fixture.revoke("revoked").await;
    let spent = token(authority, "spent", HOUR).await;
    let csr = Csr::new(&Key::new()).der();
    let answer = fixture
        .answer_to(enroll_request("spent", &spent, &csr), None)
        .await;
    assert_eq!(answer.decision.outcome, "issued");

    let mut seen: Option<(HeaderMap, bytes::Bytes)> = None;
    for id in [
        "nobody",
        "NOBODY",
        "a",
        "A",
        "good",
        "GOOD",
        "suspended",
        "revoked",
        "spent",
    ] {
        let key = Key::new();
        for (what, csr) in [
            ("nothing", Csr::new(&key)),
            ("its name", Csr::new(&key).common_name(id)),
            ("another's name", Csr::new(&key).common_name("good")),
            (
                "another's URI",
                Csr::new(&key)
                    .extensions(&[names(&["spiffe://keybound.local/device/good".to_owned()])]),
            ),
            ("a key that is known", Csr::new(&key_of_good)),
            ("a key that is blocked", Csr::new(&blocked)),
        ] {
            // One that nobody has, and one of another device.
            for token in [&Token::new([7; 16]), &spent] {
                if id == "spent" && token.hash() == spent.hash() {
                    continue;
                }
                let request = enroll_request(id, token, &csr.der());
                let answer = fixture.answer_to(request, None).await;
                assert_eq!(answer.response.status(), 401, "{id}, {what}");
                let (head, body) = answer.response.into_parts();
                let told = (head.headers, body);
                let before = seen.get_or_insert_with(|| told.clone());
                assert_eq!(*before, told, "{id}, {what}");
            }
        }
    }
    fixture.still_enrolls().await;
}
