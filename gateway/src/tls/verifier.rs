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

/// Verifies the certificates of clients against the anchors of one listener.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) anchors: Anchors,
    pub(super) foreign: Option<Anchors>,
    pub(super) hints: Vec<DistinguishedName>,
    pub(super) clients: Clients,
    pub(super) kinds: &'static [Kind],
    pub(super) provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Whether an anchor vouches for what a client presents, and it is of an accepted kind.
    pub(super) fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let now = Timestamp(now.as_secs());
        if let Err(error) = self.anchors.verify(end_entity, intermediates, now) {
            // What is wrong with it, by whoever claims to have made it.
            let error = match &self.foreign {
                None => error,
                Some(foreign) => match foreign.verify(end_entity, intermediates, now) {
                    // Whom it names is for the rule of its anchor to say, at HTTP.
                    Ok(_) => return Ok(()),
                    Err(other) if error == UNKNOWN => other,
                    Err(_) => error,
                },
            };
            return Err(Error::InvalidCertificate(certificate_error(error)));
        }
        let name = Parsed::from_der(end_entity).and_then(|parsed| parsed.spiffe_id());
        match name {
            Ok(id) if self.kinds.contains(&id.identity.kind()) => Ok(()),
            Ok(_) => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            // One of our own made it: it is told at HTTP which rule it breaks.
            Err(_) => Ok(()),
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
