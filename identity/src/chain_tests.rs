use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::*;

struct Authority {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let der = params.self_signed(&key).expect("a CA").der().clone();
    Authority {
        der,
        issuer: Issuer::new(params, key),
    }
}

fn subordinate(name: &str, issuer: &Authority) -> Authority {
    subordinate_with(name, issuer, |_| {})
}

fn subordinate_with(
    name: &str,
    issuer: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> Authority {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer.issuer).expect("a CA");
    Authority {
        der: certificate.der().clone(),
        issuer: Issuer::new(params, key),
    }
}

fn leaf(issuer: &Authority, from: i32, until: i32) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer.issuer).expect("a leaf");
    certificate.der().clone()
}

const DIRECT: Path = Path {
    anchor: 0,
    intermediate: None,
};
const IN_2026: Timestamp = Timestamp(1_780_000_000);

#[test]
fn expiry_hides_no_bad_signature() {
    let ours = authority("Device CA");
    let pretender = authority("Device CA");
    let anchors = Anchors::new(std::slice::from_ref(&ours.der)).expect("an anchor");
    let bad_signature = Err(ChainError::NotVouchedFor(
        webpki::Error::InvalidSignatureForPublicKey,
    ));
    for (from, until) in [(2020, 2030), (2000, 2001), (2040, 2041)] {
        let good = leaf(&ours, from, until);
        assert_eq!(anchors.verify(&good, &[], IN_2026), Ok(DIRECT));
        let forged = leaf(&pretender, from, until);
        assert_eq!(anchors.verify(&forged, &[], IN_2026), bad_signature);
    }
}

#[test]
fn the_anchor_that_vouches_is_named() {
    let (ours, other) = (authority("Device CA"), authority("Other CA"));
    let subordinate = subordinate_with("Subordinate", &other, |params| {
        params.serial_number = Some(rcgen::SerialNumber::from(vec![7]));
    });
    let both = [ours.der.clone(), other.der.clone()];
    let anchors = Anchors::new(&both).expect("anchors");
    let verify = |leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]| {
        anchors.verify(leaf, sent, IN_2026)
    };
    assert_eq!(verify(&leaf(&ours, 2020, 2030), &[]), Ok(DIRECT));
    let direct = Path {
        anchor: 1,
        intermediate: None,
    };
    assert_eq!(verify(&leaf(&other, 2020, 2030), &[]), Ok(direct));
    let through = Path {
        anchor: 1,
        intermediate: ForeignSerial::from_der_content(&[7]),
    };
    let sent = std::slice::from_ref(&subordinate.der);
    assert_eq!(verify(&leaf(&subordinate, 2020, 2030), sent), Ok(through));
    assert_eq!(anchors.certificate(1), Some(&other.der));
}

#[test]
fn strangers() {
    let ours = authority("Device CA");
    let other = authority("Other CA");
    let anchors = Anchors::new(std::slice::from_ref(&ours.der)).expect("an anchor");
    let stranger = leaf(&other, 2020, 2030);
    assert_eq!(
        anchors.verify(&stranger, std::slice::from_ref(&other.der), IN_2026),
        Err(ChainError::NotVouchedFor(webpki::Error::UnknownIssuer))
    );
    assert_eq!(
        anchors.verify(&stranger, &vec![other.der.clone(); 4], IN_2026),
        Err(ChainError::TooLong { length: 5 })
    );
    assert_eq!(
        anchors.verify(&leaf(&ours, 2030, 2020), &[], IN_2026),
        Err(ChainError::EmptyValidity)
    );
    assert_eq!(
        anchors.verify(&CertificateDer::from(vec![0]), &[], IN_2026),
        Err(ChainError::Leaf(ReadError::NotDer))
    );
}

#[test]
fn issuers_are_those_of_the_path_and_not_what_was_sent() {
    let root = authority("Root CA");
    let middle = subordinate("Middle CA", &root);
    let issuing = subordinate("Device CA", &middle);
    let leaf = leaf(&issuing, 2020, 2030);
    let other = authority("Other CA");
    let check = |anchor: &Authority, sent: &[&Authority], expected: &[&Authority]| {
        let anchors = Anchors::new(&[other.der.clone(), anchor.der.clone()]).expect("anchors");
        let sent: Vec<_> = sent.iter().map(|one| one.der.clone()).collect();
        let expected: Vec<_> = expected.iter().map(|one| one.der.clone()).collect();
        assert_eq!(anchors.issuers(&leaf, &sent, IN_2026), Ok(expected));
    };
    check(&issuing, &[], &[&issuing]);
    check(&issuing, &[&other, &middle, &root], &[&issuing]);
    check(&middle, &[&issuing], &[&issuing, &middle]);
    check(&middle, &[&other, &middle, &issuing], &[&issuing, &middle]);
    // The root is its own issuer.
    check(&root, &[&middle, &other, &issuing], &[&issuing, &middle]);
    let anchors = Anchors::new(std::slice::from_ref(&other.der)).expect("an anchor");
    let sent = [issuing.der.clone(), middle.der.clone()];
    assert_eq!(
        anchors.issuers(&leaf, &sent, IN_2026),
        Err(ChainError::NotVouchedFor(webpki::Error::UnknownIssuer))
    );
}

#[test]
fn cas_between_may_issue_certificates_of_clients() {
    let root = authority("Root CA");
    let anchors = Anchors::new(std::slice::from_ref(&root.der)).expect("an anchor");
    let check = |change: &dyn Fn(&mut CertificateParams), expected: Option<webpki::Error>| {
        let issuing = subordinate_with("Device CA", &root, change);
        let leaf = leaf(&issuing, 2020, 2030);
        let sent = std::slice::from_ref(&issuing.der);
        let fault = anchors.verify(&leaf, sent, IN_2026).map(|_| ()).err();
        assert_eq!(fault, expected.map(ChainError::NotVouchedFor));
    };
    let usages = |usages: &[KeyUsagePurpose]| {
        let usages = usages.to_vec();
        move |params: &mut CertificateParams| params.key_usages.clone_from(&usages)
    };
    let no_ca = || Some(webpki::Error::EndEntityUsedAsCa);
    check(&usages(&[]), None);
    check(&usages(&[KeyUsagePurpose::CrlSign]), no_ca());
    check(&usages(&[KeyUsagePurpose::DigitalSignature]), no_ca());
    let purposes = |purposes: &[ExtendedKeyUsagePurpose]| {
        let purposes = purposes.to_vec();
        move |params: &mut CertificateParams| params.extended_key_usages.clone_from(&purposes)
    };
    let not_clients = webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
        required: KeyUsage::client_auth(),
        present: Vec::new(),
    });
    let (clients, servers) = (
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    check(&purposes(&[servers.clone(), clients]), None);
    check(&purposes(&[ExtendedKeyUsagePurpose::Any]), None);
    check(&purposes(&[servers]), Some(not_clients));
}

#[test]
fn no_more_cas_are_between_than_the_anchor_allows() {
    let top = authority("Top CA");
    let check = |allowed: Option<u8>, between: usize, same_name: bool, is_believed: bool| {
        let root = subordinate_with("Root CA", &top, |params| {
            params.is_ca = IsCa::Ca(allowed.map_or(
                BasicConstraints::Unconstrained,
                BasicConstraints::Constrained,
            ));
        });
        let anchors = Anchors::new(std::slice::from_ref(&root.der)).expect("an anchor");
        let mut sent: Vec<Authority> = Vec::new();
        for number in 0..between {
            let name = if same_name {
                "Root CA".into()
            } else {
                format!("CA {number}")
            };
            let issuer = sent.last().unwrap_or(&root);
            sent.push(subordinate(&name, issuer));
        }
        let leaf = leaf(sent.last().unwrap_or(&root), 2020, 2030);
        let sent: Vec<_> = sent.iter().map(|ca| ca.der.clone()).collect();
        let fault = anchors.verify(&leaf, &sent, IN_2026).map(|_| ()).err();
        let too_long = ChainError::NotVouchedFor(webpki::Error::PathLenConstraintViolated);
        assert_eq!(
            fault,
            (!is_believed).then_some(too_long),
            "{allowed:?} {between}"
        );
    };
    check(None, 3, false, true);
    check(Some(0), 0, false, true);
    check(Some(0), 1, false, false);
    check(Some(1), 1, false, true);
    check(Some(1), 2, false, false);
    check(Some(2), 2, false, true);
    // A new key of the same CA.
    check(Some(0), 1, true, true);
}

#[test]
fn nobody_is_believed_without_an_anchor() {
    assert_eq!(Anchors::new(&[]).map(|_| ()), Err(AnchorError::None));
}
