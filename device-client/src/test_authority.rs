//! A small certificate authority for tests: a root, a device CA and an infrastructure CA under it.

use cms::cert::CertificateChoices;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{CertificateSet, EncapsulatedContentInfo, SignedData, SignerInfos};
use der::Encode;
use der::asn1::{Any, ObjectIdentifier, SetOfVec};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

pub struct TestAuthority {
    pub root: CertificateDer<'static>,
    pub device_ca: CertificateDer<'static>,
    pub infrastructure_ca: CertificateDer<'static>,
    device_issuer: Issuer<'static, KeyPair>,
    infrastructure_issuer: Issuer<'static, KeyPair>,
}

impl TestAuthority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = ca_params("Root");
        let root = params.self_signed(&key).expect("a root").der().clone();
        let issuer = Issuer::new(params, key);
        let (device_ca, device_issuer) = sub_authority("Device CA", &issuer);
        let (infrastructure_ca, infrastructure_issuer) =
            sub_authority("Infrastructure CA", &issuer);
        Self {
            root,
            device_ca,
            infrastructure_ca,
            device_issuer,
            infrastructure_issuer,
        }
    }

    pub fn root_pem(&self) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", self.root.as_ref()))
    }

    /// A device certificate by the profile, apart from what `change` does to it.
    pub fn issue(
        &self,
        key: &impl PublicKeyData,
        device: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, device);
        let uri = format!("spiffe://keybound.local/device/{device}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().expect("ASCII"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(SerialNumber::from(
            random::<16>().map(|b| b & 0x7f).to_vec(),
        ));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2045, 1, 1);
        change(&mut params);
        let certificate = params.signed_by(key, &self.device_issuer);
        certificate.expect("a certificate").der().clone()
    }

    /// A server's chain and key.
    #[allow(dead_code, reason = "the unit tests start no server")]
    pub fn server(&self, names: &[&str]) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params
            .signed_by(&key, &self.infrastructure_issuer)
            .expect("a certificate")
            .der()
            .clone();
        (vec![leaf, self.infrastructure_ca.clone()], key)
    }
}

/// A certs-only CMS message (RFC 5652, section 5), as EST carries certificates.
pub fn certs_only(certificates: &[&CertificateDer<'_>]) -> Vec<u8> {
    let choices = certificates.iter().map(|der| {
        let certificate = der::Decode::from_der(der).expect("a certificate");
        CertificateChoices::Certificate(certificate)
    });
    let signed_data = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::new(),
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1"),
            econtent: None,
        },
        certificates: Some(CertificateSet(
            SetOfVec::try_from(choices.collect::<Vec<_>>()).expect("certificates"),
        )),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::new()),
    };
    let content = ContentInfo {
        content_type: ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2"),
        content: Any::encode_from(&signed_data).expect("an encoding"),
    };
    content.to_der().expect("an encoding")
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn sub_authority(
    name: &str,
    root: &Issuer<'_, KeyPair>,
) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let params = ca_params(name);
    let der = params.signed_by(&key, root).expect("a CA").der().clone();
    (der, Issuer::new(params, key))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    bytes
}
