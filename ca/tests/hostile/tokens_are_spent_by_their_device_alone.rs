//! Tokens that are guessed, late, somebody else's, or used before.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::{Problem, Token};

use crate::rig::{Csr, Fixture, HOUR, Key, enroll_request, fixture, token};

async fn refuses(fixture: &Fixture, id: &str, token: &Token, expected: (u16, &str)) -> Problem {
    let request = enroll_request(id, token, &Csr::new(&Key::new()).der());
    let what = format!("{id}: {expected:?}");
    fixture
        .refuses_request(&what, request, None, expected)
        .await
}

#[tokio::test]
async fn unknown_expired_or_for_another_device() {
    let fixture = fixture().await;
    let of_b = token(&fixture.authority, "b", HOUR).await;
    let late = token(&fixture.authority, "a", Duration::from_secs(1)).await;
    let invalid = (401, "token-invalid");
    refuses(&fixture, "a", &Token::new([0; 16]), invalid).await;
    refuses(&fixture, "a", &of_b, invalid).await;
    refuses(&fixture, "c", &of_b, invalid).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    refuses(&fixture, "a", &late, (401, "token-expired")).await;
    refuses(&fixture, "b", &late, invalid).await;
    // The neighbours of a right token, one bit away.
    let text = fixture.token.expose();
    for position in 0..text.len() {
        let digit = u8::from_str_radix(&text[position..=position], 16).unwrap() ^ 1;
        let mut other = text.clone();
        other.replace_range(position..=position, &format!("{digit:x}"));
        refuses(&fixture, "a", &other.parse().unwrap(), invalid).await;
    }
    fixture.still_enrolls().await;
    let csr = Csr::new(&Key::new()).der();
    let answer = fixture
        .answer_to(enroll_request("b", &of_b, &csr), None)
        .await;
    assert_eq!(answer.decision.outcome, "issued");
}

#[tokio::test]
async fn used_for_another_key_or_withdrawn() {
    let fixture = fixture().await;
    fixture.still_enrolls().await;
    let problem = refuses(&fixture, "a", &fixture.token, (401, "token-spent")).await;
    assert!(problem.detail.contains("tell the operator"), "{problem:?}");
    let open = token(&fixture.authority, "a", HOUR).await;
    let authority = &fixture.authority;
    fixture.revoke("a").await;
    refuses(&fixture, "a", &open, (401, "token-invalid")).await;
    fixture.replace("a").await;
    refuses(&fixture, "a", &open, (401, "token-invalid")).await;
    let fresh = token(authority, "a", HOUR).await;
    let csr = Csr::new(&Key::new()).der();
    let answer = fixture
        .answer_to(enroll_request("a", &fresh, &csr), None)
        .await;
    assert_eq!(answer.decision.outcome, "issued");
}

#[tokio::test]
async fn credentials_that_are_none() {
    let fixture = fixture().await;
    let csr = Csr::new(&Key::new()).der();
    let right = fixture.token.expose();
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    for credentials in [
        String::new(),
        "Basic".into(),
        "Basic ".into(),
        "Basic !".into(),
        format!("Bearer {right}"),
        basic("a"),
        basic(":"),
        basic(&format!(":{right}")),
        basic(&format!("../a:{right}")),
        basic(&format!("a\0:{right}")),
        basic(&format!("a:{right} ")),
        basic(&format!("a:{}", &right[1..])),
        basic(&format!("a:{right}0")),
        basic("a:' OR 1=1 --"),
        basic(&format!("a:{}", "0".repeat(20_000))),
    ] {
        let mut request = enroll_request("a", &fixture.token, &csr);
        let value = credentials.parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let expected = (401, "credentials-required");
        let problem = fixture
            .refuses_request(&credentials, request, None, expected)
            .await;
        assert!(!problem.detail.contains(&right), "{problem:?}");
    }
    let mut two = enroll_request("a", &fixture.token, &csr);
    let other = basic(&format!("b:{right}")).parse().unwrap();
    two.headers_mut().append("authorization", other);
    fixture
        .refuses_request("two", two, None, (401, "credentials-required"))
        .await;
    fixture.still_enrolls().await;
}
