//! How this crate speaks TLS: as a client, with pinned roots, without resumption.
//!
//! A session ticket is a bearer secret that could be copied out of the device, so none is kept.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
};

use crate::key_store::Credentials;
use crate::trust::Roots;

/// Verifies the server by `roots`, and presents `credentials` (the leaf alone) to a server that asks.
pub(crate) fn verified(roots: &Roots, credentials: Option<&Credentials>) -> Arc<ClientConfig> {
    let builder = builder().with_root_certificates(roots.for_tls());
    let config = match credentials {
        Some(credentials) => builder.with_client_cert_resolver(presenting(credentials)),
        None => builder.with_no_client_auth(),
    };
    finish(config)
}

/// Verifies nothing: good for fetching public bytes that are checked by fingerprint afterwards, and for
/// nothing else. No secret may ever be sent over such a connection.
pub(crate) fn unverified_for_public_bytes() -> Arc<ClientConfig> {
    let config = builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
        .with_no_client_auth();
    finish(config)
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn presenting(credentials: &Credentials) -> Arc<dyn ResolvesClientCert> {
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        vec![credentials.certificate.clone()],
        Arc::new(credentials.key.clone()),
    )))
}

/// Takes any certificate; the handshake's own signature is checked as always.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Why TLS failed, in the order of whose fault it may be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsFault {
    /// The server sent an alert. In TLS 1.3 it judges the client's certificate after the client believes to be
    /// connected, so this may come instead of an answer.
    #[error("{}", explain_alert(*.0))]
    RefusedByServer(AlertDescription),
    /// The server's certificate was not accepted.
    #[error("{}", explain_certificate(.0))]
    ServerNotTrusted(CertificateError),
    /// Anything else, in the words of the TLS library.
    #[error("TLS failed: {0}")]
    Other(rustls::Error),
}

impl TlsFault {
    /// The TLS error among the causes of `error`, if there is one.
    pub(crate) fn among_causes_of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(fault) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::from(fault.clone()));
            }
            // An io::Error hides the error that it was made from: its source is that error's source.
            cause = match error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
            {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

impl From<rustls::Error> for TlsFault {
    fn from(error: rustls::Error) -> Self {
        if let rustls::Error::AlertReceived(alert) = error {
            Self::RefusedByServer(alert)
        } else if let rustls::Error::InvalidCertificate(fault) = error {
            Self::ServerNotTrusted(fault)
        } else {
            Self::Other(error)
        }
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    let known = ALERTS.iter().find(|(known, _)| *known == alert);
    match known {
        Some((_, explanation)) => format!("{explanation} (TLS alert {alert:?})"),
        None => format!("the server ended the handshake (TLS alert {alert:?})"),
    }
}

/// Alerts that have a plain meaning here. A gateway explains what it knows of a certificate at HTTP; an alert
/// is what strangers get.
const ALERTS: &[(AlertDescription, &str)] = &[
    (AlertDescription::CertificateRequired, NO_CERTIFICATE),
    (AlertDescription::UnknownCA, STRANGER),
    (AlertDescription::DecryptError, STRANGER),
    (AlertDescription::CertificateUnknown, STRANGER),
    (AlertDescription::BadCertificate, UNACCEPTABLE),
    (AlertDescription::UnsupportedCertificate, UNACCEPTABLE),
    (AlertDescription::AccessDenied, UNACCEPTABLE),
    (AlertDescription::CertificateExpired, EXPIRED),
    (AlertDescription::CertificateRevoked, REVOKED),
    (AlertDescription::ProtocolVersion, NO_COMMON_TLS),
    (AlertDescription::HandshakeFailure, NO_COMMON_TLS),
    (AlertDescription::UnrecognisedName, NAME),
];
const NO_CERTIFICATE: &str =
    "the server wants a device certificate and got none; enroll, or renew, and try again";
const STRANGER: &str = "the server refused this certificate: its CA is not one that the server trusts; \
     does the device belong to this installation?";
const UNACCEPTABLE: &str =
    "the server refused this certificate: it is not of a kind that this server accepts";
const EXPIRED: &str =
    "the server refused this certificate as expired; enroll again with a new code";
const REVOKED: &str = "the server refused this certificate as revoked; ask the operator";
const NO_COMMON_TLS: &str = "the server speaks no TLS version or cipher in common with this device";
const NAME: &str = "the server does not serve this host name; check the URL";

fn explain_certificate(fault: &CertificateError) -> String {
    let reason = if matches!(
        fault,
        CertificateError::UnknownIssuer | CertificateError::BadSignature
    ) {
        "it was not issued under the roots that this device trusts; either this is another server, or \
         somebody is in between"
    } else if matches!(
        fault,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    ) {
        "it does not name this host; use a name that the server was given with --name"
    } else if matches!(
        fault,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    ) {
        "it is not valid at this time; check this device's clock"
    } else {
        "it is not acceptable"
    };
    format!("the server's certificate is refused: {reason} ({fault})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_error_is_found_however_it_is_wrapped() {
        let alert = || rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert()));
        let fault = TlsFault::among_causes_of(&wrapped).expect("it is in there");
        assert!(matches!(
            fault,
            TlsFault::RefusedByServer(AlertDescription::UnknownCA)
        ));
        assert!(TlsFault::among_causes_of(&io::Error::other("else")).is_none());
    }
}
