//! The acceptor: from a TCP connection to a finished handshake, or the reason why not.
//!
//! Written once for every listener that speaks TLS. Sessions are never resumed and early data is never
//! taken: a resumed session skips the verification of the client, and a ticket can be copied.

mod handshakes;
mod server_certificate;
mod verifier;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use identity::Kind;
use identity::chain::Anchors;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DistinguishedName, Error, InvalidMessage, ServerConfig,
    SupportedProtocolVersion,
};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::handshakes::Handshakes;
pub use self::server_certificate::{ServerCertificate, ServerCertificateFault};
use self::verifier::{Presented, Verifier};

/// What a listener asks of handshakes.
#[derive(Debug)]
pub struct AcceptorOptions {
    /// The server's certificate.
    pub certificate: Arc<ServerCertificate>,
    /// The CAs whose certificates are believed.
    pub anchors: Anchors,
    /// The subjects of these CAs, told to clients so that they choose the right certificate.
    pub hints: Vec<DistinguishedName>,
    /// Whether a client must have a certificate.
    pub clients: Clients,
    /// The kinds of identity that are accepted.
    pub kinds: &'static [Kind],
    /// The versions of TLS that are spoken.
    pub versions: Versions,
    /// The application protocols, most wanted first.
    pub alpn: Vec<Vec<u8>>,
    /// How long a whole handshake may take.
    pub deadline: Duration,
    /// How many handshakes may run at a time.
    pub max_handshakes: usize,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.3 alone.
    Tls13,
    /// TLS 1.2 too, for clients that never learned better.
    Tls12AndTls13,
}

/// Whether clients must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Without one, the handshake fails.
    Required,
    /// Without one, the handshake succeeds and nobody is identified.
    Optional,
}

/// Finishes handshakes for one kind of listener.
pub struct Acceptor {
    tls: TlsAcceptor,
    deadline: Duration,
    handshakes: Handshakes,
}

/// A finished handshake.
#[derive(Debug)]
pub struct Accepted {
    /// The encrypted connection.
    pub stream: TlsStream<TcpStream>,
    /// The certificate whose key the client proved to hold, and for which an anchor vouches. Its validity,
    /// usages and status are not judged yet.
    pub certificate: Option<CertificateDer<'static>>,
    /// The server name that the client asked for (RFC 6066, section 3), in lower case.
    pub server_name: Option<String>,
    /// The application protocol that was agreed on.
    pub alpn: Option<Vec<u8>>,
}

impl Acceptor {
    /// Fails if the crypto provider cannot speak these versions of TLS.
    pub fn new(options: AcceptorOptions) -> Result<Self, Error> {
        let provider = Arc::new(provider());
        let versions: &[&SupportedProtocolVersion] = match options.versions {
            Versions::Tls13 => &[&TLS13],
            Versions::Tls12AndTls13 => &[&TLS13, &TLS12],
        };
        let verifier = Verifier {
            anchors: options.anchors,
            hints: options.hints,
            mandatory: match options.clients {
                Clients::Required => true,
                Clients::Optional => false,
            },
            kinds: options.kinds,
            provider: Arc::clone(&provider),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(options.certificate);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = options.alpn;
        Ok(Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            deadline: options.deadline,
            handshakes: Handshakes::new(options.max_handshakes),
        })
    }

    /// Finishes the handshake on a connection, or ends the connection.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Accepted, HandshakeFault> {
        let place = self.handshakes.enter();
        let handshake = self.tls.accept(tcp).into_fallible();
        let outcome = tokio::select! {
            biased;
            outcome = tokio::time::timeout(self.deadline, handshake) => outcome,
            () = place.displaced() => return Err(HandshakeFault::Displaced),
        };
        drop(place);
        match outcome {
            Err(tokio::time::error::Elapsed { .. }) => Err(HandshakeFault::Timeout),
            Ok(Err((error, tcp))) => {
                let fault = HandshakeFault::from_io(&error);
                close_after_alert(tcp).await;
                Err(fault)
            }
            Ok(Ok(stream)) => {
                let (_, connection) = stream.get_ref();
                let certificate = connection
                    .peer_certificates()
                    .and_then(<[_]>::first)
                    .map(|certificate| certificate.clone().into_owned());
                let server_name = connection.server_name().map(str::to_ascii_lowercase);
                let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
                Ok(Accepted {
                    stream,
                    certificate,
                    server_name,
                    alpn,
                })
            }
        }
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

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
}

impl HandshakeFault {
    /// Every fault, in the order of their declaration.
    pub const ALL: [Self; 14] = [
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
                "No CA of this installation issued the client's certificate. Enroll the device here."
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
        }
    }

    fn from_io(error: &io::Error) -> Self {
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

/// aws-lc-rs with the key exchanges that a device may use.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Lets the alert arrive: closing a socket with unread bytes would reset it, and the alert would be lost.
async fn close_after_alert(mut tcp: TcpStream) {
    let drained = async {
        tcp.shutdown().await?;
        discard(&tcp).await
    };
    // However it ends, the connection is closed now.
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Reads what the peer still sends, up to a bound, until it closes.
pub(crate) async fn discard(tcp: &TcpStream) -> io::Result<()> {
    let mut left = MAX_DISCARDED;
    let mut buffer = [0; 4096];
    while left > 0 {
        tcp.readable().await?;
        match tcp.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => left = left.saturating_sub(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How long a peer may take to read the last bytes that it is sent.
pub(crate) const LINGER: Duration = Duration::from_millis(500);
const MAX_DISCARDED: usize = 256 * 1024;
