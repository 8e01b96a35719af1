//! Certificate signing requests: what is accepted is DER, proves its key to another reader too, and leaves in the
//! certificate nothing but that key.
//!
//! Mutated requests are signed again with keys that are known here, so that the proof of possession does not end
//! every search at once.
#![no_main]

use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use ca::{Authority, Options, VerifiedCsr, fuzzing};
use identity::{DeviceId, Fingerprint, Serial, SpiffeId, Timestamp};
use keybound_fuzz::der::{self, Node, Value};
use keybound_fuzz::random::Random;
use keybound_fuzz::seeds;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

fuzz_target!(init: {
    seeds::write_if_asked(first_inputs);
    fixture();
}, |bytes: &[u8]| {
    let Ok(csr) = VerifiedCsr::from_der(bytes) else {
        return;
    };
    // The values of names, parameters and attributes are not looked into.
    assert!(
        der::has_least_lengths(bytes, 4),
        "accepted, and not DER"
    );
    let request = der::children(bytes, der::SEQUENCE).expect("three parts");
    let info = der::children(request[0].raw, der::SEQUENCE).expect("its fields");
    assert_eq!(info[2].raw, csr.key().spki());
    assert_eq!(csr.key().fingerprint(), Fingerprint::of(csr.key().spki()));
    assert!(is_canonical(csr.key().spki()));
    let fixture = fixture();
    let claims = csr.claims_at_most(&fixture.device, &fixture.spiffe_id);
    let certificate = fixture.certificate(&csr);
    assert_eq!(certificate.is_some(), claims);
    // A third reader; it takes no attribute that it knows in another form than usual.
    if let Ok((rest, theirs)) = X509CertificationRequest::from_der(bytes) {
        assert!(rest.is_empty());
        agree(&csr, &theirs, claims);
    }
    if let Some(certificate) = certificate {
        fixture.has_nothing_but_the_key(&certificate, csr.key().spki());
    }
});

fn agree(csr: &VerifiedCsr, theirs: &X509CertificationRequest<'_>, claims: bool) {
    match theirs.verify_signature() {
        // It knows fewer combinations than the policy.
        Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => {}
        Err(error) => panic!("{error}"),
    }
    let info = &theirs.certification_request_info;
    if csr.has_subject(&fixture().device) || claims {
        let names: Vec<_> = info.subject.iter_attributes().collect();
        let is_device = |name: &AttributeTypeAndValue<'_>| {
            name.attr_type().as_bytes() == [0x55, 4, 3] && name.as_slice() == b"a"
        };
        assert!(names.is_empty() && claims || matches!(names[..], [name] if is_device(name)));
    }
    if claims {
        for extension in theirs.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                let ours = "spiffe://keybound.local/device/a";
                assert!(matches!(names.general_names[..], [GeneralName::URI(uri)] if uri == ours));
            }
        }
    }
}

/// The four forms in which a key may come.
fn is_canonical(spki: &[u8]) -> bool {
    let p256 = spki.len() == 91 && spki.starts_with(P256);
    let p384 = spki.len() == 120 && spki.starts_with(P384);
    let ed25519 = spki.len() == 44 && spki.starts_with(ED25519);
    let rsa = der::children(spki, der::SEQUENCE).is_some_and(|parts| {
        let [algorithm, key] = parts[..] else {
            return false;
        };
        algorithm.raw == RSA
            && key.content.first() == Some(&0)
            && der::children(&key.content[1..], der::SEQUENCE).is_some_and(|numbers| {
                matches!(numbers[..], [modulus, exponent]
                    if exponent.content == [1, 0, 1]
                        && modulus.tag == der::INTEGER
                        && (256..=1025).contains(&modulus.content.len())
                        && modulus.content[0] < 0x80)
            })
    });
    p256 || p384 || ed25519 || rsa
}

const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 3, 0x42, 0, 4,
];
const P384: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22,
    3, 0x62, 0, 4,
];
const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
const RSA: &[u8] = &[
    0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
];

struct Fixture {
    authority: Authority,
    device: DeviceId,
    spiffe_id: SpiffeId,
    plain: Vec<u8>,
    _directory: tempfile::TempDir,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open(Options {
            directory: directory.path().join("data/ca"),
            trust_domain: None,
            passphrase: None,
            device_certificate_life: std::time::Duration::from_secs(24 * 60 * 60),
        });
        let mut fixture = Fixture {
            authority: authority.expect("an authority"),
            device: DeviceId::parse("a").expect("legal"),
            spiffe_id: SpiffeId::parse("spiffe://keybound.local/device/a").expect("legal"),
            plain: Vec::new(),
            _directory: directory,
        };
        let csr = VerifiedCsr::from_der(&request(&ed25519(), |_| {})).expect("acceptable");
        fixture.plain = fixture.certificate(&csr).expect("a certificate");
        fixture
    })
}

impl Fixture {
    fn certificate(&self, csr: &VerifiedCsr) -> Option<Vec<u8>> {
        let serial: Serial = "0123456789abcdef0123456789abcdef"
            .parse()
            .expect("hexadecimal");
        let now = Timestamp(1_800_000_000);
        fuzzing::certificate(&self.authority, &self.device, csr, serial, now)
    }

    /// Compares with the certificate of a request that asks for nothing.
    fn has_nothing_but_the_key(&self, certificate: &[u8], spki: &[u8]) {
        let (_, plain) = X509Certificate::from_der(&self.plain).expect("ours");
        let (rest, ours) = X509Certificate::from_der(certificate).expect("ours");
        assert!(rest.is_empty());
        assert_eq!(ours.public_key().raw, spki);
        assert_eq!(ours.version(), plain.version());
        assert_eq!(ours.raw_serial(), plain.raw_serial());
        assert_eq!(ours.subject().as_raw(), plain.subject().as_raw());
        assert_eq!(ours.issuer().as_raw(), plain.issuer().as_raw());
        assert_eq!(ours.validity(), plain.validity());
        assert_eq!(
            ours.tbs_certificate.signature,
            plain.tbs_certificate.signature
        );
        assert_eq!(ours.extensions().len(), plain.extensions().len());
        for (one, other) in ours.extensions().iter().zip(plain.extensions()) {
            assert_eq!((&one.oid, one.critical), (&other.oid, other.critical));
            let is_key_identifier = one.oid.as_bytes() == [0x55, 0x1d, 0x0e];
            assert!(one.value == other.value || is_key_identifier);
            assert_eq!(one.value.len(), other.value.len());
        }
        let leaf =
            identity::certificate::Parsed::from_der(certificate).and_then(|parsed| parsed.leaf());
        assert_eq!(leaf.expect("a leaf").spiffe_id, self.spiffe_id);
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(u64::from(seed));
    let Some(mut nodes) = der::parse(&data[..size]).filter(|_| random.below(8) > 0) else {
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
    sign_again(&mut nodes);
    let bytes = der::encode(&nodes);
    if bytes.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
});

/// Replaces the signature, if the request holds one of the known keys.
fn sign_again(nodes: &mut [Node]) {
    let [
        Node {
            value: Value::Nodes(_, parts),
            ..
        },
    ] = nodes
    else {
        return;
    };
    let [info, _, signature] = parts.as_mut_slice() else {
        return;
    };
    let signed = der::encode(std::slice::from_ref(info));
    let holds = |key: &[u8]| signed.windows(key.len()).any(|window| window == key);
    let bytes = if holds(ed25519_pair().public_key().as_ref()) {
        ed25519_pair().sign(&signed).as_ref().to_vec()
    } else if holds(&p256_pair().public_key().as_ref()[1..33]) {
        let signature = p256_pair().sign(&SystemRandom::new(), &signed);
        signature.expect("it signs").as_ref().to_vec()
    } else {
        return;
    };
    signature.value = Value::Bytes([&[0], bytes.as_slice()].concat());
}

fn ed25519_pair() -> &'static Ed25519KeyPair {
    static PAIR: OnceLock<Ed25519KeyPair> = OnceLock::new();
    PAIR.get_or_init(|| Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("any seed is a key"))
}

/// Its private key is 1, so its public key is the curve's base point.
fn p256_pair() -> &'static EcdsaKeyPair {
    static PAIR: OnceLock<EcdsaKeyPair> = OnceLock::new();
    PAIR.get_or_init(|| {
        let mut private = [0; 32];
        private[31] = 1;
        EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &private,
            P256_BASE_POINT,
        )
        .expect("a key pair")
    })
}

const P256_BASE_POINT: &[u8] = &[
    0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40,
    0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2,
    0x96, 0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e,
    0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51,
    0xf5,
];

fn palette() -> Vec<Node> {
    let bytes = |tag, bytes: &[u8]| Node {
        tag,
        value: Value::Bytes(bytes.to_vec()),
    };
    let nodes = |tag, nodes: Vec<Node>| Node {
        tag,
        value: Value::Nodes(vec![], nodes),
    };
    let name = |text: &[u8]| {
        let attribute = nodes(
            der::SEQUENCE,
            vec![bytes(der::OID, &[0x55, 4, 3]), bytes(0x0c, text)],
        );
        nodes(der::SET, vec![attribute])
    };
    let challenge = nodes(
        der::SEQUENCE,
        vec![
            bytes(der::OID, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7]),
            nodes(der::SET, vec![bytes(0x0c, b"secret")]),
        ],
    );
    vec![
        name(b"a"),
        name(b"b"),
        bytes(0x86, b"spiffe://keybound.local/device/a"),
        bytes(0x86, b"spiffe://keybound.local/device/b"),
        bytes(0x82, b"b.example"),
        challenge,
    ]
}

fn ed25519() -> KeyPair {
    let mut pkcs8 = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    pkcs8.extend([1; 32]);
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).expect("a key")
}

fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params
        .serialize_request(key)
        .expect("a request")
        .der()
        .to_vec()
}

fn first_inputs() -> Vec<Vec<u8>> {
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let named = |p: &mut CertificateParams| p.distinguished_name.push(DnType::CommonName, "a");
    let p256 = KeyPair::generate().expect("a key");
    let mut base_point = der::parse(&request(&p256, named)).expect("DER");
    replace_point(&mut base_point);
    sign_again(&mut base_point);
    vec![
        request(&ed25519(), |_| {}),
        request(&ed25519(), named),
        request(&ed25519(), |p| {
            named(p);
            p.subject_alt_names = vec![uri("spiffe://keybound.local/device/a")];
            p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
        request(&ed25519(), |p| {
            p.subject_alt_names = vec![uri("spiffe://keybound.local/device/b")]
        }),
        request(&ed25519(), |p| {
            p.distinguished_name.push(DnType::OrganizationName, "a")
        }),
        der::encode(&base_point),
        request(&p256, named),
        request(&p384, named),
        request(&rsa, named),
    ]
}

/// Puts the curve's base point where a P-256 key is.
fn replace_point(nodes: &mut [Node]) {
    for node in nodes {
        match &mut node.value {
            Value::Bytes(bytes) if bytes.len() == 66 && bytes.starts_with(&[0, 4]) => {
                bytes.splice(1.., P256_BASE_POINT.iter().copied());
            }
            Value::Bytes(_) => {}
            Value::Nodes(_, nodes) => replace_point(nodes),
        }
    }
}
