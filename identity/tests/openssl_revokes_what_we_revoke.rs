//! An oracle for lists of revoked certificates: whoever passes by ours, passes by `openssl verify -crl_check`, and both
//! find the same certificates revoked.
#![allow(clippy::print_stdout)] // Figures; tests/run lists them.

use std::fs;
use std::path::Path;
use std::process::Command;

use identity::certificate::Parsed;
use identity::chain::Anchors;
use identity::revocation_list::lists_in;
use identity::{CaCertificate, ForeignLeaf, IdRule, RevocationList, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;

const NOW: Timestamp = Timestamp(1_780_000_000);

struct Authority {
    certificate: CertificateDer<'static>,
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
    Authority {
        certificate: shown.self_signed(&key).expect("a CA").der().clone(),
        issuer: Issuer::new(params, key),
    }
}

/// Serials of one byte, of 20, and of 21 octets, of which the first is zero.
fn serial(number: u8) -> Vec<u8> {
    match number % 4 {
        0 | 1 => vec![number + 1],
        2 => [vec![number], vec![7; 19]].concat(),
        _ => [vec![number | 0x80], vec![7; 19]].concat(),
    }
}

fn device(authority: &Authority, number: u8) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("device-{number}"));
    params.serial_number = Some(SerialNumber::from(serial(number)));
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &authority.issuer).expect("a leaf");
    certificate.der().clone()
}

/// A list that revokes each device whose bit is set.
fn list(authority: &Authority, bits: u32, kind: usize) -> Vec<u8> {
    let revoked = (0..DEVICES).filter(|number| bits >> number & 1 == 1);
    let entry = |number: u8| RevokedCertParams {
        serial_number: SerialNumber::from(serial(number)),
        revocation_time: date_time_ymd(2026, 2, 1),
        reason_code: [
            None,
            Some(RevocationReason::KeyCompromise),
            Some(RevocationReason::CertificateHold),
        ][usize::from(number) % 3],
        invalidity_date: None,
    };
    let mut params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 5, 1),
        next_update: date_time_ymd(2026, 7, 1),
        crl_number: SerialNumber::from(vec![1]),
        issuing_distribution_point: None,
        revoked_certs: revoked.map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    match kind {
        1 => params.next_update = date_time_ymd(2026, 5, 15),
        2 => params.this_update = date_time_ymd(2026, 6, 20),
        3 => {
            params.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint {
                    uris: vec!["http://crl.example/1".into()],
                },
                scope: None,
            });
        }
        _ => {}
    }
    let list = params.signed_by(&authority.issuer).expect("a list");
    let mut der = list.der().to_vec();
    if kind == 4 {
        *der.last_mut().expect("bytes") ^= 1;
    }
    der
}

#[test]
fn openssl_revokes_what_we_revoke() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lists");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    let both = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authorities = [
        authority("Factory CA", &both),
        // Of the same name, and of another.
        authority("Factory CA", &both),
        authority("Other CA", &both),
        authority("Mute CA", &both[..1]),
    ];
    let (mut pairs, mut pass, mut revoked, mut stricter) = (0, 0, 0, 0);
    for (position, ca) in authorities.iter().enumerate() {
        let write = |name: &str, label: &str, der: &[u8]| {
            fs::write(directory.join(name), pem(label, der)).expect("written");
        };
        write("ca.pem", "CERTIFICATE", &ca.certificate);
        let devices: Vec<_> = (0..DEVICES).map(|number| device(ca, number)).collect();
        for (number, der) in devices.iter().enumerate() {
            write(&format!("{number}.pem"), "CERTIFICATE", der);
        }
        for round in 0..ROUNDS {
            // Every other list is good; the last kind is somebody else's.
            let kind = if round % 2 == 0 { 0 } else { 1 + round / 2 % 5 };
            let signer = if kind == 5 {
                (position + 1) % authorities.len()
            } else {
                position
            };
            let bits = 0x9e37_79b9_u32.wrapping_mul((round * 7 + position + 1) as u32);
            let der = list(&authorities[signer], bits, kind);
            write("list.pem", "X509 CRL", &der);
            let issuers = [CaCertificate::read(&ca.certificate).expect("an anchor")];
            let anchors = Anchors::new(std::slice::from_ref(&ca.certificate)).expect("an anchor");
            let written = fs::read(directory.join("list.pem")).expect("there");
            let ours =
                lists_in(&written).and_then(|lists| RevocationList::read(&lists[0], &issuers, NOW));
            for ((number, leaf), theirs) in devices.iter().enumerate().zip(openssl(&directory)) {
                let parsed = Parsed::from_der(leaf).expect("a certificate");
                let read = ForeignLeaf::read(&parsed, &IdRule::CommonName).expect("a device");
                anchors.verify(leaf, &[], NOW).expect("a chain");
                let named = ours.as_ref().is_ok_and(|list| list.has(&read.serial));
                let current = ours.as_ref().is_ok_and(|list| list.is_current(NOW));
                let what = format!(
                    "authority {position}, round {round}, device {number}: {ours:?} {theirs:?}"
                );
                pairs += 1;
                match theirs {
                    Verdict::Ok => {
                        assert!(!named, "{what}");
                        stricter += usize::from(!current);
                    }
                    Verdict::Revoked => {
                        assert!(named || ours.is_err(), "{what}");
                        revoked += usize::from(named);
                    }
                    Verdict::Refused => assert!(!current || named, "{what}"),
                }
                pass += usize::from(current && !named);
            }
        }
    }
    println!(
        "figure: certificates and lists judged by us and OpenSSL: {pairs}, both let pass {pass}, both find revoked {revoked}, \
         only OpenSSL lets pass {stricter}"
    );
    assert!(
        pass > pairs / 8 && revoked > pairs / 8,
        "{pass} {revoked} of {pairs}"
    );
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Revoked,
    Refused,
}

/// What OpenSSL says of every device.
fn openssl(directory: &Path) -> Vec<Verdict> {
    let files: Vec<_> = (0..DEVICES).map(|number| format!("{number}.pem")).collect();
    let output = Command::new("openssl")
        .current_dir(directory)
        .args([
            "verify",
            "-crl_check",
            "-CAfile",
            "ca.pem",
            "-CRLfile",
            "list.pem",
        ])
        .args(["-purpose", "sslclient", "-attime", &NOW.0.to_string()])
        .args(&files)
        .output()
        .expect("openssl runs");
    let (said, complained) = (
        output.stdout,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    let said = String::from_utf8_lossy(&said).into_owned() + &complained;
    let verdict = |file: &String| {
        if said.lines().any(|line| *line == format!("{file}: OK")) {
            return Verdict::Ok;
        }
        let failed = format!("error {file}: verification failed");
        let before = said.split(&failed).next().unwrap_or_default();
        // The errors of a file stand before its verdict.
        let own = before
            .rsplit("verification failed")
            .next()
            .unwrap_or_default();
        if own.contains("certificate revoked") {
            Verdict::Revoked
        } else {
            Verdict::Refused
        }
    };
    files.iter().map(verdict).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
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
}

const DEVICES: u8 = 24;
const ROUNDS: usize = 12;
