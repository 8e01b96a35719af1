use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};

use super::*;
use crate::name::NameError;

fn read(
    rule: &IdRule,
    change: impl FnOnce(&mut CertificateParams),
) -> Result<ForeignLeaf, ReadError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(vec![1, 2, 3]));
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let parsed = Parsed::from_der(certificate.der()).expect("a certificate");
    ForeignLeaf::read(&parsed, rule)
}

fn check(
    rule: &IdRule,
    change: impl FnOnce(&mut CertificateParams),
    expected: Result<&str, ReadError>,
) {
    let leaf = read(rule, change);
    assert_eq!(
        leaf.map(|leaf| leaf.id.to_string()),
        expected.map(str::to_owned)
    );
}

fn names(names: &[SanType]) -> impl FnOnce(&mut CertificateParams) + use<> {
    let names = names.to_vec();
    move |p| p.subject_alt_names = names
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

#[test]
fn uri_names_after_their_prefix() {
    let rule = IdRule::UriSan {
        prefix: "spiffe://factory.example/device/".into(),
    };
    let good = uri("spiffe://factory.example/device/Pump-7");
    check(&rule, names(std::slice::from_ref(&good)), Ok("Pump-7"));
    let beside = [dns("anything.example"), good.clone()];
    check(&rule, names(&beside), Ok("Pump-7"));
    check(&rule, names(&[]), Err(ReadError::NoName));
    check(
        &rule,
        names(&[dns("a")]),
        Err(ReadError::NamesOfType { count: 0 }),
    );
    check(
        &rule,
        names(&[good.clone(), uri("spiffe://factory.example/device/b")]),
        Err(ReadError::NamesOfType { count: 2 }),
    );
    check(
        &rule,
        names(&[good.clone(), good]),
        Err(ReadError::NamesOfType { count: 2 }),
    );
    for other in [
        "spiffe://factory.example/device",
        "SPIFFE://factory.example/device/a",
        "spiffe://factory.example.evil/device/a",
        "spiffe://Factory.example/device/a",
    ] {
        check(&rule, names(&[uri(other)]), Err(ReadError::UriPrefix));
    }
    for (id, error) in [
        ("", NameError::Empty),
        (
            "a/b",
            NameError::Character {
                character: '/',
                position: 1,
            },
        ),
        (
            "a%62",
            NameError::Character {
                character: '%',
                position: 1,
            },
        ),
        (
            "a\0b",
            NameError::Character {
                character: '\0',
                position: 1,
            },
        ),
        (
            "a\";URI=urn:b",
            NameError::Character {
                character: '"',
                position: 1,
            },
        ),
        (
            "a\r\nX: y",
            NameError::Character {
                character: '\r',
                position: 1,
            },
        ),
        ("..", NameError::Start { character: '.' }),
    ] {
        let name = uri(&format!("spiffe://factory.example/device/{id}"));
        check(&rule, names(&[name]), Err(ReadError::NotId(error)));
    }
}

#[test]
fn dns_names_in_lower_case() {
    let rule = IdRule::DnsSan;
    check(
        &rule,
        names(&[dns("pump-7.factory.example")]),
        Ok("pump-7.factory.example"),
    );
    check(&rule, names(&[dns("pump-7"), uri("urn:x")]), Ok("pump-7"));
    check(
        &rule,
        names(&[uri("urn:x")]),
        Err(ReadError::NamesOfType { count: 0 }),
    );
    check(
        &rule,
        names(&[dns("a"), dns("b")]),
        Err(ReadError::NamesOfType { count: 2 }),
    );
    for refused in [
        "Pump-7",
        "*.factory.example",
        "a.",
        "a\0.example",
        "",
        "-a",
        "a_b",
        "a b",
    ] {
        check(&rule, names(&[dns(refused)]), Err(ReadError::NotDnsName));
    }
}

fn subject(attributes: &[(DnType, DnValue)]) -> impl FnOnce(&mut CertificateParams) + use<> {
    let attributes = attributes.to_vec();
    move |p| {
        for (kind, value) in attributes {
            p.distinguished_name.push(kind, value);
        }
    }
}

#[test]
fn one_common_name() {
    let rule = IdRule::CommonName;
    let cn = |value: DnValue| {
        subject(&[
            (DnType::OrganizationName, "Factory".into()),
            (DnType::CommonName, value),
        ])
    };
    let printable = DnValue::PrintableString("Pump-7".try_into().expect("printable"));
    check(&rule, cn(printable), Ok("Pump-7"));
    check(&rule, cn("Pump-7".into()), Ok("Pump-7"));
    check(
        &rule,
        subject(&[]),
        Err(ReadError::NamesOfType { count: 0 }),
    );
    let bmp = DnValue::BmpString("Pump-7".try_into().expect("BMP"));
    check(&rule, cn(bmp), Err(ReadError::CommonNameType));
    let teletex = DnValue::TeletexString("Pump-7".try_into().expect("teletex"));
    check(&rule, cn(teletex), Err(ReadError::CommonNameType));
    for (text, character, position) in [
        ("pump\0.evil", '\0', 4),
        ("pump\r\nX-Device-Id: admin", '\r', 4),
        ("pump\";URI=\"urn:admin", '"', 4),
        ("pump, CN=admin", ',', 4),
        // A Cyrillic letter that looks like the Latin one.
        ("p\u{443}mp", '\u{443}', 1),
        (" pump", ' ', 0),
    ] {
        let error = NameError::Character {
            character,
            position,
        };
        check(&rule, cn(text.into()), Err(ReadError::NotId(error)));
    }
}

/// Subjects that the certificate maker cannot write.
#[test]
fn common_names_that_share() {
    let replaced = |attributes: &[u8]| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(
            DnType::CommonName,
            "012345678901234567890123456789012345678901",
        );
        params.serial_number = Some(SerialNumber::from(vec![1]));
        let key = KeyPair::generate().expect("a key");
        let der = params
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .to_vec();
        // Issuer and subject are the same 53 bytes, of which the second is the subject.
        let at = der
            .windows(2)
            .rposition(|two| two == [0x31, 0x33])
            .expect("the RDN");
        assert_eq!(attributes.len(), 53);
        [&der[..at], attributes, &der[at + 53..]].concat()
    };
    let read = |der: &[u8]| {
        let parsed = Parsed::from_der(der).expect("a certificate");
        ForeignLeaf::read(&parsed, &IdRule::CommonName).map(|leaf| leaf.id.to_string())
    };
    let attribute = |oid: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).expect("short");
        let inner = [&[6, 3, 0x55, 4, oid, 0x0c, length][..], value].concat();
        [&[0x30, length + 7][..], &inner].concat()
    };
    let set = |attributes: &[Vec<u8>]| {
        let content = attributes.concat();
        [
            &[0x31, u8::try_from(content.len()).expect("short")][..],
            &content,
        ]
        .concat()
    };
    // Lengths are chosen so that each has 53 bytes.
    let two = [
        set(&[attribute(3, b"a123456789a12")]),
        set(&[attribute(3, b"b123456789b1234567")]),
    ]
    .concat();
    let expected = Err(ReadError::NamesOfType { count: 2 });
    assert_eq!(read(&replaced(&two)), expected);
    let shared = set(&[
        attribute(3, b"a123456789a12345"),
        attribute(10, b"b123456789b123456"),
    ]);
    assert_eq!(read(&replaced(&shared)), Err(ReadError::CommonNameShared));
    let beside = [
        set(&[attribute(3, b"a123456789a12")]),
        set(&[attribute(10, b"b123456789b1234567")]),
    ]
    .concat();
    assert_eq!(read(&replaced(&beside)), Ok("a123456789a12".into()));
}

#[test]
fn usages_restrict_where_they_stand() {
    let rule = IdRule::CommonName;
    let named = |change: fn(&mut CertificateParams)| {
        move |p: &mut CertificateParams| {
            p.distinguished_name.push(DnType::CommonName, "a");
            change(p);
        }
    };
    check(&rule, named(|_| {}), Ok("a"));
    check(
        &rule,
        named(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        Ok("a"),
    );
    check(
        &rule,
        named(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        Err(ReadError::NoDigitalSignature),
    );
    check(
        &rule,
        named(|p| {
            p.key_usages = vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
            ]
        }),
        Err(ReadError::IsCa),
    );
    check(
        &rule,
        named(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        Err(ReadError::IsCa),
    );
    check(
        &rule,
        named(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        Ok("a"),
    );
    check(
        &rule,
        named(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        Err(ReadError::NoClientAuth),
    );
    check(
        &rule,
        named(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
        Err(ReadError::NoClientAuth),
    );
}

#[test]
fn serials_that_a_list_can_name() {
    let serial = |bytes: &[u8]| ForeignSerial::from_der_content(bytes).map(|s| s.to_string());
    assert_eq!(serial(&[1, 2]), Some("0102".into()));
    assert_eq!(serial(&[0, 0x80]), Some("80".into()));
    let longest = [&[0][..], &[0xff; 20]].concat();
    assert_eq!(serial(&longest), Some("FF".repeat(20)));
    for refused in [&[][..], &[0], &[0x80], &[0, 1], &[1; 21], &[0; 21]] {
        assert_eq!(serial(refused), None, "{refused:?}");
    }
    let wide = |p: &mut CertificateParams| {
        p.distinguished_name.push(DnType::CommonName, "a");
        p.serial_number = Some(SerialNumber::from(vec![1; 21]));
    };
    check(&IdRule::CommonName, wide, Err(ReadError::SerialOutOfRange));
}

#[test]
fn tables() {
    let (one, other) = ("ab".repeat(32), "CD:".repeat(31) + "CD");
    let text = format!("fingerprint,id\n# old ones\n{one},pump-7\r\n\n{other},pump-7\n");
    let table = Table::parse(&text).expect("a table");
    assert_eq!(table.len(), 2);
    let found = table.id_of(&other.replace(':', "").parse().expect("digits"));
    assert_eq!(found.map(DeviceId::as_str), Some("pump-7"));
    let fault = |text: &str| {
        Table::parse(text)
            .map(|_| ())
            .map_err(|fault| (fault.line, fault.kind))
    };
    let third = "ef".repeat(32);
    assert_eq!(
        fault(&format!("{one},pump-7\n{third},Pump-7")),
        Err((2, TableFaultKind::SameButForCase))
    );
    assert_eq!(
        fault(&format!("{one},a\n{one},a")),
        Err((2, TableFaultKind::Twice))
    );
    assert_eq!(fault("abc"), Err((1, TableFaultKind::NotTwoFields)));
    assert_eq!(fault("abc,a"), Err((1, TableFaultKind::Fingerprint)));
    let id = NameError::Character {
        character: ' ',
        position: 0,
    };
    assert_eq!(
        fault(&format!("{one}, a")),
        Err((1, TableFaultKind::Id(id)))
    );
    assert_eq!(fault(""), Ok(()));

    check(&IdRule::Table(table), |_| {}, Err(ReadError::NotInTable));
}

#[test]
fn a_table_names_exactly_one_certificate() {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::default()
        .self_signed(&key)
        .expect("a certificate");
    let fingerprint = Fingerprint::of(certificate.der());
    let table = Table::parse(&format!("{fingerprint},pump-7")).expect("a table");
    let parsed = Parsed::from_der(certificate.der()).expect("a certificate");
    let leaf = ForeignLeaf::read(&parsed, &IdRule::Table(table));
    assert_eq!(leaf.map(|leaf| leaf.id.to_string()), Ok("pump-7".into()));
}

#[test]
fn a_foreign_id_reads_like_no_id_of_ours() {
    let id = ForeignId {
        anchor: Name::parse("factory").expect("legal"),
        id: DeviceId::parse("pump-7").expect("legal"),
    };
    assert_eq!(id.to_string(), "factory:pump-7");
    assert!(DeviceId::parse(&id.to_string()).is_err());
}
