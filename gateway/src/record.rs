//! Audit records: one per decision, given to whoever started the gateway.

use std::net::SocketAddr;
use std::time::Duration;

use identity::{CertificateSerial, DeviceName, Fingerprint, Timestamp};
use serde::Serialize;

use crate::code::Code;
use crate::tls::HandshakeFault;

/// One decision of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When it was made.
    pub at: Timestamp,
    /// The request's id; none for a handshake.
    pub request_id: Option<String>,
    /// The other end.
    pub address: SocketAddr,
    /// The device that the certificate names.
    pub device: Option<DeviceName>,
    /// The certificate's serial.
    pub serial: Option<CertificateSerial>,
    /// The device for which [`Self::device`], a gateway in front, asked: the names of gateways and the id.
    pub on_behalf_of: Option<String>,
    /// Why the request would have been refused, on a route that only reports it.
    pub reported: Option<Code>,
    /// Which certificate, when it is not in the registry: validly signed, so either the registry was lost or
    /// the CA's key is used by somebody else.
    pub unregistered: Option<Unregistered>,
    /// The server name in the handshake.
    pub server_name: Option<String>,
    /// The host that was asked for.
    pub host: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// The path, without the query, cut after 256 bytes.
    pub path: Option<String>,
    /// What was decided.
    pub outcome: Outcome,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// How long it took until the answer's head was there.
    pub duration: Duration,
}

/// A certificate that an anchor vouches for and the registry does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unregistered {
    /// SHA-256 of the certificate.
    pub certificate: Fingerprint,
    /// SHA-256 of its TBSCertificate: if the registry knows this one, the device only altered the encoding of
    /// the signature, and the CA's key is safe.
    pub tbs: Fingerprint,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Outcome {
    /// The request was forwarded, and the answer is the upstream's.
    Forwarded,
    /// The request was forwarded without an identity, and the answer is the upstream's.
    ForwardedAnonymously,
    /// The request was refused or could not be answered.
    Refused(Code),
    /// The connection ended before the request was answered.
    Abandoned,
    /// The handshake did not finish.
    HandshakeRefused(HandshakeFault),
}

impl Outcome {
    /// The stable code; `forwarded` or `forwarded-anonymously` if nothing was refused.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::ForwardedAnonymously => "forwarded-anonymously",
            Self::Refused(code) => code.as_str(),
            Self::Abandoned => "abandoned",
            Self::HandshakeRefused(fault) => fault.as_str(),
        }
    }
}

impl From<Outcome> for &'static str {
    fn from(outcome: Outcome) -> Self {
        outcome.as_str()
    }
}

/// The beginning of a text that a peer chose.
pub(crate) fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

const MAX_TEXT: usize = 256;
