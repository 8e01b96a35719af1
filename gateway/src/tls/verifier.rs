//! Who may finish a handshake: holders of a certificate that an anchor vouches for, of the right kind.
//!
//! Time, usages and status are not judged here, so that a device learns at HTTP what is wrong with its
//! certificate; strangers learn nothing but the alert.

use std::sync::Arc;

use identity::certificate::Parsed;
use identity::chain::{Anchors, ChainError};
use identity::{Kind, Timestamp};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::acceptor::Clients;
use super::chain_cache::{ChainCache, ChainKey, Issuer};

/// Verifies the certificates of clients against the anchors of one listener.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) anchors: Anchors,
    pub(super) foreign: Option<Anchors>,
    pub(super) hints: Vec<DistinguishedName>,
    pub(super) clients: Clients,
    pub(super) kinds: &'static [Kind],
    pub(super) provider: Arc<CryptoProvider>,
    /// What was found out under the policy that this belongs to.
    pub(super) proven: Arc<ChainCache>,
}

impl Verifier {
    /// Whether an anchor vouches for what a client presents, and it is of an accepted kind.
    pub(super) fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let key = ChainKey::of(end_entity, intermediates);
        if self.proven.issuer(&key).is_some() {
            return Ok(());
        }
        let now = Timestamp(now.as_secs());
        let (issuer, path) = match self.anchors.verify(end_entity, intermediates, now) {
            Ok(path) => (Issuer::Ours, path),
            // What is wrong with it, by whoever claims to have made it.
            Err(error) => match &self.foreign {
                None => return Err(refusal(error)),
                Some(foreign) => match foreign.verify(end_entity, intermediates, now) {
                    Ok(path) => (Issuer::Foreign(path.anchor), path),
                    Err(other) if error == UNKNOWN => return Err(refusal(other)),
                    Err(_) => return Err(refusal(error)),
                },
            },
        };
        if issuer == Issuer::Ours {
            self.check_kind(end_entity)?;
        }
        // A CA between them may expire. And with anything beside it, one certificate could take the place of all others.
        if path.intermediate.is_none() && intermediates.iter().all(|one| self.is_anchor(one)) {
            self.proven.keep(key, issuer);
        }
        Ok(())
    }

    fn is_anchor(&self, certificate: &CertificateDer<'_>) -> bool {
        let is_among = |anchors: &Anchors| {
            (0..anchors.len()).any(|position| anchors.certificate(position) == Some(certificate))
        };
        is_among(&self.anchors) || self.foreign.as_ref().is_some_and(is_among)
    }

    /// Whether a certificate of ours is of an accepted kind. Whom one of others names is for the rule of its anchor to
    /// say, at HTTP.
    fn check_kind(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let name = Parsed::from_der(certificate).and_then(|parsed| parsed.spiffe_id());
        match name {
            Ok(id) if !self.kinds.contains(&id.identity.kind()) => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            // One of our own made it, even if it names nobody: it is told at HTTP which rule it breaks.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == Clients::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        fail::fail_point!("gateway::verifier");
        // Before anything is parsed: whoever pays for reading these is not known yet. And whoever presents them keeps
        // them for as long as the connection, so it holds where strangers are let pass, too.
        let length = |certificates: &[CertificateDer<'_>]| -> usize {
            certificates.iter().map(|one| one.len()).sum()
        };
        if end_entity.len() > MAX_LEAF_LENGTH || length(intermediates) > MAX_OTHERS_LENGTH {
            return Err(Error::InvalidCertificate(Presented::TooLarge.into()));
        }
        match (self.judge(end_entity, intermediates, now), self.clients) {
            (Ok(()), _) | (Err(_), Clients::Any) => Ok(ClientCertVerified::assertion()),
            (Err(error), Clients::Required | Clients::Optional) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What is wrong with the presented certificates where the library's errors do not tell it apart: a bad signature
/// in the chain is another thing than a bad signature of the handshake. The alert is `certificate_unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Presented {
    /// One bears an issuer's name and not its signature.
    #[error("a certificate does not bear its issuer's signature")]
    Forged,
    /// More, or longer, than any device has.
    #[error("the certificates are too many or too long")]
    TooLarge,
}

impl Presented {
    pub(super) fn from_error(error: &CertificateError) -> Option<Self> {
        if let CertificateError::Other(OtherError(inner)) = error {
            inner.downcast_ref().copied()
        } else {
            None
        }
    }
}

impl From<Presented> for CertificateError {
    fn from(presented: Presented) -> Self {
        Self::Other(OtherError(Arc::new(presented)))
    }
}

/// Nobody who is believed bears the name of its issuer.
const UNKNOWN: ChainError = ChainError::NotVouchedFor(webpki::Error::UnknownIssuer);
/// A device's certificate has less than 1 KiB; this leaves room for large RSA keys.
const MAX_LEAF_LENGTH: usize = 4 * 1024;
/// Of the others together: some devices send the issuing CA and the root, too.
const MAX_OTHERS_LENGTH: usize = 12 * 1024;

fn refusal(error: ChainError) -> Error {
    Error::InvalidCertificate(certificate_error(error))
}

/// The alert that says as much as a stranger may know.
fn certificate_error(error: ChainError) -> CertificateError {
    match error {
        ChainError::Leaf(_) | ChainError::EmptyValidity | ChainError::IntermediateSerial => {
            CertificateError::BadEncoding
        }
        ChainError::TooLong { .. } => Presented::TooLarge.into(),
        ChainError::NotVouchedFor(webpki_error) => {
            if webpki_error == webpki::Error::InvalidSignatureForPublicKey {
                Presented::Forged.into()
            } else if webpki_error == webpki::Error::CaUsedAsEndEntity {
                CertificateError::InvalidPurpose
            } else if matches!(
                webpki_error,
                webpki::Error::BadDer
                    | webpki::Error::BadDerTime
                    | webpki::Error::TrailingData(_)
                    | webpki::Error::EmptyEkuExtension
                    | webpki::Error::ExtensionValueInvalid
                    | webpki::Error::MalformedExtensions
                    | webpki::Error::InvalidSerialNumber
                    | webpki::Error::UnsupportedCertVersion
            ) {
                CertificateError::BadEncoding
            } else if webpki_error == webpki::Error::UnsupportedCriticalExtension {
                CertificateError::UnhandledCriticalExtension
            } else {
                CertificateError::UnknownIssuer
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
        date_time_ymd,
    };

    use super::*;

    type Issuer = rcgen::Issuer<'static, KeyPair>;

    fn authority(name: &str, until: i32, by: Option<&Issuer>) -> (CertificateDer<'static>, Issuer) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = match by {
            None => params.self_signed(&key),
            Some(issuer) => params.signed_by(&key, issuer),
        };
        let der = certificate.expect("a CA").der().clone();
        (der, rcgen::Issuer::new(params, key))
    }

    fn leaf(by: &Issuer, uri: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        let uri = uri.to_owned().try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.not_after = date_time_ymd(2040, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, by).expect("a leaf");
        certificate.der().clone()
    }

    fn verifier(ours: &CertificateDer<'_>, foreign: Option<&CertificateDer<'_>>) -> Verifier {
        let anchors = |der| Anchors::new(std::slice::from_ref(der)).expect("an anchor");
        Verifier {
            anchors: anchors(ours),
            foreign: foreign.map(anchors),
            hints: vec![],
            clients: Clients::Required,
            kinds: &[Kind::Device],
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            proven: Arc::new(ChainCache::new()),
        }
    }

    const IN_2026: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));
    const IN_2035: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(2_060_000_000));
    const DEVICE: &str = "spiffe://keybound.test/device/a";

    #[test]
    fn what_an_anchor_issued_is_remembered_with_its_issuer() {
        let (ours, issuer) = authority("Device CA", 2040, None);
        let (other, other_issuer) = authority("Other CA", 2040, None);
        let verifier = verifier(&ours, Some(&other));
        for (leaf, by) in [
            (leaf(&issuer, DEVICE), super::Issuer::Ours),
            (leaf(&other_issuer, DEVICE), super::Issuer::Foreign(0)),
        ] {
            // What else was sent is not needed, and belongs to the key.
            for others in [vec![], vec![ours.clone()]] {
                let key = ChainKey::of(&leaf, &others);
                assert_eq!(verifier.proven.issuer(&key), None);
                for _ in 0..2 {
                    assert_eq!(verifier.judge(&leaf, &others, IN_2026), Ok(()));
                    assert_eq!(verifier.proven.issuer(&key), Some(by));
                }
            }
            let others = [ours.clone(), leaf.clone()];
            assert_eq!(verifier.judge(&leaf, &others, IN_2026), Ok(()));
            assert_eq!(verifier.proven.issuer(&ChainKey::of(&leaf, &others)), None);
        }
    }

    #[test]
    fn a_chain_through_another_ca_is_proven_every_time() {
        let (root, root_issuer) = authority("Root CA", 2040, None);
        let (middle, issuer) = authority("Middle CA", 2030, Some(&root_issuer));
        let verifier = verifier(&root, None);
        let leaf = leaf(&issuer, DEVICE);
        let sent = [middle];
        assert_eq!(verifier.judge(&leaf, &sent, IN_2026), Ok(()));
        assert!(
            verifier.judge(&leaf, &sent, IN_2035).is_err(),
            "the CA between has expired"
        );
    }

    #[test]
    fn who_was_refused_is_refused_again() {
        let (ours, issuer) = authority("Device CA", 2040, None);
        let (_, pretender) = authority("Device CA", 2040, None);
        let verifier = verifier(&ours, None);
        let operator = leaf(&issuer, "spiffe://keybound.test/operator/a");
        for refused in [leaf(&pretender, DEVICE), operator] {
            for _ in 0..2 {
                assert!(verifier.judge(&refused, &[], IN_2026).is_err());
            }
        }
    }
}
