use identity::Timestamp;
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::RoutePolicy;

/// A device's, with a certificate that says nothing, for the tests of decisions.
pub(crate) fn presented(device: &str, not_after: u64) -> Presented {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::default().self_signed(&key);
    let certificate = certificate.expect("a certificate").der().clone();
    Presented::new(
        device,
        &format!("spiffe://keybound.test/device/{device}"),
        "01",
        Timestamp(not_after),
        Evidence {
            anchors: Anchors::new(std::slice::from_ref(&certificate)).expect("an anchor"),
            certificate,
            intermediates: vec![],
            at: Timestamp(0),
        },
    )
}

fn route(path: &str) -> Route {
    Route {
        host: None,
        path: path.into(),
        upstream: crate::pure::upstream::Upstream::of(vec![
            "http://127.0.0.1:1".parse().expect("an address"),
        ]),
        identity: vec![],
        policy: RoutePolicy::default(),
    }
}

fn signer() -> AssertionSigner {
    let key = KeyPair::generate().expect("a key");
    AssertionSigner::from_pkcs8(&key.serialize_der(), "issuer".into()).expect("a signer")
}

#[test]
fn an_assertion_is_signed_once_for_a_while_and_a_route() {
    let (presented, signer) = (presented("a", 10_000), signer());
    let at = |path: &str, now| presented.assertion(&signer, &route(path), Timestamp(now));
    let first = at("/", 1_000);
    assert!(first.is_sensitive());
    assert_eq!(at("/", 1_030), first);
    let other = at("/other", 1_030);
    assert_ne!(other, first);
    let second = at("/", 1_031);
    assert_ne!(second, first);
    assert_eq!(at("/", 1_032), second);
    assert_eq!(at("/other", 1_060), other);
    // Many routes take each other's places, and are no less right for it.
    for number in 0..100 {
        at(&format!("/{number}"), 1_060);
        assert!(presented.assertions.0.borrow().len() <= MAX_KEPT);
    }
}

#[test]
fn a_path_that_cannot_be_proven_tells_nothing() {
    let mut presented = presented("a", 10_000);
    let key = KeyPair::generate().expect("a key");
    let other = CertificateParams::default().self_signed(&key);
    let other = other.expect("a certificate").der().clone();
    presented.evidence.anchors = Anchors::new(&[other]).expect("an anchor");
    for dialect in [Dialect::ClientCertChain, Dialect::Xfcc] {
        assert_eq!(presented.fields(dialect), Err(Inexpressible::Path));
    }
    assert!(presented.fields(Dialect::ClientCert).is_ok());
}
