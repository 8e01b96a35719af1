use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::*;

/// In 2026.
const NOW: Timestamp = Timestamp(1_780_000_000);

struct Authority {
    certificate: CaCertificate,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str, usages: &[KeyUsagePurpose]) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    let mut shown = params.clone();
    shown.key_usages = usages.to_vec();
    let certificate = shown.self_signed(&key).expect("a CA");
    Authority {
        certificate: CaCertificate::read(certificate.der()).expect("an anchor"),
        issuer: Issuer::new(params, key),
    }
}

fn factory() -> Authority {
    authority(
        "Factory CA",
        &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
    )
}

fn revoked(serial: &[u8], reason: Option<RevocationReason>) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: reason,
        invalidity_date: None,
    }
}

fn params() -> CertificateRevocationListParams {
    CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 5, 1),
        next_update: date_time_ymd(2026, 7, 1),
        crl_number: SerialNumber::from(vec![5]),
        issuing_distribution_point: None,
        revoked_certs: vec![
            revoked(&[9], Some(RevocationReason::KeyCompromise)),
            revoked(&[0x80, 1], Some(RevocationReason::CertificateHold)),
            revoked(&[9], None),
        ],
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

fn sign(
    authority: &Authority,
    change: impl FnOnce(&mut CertificateRevocationListParams),
) -> Vec<u8> {
    let mut params = params();
    change(&mut params);
    let list = params.signed_by(&authority.issuer).expect("a list");
    list.der().to_vec()
}

fn serial(content: &[u8]) -> ForeignSerial {
    ForeignSerial::from_der_content(content).expect("a serial")
}

fn read(der: &[u8], authority: &Authority) -> Result<RevocationList, CrlFault> {
    RevocationList::read(der, std::slice::from_ref(&authority.certificate), NOW)
}

#[test]
fn what_a_list_says() {
    let ca = factory();
    let list = read(&sign(&ca, |_| {}), &ca).expect("a list");
    assert_eq!(list.issuer, ca.certificate.fingerprint());
    assert_eq!(list.scope, Scope::All);
    assert_eq!(list.serials(), [serial(&[9]), serial(&[0, 0x80, 1])]);
    assert!(list.has(&serial(&[9])) && !list.has(&serial(&[10])));
    assert_eq!(list.number.map(|number| number[19]), Some(5));
    assert!(list.is_current(NOW) && !list.is_current(list.next_update));
    let third = list.next_update.since(list.this_update) / 3;
    assert!(!list.is_ageing(list.next_update.minus(third)));
    assert!(list.is_ageing(list.next_update.minus(third / 2)));
    let empty = read(&sign(&ca, |p| p.revoked_certs.clear()), &ca).expect("a list");
    assert!(empty.is_empty());
}

#[test]
fn whose_signature_it_must_bear() {
    let (ca, other, namesake) = (
        factory(),
        authority(
            "Other CA",
            &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
        ),
        factory(),
    );
    let der = sign(&ca, |_| {});
    assert_eq!(read(&der, &other), Err(CrlFault::UnknownIssuer));
    assert_eq!(read(&der, &namesake), Err(CrlFault::BadSignature));
    let both = [namesake.certificate.clone(), ca.certificate.clone()];
    let list = RevocationList::read(&der, &both, NOW).expect("one of both made it");
    assert_eq!(list.issuer, ca.certificate.fingerprint());
    let mute = authority("Factory CA", &[KeyUsagePurpose::KeyCertSign]);
    assert_eq!(
        read(&sign(&mute, |_| {}), &mute),
        Err(CrlFault::IssuerMayNotSign)
    );
    assert_eq!(
        RevocationList::read(&der, &[], NOW),
        Err(CrlFault::UnknownIssuer)
    );
}

#[test]
fn every_changed_byte_is_noticed() {
    let ca = factory();
    let der = sign(&ca, |_| {});
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 1;
        assert!(read(&changed, &ca).is_err(), "byte {at}");
    }
    for length in 0..der.len() {
        assert_eq!(
            read(&der[..length], &ca),
            Err(CrlFault::NotDer),
            "{length} bytes"
        );
    }
    assert_eq!(read(&[&der[..], &[0]].concat(), &ca), Err(CrlFault::NotDer));
    assert_eq!(read(ca.certificate.der(), &ca), Err(CrlFault::NotAList));
}

#[test]
fn times() {
    let ca = factory();
    let future = sign(&ca, |p| {
        p.this_update = date_time_ymd(2026, 6, 10);
    });
    assert_eq!(read(&future, &ca), Err(CrlFault::NotYetValid));
    let past = sign(&ca, |p| p.next_update = date_time_ymd(2026, 5, 2));
    let past = read(&past, &ca).expect("it may be kept");
    assert!(!past.is_current(NOW));
}

#[test]
fn an_older_list_does_not_follow() {
    let ca = factory();
    let list = |day: u8, number: u8| {
        let der = sign(&ca, |p| {
            p.this_update = date_time_ymd(2026, 5, day);
            p.crl_number = SerialNumber::from(vec![number]);
        });
        read(&der, &ca).expect("a list")
    };
    let in_force = list(10, 10);
    for (day, number, expected) in [
        (10, 10, Ok(())),
        (11, 11, Ok(())),
        (10, 11, Ok(())),
        (11, 10, Ok(())),
        (9, 11, Err(CrlFault::Older)),
        (11, 9, Err(CrlFault::Older)),
    ] {
        assert_eq!(
            list(day, number).check_follows(&in_force),
            expected,
            "{day} {number}"
        );
    }
}

#[test]
fn lists_of_a_part() {
    let ca = factory();
    let scoped = |scope| {
        sign(&ca, |p| {
            p.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint {
                    uris: vec!["http://crl.example/1".into()],
                },
                scope,
            });
        })
    };
    // rcgen always names a point.
    assert_eq!(read(&scoped(None), &ca), Err(CrlFault::Partial));
    assert_eq!(
        read(&scoped(Some(CrlScope::UserCertsOnly)), &ca),
        Err(CrlFault::Partial)
    );
    for (value, expected) in [
        (&[0x30, 0][..], Ok(Scope::All)),
        (&[0x30, 3, 0x81, 1, 0xff], Ok(Scope::EndEntities)),
        (&[0x30, 3, 0x82, 1, 0xff], Ok(Scope::Authorities)),
        (&[0x30, 3, 0x81, 1, 1], Err(CrlFault::MalformedExtension)),
        (
            &[0x30, 6, 0x81, 1, 0xff, 0x82, 1, 0xff],
            Err(CrlFault::MalformedExtension),
        ),
        (&[0x30, 4, 0x83, 2, 6, 0x40], Err(CrlFault::Partial)),
        (&[0x30, 3, 0x84, 1, 0xff], Err(CrlFault::Indirect)),
        (&[0x30, 3, 0x85, 1, 0xff], Err(CrlFault::Partial)),
        (&[0x30, 3, 0x86, 1, 0xff], Err(CrlFault::MalformedExtension)),
    ] {
        assert_eq!(scope(value), expected, "{value:x?}");
    }
    assert!(Scope::All.covers(true) && Scope::All.covers(false));
    assert!(Scope::EndEntities.covers(false) && !Scope::EndEntities.covers(true));
    assert!(Scope::Authorities.covers(true) && !Scope::Authorities.covers(false));
}

/// An extension as it stands in a list or an entry.
fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let element = |tag: u8, content: &[u8]| {
        [
            &[tag, u8::try_from(content.len()).expect("short")][..],
            content,
        ]
        .concat()
    };
    let critical = if critical {
        element(1, &[0xff])
    } else {
        Vec::new()
    };
    element(
        0x30,
        &[element(6, oid), critical, element(4, value)].concat(),
    )
}

#[test]
fn extensions_that_say_more_than_is_understood() {
    let check_list = |extensions: &[Vec<u8>], expected| {
        let all = extensions.concat();
        let fields = Fields {
            algorithm: &[],
            issuer: &[],
            this_update: NOW,
            next_update: None,
            entries: &[],
            extensions: Some(&all),
        };
        assert_eq!(
            fields.extensions().map(|found| found.number.is_some()),
            expected
        );
    };
    let number = extension(CRL_NUMBER, false, &[2, 1, 5]);
    let unknown = |critical| extension(&[0x55, 0x1d, 99], critical, &[5, 0]);
    check_list(&[number.clone(), unknown(false)], Ok(true));
    check_list(&[unknown(true)], Err(CrlFault::CriticalExtension));
    check_list(&[number.clone(), number], Err(CrlFault::MalformedExtension));
    check_list(
        &[extension(DELTA_CRL_INDICATOR, true, &[2, 1, 1])],
        Err(CrlFault::Delta),
    );
    check_list(
        &[extension(CRL_NUMBER, false, &[2, 1, 0x80])],
        Err(CrlFault::MalformedExtension),
    );

    assert_eq!(
        check_entry(&extension(REASON_CODE, false, &[0x0a, 1, 1])),
        Ok(())
    );
    assert_eq!(
        check_entry(&extension(REASON_CODE, false, &[0x0a, 1, 8])),
        Err(CrlFault::Delta)
    );
    assert_eq!(
        check_entry(&extension(CERTIFICATE_ISSUER, true, &[0x30, 0])),
        Err(CrlFault::Indirect)
    );
    assert_eq!(check_entry(&unknown(false)), Ok(()));
    assert_eq!(
        check_entry(&unknown(true)),
        Err(CrlFault::CriticalExtension)
    );
}

#[test]
fn files_in_pem_and_der() {
    let ca = factory();
    let one = sign(&ca, |_| {});
    let other = sign(&ca, |p| p.revoked_certs.clear());
    let pem = |der: &[u8], label: &str| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(64)
            .map(String::from_utf8_lossy)
            .collect();
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            lines.join("\n")
        )
    };
    let (first, second) = (pem(&one, "X509 CRL"), pem(&other, "X509 CRL"));
    let [Cow::Borrowed(alone)] = lists_in(&one).expect("one list")[..] else {
        panic!("a copy");
    };
    assert_eq!(alone, one);
    let both = format!("Certificate Revocation List (CRL):\n{first}\ntext\n{second}");
    assert_eq!(
        lists_in(both.as_bytes()),
        Ok(vec![Cow::Borrowed(&one[..]), Cow::Owned(other)])
    );
    assert_eq!(lists_in(b""), Err(CrlFault::Empty));
    assert_eq!(lists_in(b"\r\n \n"), Err(CrlFault::Empty));
    assert_eq!(lists_in(b"<html>"), Err(CrlFault::NotAList));
    let certificate = pem(ca.certificate.der(), "CERTIFICATE");
    assert_eq!(lists_in(certificate.as_bytes()), Err(CrlFault::NotAList));
    assert_eq!(
        lists_in((first.clone() + &certificate).as_bytes()),
        Err(CrlFault::NotAList)
    );
    let cut = first[..first.len() / 2].to_owned();
    assert_eq!(lists_in(cut.as_bytes()), Err(CrlFault::NotPem));
    assert_eq!(
        lists_in(&both.as_bytes()[..both.len() - 40]),
        Err(CrlFault::NotPem)
    );
    let odd = first.replacen('M', "!", 1);
    assert_eq!(lists_in(odd.as_bytes()), Err(CrlFault::NotPem));
}
