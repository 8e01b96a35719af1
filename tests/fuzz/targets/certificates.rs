//! The reader of a certificate's identity: what it accepts has exactly one name, found again by two other readers. And
//! the dialects in which any certificate is told: whatever names stand in it, they stay where names stand.
#![no_main]

use identity::certificate::Parsed;
use identity::{Fingerprint, Serial, SpiffeId};
use keybound_fuzz::der::{self, Element, Node, Value};
use keybound_fuzz::random::Random;
use keybound_fuzz::seeds;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

fuzz_target!(init: seeds::write_if_asked(first_inputs), |bytes: &[u8]| {
    let Ok(parsed) = Parsed::from_der(bytes) else {
        return;
    };
    dialects(&CertificateDer::from(bytes));
    let validity = parsed.validity();
    let name = parsed.spiffe_id();
    let Ok(leaf) = parsed.leaf() else {
        return;
    };
    assert_eq!(name.as_ref(), Ok(&leaf.spiffe_id));
    assert_eq!(validity, leaf.validity);
    let text = leaf.spiffe_id.to_string();
    assert_eq!(SpiffeId::parse(&text), Ok(leaf.spiffe_id));
    assert!(text.bytes().all(|byte| matches!(byte, 0x21..=0x7e)));

    // Wherever a leaf is read, this reader has stood before: in the handshake, or in the check of what was signed.
    let der = CertificateDer::from(bytes);
    let Ok(theirs) = webpki::EndEntityCert::try_from(&der) else {
        return;
    };
    assert!(theirs.valid_uri_names().eq([text.as_str()]));
    assert_eq!(theirs.valid_dns_names().count(), 0);

    let read = Certificate::read(bytes).expect("accepted, and not even a certificate to a second reader");
    assert_eq!(leaf.certificate, Fingerprint::of(bytes));
    assert_eq!(leaf.tbs, Fingerprint::of(read.tbs.raw));
    assert!(read.serial.content.first().is_some_and(|first| *first < 0x80));
    assert_eq!(Serial::from_der_content(read.serial.content), Some(leaf.serial));
    let identifiers: Vec<&[u8]> = read.extensions.iter().map(|(identifier, _)| *identifier).collect();
    for (at, identifier) in identifiers.iter().enumerate() {
        assert!(!identifiers[..at].contains(identifier), "an extension stands there twice");
    }
    let [san] = der::children(read.extension(SUBJECT_ALT_NAME).expect("there is a name"), der::SEQUENCE)
        .expect("the names are a SEQUENCE that fills the extension")[..]
    else {
        panic!("not exactly one name");
    };
    assert_eq!((san.tag, san.content), (0x86, text.as_bytes()));
    let usage = der::only(read.extension(KEY_USAGE).expect("there is a KeyUsage")).expect("one BIT STRING");
    assert!(usage.tag == der::BIT_STRING && usage.content.get(1).is_some_and(|bits| bits & 0x80 != 0));
    let extended = der::children(read.extension(EXTENDED_KEY_USAGE).expect("there is one"), der::SEQUENCE);
    assert!(extended.expect("a SEQUENCE").iter().any(|usage| usage.content == CLIENT_AUTH));
    if let Some(constraints) = read.extension(BASIC_CONSTRAINTS) {
        let constraints = der::children(constraints, der::SEQUENCE).expect("a SEQUENCE");
        assert!(constraints.iter().all(|element| element.tag != 0x01 || element.content == [0]));
    }
});

/// No name in the certificate begins a field of its own, or hides one.
fn dialects(certificate: &CertificateDer<'_>) {
    for (name, value) in gateway::fuzzing::dialects(certificate) {
        assert!(
            value.bytes().all(|byte| matches!(byte, 0x20..=0x7e)),
            "{name}: {value}"
        );
        let (fields, keys): (_, &[&str]) = match name.as_str() {
            "x-forwarded-client-cert" => {
                let plain = value.replace("\\\"", "");
                assert!(!plain.contains('\\'), "{value}");
                (plain, &["Hash", "Cert", "Chain", "Subject", "URI", "DNS"])
            }
            "x-forwarded-tls-client-cert-info" => (
                value
                    .replace("%22", "\"")
                    .replace("%3B", ";")
                    .replace("%3D", "="),
                &["Subject", "Issuer", "SerialNumber", "NB", "NA", "SAN"],
            ),
            _ => continue,
        };
        // Between quotation marks are values; before them stand keys.
        let parts: Vec<&str> = fields.split('"').collect();
        assert!(parts.len() % 2 == 1 && parts.last() == Some(&""), "{value}");
        for (at, key) in parts.iter().step_by(2).enumerate().take(parts.len() / 2) {
            let key = if at == 0 {
                Some(*key)
            } else {
                key.strip_prefix(';')
            };
            let key = key.and_then(|key| key.strip_suffix('='));
            assert!(
                key.is_some_and(|key| keys.contains(&key)),
                "{key:?} in {value}"
            );
        }
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(u64::from(seed));
    let Some(mut nodes) = der::parse(&data[..size]).filter(|_| random.below(4) > 0) else {
        return fuzzer_mutate(data, size, max_size);
    };
    for _ in 0..=random.below(2) {
        der::mutate(&mut nodes, &palette(), &mut random, &mut |bytes| {
            let size = bytes.len();
            bytes.resize(size + 16, 0);
            let length = fuzzer_mutate(bytes, size, size + 16);
            bytes.truncate(length);
        });
    }
    let bytes = der::encode(&nodes);
    if bytes.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
});

/// Names, and extensions with names.
fn palette() -> Vec<Node> {
    let bytes = |tag, bytes: &[u8]| Node {
        tag,
        value: Value::Bytes(bytes.to_vec()),
    };
    let extension = |identifier: &[u8], value: Vec<Node>| Node {
        tag: der::SEQUENCE,
        value: Value::Nodes(
            vec![],
            vec![
                bytes(der::OID, identifier),
                Node {
                    tag: der::OCTET_STRING,
                    value: Value::Nodes(vec![], value),
                },
            ],
        ),
    };
    let sequence = |nodes| {
        vec![Node {
            tag: der::SEQUENCE,
            value: Value::Nodes(vec![], nodes),
        }]
    };
    let uri = bytes(0x86, b"spiffe://keybound.local/device/b");
    vec![
        uri.clone(),
        bytes(0x82, b"b.example"),
        bytes(0x81, b"b@example"),
        bytes(0x87, &[127, 0, 0, 1]),
        extension(SUBJECT_ALT_NAME, sequence(vec![uri.clone()])),
        extension(SUBJECT_ALT_NAME, sequence(vec![uri.clone(), uri])),
        extension(KEY_USAGE, vec![bytes(der::BIT_STRING, &[7, 0x80])]),
        extension(
            EXTENDED_KEY_USAGE,
            sequence(vec![bytes(der::OID, CLIENT_AUTH)]),
        ),
        extension(BASIC_CONSTRAINTS, sequence(vec![bytes(0x01, &[0xff])])),
        extension(BASIC_CONSTRAINTS, sequence(vec![bytes(0x01, &[1])])),
    ]
}

/// A certificate as a second reader sees it.
struct Certificate<'a> {
    tbs: Element<'a>,
    serial: Element<'a>,
    extensions: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Certificate<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let [tbs, _, _] = der::children(bytes, der::SEQUENCE)?[..] else {
            return None;
        };
        let fields = der::children(tbs.raw, der::SEQUENCE)?;
        let serial = *fields.iter().find(|field| field.tag != 0xa0)?;
        let list = fields.iter().find(|field| field.tag == 0xa3)?;
        let extensions = der::children(list.content, der::SEQUENCE)?
            .iter()
            .map(|extension| {
                let parts = der::all(extension.content)?;
                let (identifier, value) = (parts.first()?, parts.last()?);
                (value.tag == der::OCTET_STRING).then_some((identifier.content, value.content))
            })
            .collect::<Option<_>>()?;
        Some(Self {
            tbs,
            serial,
            extensions,
        })
    }

    fn extension(&self, identifier: &[u8]) -> Option<&'a [u8]> {
        let mut of = self
            .extensions
            .iter()
            .filter(|(found, _)| *found == identifier);
        of.next().map(|(_, value)| *value)
    }
}

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

fn first_inputs() -> Vec<Vec<u8>> {
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let certificate = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a");
        params.subject_alt_names = vec![uri("spiffe://keybound.local/device/a")];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(vec![0x12; 16].into());
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        params
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .to_vec()
    };
    vec![
        certificate(&|_| {}),
        certificate(&|p| p.subject_alt_names[0] = uri("spiffe://a.b-c_d/operator/X.y_z-1")),
        certificate(&|p| {
            p.subject_alt_names
                .push(uri("spiffe://keybound.local/device/b"))
        }),
        certificate(&|p| p.subject_alt_names.clear()),
        certificate(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        certificate(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        certificate(&|p| p.serial_number = Some(vec![0; 17].into())),
        certificate(&|p| {
            p.distinguished_name
                .push(DnType::OrganizationName, "Acme, \"Inc.\"\\");
            p.subject_alt_names = vec![
                uri("urn:a;URI=\"b\",By=c"),
                SanType::DnsName("a\";Hash=\"0".try_into().expect("ASCII")),
            ];
        }),
    ]
}
