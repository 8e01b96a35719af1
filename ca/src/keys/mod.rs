//! CA keys and certificates: how they are made, kept and loaded.
//!
//! A [`CertificateAuthority`] signs; nothing returns its private key.

mod fault;
mod files;

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use identity::certificate::Parsed;
use identity::{Fingerprint, Timestamp, TrustDomain};
use pkcs8::{LineEnding, PrivateKeyInfo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

pub use fault::KeyFault;
use files::{decrypt, encrypt, read, read_secret, write_new};

use crate::pure::draft::{Draft, date};

/// A CA's certificate, public.
#[derive(Clone, Debug)]
pub struct CaCertificate {
    der: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

impl CaCertificate {
    fn new(der: CertificateDer<'static>) -> Self {
        let fingerprint = Fingerprint::of(&der);
        Self { der, fingerprint }
    }

    /// The certificate in DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate in PEM.
    pub fn pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new("CERTIFICATE", self.der.to_vec()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }

    /// SHA-256 of the DER, by which devices know the root.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// A CA that can sign.
pub(crate) struct CertificateAuthority {
    certificate: CaCertificate,
    issuer: Issuer<'static, KeyPair>,
    key: Fingerprint,
    not_after: Timestamp,
}

impl CertificateAuthority {
    pub(crate) fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    pub(crate) fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Signs a draft, which is thereby used up.
    pub(crate) fn sign(&self, draft: &Draft) -> Result<CertificateDer<'static>, rcgen::Error> {
        let key = rcgen::SubjectPublicKeyInfo::from_der(draft.key.spki())?;
        let certificate = draft.params.signed_by(&key, &self.issuer)?;
        Ok(certificate.der().clone())
    }

    pub(crate) fn sign_crl(
        &self,
        list: &CertificateRevocationListParams,
    ) -> Result<Vec<u8>, rcgen::Error> {
        Ok(list.signed_by(&self.issuer)?.der().to_vec())
    }

    /// Loads `<name>.pem` and `<name>.key`, which must belong together and be in their time.
    fn load(
        directory: &Path,
        name: &str,
        passphrase: Option<&Zeroizing<String>>,
        now: Timestamp,
    ) -> Result<Self, KeyFault> {
        let file = |suffix: &str| directory.join(format!("{name}.{suffix}"));
        let damaged = |suffix: &str| KeyFault::Damaged {
            file: file(suffix).display().to_string(),
        };
        let certificate = pem::parse(read(&file("pem"))?.as_slice()).map_err(|_| damaged("pem"))?;
        let der = CertificateDer::from(certificate.into_contents());
        let text = read_secret(&file("key"))?;
        let pkcs8 = decrypt(&text, passphrase).map_err(|fault| match fault {
            Some(fault) => fault,
            None => damaged("key"),
        })?;
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
        let key = KeyPair::try_from(&pkcs8).map_err(|_| damaged("key"))?;
        let (_, x509) = x509_parser::parse_x509_certificate(&der).map_err(|_| damaged("pem"))?;
        let spki = key.subject_public_key_info();
        if x509.public_key().raw != spki {
            return Err(KeyFault::Mismatch {
                name: name.to_owned(),
            });
        }
        let validity = Parsed::from_der(&der)
            .map_err(|_| damaged("pem"))?
            .validity();
        if now > validity.not_after || now < validity.not_before {
            return Err(KeyFault::NotInItsTime {
                name: name.to_owned(),
            });
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| damaged("pem"))?;
        Ok(Self {
            certificate: CaCertificate::new(der),
            issuer,
            key: Fingerprint::of(&spki),
            not_after: validity.not_after,
        })
    }
}

/// The three CAs and the serial key.
pub(crate) struct Keys {
    pub(crate) root: CaCertificate,
    pub(crate) device: CertificateAuthority,
    pub(crate) infrastructure: CertificateAuthority,
    pub(crate) serial_key: Zeroizing<[u8; 16]>,
    /// SHA-256 of the three public keys, which no device may bring.
    pub(crate) reserved: [Fingerprint; 3],
}

impl Keys {
    /// Makes new keys in `directory`, which is empty, and returns the root's fingerprint.
    pub(crate) fn create(
        directory: &Path,
        trust_domain: &TrustDomain,
        passphrase: Option<&Zeroizing<String>>,
        now: Timestamp,
    ) -> Result<(), KeyFault> {
        let root_key = new_key()?;
        let root_params = ca_params(&format!("{trust_domain} root CA"), 1, now, ROOT_LIFE)?;
        let root = root_params.self_signed(&root_key)?;
        save(directory, "root", root.der(), &root_key, passphrase)?;
        let root_issuer = Issuer::new(root_params, root_key);
        for name in ["device", "infrastructure"] {
            let key = new_key()?;
            let params = ca_params(&format!("{trust_domain} {name} CA"), 0, now, ISSUING_LIFE)?;
            let certificate = params.signed_by(&key, &root_issuer)?;
            save(
                directory,
                &format!("{name}-ca"),
                certificate.der(),
                &key,
                passphrase,
            )?;
        }
        let mut serial_key = Zeroizing::new([0; 16]);
        fill_random(serial_key.as_mut_slice());
        let digits: String = serial_key
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        write_new(
            &directory.join(SERIAL_KEY_FILE),
            Zeroizing::new(digits).as_bytes(),
        )
        .map_err(KeyFault::from)
    }

    /// Loads what [`Self::create`] made.
    pub(crate) fn load(
        directory: &Path,
        passphrase: Option<&Zeroizing<String>>,
        now: Timestamp,
    ) -> Result<Self, KeyFault> {
        let root = CertificateAuthority::load(directory, "root", passphrase, now)?;
        let device = CertificateAuthority::load(directory, "device-ca", passphrase, now)?;
        let infrastructure =
            CertificateAuthority::load(directory, "infrastructure-ca", passphrase, now)?;
        for (name, ca) in [
            ("device-ca", &device),
            ("infrastructure-ca", &infrastructure),
        ] {
            if !is_signed_by(&ca.certificate.der, &root.certificate.der) {
                return Err(KeyFault::OtherRoot {
                    name: name.to_owned(),
                });
            }
        }
        let file = directory.join(SERIAL_KEY_FILE);
        let text = read_secret(&file)?;
        let serial_key = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim_end().parse::<identity::Serial>().ok())
            .ok_or_else(|| KeyFault::Damaged {
                file: file.display().to_string(),
            })?;
        Ok(Self {
            reserved: [root.key, device.key, infrastructure.key],
            root: root.certificate,
            device,
            infrastructure,
            serial_key: Zeroizing::new(*serial_key.as_bytes()),
        })
    }
}

/// Fills `bytes` from the system's cryptographic random source, without which nothing goes on.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the system has a working random source");
}

/// Whether `issuer`, whose key is P-256 as every CA key made here, signed `certificate`.
fn is_signed_by(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok((_, certificate)), Ok((_, issuer))) = (
        x509_parser::parse_x509_certificate(certificate),
        x509_parser::parse_x509_certificate(issuer),
    ) else {
        return false;
    };
    UnparsedPublicKey::new(
        &ECDSA_P256_SHA256_ASN1,
        &issuer.public_key().subject_public_key.data,
    )
    .verify(
        certificate.tbs_certificate.as_ref(),
        &certificate.signature_value.data,
    )
    .is_ok()
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}

fn ca_params(
    name: &str,
    path_length: u8,
    now: Timestamp,
    life: Duration,
) -> Result<CertificateParams, KeyFault> {
    let mut serial = [0; 16];
    fill_random(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date(now.minus(CLOCK_TOLERANCE)).map_err(|_| KeyFault::Date)?;
    params.not_after = date(now.plus(life)).map_err(|_| KeyFault::Date)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn save(
    directory: &Path,
    name: &str,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
    passphrase: Option<&Zeroizing<String>>,
) -> Result<(), KeyFault> {
    let der = Zeroizing::new(key.serialize_der());
    let text = match passphrase {
        Some(passphrase) => encrypt(&der, passphrase),
        None => PrivateKeyInfo::try_from(der.as_slice())
            .ok()
            .and_then(|info| pkcs8::SecretDocument::try_from(info).ok())
            .and_then(|document| document.to_pem("PRIVATE KEY", LineEnding::LF).ok()),
    }
    .ok_or(KeyFault::Make(rcgen::Error::CouldNotParseKeyPair))?;
    write_new(&directory.join(format!("{name}.key")), text.as_bytes())?;
    let certificate = CaCertificate::new(certificate.clone());
    write_new(
        &directory.join(format!("{name}.pem")),
        certificate.pem().as_bytes(),
    )?;
    Ok(())
}

const SERIAL_KEY_FILE: &str = "serial.key";
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60 * 60);
const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
const ISSUING_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
