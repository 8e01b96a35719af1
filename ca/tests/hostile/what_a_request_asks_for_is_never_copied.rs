//! Greedy requests: they get the profile's certificate, or none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca::est;

use crate::rig::{Csr, Fixture, Key, P256, ec_spki, extension, fixture, names, oid, openssl, tlv};

const MISMATCH: (u16, &str) = (403, "name-mismatch");

/// The one certificate in an answer, as OpenSSL prints it, without what differs from one to the next.
fn printed(answer: &est::Answer) -> String {
    let cms = STANDARD.decode(answer.response.body()).unwrap();
    let pem = openssl(&["pkcs7", "-inform", "DER", "-print_certs"], &cms);
    let text = openssl(
        &[
            "x509",
            "-noout",
            "-text",
            "-certopt",
            "no_serial,no_validity,no_pubkey,no_sigdump",
        ],
        &pem,
    );
    let text = String::from_utf8(text).unwrap();
    let own = text
        .lines()
        .skip_while(|line| !line.contains("Subject Key Identifier"))
        .nth(1)
        .unwrap()
        .to_owned();
    text.replace(&own, "(of the key)")
}

async fn new_fixture_answer(csr: impl FnOnce(Csr<'_>) -> Csr<'_>) -> String {
    let fixture: Fixture = fixture().await;
    let key = Key::new();
    let answer = fixture.answer(&csr(Csr::new(&key)).der()).await;
    assert_eq!(answer.decision.outcome, "issued", "{:?}", answer.decision);
    let issuer = authority_key_identifier(&fixture);
    printed(&answer).replace(&issuer, "(of the CA)")
}

fn authority_key_identifier(fixture: &Fixture) -> String {
    let pem = fixture.authority.device_ca().pem();
    let text = openssl(
        &["x509", "-noout", "-ext", "subjectKeyIdentifier"],
        pem.as_bytes(),
    );
    let text = String::from_utf8(text).unwrap();
    text.lines().nth(1).unwrap().trim().to_owned()
}

#[tokio::test]
async fn whatever_is_asked_for_the_certificate_is_the_same() {
    let modest = new_fixture_answer(|csr| csr).await;
    assert!(
        modest.contains("URI:spiffe://keybound.local/device/a"),
        "{modest}"
    );
    let certificate_authority = extension(&[0x55, 0x1d, 0x13], &tlv(0x30, &tlv(0x01, &[0xff])));
    let key_cert_sign = extension(&[0x55, 0x1d, 0x0f], &tlv(0x03, &[1, 0x06]));
    let server_and_any = extension(
        &[0x55, 0x1d, 0x25],
        &tlv(
            0x30,
            &[
                oid(&[0x2b, 6, 1, 5, 5, 7, 3, 1]),
                oid(&[0x55, 0x1d, 0x25, 0]),
            ]
            .concat(),
        ),
    );
    let critical_unknown = tlv(
        0x30,
        &[oid(&[0x2a, 3, 4]), tlv(0x01, &[0xff]), tlv(0x04, &[5, 0])].concat(),
    );
    let garbage = extension(&[0x55, 0x1d, 0x1e], b"name constraints in no DER");
    let own = || names(&["spiffe://keybound.local/device/a".to_owned()]);
    let many: Vec<_> = (0..200_u8)
        .map(|number| extension(&[0x2a, 3, 5, number & 0x7f, number >> 7], &[5, 0]))
        .collect();
    // An attribute that nobody knows: 1.2.3.6.
    let unknown = tlv(0x0c, &[b'x'; 2000]);
    for extensions in [
        vec![certificate_authority.clone()],
        vec![key_cert_sign.clone()],
        vec![server_and_any.clone()],
        vec![critical_unknown.clone()],
        vec![garbage.clone()],
        vec![
            certificate_authority,
            key_cert_sign,
            server_and_any,
            critical_unknown,
            garbage,
            own(),
        ],
        many,
    ] {
        let greedy = new_fixture_answer(|csr| {
            csr.common_name("a")
                .attribute(&[0x2a, 3, 6], std::slice::from_ref(&unknown))
                .extensions(&extensions)
        });
        assert_eq!(greedy.await, modest);
    }
}

#[tokio::test]
async fn nobody_is_named_but_the_device_itself() {
    let fixture = fixture().await;
    let key = Key::new();
    let signed = Csr::new(&Key::new()).der();
    fixture.sign("b", &signed).await.unwrap();
    for name in [
        "b",
        "A",
        "a ",
        " a",
        "a\0",
        "a\0b",
        "",
        "a,CN=b",
        "\u{430}",
        "keybound.local",
    ] {
        let csr = Csr::new(&key).common_name(name);
        fixture.refuses(name, &csr.der(), MISMATCH).await;
    }
    let two = Csr::new(&key).common_name("a").common_name("b");
    fixture.refuses("two names", &two.der(), MISMATCH).await;
    let uri = |id: &str| format!("spiffe://keybound.local/device/{id}");
    for uris in [
        vec![uri("b")],
        vec![uri("a"), uri("b")],
        vec![uri("a"), uri("a")],
        vec![uri("A")],
        vec![uri("a/")],
        vec![uri("a?x")],
        vec![uri("%61")],
        vec!["spiffe://keybound.local/operator/a".to_owned()],
        vec!["spiffe://other.local/device/a".to_owned()],
        vec!["SPIFFE://keybound.local/device/a".to_owned()],
        vec![String::new()],
        vec![],
    ] {
        let what = format!("{uris:?}");
        let csr = Csr::new(&key).extensions(&[names(&uris)]);
        fixture.refuses(&what, &csr.der(), MISMATCH).await;
    }
    for (tag, value) in [(0x82, "a"), (0x81, "a@b"), (0x87, "1234"), (0x86, "a")] {
        let names = tlv(0x30, &tlv(tag, value.as_bytes()));
        let csr = Csr::new(&key).extensions(&[extension(&[0x55, 0x1d, 0x11], &names)]);
        fixture.refuses(value, &csr.der(), MISMATCH).await;
    }
    let some: Vec<_> = (0..400).map(|number| uri(&number.to_string())).collect();
    let csr = Csr::new(&key).extensions(&[names(&some)]).der();
    assert!(csr.len() < 16 * 1024);
    fixture.refuses("400 names", &csr, MISMATCH).await;
    let many: Vec<_> = (0..20_000).map(|number| uri(&number.to_string())).collect();
    let csr = Csr::new(&key).extensions(&[names(&many)]).der();
    assert!(csr.len() > 500 * 1024);
    let expected = (413, "csr-too-large");
    fixture.refuses("20,000 names", &csr, expected).await;
    fixture.still_enrolls().await;
}

#[tokio::test]
async fn a_password_for_a_channel_that_nobody_checks_is_not_ignored() {
    let fixture = fixture().await;
    let key = Key::new();
    let password: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x07];
    let csr = Csr::new(&key).attribute(password, &[tlv(0x13, b"tls-unique")]);
    let expected = (403, "challenge-password");
    fixture
        .refuses("bound to a channel", &csr.der(), expected)
        .await;
    fixture.still_enrolls().await;
}

#[tokio::test]
async fn the_key_must_be_the_askers_own() {
    let fixture = fixture().await;
    let (key, other) = (Key::new(), Key::new());
    let stolen = Csr::new(&key).spki(ec_spki(P256, &other.point()));
    let expected = (400, "proof-of-possession");
    fixture
        .refuses("another's key", &stolen.der(), expected)
        .await;
    let swapped = Csr::new(&key).der_signed_by(&other);
    fixture
        .refuses("another's signature", &swapped, expected)
        .await;

    // A key that belongs to `b`, in either spelling, before and after b is revoked.
    let request = Csr::new(&other).der();
    fixture.sign("b", &request).await.unwrap();
    let compressed = Csr::new(&other).spki(ec_spki(P256, &other.compressed_point()));
    let own = (403, "key-of-another-device");
    fixture.refuses("the key of b", &request, own).await;
    let spelled = (400, "key-not-accepted");
    fixture
        .refuses("in short", &compressed.der(), spelled)
        .await;
    fixture.revoke("b").await;
    fixture
        .refuses("after b", &request, (403, "key-blocked"))
        .await;
    fixture
        .refuses("in short", &compressed.der(), spelled)
        .await;
    fixture.replace("b").await;
    fixture
        .refuses("after all", &request, (403, "key-blocked"))
        .await;
    fixture.still_enrolls().await;
}
