//! Re-enrollment with a certificate that is not the asker's, or no longer good.

use std::net::{IpAddr, Ipv4Addr};

use ca::Issued;
use identity::Timestamp;
use identity::certificate::Parsed;
use identity::feed::Sighting;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::rig::{Csr, Fixture, Key, device, fixture, openssl, renew_request};

async fn signed(fixture: &Fixture, id: &str) -> (Issued, CertificateDer<'static>) {
    let csr = Csr::new(&Key::new()).der();
    let issued = fixture.sign(id, &csr).await.unwrap();
    let certificate = CertificateDer::from(issued.der.clone());
    (issued, certificate)
}

async fn first_use(fixture: &Fixture, id: &str, issued: &Issued) {
    let sighting = Sighting {
        index: issued.index,
        device: device(id),
        at: Timestamp(1),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    fixture.authority.sighted(vec![sighting]).await.unwrap();
}

/// What a renewal as `name` with this certificate is refused with.
async fn refuses(fixture: &Fixture, name: &str, peer: Option<&CertificateDer<'_>>, code: &str) {
    let request = renew_request(&Csr::new(&Key::new()).common_name(name).der());
    fixture
        .refuses_request(code, request, peer, (403, code))
        .await;
}

async fn renews(fixture: &Fixture, name: &str, peer: &CertificateDer<'_>) {
    let request = renew_request(&Csr::new(&Key::new()).common_name(name).der());
    let answer = fixture.answer_to(request, Some(peer)).await;
    assert_eq!(answer.decision.outcome, "issued", "{:?}", answer.decision);
}

#[tokio::test]
async fn with_the_name_of_another_device() {
    let fixture = fixture().await;
    let (_, of_a) = signed(&fixture, "a").await;
    let (_, of_b) = signed(&fixture, "b").await;
    refuses(&fixture, "b", Some(&of_a), "name-mismatch").await;
    refuses(&fixture, "A", Some(&of_a), "name-mismatch").await;
    refuses(&fixture, "c", Some(&of_a), "name-mismatch").await;
    let nameless = renew_request(&Csr::new(&Key::new()).der());
    fixture
        .refuses_request("no name", nameless, Some(&of_a), (403, "name-mismatch"))
        .await;
    renews(&fixture, "a", &of_a).await;
    renews(&fixture, "b", &of_b).await;
}

#[tokio::test]
async fn with_the_key_of_another_device() {
    let fixture = fixture().await;
    let (_, of_a) = signed(&fixture, "a").await;
    let key_of_b = Key::new();
    let csr = Csr::new(&key_of_b).der();
    fixture.sign("b", &csr).await.unwrap();
    let request = renew_request(&Csr::new(&key_of_b).common_name("a").der());
    fixture
        .refuses_request(
            "the key of b",
            request,
            Some(&of_a),
            (403, "key-of-another-device"),
        )
        .await;
    renews(&fixture, "a", &of_a).await;
}

#[tokio::test]
async fn with_a_certificate_that_was_replaced_suspended_or_revoked() {
    let fixture = fixture().await;
    let (old, old_certificate) = signed(&fixture, "a").await;
    first_use(&fixture, "a", &old).await;
    let (new, new_certificate) = signed(&fixture, "a").await;
    renews(&fixture, "a", &old_certificate).await;
    first_use(&fixture, "a", &new).await;
    refuses(&fixture, "a", Some(&old_certificate), "retired").await;

    fixture.suspend("a").await;
    refuses(&fixture, "a", Some(&new_certificate), "suspended").await;
    fixture.restore("a").await;
    renews(&fixture, "a", &new_certificate).await;
    fixture.revoke("a").await;
    refuses(&fixture, "a", Some(&new_certificate), "revoked").await;
    fixture.replace("a").await;
    refuses(&fixture, "a", Some(&new_certificate), "revoked").await;
    let (_, newest) = signed(&fixture, "a").await;
    renews(&fixture, "a", &newest).await;
}

/// The device CA's own key makes certificates with other dates: who else would say when the time is over?
#[tokio::test]
async fn with_a_certificate_whose_time_is_over_or_has_not_come() {
    let fixture = fixture().await;
    let file = |name: &str| std::fs::read_to_string(fixture.path(name)).unwrap();
    let key = KeyPair::from_pem(&file("ca/device-ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&file("ca/device-ca.pem"), key).unwrap();
    let minted = |from: i32, to: i32| {
        let mut params = CertificateParams::default();
        let uri = "spiffe://keybound.local/device/a".try_into().unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(rcgen::SerialNumber::from(vec![1; 16]));
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &issuer).unwrap().der().clone()
    };
    signed(&fixture, "a").await;
    refuses(&fixture, "a", Some(&minted(2020, 2021)), "expired").await;
    refuses(&fixture, "a", Some(&minted(2090, 2091)), "not-yet-valid").await;
    // And with dates that are good it is none that was ever recorded.
    refuses(&fixture, "a", Some(&minted(2020, 2090)), "unregistered").await;
}

#[tokio::test]
async fn with_none_or_with_somebody_elses_authoritys() {
    let fixture = fixture().await;
    refuses(&fixture, "a", None, "certificate-required").await;
    // The token is no certificate, and the certificate that counts is the one of this authority.
    let mut with_token = renew_request(&Csr::new(&Key::new()).common_name("a").der());
    let enrolling = crate::rig::enroll_request("a", &fixture.token, b"");
    let credentials = enrolling.headers()["authorization"].clone();
    with_token
        .headers_mut()
        .insert("authorization", credentials);
    fixture
        .refuses_request("a token", with_token, None, (403, "certificate-required"))
        .await;
    let elsewhere = crate::rig::fixture().await;
    let (_, foreign) = signed(&elsewhere, "a").await;
    signed(&fixture, "a").await;
    refuses(&fixture, "a", Some(&foreign), "unregistered").await;

    let key = fixture.path("own.key");
    openssl(&["genpkey", "-algorithm", "ED25519", "-out", &key], b"");
    let self_made = openssl(
        &[
            "req", "-new", "-x509", "-outform", "DER", "-subj", "/CN=a", "-key", &key,
        ],
        b"",
    );
    let self_made = CertificateDer::from(self_made);
    refuses(&fixture, "a", Some(&self_made), "identity-invalid").await;
    let garbage = CertificateDer::from(vec![0x30, 0]);
    refuses(&fixture, "a", Some(&garbage), "identity-invalid").await;
    let issuing = fixture.authority.device_ca().der().clone();
    refuses(&fixture, "a", Some(&issuing), "identity-invalid").await;
    // The signature of a certificate that is good can be written in another way; it is another certificate then.
    let (_, mut altered) = {
        let (issued, certificate) = signed(&fixture, "a").await;
        renews(&fixture, "a", &certificate).await;
        (issued, certificate.to_vec())
    };
    let last = altered.len() - 1;
    altered[last] ^= 1;
    assert!(Parsed::from_der(&CertificateDer::from(altered.clone())).is_ok());
    let altered = CertificateDer::from(altered);
    refuses(&fixture, "a", Some(&altered), "unregistered").await;
}
