//! The CRL: whatever entries the registry gives, another reader finds exactly these, under our signature.
//!
//! The input is a CRL number, a time, and 21 bytes for each entry: serial, time and whether it may come back.
#![no_main]

use std::sync::OnceLock;
use std::time::Duration;

use ca::{Authority, Options, fuzzing};
use identity::Serial;
use keybound_fuzz::{der, seeds};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use webpki::{BorrowedCertRevocationList, CertRevocationList};
use x509_parser::prelude::{FromDer, ReasonCode, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

fuzz_target!(init: {
    seeds::write_if_asked(first_inputs);
    authority();
}, |bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_at_checked(16) else {
        return;
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    let crl_number = number(&head[..8]);
    let this_update = number(&head[8..]);
    let entries: Vec<(Serial, u64, bool)> = rest
        .chunks_exact(21)
        .filter_map(|entry| {
            let (serial, when) = entry.split_at(16);
            let serial = Serial::from_der_content(&[&[serial[0] & 0x7f], &serial[1..]].concat())?;
            Some((serial, number(&when[..4]), when[4] & 1 == 1))
        })
        .collect();
    let Some(crl) = fuzzing::crl(&authority().0, &entries, crl_number, this_update) else {
        assert!(this_update > LAST, "{this_update} is no date");
        return;
    };
    check(&crl, &entries, crl_number, this_update);
});

fn check(crl: &[u8], entries: &[(Serial, u64, bool)], number: u64, this_update: u64) {
    let nodes = der::parse(crl).expect("well formed");
    assert_eq!(der::encode(&nodes), crl, "not DER");
    let (rest, theirs) = CertificateRevocationList::from_der(crl).expect("another reader takes it");
    assert!(rest.is_empty());
    let issuer = &authority().1;
    let (_, issuer) = X509Certificate::from_der(issuer).expect("ours");
    theirs
        .verify_signature(issuer.public_key())
        .expect("our signature");
    assert_eq!(theirs.issuer().as_raw(), issuer.subject().as_raw());
    assert_eq!(theirs.last_update().timestamp(), this_update as i64);
    assert!(theirs.next_update().expect("there is one").timestamp() > this_update as i64);
    assert_eq!(
        theirs.crl_number().expect("there is one").to_string(),
        number.to_string()
    );
    let found: Vec<_> = theirs.iter_revoked_certificates().collect();
    assert_eq!(found.len(), entries.len());
    for (found, (serial, since, on_hold)) in found.iter().zip(entries) {
        assert_eq!(Serial::from_der_content(found.raw_serial()), Some(*serial));
        assert!(
            found
                .raw_serial()
                .first()
                .is_some_and(|first| *first < 0x80)
        );
        assert_eq!(found.revocation_date.timestamp(), *since as i64);
        let reason = found.reason_code().map(|(_, reason)| reason);
        assert_eq!(reason, on_hold.then_some(ReasonCode::CertificateHold));
    }
    // RFC 5280, section 5.1.2.6: without entries the list of entries is absent, not empty.
    assert!(!entries.is_empty() || !has_empty_list(crl));
    // webpki takes no serial twice and no entry from the future; what it takes, it finds.
    if let Ok(list) = BorrowedCertRevocationList::from_der(crl).map(CertRevocationList::from) {
        for (serial, ..) in entries {
            let significant = serial
                .as_bytes()
                .iter()
                .position(|byte| *byte != 0)
                .unwrap_or(15);
            let mut content = serial.as_bytes()[significant..].to_vec();
            if content[0] >= 0x80 {
                content.insert(0, 0);
            }
            assert!(
                list.find_serial(&content)
                    .is_ok_and(|entry| entry.is_some())
            );
        }
    }
}

fn has_empty_list(crl: &[u8]) -> bool {
    der::children(crl, der::SEQUENCE)
        .and_then(|parts| der::all(parts.first()?.content))
        .is_some_and(|parts| {
            parts
                .iter()
                .any(|part| part.tag == der::SEQUENCE && part.content.is_empty())
        })
}

/// The authority, and the certificate under whose key it signs CRLs.
fn authority() -> &'static (Authority, CertificateDer<'static>, tempfile::TempDir) {
    static AUTHORITY: OnceLock<(Authority, CertificateDer<'static>, tempfile::TempDir)> =
        OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open(Options {
            directory: directory.path().join("data/ca"),
            trust_domain: None,
            passphrase: None,
            device_certificate_life: Duration::from_secs(24 * 60 * 60),
        })
        .expect("an authority");
        let certificate = authority.device_ca().der().clone();
        (authority, certificate, directory)
    })
}

/// The last day of 9999 leaves room for nextUpdate.
const LAST: u64 = 253_402_300_799 - 40 * 24 * 60 * 60;

fn first_inputs() -> Vec<Vec<u8>> {
    let head: Vec<u8> = [1_u64.to_be_bytes(), 1_800_000_000_u64.to_be_bytes()].concat();
    let entry = |first: u8, when: u32, flags: u8| {
        [&[first; 16][..], &when.to_be_bytes(), &[flags]].concat()
    };
    vec![
        head.clone(),
        [head.clone(), entry(0x12, 1_700_000_000, 0)].concat(),
        [
            head.clone(),
            entry(0, 0, 1),
            entry(0xff, u32::MAX, 1),
            entry(0x80, 1, 0),
        ]
        .concat(),
        [
            vec![0xff; 8],
            4_000_000_000_u64.to_be_bytes().to_vec(),
            entry(1, 2_524_608_000, 0),
        ]
        .concat(),
        [
            head,
            (0..60)
                .flat_map(|n| entry(n, 1_700_000_000 + u32::from(n), n & 1))
                .collect(),
        ]
        .concat(),
    ]
}
