//! An oracle for the chain check and the reader: whatever they accept, OpenSSL accepts too, by its strict rules.
//!
//! The certificates are odd in fields and single bits, and most of them are signed as they are, so that a
//! disagreement is about reading and not about signatures.
#![allow(clippy::print_stdout)] // Figures; tests/run lists them.
#![allow(clippy::needless_borrows_for_generic_args)] // A borrow in each place reads more evenly.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use identity::Timestamp;
use identity::certificate::Parsed;
use identity::chain::Anchors;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SigningKey as _, date_time_ymd,
};
use rustls_pki_types::CertificateDer;

const NOW: Timestamp = Timestamp(1_780_000_000);

/// What OpenSSL refuses and we accept, and why that is right.
const EXCEPTIONS: &[&str] = &[
    // The key identifier only helps to find an issuer (RFC 5280, section 4.2.1.1); here the issuer is the anchor, whose
    // signature was checked.
    "Missing Authority Key Identifier",
    "unable to get local issuer certificate",
    // Nobody reads the subject.
    "Subject empty and Subject Alt Name extension not critical",
];

#[test]
fn openssl_accepts_what_we_accept() {
    let count = if std::env::var_os("KEYBOUND_LONG").is_some() {
        50_000
    } else {
        3_000
    };
    let seed = std::env::var("KEYBOUND_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let mut random = Random(seed);
    let ours = Authority::new("Device CA");
    let pretender = Authority::new("Device CA");
    let anchors = Anchors::new(&[CertificateDer::from(ours.certificate.clone())]).expect("anchor");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-{seed}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join("ca.pem"), pem(&ours.certificate)).expect("written");

    let (mut both, mut we_alone, mut they_alone, mut neither) = (0, 0, 0, 0);
    let mut by_mutation: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut disagreements = Vec::new();
    let mut done = 0;
    while done < count {
        let batch: Vec<_> = (0..500.min(count - done))
            .map(|_| candidate(&mut random, &ours, &pretender))
            .collect();
        done += batch.len();
        let theirs = openssl(&directory, &batch);
        for ((der, mutations), verdict) in batch.iter().zip(theirs) {
            let accepted = accepts(&anchors, &ours.template.key, der);
            for mutation in mutations {
                let entry = by_mutation.entry(mutation).or_default();
                entry.0 += 1;
                entry.1 += usize::from(accepted);
            }
            match (accepted, verdict) {
                (true, true) => both += 1,
                (false, true) => they_alone += 1,
                (false, false) => neither += 1,
                (true, false) => {
                    let reason = reason(&directory, der);
                    // Nobody reads the subject; OpenSSL loads no certificate whose subject is no name.
                    let odd_subject = !contains(der, &ours.template.subject);
                    let listed = EXCEPTIONS.iter().any(|one| reason.contains(one));
                    if !listed && !odd_subject {
                        disagreements.push((reason, mutations.clone(), hex(der)));
                    }
                    we_alone += 1;
                }
            }
        }
    }
    println!(
        "figure: odd certificates judged by us and OpenSSL (seed {seed}): {count}, both accept {both}, \
         neither {neither}, only OpenSSL {they_alone}, only we (listed exceptions) {we_alone}"
    );
    for (mutation, (tried, accepted)) in &by_mutation {
        println!("{mutation}: {tried} tried, {accepted} accepted");
    }
    let mut reasons: BTreeMap<&String, (usize, _)> = BTreeMap::new();
    for (reason, mutations, der) in &disagreements {
        reasons.entry(reason).or_insert((0, (mutations, der))).0 += 1;
    }
    assert!(
        disagreements.is_empty(),
        "seed {seed}, each with an example: {reasons:#?}"
    );
    // It is about something: enough gets through, and enough does not.
    assert!(both > count / 20 && neither > count / 5, "{both} {neither}");
}

/// Whether the gateway would let a request of its holder pass, if the registry knew the certificate.
fn accepts(anchors: &Anchors, key: &[u8], der: &[u8]) -> bool {
    // Whoever has a key that is none proves possession of nothing.
    if !contains(der, key) {
        return false;
    }
    let certificate = CertificateDer::from(der);
    if anchors.verify(&certificate, &[], NOW).is_err() {
        return false;
    }
    let Ok(leaf) = Parsed::from_der(der).and_then(|parsed| parsed.leaf()) else {
        return false;
    };
    let name = leaf.spiffe_id.to_string();
    assert!(
        contains(der, name.as_bytes()),
        "{name} does not stand in {}",
        hex(der)
    );
    leaf.validity.not_before <= NOW && NOW <= leaf.validity.not_after
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// Which of them `openssl verify` accepts, in one process.
fn openssl(directory: &Path, batch: &[(Vec<u8>, Vec<&'static str>)]) -> Vec<bool> {
    let names: Vec<_> = (0..batch.len())
        .map(|number| format!("{number}.pem"))
        .collect();
    for (name, (der, _)) in names.iter().zip(batch) {
        fs::write(directory.join(name), pem(der)).expect("written");
    }
    let (accepted, _) = verify(directory, &names);
    let accepted: HashSet<&str> = accepted
        .lines()
        .filter_map(|line| line.strip_suffix(": OK"))
        .collect();
    names
        .iter()
        .map(|name| accepted.contains(name.as_str()))
        .collect()
}

/// Why OpenSSL refuses one of them.
fn reason(directory: &Path, der: &[u8]) -> String {
    let name = "one.pem".to_owned();
    fs::write(directory.join(&name), pem(der)).expect("written");
    let (accepted, refused) = verify(directory, &[name]);
    assert_eq!(accepted, "", "refused before, accepted alone: {}", hex(der));
    let reasons: Vec<_> = refused
        .lines()
        .filter_map(|line| {
            let lookup = line
                .strip_prefix("error ")
                .filter(|line| line.contains("lookup: "));
            let library = line.split(":error:").nth(1);
            lookup.or(library.and_then(|text| text.split("../").next()))
        })
        .collect();
    reasons.join("; ")
}

fn verify(directory: &Path, names: &[String]) -> (String, String) {
    let output = Command::new("openssl")
        .current_dir(directory)
        .args([
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-partial_chain",
        ])
        .args(["-attime", &NOW.0.to_string(), "-CAfile", "ca.pem"])
        .args(names)
        .output()
        .expect("openssl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A certificate, and how it departs from the profile.
fn candidate(
    random: &mut Random,
    ours: &Authority,
    pretender: &Authority,
) -> (Vec<u8>, Vec<&'static str>) {
    let mut fields = ours.template.clone();
    let mut mutations = Vec::new();
    for _ in 0..random.below(3) {
        let (name, mutation) = *random.choose(FIELDS);
        mutation(&mut fields, random);
        mutations.push(name);
    }
    let mut tbs = fields.tbs();
    if random.below(4) == 0 {
        mutations.push("bits of the TBSCertificate");
        for _ in 0..=random.below(2) {
            let bit = random.below(tbs.len() * 8);
            tbs[bit / 8] ^= 1 << (bit % 8);
        }
    }
    let signer = if random.below(20) == 0 {
        mutations.push("another key");
        pretender
    } else {
        ours
    };
    let mut signature = vec![0];
    signature.extend(signer.issuer.key().sign(&tbs).expect("a signature"));
    let content = [tbs, fields.outer_algorithm, tlv(0x03, &signature)].concat();
    let mut der = tlv(0x30, &content);
    match random.below(24) {
        0 => {
            mutations.push("bits of the certificate");
            let bit = random.below(der.len() * 8);
            der[bit / 8] ^= 1 << (bit % 8);
        }
        1 => {
            mutations.push("a byte after the certificate");
            der.push(0);
        }
        2 => {
            mutations.push("indefinite length");
            der = [vec![0x30, 0x80], content, vec![0, 0]].concat();
        }
        3 => {
            mutations.push("a length with a leading zero");
            let length = u16::try_from(content.len()).expect("short").to_be_bytes();
            der = [vec![0x30, 0x83, 0], length.to_vec(), content].concat();
        }
        _ => {}
    }
    (der, mutations)
}

type Mutation = fn(&mut Fields, &mut Random);

/// Changes to fields (RFC 5280, section 4.1), by name.
const FIELDS: &[(&str, Mutation)] = &[
    ("version", |f, r| {
        let versions: [&[u8]; 6] = [
            &[],
            &[0xa0, 3, 2, 1, 0],
            &[0xa0, 3, 2, 1, 1],
            &[0xa0, 3, 2, 1, 3],
            &[0xa0, 4, 2, 2, 0, 2],
            &[0xa0, 3, 2, 1, 0xff],
        ];
        f.version = r.choose(&versions).to_vec();
    }),
    ("serial", |f, r| {
        let serials: [&[u8]; 8] = [
            &[],
            &[0],
            &[0x80],
            &[0xff, 0xff],
            &[0, 1],
            &[0x7f; 20],
            &[0x7f; 21],
            &[1],
        ];
        f.serial = tlv(0x02, r.choose(&serials));
    }),
    ("inner algorithm", |f, r| f.algorithm = algorithm(r)),
    ("outer algorithm", |f, r| f.outer_algorithm = algorithm(r)),
    ("both algorithms", |f, r| {
        f.algorithm = algorithm(r);
        f.outer_algorithm = f.algorithm.clone();
    }),
    ("issuer", |f, r| {
        let names = [
            name(&[]),
            name(&[b"Device CA "]),
            name(&[b"device ca"]),
            name(&[b"Device CA", b"x"]),
        ];
        f.issuer = r.choose(&names).clone();
    }),
    ("subject", |f, r| {
        let long = [b'x'; 70];
        let names = [
            name(&[]),
            name(&[b"a\0b"]),
            name(&[b"\xff"]),
            name(&[b"a", b"b"]),
            name(&[&long]),
        ];
        f.subject = r.choose(&names).clone();
    }),
    ("notBefore", |f, r| f.not_before = time(r)),
    ("notAfter", |f, r| f.not_after = time(r)),
    ("key", |f, r| {
        let at = r.below(f.key.len());
        f.key[at] ^= 1 << r.below(8);
    }),
    ("unique identifier", |f, r| {
        f.unique = tlv(*r.choose(&[0x81, 0x82, 0xa1]), &[0, 1])
    }),
    ("no extensions", |f, _| f.extensions.clear()),
    ("an extension less", |f, r| {
        if !f.extensions.is_empty() {
            f.extensions.remove(r.below(f.extensions.len()));
        }
    }),
    ("an extension twice", |f, r| {
        if !f.extensions.is_empty() {
            let one = f.extensions[r.below(f.extensions.len())].clone();
            f.extensions.push(one);
        }
    }),
    ("extensions in another order", |f, _| f.extensions.reverse()),
    ("critical", |f, r| {
        let value = *r.choose(&[0xff, 0, 1, 0xfe]);
        let oid = *r.choose(&[SAN, KU, EKU, BASIC, AKI, SKI]);
        let content = f.extensions.iter().find_map(|one| content(one, oid));
        if let Some(content) = content {
            f.extensions.retain(|one| self::content(one, oid).is_none());
            let fields = [tlv(6, oid), tlv(1, &[value]), tlv(4, &content)];
            f.extensions.push(tlv(0x30, &fields.concat()));
        }
    }),
    ("unknown extension", |f, r| {
        let critical = r.below(2) == 0;
        f.replace(&[0x2a, 3, 4], critical, &[5, 0]);
    }),
    ("subjectAltName", |f, r| {
        let uri = |text: &[u8]| tlv(0x86, text);
        let ours = uri(b"spiffe://keybound.test/device/a");
        let names = [
            vec![],
            [ours.clone(), ours.clone()].concat(),
            [ours.clone(), tlv(0x82, b"a.test")].concat(),
            uri(b"spiffe://keybound.test/device/"),
            uri(b"spiffe://keybound.test/device/a\0b"),
            uri(b"spiffe://keybound.test/device/\xff"),
            uri(b"https://a.test/"),
            tlv(0x82, b"a\0.test"),
            tlv(0xa6, b"spiffe://keybound.test/device/a"),
            tlv(0x9f, b"x"),
        ];
        let critical = r.below(2) == 0;
        f.replace(SAN, critical, &tlv(0x30, r.choose(&names)));
    }),
    ("subjectAltName with bytes after it", |f, _| {
        let names = tlv(0x30, &tlv(0x86, b"spiffe://keybound.test/device/a"));
        f.replace(SAN, false, &[names, vec![0]].concat());
    }),
    ("keyUsage", |f, r| {
        let usages: [&[u8]; 11] = [
            &[3, 2, 7, 0x80],
            &[3, 2, 0, 0x80],
            &[3, 2, 7, 0x81],
            &[3, 1, 0],
            &[3, 2, 2, 0x84],
            &[3, 2, 1, 0x86],
            &[3, 2, 3, 0x08],
            &[3, 3, 7, 0x80, 0x80],
            &[3, 3, 0, 0x80, 0],
            &[3, 2, 8, 0x80],
            &[2, 1, 5],
        ];
        let critical = r.below(2) == 0;
        f.replace(KU, critical, r.choose(&usages));
    }),
    ("extendedKeyUsage", |f, r| {
        let client: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
        let server: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
        let any: &[u8] = &[0x55, 0x1d, 0x25, 0];
        let usages: [&[&[u8]]; 8] = [
            &[client],
            &[server],
            &[any],
            &[],
            &[server, client],
            &[any, client],
            &[client, client],
            &[&[0x2a], client],
        ];
        let usages: Vec<_> = r
            .choose(&usages)
            .iter()
            .flat_map(|oid| tlv(6, oid))
            .collect();
        let critical = r.below(2) == 0;
        f.replace(EKU, critical, &tlv(0x30, &usages));
    }),
    ("basicConstraints", |f, r| {
        let constraints: [&[u8]; 8] = [
            &[0x30, 0],
            &[0x30, 3, 1, 1, 0],
            &[0x30, 3, 1, 1, 0xff],
            &[0x30, 3, 1, 1, 1],
            &[0x30, 6, 1, 1, 0xff, 2, 1, 0],
            &[0x30, 3, 2, 1, 0],
            &[0x30, 0, 0],
            &[],
        ];
        let critical = r.below(2) == 0;
        f.replace(BASIC, critical, r.choose(&constraints));
    }),
    ("authorityKeyIdentifier", |f, r| {
        let other = tlv(0x30, &tlv(0x80, &[7; 20]));
        let serial = tlv(
            0x30,
            &[tlv(0xa1, &tlv(0xa4, &name(&[b"x"]))), tlv(0x82, &[1])].concat(),
        );
        let values = [other, serial, tlv(0x30, &[]), vec![], vec![4, 0]];
        let critical = r.below(4) == 0;
        f.replace(AKI, critical, r.choose(&values));
    }),
    ("subjectKeyIdentifier", |f, r| {
        let values = [tlv(4, &[7; 20]), tlv(4, &[]), vec![5, 0]];
        let critical = r.below(4) == 0;
        f.replace(SKI, critical, r.choose(&values));
    }),
    ("nameConstraints", |f, r| {
        let uris = tlv(0x30, &tlv(0xa0, &tlv(0x30, &tlv(0x86, b".other.test"))));
        let critical = r.below(2) == 0;
        f.replace(&[0x55, 0x1d, 0x1e], critical, &uris);
    }),
    ("policyConstraints", |f, r| {
        let critical = r.below(2) == 0;
        f.replace(&[0x55, 0x1d, 0x24], critical, &[0x30, 3, 0x80, 1, 0]);
    }),
    ("certificatePolicies", |f, r| {
        let one = tlv(0x30, &tlv(6, &[0x2a, 3]));
        let values = [
            tlv(0x30, &one),
            tlv(0x30, &[one.clone(), one].concat()),
            tlv(0x30, &[]),
        ];
        let critical = r.below(2) == 0;
        f.replace(&[0x55, 0x1d, 0x20], critical, r.choose(&values));
    }),
];

fn algorithm(random: &mut Random) -> Vec<u8> {
    let ecdsa = |hash: u8| tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, hash]);
    let values = [
        tlv(0x30, &ecdsa(3)),
        tlv(0x30, &[ecdsa(2), tlv(5, &[])].concat()),
        tlv(0x30, &tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1])),
        tlv(0x30, &tlv(6, &[0x2b, 0x65, 0x70])),
        tlv(0x30, &[]),
    ];
    random.choose(&values).clone()
}

fn name(common_names: &[&[u8]]) -> Vec<u8> {
    let attributes: Vec<_> = common_names
        .iter()
        .flat_map(|value| {
            let attribute = [tlv(6, &[0x55, 4, 3]), tlv(0x0c, value)].concat();
            tlv(0x31, &tlv(0x30, &attribute))
        })
        .collect();
    tlv(0x30, &attributes)
}

fn time(random: &mut Random) -> Vec<u8> {
    let texts: [(u8, &[u8]); 22] = [
        (0x17, b"200101000000Z"),
        (0x17, b"400101000000Z"),
        (0x17, b"490101000000Z"),
        (0x17, b"500101000000Z"),
        (0x17, b"2001010000Z"),
        (0x17, b"200101000000+0000"),
        (0x17, b"200101000000"),
        (0x17, b"201301000000Z"),
        (0x17, b"200230000000Z"),
        (0x17, b"200101240000Z"),
        (0x17, b"200101000060Z"),
        (0x17, b"2001 1000000Z"),
        (0x18, b"20200101000000Z"),
        (0x18, b"20400101000000Z"),
        (0x18, b"20600101000000Z"),
        (0x18, b"99991231235959Z"),
        (0x18, b"20200101000000.5Z"),
        (0x18, b"202001010000Z"),
        (0x18, b"20200101000000"),
        (0x18, b"00000101000000Z"),
        (0x18, b"19500101000000Z"),
        (0x0c, b"200101000000Z"),
    ];
    let (tag, text) = *random.choose(&texts);
    tlv(tag, text)
}

struct Authority {
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    template: Fields,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2049, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a CA").der().to_vec();
        let issuer = Issuer::new(params, key);

        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, "a");
        let uri = "spiffe://keybound.test/device/a".try_into().expect("ASCII");
        leaf.subject_alt_names = vec![SanType::URI(uri)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.use_authority_key_identifier_extension = true;
        leaf.serial_number = Some(SerialNumber::from(vec![1; 16]));
        leaf.not_before = date_time_ymd(2025, 1, 1);
        leaf.not_after = date_time_ymd(2035, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let der = leaf
            .signed_by(&key, &issuer)
            .expect("a leaf")
            .der()
            .to_vec();
        Self {
            certificate,
            issuer,
            template: Fields::of(&der),
        }
    }
}

/// The fields of a TBSCertificate, each with its tag and length.
#[derive(Clone)]
struct Fields {
    version: Vec<u8>,
    serial: Vec<u8>,
    algorithm: Vec<u8>,
    issuer: Vec<u8>,
    not_before: Vec<u8>,
    not_after: Vec<u8>,
    subject: Vec<u8>,
    key: Vec<u8>,
    unique: Vec<u8>,
    extensions: Vec<Vec<u8>>,
    outer_algorithm: Vec<u8>,
}

impl Fields {
    fn of(der: &[u8]) -> Self {
        let tbs = children(der).swap_remove(0);
        let fields: [Vec<u8>; 8] = children(&tbs).try_into().expect("the profile's fields");
        let [
            version,
            serial,
            algorithm,
            issuer,
            validity,
            subject,
            key,
            extensions,
        ] = fields;
        let [not_before, not_after] = children(&validity).try_into().expect("two times");
        Self {
            outer_algorithm: algorithm.clone(),
            version,
            serial,
            algorithm,
            issuer,
            not_before,
            not_after,
            subject,
            key,
            unique: Vec::new(),
            extensions: children(&children(&extensions)[0]),
        }
    }

    fn tbs(&self) -> Vec<u8> {
        let extensions = if self.extensions.is_empty() {
            Vec::new()
        } else {
            tlv(0xa3, &tlv(0x30, &self.extensions.concat()))
        };
        let validity = [self.not_before.clone(), self.not_after.clone()].concat();
        let content = [
            self.version.clone(),
            self.serial.clone(),
            self.algorithm.clone(),
            self.issuer.clone(),
            tlv(0x30, &validity),
            self.subject.clone(),
            self.key.clone(),
            self.unique.clone(),
            extensions,
        ];
        tlv(0x30, &content.concat())
    }

    fn replace(&mut self, oid: &[u8], critical: bool, value: impl AsRef<[u8]>) {
        self.extensions.retain(|one| content(one, oid).is_none());
        let mut fields = tlv(6, oid);
        if critical {
            fields.extend(tlv(1, &[0xff]));
        }
        fields.extend(tlv(4, value));
        self.extensions.push(tlv(0x30, &fields));
    }
}

const SAN: &[u8] = &[0x55, 0x1d, 0x11];
const KU: &[u8] = &[0x55, 0x1d, 0x0f];
const EKU: &[u8] = &[0x55, 0x1d, 0x25];
const BASIC: &[u8] = &[0x55, 0x1d, 0x13];
const AKI: &[u8] = &[0x55, 0x1d, 0x23];
const SKI: &[u8] = &[0x55, 0x1d, 0x0e];

/// The value of an extension, if it is this one.
fn content(extension: &[u8], oid: &[u8]) -> Option<Vec<u8>> {
    let fields = children(extension);
    (fields[0] == tlv(6, oid)).then(|| {
        let value = fields.last().expect("a value");
        value[header(value).0..].to_vec()
    })
}

fn tlv(tag: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let length = content.len();
    let mut value = match u8::try_from(length) {
        Ok(short @ ..128) => vec![tag, short],
        Ok(long) => vec![tag, 0x81, long],
        Err(_) => {
            let [high, low] = u16::try_from(length).expect("short").to_be_bytes();
            vec![tag, 0x82, high, low]
        }
    };
    value.extend_from_slice(content);
    value
}

fn children(value: &[u8]) -> Vec<Vec<u8>> {
    let mut content = &value[header(value).0..];
    let mut children = Vec::new();
    while !content.is_empty() {
        let (start, length) = header(content);
        let (child, rest) = content.split_at(start + length);
        children.push(child.to_vec());
        content = rest;
    }
    children
}

/// The lengths of a value's header and content.
fn header(value: &[u8]) -> (usize, usize) {
    let first = usize::from(value[1]);
    if first < 128 {
        return (2, first);
    }
    let end = 2 + (first & 127);
    let bytes = &value[2..end];
    (
        end,
        bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte)),
    )
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A generator that gives the same for the same seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % limit
    }

    fn choose<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len())]
    }
}
