//! A CA for tests, which makes whatever certificate a test asks for.

use std::time::SystemTime;

use identity::{Index, SerialKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, SigningKey as _,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub(crate) const SERIAL_KEY: [u8; 16] = [3; 16];

pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) index: Index,
    pub(crate) certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    pub(crate) fn key_pair(&self) -> KeyPair {
        KeyPair::try_from(self.key.as_slice()).expect("a key")
    }
}

/// The fields of a TBSCertificate (RFC 5280, section 4.1), each with its tag and length.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    pub(crate) version: Vec<u8>,
    pub(crate) serial: Vec<u8>,
    pub(crate) algorithm: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) validity: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Fields {
    /// An extension (RFC 5280, section 4.1.2.9), after the others.
    pub(crate) fn extend(&mut self, oid: &[u8], critical: bool, content: &[u8]) {
        let mut fields = tlv(0x06, oid);
        if critical {
            fields.extend(tlv(0x01, &[0xff]));
        }
        fields.extend(tlv(0x04, content));
        self.extensions.push(tlv(0x30, &fields));
    }

    /// Takes an extension away.
    pub(crate) fn remove(&mut self, oid: &[u8]) {
        let oid = tlv(0x06, oid);
        self.extensions
            .retain(|one| !one[2..].starts_with(&oid) && !one[3..].starts_with(&oid));
    }

    /// Puts an extension in the place of another.
    pub(crate) fn replace(&mut self, oid: &[u8], critical: bool, content: &[u8]) {
        self.remove(oid);
        self.extend(oid, critical, content);
    }
}

/// The content of object identifiers.
pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// A DER value from its tag and content.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut value = vec![tag];
    match content.len() {
        length @ ..128 => value.push(u8::try_from(length).expect("small")),
        length => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            value.push(0x80 | u8::try_from(bytes.len() - zeros).expect("small"));
            value.extend_from_slice(&bytes[zeros..]);
        }
    }
    value.extend_from_slice(content);
    value
}

/// The values within a constructed one, each with its tag and length.
pub(crate) fn children(value: &[u8]) -> Vec<Vec<u8>> {
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
    let length = value[2..end]
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    (end, length)
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("Device CA")
    }

    pub(crate) fn named(name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().expect("a key"));
        Self {
            certificate: params.self_signed(&key).expect("a CA").der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A CA that this one vouches for.
    pub(crate) fn subordinate(&self, name: &str) -> Self {
        self.subordinate_with(name, |_| {})
    }

    /// The same with something else in its certificate.
    pub(crate) fn subordinate_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let (mut params, key) = (Self::params(name), KeyPair::generate().expect("a key"));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a CA");
        Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A device that signs as if it were a CA; `name` is its subject's common name.
    pub(crate) fn usurper(name: &str, device: &Identity) -> Self {
        let key = device.key_pair();
        Self {
            certificate: device.certificate.clone(),
            issuer: Issuer::new(Self::params(name), key),
        }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// A device's certificate with fields that no library would write, and a good signature.
    pub(crate) fn rebuilt(
        &self,
        id: &str,
        index: u64,
        change: impl FnOnce(&mut Fields),
    ) -> Identity {
        let device = self.device(id, index);
        let tbs = children(&device.certificate).swap_remove(0);
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
        let mut fields = Fields {
            version,
            serial,
            algorithm,
            issuer,
            validity,
            subject,
            key,
            extensions: children(&children(&extensions)[0]),
        };
        change(&mut fields);
        let extensions = tlv(0xa3, &tlv(0x30, &fields.extensions.concat()));
        let content = [
            fields.version,
            fields.serial,
            fields.algorithm.clone(),
            fields.issuer,
            fields.validity,
            fields.subject,
            fields.key,
            extensions,
        ]
        .concat();
        let tbs = tlv(0x30, &content);
        let mut signature = vec![0];
        signature.extend(self.issuer.key().sign(&tbs).expect("a signature"));
        let certificate = [tbs, fields.algorithm, tlv(0x03, &signature)].concat();
        Identity {
            certificate: tlv(0x30, &certificate).into(),
            ..device
        }
    }

    /// A device's certificate, by the profile.
    pub(crate) fn device(&self, id: &str, index: u64) -> Identity {
        self.device_with(id, index, |_| {})
    }

    /// A device's certificate that departs from the profile.
    pub(crate) fn device_with(
        &self,
        id: &str,
        index: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        self.client(
            &format!("spiffe://keybound.test/device/{id}"),
            index,
            change,
        )
    }

    /// Any client's certificate.
    pub(crate) fn client(
        &self,
        spiffe_id: &str,
        index: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let serial_key = SerialKey::new(&SERIAL_KEY);
        let serial = (0..)
            .find_map(|random: u64| serial_key.seal(Index(index), random.to_be_bytes()))
            .expect("half of all random values will do");
        let mut params = CertificateParams::default();
        let now = std::time::SystemTime::now();
        params.not_before = (now - std::time::Duration::from_secs(300)).into();
        params.not_after = (now + std::time::Duration::from_secs(3_600)).into();
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().expect("ASCII"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        self.sign(params, index)
    }

    pub(crate) fn server(&self) -> Identity {
        self.server_with(|_| {})
    }

    /// A server's certificate that departs from the usual one.
    pub(crate) fn server_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names = ["api.test", "other.test", "mqtt.test", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        self.sign(params, 0)
    }

    /// The same certificate with another encoding of its signature that is as good: (r, n - s).
    pub(crate) fn malleated(device: &Identity) -> Identity {
        /// The order of P-256 (SEC 2, section 2.4.2).
        const ORDER: [u8; 32] = [
            0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
            0x25, 0x51,
        ];
        let parts = children(&device.certificate);
        // BIT STRING, no unused bits, SEQUENCE of r and s.
        let [r, s]: [Vec<u8>; 2] = children(&parts[2][3..]).try_into().expect("r and s");
        let s: Vec<u8> = s[2..]
            .iter()
            .copied()
            .skip_while(|byte| *byte == 0)
            .collect();
        let mut padded = vec![0; 32 - s.len()];
        padded.extend(s);
        let mut other = vec![0; 33];
        let mut borrow = 0;
        for at in (0..32).rev() {
            let difference = i16::from(ORDER[at]) - i16::from(padded[at]) - borrow;
            borrow = i16::from(difference < 0);
            other[at + 1] = u8::try_from(difference.rem_euclid(256)).expect("a byte");
        }
        // The shortest form of a positive INTEGER.
        while other.len() > 1 && other[0] == 0 && other[1] < 128 {
            other.remove(0);
        }
        let mut signature = vec![0];
        signature.extend(tlv(0x30, &[r, tlv(0x02, &other)].concat()));
        let content = [parts[0].clone(), parts[1].clone(), tlv(0x03, &signature)];
        Identity {
            certificate: tlv(0x30, &content.concat()).into(),
            ..device.clone()
        }
    }

    /// A list of revoked certificates, in DER.
    pub(crate) fn list(
        &self,
        number: u64,
        revoked: &[u64],
        this_update: SystemTime,
        next_update: SystemTime,
    ) -> Vec<u8> {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: this_update.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: this_update.into(),
            next_update: next_update.into(),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a list");
        list.der().to_vec()
    }

    fn sign(&self, params: CertificateParams, index: u64) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            index: Index(index),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }
}
