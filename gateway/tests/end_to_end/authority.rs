//! A CA for tests, which makes whatever certificate a test asks for.

use identity::{Index, SerialKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub(crate) const SERIAL_KEY: [u8; 16] = [3; 16];

pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(crate) struct Identity {
    pub(crate) index: Index,
    pub(crate) certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Device CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Self {
            certificate: params.self_signed(&key).expect("a CA").der().clone(),
            issuer: Issuer::new(params, key),
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
        let names = ["api.test", "other.test", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, 0)
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
