//! Why handshakes fail, as stable codes and sentences.

use std::io;

use rustls::{CertificateError, Error, InvalidMessage};
use serde::Serialize;

use super::verifier::Presented;

/// Why a handshake did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "&'static str")]
pub enum HandshakeFault {
    /// It took longer than allowed.
    Timeout,
    /// Newer handshakes needed its place.
    Displaced,
    /// The client went away.
    Closed,
    /// The client's bytes are not TLS.
    NotTls,
    /// The client has no certificate.
    CertificateRequired,
    /// No anchor vouches for the client's certificate.
    UnknownIssuer,
    /// The certificate bears an anchor's name and not its signature.
    BadSignature,
    /// The client did not prove that it holds the certificate's key.
    KeyNotProven,
    /// The certificate cannot be read, or no client may present one of its sort.
    BadCertificate,
    /// More or larger certificates than any device has.
    CertificatesTooLarge,
    /// It names an identity of a kind that does not belong here.
    KindNotAccepted,
    /// The client did not like the server's certificate or offer.
    ClientAlert,
    /// Client and server have no version, group or protocol in common.
    Incompatible,
    /// The client broke the protocol.
    Protocol,
    /// A load balancer did not say for whom it connects.
    NotProxied,
}

impl HandshakeFault {
    /// Every fault, in the order of their declaration.
    pub const ALL: [Self; 15] = [
        Self::Timeout,
        Self::Displaced,
        Self::Closed,
        Self::NotTls,
        Self::CertificateRequired,
        Self::UnknownIssuer,
        Self::BadSignature,
        Self::KeyNotProven,
        Self::BadCertificate,
        Self::CertificatesTooLarge,
        Self::KindNotAccepted,
        Self::ClientAlert,
        Self::Incompatible,
        Self::Protocol,
        Self::NotProxied,
    ];

    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "handshake-timeout",
            Self::Displaced => "handshake-displaced",
            Self::Closed => "handshake-closed",
            Self::NotTls => "not-tls",
            Self::CertificateRequired => "certificate-required",
            Self::UnknownIssuer => "unknown-issuer",
            Self::BadSignature => "bad-signature",
            Self::KeyNotProven => "key-not-proven",
            Self::BadCertificate => "bad-certificate",
            Self::CertificatesTooLarge => "certificates-too-large",
            Self::KindNotAccepted => "kind-not-accepted",
            Self::ClientAlert => "client-alert",
            Self::Incompatible => "tls-incompatible",
            Self::Protocol => "tls-protocol",
            Self::NotProxied => "not-proxied",
        }
    }

    /// What happened, and what to look at next.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Timeout => {
                "The handshake took too long. Look for packet loss, or a client that only connects."
            }
            Self::Displaced => {
                "Too many handshakes ran at a time, and this was the oldest. Look for a flood."
            }
            Self::Closed => "The client went away during the handshake.",
            Self::NotTls => "The client does not speak TLS. Check that it uses https.",
            Self::CertificateRequired => {
                "The client sent no certificate. Enroll the device, or give the client its certificate and key."
            }
            Self::UnknownIssuer => {
                "No CA of this installation, and none that it was told to believe, issued the client's certificate. Enroll the device here."
            }
            Self::BadSignature => {
                "The certificate bears our CA's name but not its signature. Somebody made it up."
            }
            Self::KeyNotProven => {
                "The client did not prove that it holds the certificate's key. It has the wrong key, or somebody uses a certificate that is not theirs."
            }
            Self::BadCertificate => {
                "The client's certificate cannot be read, or is none that a client may have. Enroll the device again."
            }
            Self::CertificatesTooLarge => {
                "The client sent more or larger certificates than any device has. Let it send the device's certificate alone."
            }
            Self::KindNotAccepted => {
                "The certificate is no device's. Use a certificate made for this listener."
            }
            Self::ClientAlert => {
                "The client refused the server's certificate or offer. Give it this installation's root, and use a name that the server certificate has."
            }
            Self::Incompatible => {
                "Client and server have no TLS version, group or protocol in common. Update the client."
            }
            Self::Protocol => "The client broke the TLS protocol.",
            Self::NotProxied => {
                "The address is listed as a load balancer, and its connection did not begin with a PROXY protocol header of version 2. Switch that on there, or take the address out of proxy_protocol_from."
            }
        }
    }

    pub(super) fn from_io(error: &io::Error) -> Self {
        let Some(error) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>())
        else {
            // A message that outgrew the library's buffer is no error of its own type.
            return if error.kind() == io::ErrorKind::InvalidData {
                Self::Protocol
            } else {
                Self::Closed
            };
        };
        Self::from_tls(error)
    }

    pub(super) fn from_tls(error: &Error) -> Self {
        if let Error::InvalidCertificate(error) = error {
            return Self::from_certificate(error);
        }
        if matches!(error, Error::NoCertificatesPresented) {
            Self::CertificateRequired
        } else if matches!(
            error,
            Error::InvalidMessage(InvalidMessage::CertificatePayloadTooLarge)
        ) {
            Self::CertificatesTooLarge
        } else if matches!(
            error,
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion
            )
        ) {
            Self::NotTls
        } else if matches!(error, Error::AlertReceived(_)) {
            Self::ClientAlert
        } else if matches!(
            error,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol
        ) {
            Self::Incompatible
        } else {
            Self::Protocol
        }
    }

    fn from_certificate(error: &CertificateError) -> Self {
        if let Some(presented) = Presented::from_error(error) {
            match presented {
                Presented::Forged => Self::BadSignature,
                Presented::TooLarge => Self::CertificatesTooLarge,
            }
        } else if *error == CertificateError::ApplicationVerificationFailure {
            Self::KindNotAccepted
        } else if *error == CertificateError::UnknownIssuer {
            Self::UnknownIssuer
        } else if matches!(
            error,
            CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
        ) {
            // That of the handshake: one in the chain is `Presented::Forged`.
            Self::KeyNotProven
        } else {
            Self::BadCertificate
        }
    }
}

impl From<HandshakeFault> for &'static str {
    fn from(fault: HandshakeFault) -> Self {
        fault.as_str()
    }
}
