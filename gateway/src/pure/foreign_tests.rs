use std::time::Duration;

use identity::revocation_list::Scope;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::*;

/// In 2026, a month before the lists end.
const NOW: Timestamp = Timestamp(1_780_000_000);

struct Ca {
    certificate: CaCertificate,
    issuer: Issuer<'static, KeyPair>,
}

fn ca(name: &str, serial: u8, above: Option<&Ca>) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from(vec![serial]));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = match above {
        None => params.self_signed(&key),
        Some(above) => params.signed_by(&key, &above.issuer),
    };
    Ca {
        certificate: CaCertificate::read(certificate.expect("a CA").der()).expect("an anchor"),
        issuer: Issuer::new(params, key),
    }
}

fn list(by: &Ca, number: u8, revoked: &[u8], scope: Scope) -> Arc<RevocationList> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 5, 1 + number),
        next_update: date_time_ymd(2026, 7, number),
        crl_number: SerialNumber::from(vec![number]),
        issuing_distribution_point: None,
        revoked_certs: revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(vec![*serial]),
                revocation_time: date_time_ymd(2026, 1, 1),
                reason_code: None,
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&by.issuer).expect("a list");
    let read = RevocationList::read(list.der(), std::slice::from_ref(&by.certificate), NOW);
    let mut read = read.expect("a list");
    read.scope = scope;
    Arc::new(read)
}

fn device(by: &Ca, serial: u8, name: &str) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(vec![serial]));
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &by.issuer).expect("a certificate");
    certificate.der().clone()
}

fn anchor(name: &str, authorities: &[&Ca], lists: Option<&[Arc<RevocationList>]>) -> ForeignAnchor {
    ForeignAnchor {
        name: Name::parse(name).expect("legal"),
        id_from: IdRule::CommonName,
        authorities: authorities
            .iter()
            .map(|ca| ca.certificate.clone())
            .collect(),
        revocation: lists.map_or(Revocation::NotChecked, |lists| {
            Revocation::Lists(lists.to_vec())
        }),
    }
}

fn of(anchors: &[ForeignAnchor]) -> ForeignAnchors {
    ForeignAnchors::new(anchors).expect("anchors that can stand beside each other")
}

fn lineage(
    anchors: &ForeignAnchors,
    by: &Ca,
    is_issuer: bool,
    der: &CertificateDer<'_>,
) -> Arc<Lineage> {
    let voucher = Voucher {
        authority: by.certificate.fingerprint(),
        is_issuer,
    };
    let read = anchors.read(der, voucher).expect("an anchor");
    read.expect("a device").0
}

#[test]
fn a_certificate_stands_until_a_list_or_the_calendar_says_otherwise() {
    let root = ca("Factory CA", 1, None);
    let first = list(&root, 1, &[7], Scope::All);
    let anchors = of(&[anchor(
        "factory",
        &[&root],
        Some(std::slice::from_ref(&first)),
    )]);
    let good = lineage(&anchors, &root, true, &device(&root, 6, "pump"));
    let bad = lineage(&anchors, &root, true, &device(&root, 7, "fan"));
    assert_eq!(good.id().to_string(), "factory:pump");
    assert_eq!(anchors.check(&good, NOW), Ok(()));
    assert_eq!(anchors.check(&bad, NOW), Err(Denial::Revoked));
    let end = first.next_update;
    assert_eq!(
        anchors.check(&good, end.minus(Duration::from_secs(1))),
        Ok(())
    );
    assert_eq!(anchors.check(&good, end), Err(Denial::CrlStale));
    // A revocation holds however old the list is.
    assert_eq!(anchors.check(&bad, end), Err(Denial::Revoked));
    let expired = root
        .certificate
        .validity()
        .not_after
        .plus(Duration::from_secs(1));
    assert_eq!(anchors.check(&good, expired), Err(Denial::AnchorExpired));
    assert_eq!(
        anchors.check(&good, Timestamp(0)),
        Err(Denial::AnchorExpired)
    );
    assert!(anchors.something_ended(NOW, end) && anchors.something_ended(end, expired));
    assert!(!anchors.something_ended(NOW, end.minus(Duration::from_secs(1))));
    assert!(!anchors.something_ended(end, expired.minus(Duration::from_secs(1))));

    // Of two lists the newer one counts, whichever stands first.
    let second = list(&root, 2, &[6], Scope::All);
    for lists in [[first.clone(), second.clone()], [second, first]] {
        let newer = of(&[anchor("factory", &[&root], Some(&lists))]);
        assert_eq!(newer.check(&good, NOW), Err(Denial::Revoked));
        assert_eq!(newer.check(&bad, NOW), Ok(()));
    }
}

#[test]
fn an_intermediate_ca_needs_a_list_of_its_own_and_can_be_withdrawn() {
    let root = ca("Root", 1, None);
    let issuing = ca("Issuing", 2, Some(&root));
    let (of_root, of_issuing) = (
        list(&root, 2, &[], Scope::All),
        list(&issuing, 1, &[7], Scope::All),
    );
    // Sent along, nobody speaks for what it issued.
    let alone = of(&[anchor(
        "factory",
        &[&root],
        Some(std::slice::from_ref(&of_root)),
    )]);
    let through = lineage(&alone, &root, false, &device(&issuing, 6, "pump"));
    assert_eq!(alone.check(&through, NOW), Err(Denial::CrlMissing));
    let unchecked = of(&[anchor("factory", &[&root], None)]);
    assert_eq!(unchecked.check(&through, NOW), Ok(()));

    let both = [&root, &issuing];
    let lists = [of_root.clone(), of_issuing.clone()];
    let anchors = of(&[anchor("factory", &both, Some(&lists))]);
    let direct = lineage(&anchors, &issuing, true, &device(&issuing, 6, "pump"));
    assert_eq!(anchors.check(&direct, NOW), Ok(()));
    // The root's list speaks of the issuing CA, so both must be there.
    let first_end = of_root.next_update.min(of_issuing.next_update);
    assert_eq!(anchors.check(&direct, first_end), Err(Denial::CrlStale));
    let withdrawn = [list(&root, 3, &[2], Scope::All), of_issuing.clone()];
    let anchors = of(&[anchor("factory", &both, Some(&withdrawn))]);
    assert_eq!(anchors.check(&direct, NOW), Err(Denial::Revoked));

    // A list about CAs alone is none about devices, and the other way round.
    let about_cas = list(&root, 4, &[2], Scope::Authorities);
    let about_devices = list(&root, 5, &[], Scope::EndEntities);
    let only_cas = ForeignAnchors::new(&[anchor(
        "factory",
        &both,
        Some(&[about_cas.clone(), of_issuing.clone()]),
    )]);
    let no_list = (0, ForeignFault::NoList(root.certificate.fingerprint()));
    assert_eq!(only_cas.expect_err("refused"), [no_list]);
    // Whose list says nothing of CAs could withdraw none.
    let only_devices = ForeignAnchors::new(&[anchor(
        "factory",
        &both,
        Some(&[about_devices.clone(), of_issuing.clone()]),
    )]);
    let no_list = ForeignFault::NoListAboutAuthorities(root.certificate.fingerprint());
    assert_eq!(only_devices.expect_err("refused"), [(0, no_list)]);
    let split = [about_cas, about_devices, of_issuing];
    let anchors = of(&[anchor("factory", &both, Some(&split))]);
    assert_eq!(anchors.check(&direct, NOW), Err(Denial::Revoked));
}

#[test]
fn what_a_ca_far_above_has_withdrawn_takes_all_below_it_along() {
    let root = ca("Root", 1, None);
    let policy = ca("Policy", 2, Some(&root));
    let issuing = ca("Issuing", 3, Some(&policy));
    let all = [&root, &policy, &issuing];
    let judged = |of_root: Arc<RevocationList>| {
        let lists = [
            of_root,
            list(&policy, 4, &[], Scope::All),
            list(&issuing, 5, &[], Scope::All),
        ];
        let anchors = of(&[anchor("factory", &all, Some(&lists))]);
        let pump = lineage(&anchors, &issuing, true, &device(&issuing, 6, "pump"));
        let end = lists[0].next_update;
        (anchors.check(&pump, NOW), anchors.check(&pump, end))
    };
    assert_eq!(
        judged(list(&root, 2, &[], Scope::All)),
        (Ok(()), Err(Denial::CrlStale))
    );
    let withdrawn = judged(list(&root, 2, &[2], Scope::All));
    assert_eq!(withdrawn, (Err(Denial::Revoked), Err(Denial::Revoked)));
    // Another's serial is nobody's here.
    assert_eq!(judged(list(&root, 2, &[3], Scope::All)).0, Ok(()));
}

#[test]
fn nobody_elses_ca_names_anybody_in_our_trust_domain() {
    let factory = ca("Factory", 1, None);
    let own = identity::TrustDomain::parse("keybound.test").expect("legal");
    let anchors = of(&[anchor("factory", &[&factory], None)]).beside(own);
    let voucher = Voucher {
        authority: factory.certificate.fingerprint(),
        is_issuer: true,
    };
    let check = |uri: &str, expected: Result<(), ReadError>| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "pump");
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().expect("ASCII"))];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &factory.issuer);
        let certificate = certificate.expect("a certificate");
        let read = anchors.read(certificate.der(), voucher).expect("an anchor");
        assert_eq!(read.map(|_| ()), expected, "{uri}");
    };
    let ours = Err(ReadError::OwnTrustDomain);
    check("spiffe://keybound.test/device/victim", ours);
    check("SPIFFE://Keybound.Test/device/victim", ours);
    check("spiffe://keybound.test", ours);
    check("spiffe://keybound.test:8443/x", ours);
    check("spiffe://keybound.tests/device/victim", Ok(()));
    check("spiffe://factory.test/device/victim", Ok(()));
    check("urn:factory:pump", Ok(()));
}

#[test]
fn what_a_device_was_called_it_is_called_or_it_is_refused() {
    let (one, other) = (ca("One", 1, None), ca("Other", 1, None));
    let der = device(&one, 6, "pump");
    let before = of(&[
        anchor("factory", &[&one], None),
        anchor("depot", &[&other], None),
    ]);
    let pump = lineage(&before, &one, true, &der);
    let namesake = lineage(&before, &other, true, &device(&other, 6, "pump"));
    assert_ne!(pump.id(), namesake.id());
    let check = |after: &[ForeignAnchor], expected| {
        assert_eq!(of(after).check(&pump, NOW), expected);
    };
    let same = || anchor("factory", &[&one], None);
    check(&[same()], Ok(()));
    check(&[], Err(Denial::AnchorRemoved));
    check(
        &[anchor("factory", &[&other], None)],
        Err(Denial::AnchorRemoved),
    );
    check(
        &[anchor("plant", &[&one], None)],
        Err(Denial::AnchorRemoved),
    );
    let with = |id_from| ForeignAnchor { id_from, ..same() };
    check(&[with(IdRule::DnsSan)], Err(Denial::AnchorRemoved));

    // Of a table only the certificate's own line matters.
    let table = |text: &str| IdRule::Table(identity::foreign::Table::parse(text).expect("a table"));
    let own = Fingerprint::of(&der);
    let before = of(&[with(table(&format!("{own},pump\n")))]);
    let pump = lineage(&before, &one, true, &der);
    let others = "0".repeat(64);
    for (text, expected) in [
        (format!("{own},pump\n{others},fan\n"), Ok(())),
        (format!("{own},fan\n"), Err(Denial::AnchorRemoved)),
        (format!("{others},pump\n"), Err(Denial::AnchorRemoved)),
    ] {
        assert_eq!(
            of(&[with(table(&text))]).check(&pump, NOW),
            expected,
            "{text}"
        );
    }
}

#[test]
fn anchors_that_cannot_stand_beside_each_other() {
    let (one, other) = (ca("One", 1, None), ca("Other", 1, None));
    let check = |anchors: &[ForeignAnchor], expected: &[(usize, ForeignFault)]| {
        let faults = ForeignAnchors::new(anchors).map(|_| ()).err();
        assert_eq!(faults.unwrap_or_default(), expected);
    };
    let fingerprint = |ca: &Ca| ca.certificate.fingerprint();
    check(
        &[anchor("a", &[&one], None), anchor("b", &[&other], None)],
        &[],
    );
    check(
        &[
            anchor("a", &[&one], None),
            anchor("a", &[&other, &one], None),
        ],
        &[
            (1, ForeignFault::SameName(Name::parse("a").expect("legal"))),
            (1, ForeignFault::SameAuthority(fingerprint(&one))),
        ],
    );
    let lists = [list(&one, 1, &[], Scope::All)];
    check(
        &[anchor("a", &[&one, &other], Some(&lists))],
        &[(0, ForeignFault::NoList(fingerprint(&other)))],
    );
}
