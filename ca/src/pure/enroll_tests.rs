use identity::{Identity, TrustDomain};
use rcgen::{CertificateParams, DnType, KeyPair};

use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).expect("legal")
}

fn csr_named(name: &str) -> VerifiedCsr {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).expect("a request");
    VerifiedCsr::from_der(request.der()).expect("acceptable")
}

fn by_token() -> Requester {
    Requester::Token {
        device: device("a"),
        hash: Fingerprint([1; 32]),
    }
}

fn by_certificate() -> Requester {
    Requester::Certificate {
        device: device("a"),
        index: Index(7),
        certificate: Fingerprint([7; 32]),
        not_before: Timestamp(NOW.0 - 10),
        not_after: Timestamp(NOW.0 + 10),
    }
}

fn presented(status: Status) -> Option<CertificateFacts> {
    Some(CertificateFacts {
        index: Index(7),
        certificate: Fingerprint([7; 32]),
        status,
        issued_seq: 7,
    })
}

fn token() -> TokenFacts {
    TokenFacts {
        device: device("a"),
        expires_at: Timestamp(NOW.0 + 1),
        voided: false,
        spent: None,
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Issue,
    Repeat(u64),
}

fn check(
    requester: &Requester,
    csr: &VerifiedCsr,
    facts: &Facts,
    now: Timestamp,
    expected: Result<Outcome, Refusal>,
) {
    let spiffe_id = SpiffeId {
        trust_domain: TrustDomain::parse("keybound.local").expect("legal"),
        identity: Identity::Device(requester.device().clone()),
    };
    let decided = decide(requester, csr, &spiffe_id, facts, now).map(|decision| match decision {
        Decision::Issue(_) => Outcome::Issue,
        Decision::Repeat(index) => Outcome::Repeat(index.0),
    });
    assert_eq!(decided, expected);
}

#[test]
fn tokens() {
    let csr = csr_named("a");
    let with = |token: Option<TokenFacts>| Facts {
        token,
        ..Facts::default()
    };
    let run = |token, now, expected| check(&by_token(), &csr, &with(token), now, expected);
    run(Some(token()), NOW, Ok(Outcome::Issue));
    run(None, NOW, Err(Refusal::TokenInvalid));
    run(
        Some(TokenFacts {
            device: device("b"),
            ..token()
        }),
        NOW,
        Err(Refusal::TokenInvalid),
    );
    run(
        Some(TokenFacts {
            voided: true,
            ..token()
        }),
        NOW,
        Err(Refusal::TokenInvalid),
    );
    run(Some(token()), Timestamp(NOW.0 + 1), Ok(Outcome::Issue));
    run(
        Some(token()),
        Timestamp(NOW.0 + 2),
        Err(Refusal::TokenExpired),
    );
    let spent = |key| {
        Some(TokenFacts {
            spent: Some((key, Index(9))),
            ..token()
        })
    };
    run(spent(csr.key().fingerprint()), NOW, Ok(Outcome::Repeat(9)));
    run(spent(Fingerprint([2; 32])), NOW, Err(Refusal::TokenSpent));
    run(
        spent(csr.key().fingerprint()),
        Timestamp(NOW.0 + 2),
        Err(Refusal::TokenExpired),
    );
}

#[test]
fn presented_certificates() {
    let csr = csr_named("a");
    for (status, expected) in [
        (Status::Pending, Ok(Outcome::Issue)),
        (Status::Active, Ok(Outcome::Issue)),
        (Status::Restricted, Ok(Outcome::Issue)),
        (Status::Unknown, Err(Refusal::Unregistered)),
        (Status::Retired, Err(Refusal::Retired)),
        (Status::Suspended, Err(Refusal::Suspended)),
        (Status::Quarantined, Err(Refusal::Quarantined)),
        (Status::Revoked, Err(Refusal::Revoked)),
    ] {
        let facts = Facts {
            presented: presented(status),
            ..Facts::default()
        };
        check(&by_certificate(), &csr, &facts, NOW, expected);
    }
    let facts = Facts {
        presented: presented(Status::Active),
        ..Facts::default()
    };
    let run = |now, expected| check(&by_certificate(), &csr, &facts, Timestamp(now), expected);
    run(NOW.0 - 11, Err(Refusal::NotYetValid));
    run(NOW.0 + 11, Err(Refusal::Expired));
    check(
        &by_certificate(),
        &csr,
        &Facts::default(),
        NOW,
        Err(Refusal::Unregistered),
    );
    check(
        &by_certificate(),
        &csr_named("b"),
        &facts,
        NOW,
        Err(Refusal::NameMismatch),
    );
}

#[test]
fn a_lost_answer_is_given_again() {
    let csr = csr_named("a");
    let same_key = |status, issued_seq| {
        Some(CertificateFacts {
            index: Index(8),
            certificate: Fingerprint([8; 32]),
            status,
            issued_seq,
        })
    };
    let run = |same_key, expected| {
        let facts = Facts {
            presented: presented(Status::Active),
            same_key,
            ..Facts::default()
        };
        check(&by_certificate(), &csr, &facts, NOW, expected);
    };
    run(same_key(Status::Pending, 8), Ok(Outcome::Repeat(8)));
    run(same_key(Status::Active, 8), Ok(Outcome::Issue));
    run(same_key(Status::Pending, 6), Ok(Outcome::Issue));
    let operator = Requester::Operator {
        device: device("a"),
    };
    let facts = Facts {
        same_key: same_key(Status::Active, 8),
        ..Facts::default()
    };
    check(&operator, &csr, &facts, NOW, Ok(Outcome::Repeat(8)));
}

#[test]
fn standing_and_keys() {
    let csr = csr_named("a");
    let operator = Requester::Operator {
        device: device("a"),
    };
    let run = |facts: Facts, expected| check(&operator, &csr, &facts, NOW, expected);
    let standing = |standing| Facts {
        device: Some((device("a"), standing)),
        ..Facts::default()
    };
    run(standing(Standing::Good), Ok(Outcome::Issue));
    run(standing(Standing::Suspended), Err(Refusal::Suspended));
    run(standing(Standing::Revoked), Err(Refusal::Revoked));
    run(
        Facts {
            device: Some((device("A"), Standing::Good)),
            ..Facts::default()
        },
        Err(Refusal::NameMismatch),
    );
    run(
        Facts {
            key_owner: Some(device("b")),
            ..Facts::default()
        },
        Err(Refusal::KeyOfAnotherDevice),
    );
    run(
        Facts {
            key_owner: Some(device("a")),
            key_blocked: true,
            ..Facts::default()
        },
        Err(Refusal::KeyBlocked),
    );
}
