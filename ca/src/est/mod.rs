//! Enrollment over Secure Transport (RFC 7030, corrected by RFC 8951), as a function of a request and its
//! authenticated peer. The listener that ends TLS is the caller's.

mod refused;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use identity::certificate::Parsed;
use identity::{DeviceId, Identity, Index, SpiffeId, Token};
use rustls_pki_types::CertificateDer;

use crate::authority::Authority;
use crate::issuance::{IssueError, Issued};
use crate::pure::csr::VerifiedCsr;
use crate::pure::enroll::Requester;
use crate::pure::est_encoding::{self, CSR_ATTRIBUTES};
use crate::pure::journal::Actor;
use refused::Refused;

/// The largest request body that [`answer`] wants to see, in bytes. Longer ones are answered with 413.
pub const MAX_BODY: usize = 32 * 1024;

/// An answer, and what was decided.
#[derive(Debug)]
pub struct Answer {
    /// For the peer.
    pub response: Response<Bytes>,
    /// For the audit record.
    pub decision: Decision,
}

/// What was decided about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The operation, e.g. `simpleenroll`; `-` if there is none of that name.
    pub operation: &'static str,
    /// The device that asked, as far as it is known; unproven if the outcome is a refusal.
    pub device: Option<DeviceId>,
    /// The index of the certificate that was issued, or issued again.
    pub index: Option<Index>,
    /// `issued`, `repeated`, `sent`, or the code of the refusal.
    pub outcome: String,
    /// What happened in a sentence, for refusals.
    pub detail: Option<String>,
}

/// Answers one request. `peer` is the certificate that TLS verified against the device CA, if there was one.
pub async fn answer(
    authority: &Authority,
    request: Request<Bytes>,
    peer: Option<&CertificateDer<'_>>,
) -> Answer {
    fail::fail_point!("ca::est");
    let operation = match Operation::of(request.uri().path()) {
        Some(operation) => operation,
        None => return Refused::unknown_operation(request.uri().path()).answer("-", None),
    };
    if request.method() != operation.method() {
        return Refused::method(operation).answer(operation.name(), None);
    }
    match operation {
        Operation::CaCertificates => ca_certificates(authority),
        Operation::CsrAttributes => sent(
            operation,
            "application/csrattrs",
            est_encoding::encode(CSR_ATTRIBUTES),
        ),
        Operation::SimpleEnroll => {
            let right = first_right(authority, &request, peer);
            enroll(authority, operation, right, &request).await
        }
        Operation::SimpleReenroll => {
            let right = renewal_right(authority, peer);
            enroll(authority, operation, right, &request).await
        }
    }
}

/// The answer to a body of more than [`MAX_BODY`] bytes.
pub fn too_large() -> Answer {
    Refused::new(
        413,
        "csr-too-large",
        "The request is too large",
        format!(
            "The body has more than {MAX_BODY} bytes; a certificate request has less than 4 KiB."
        ),
    )
    .answer("-", None)
}

/// The answer to a body that does not come.
pub fn too_late() -> Answer {
    Refused::new(
        408,
        "request-timeout",
        "The request did not arrive",
        "The body did not arrive completely in the time allowed. Send it again.",
    )
    .answer("-", None)
}

/// The answer to a wrong token of somebody who sent too many of them before, instead of the refusal that was
/// decided. The next is refused as any other after `wait`.
pub fn too_many_wrong_tokens(refused: Decision, wait: Duration) -> Answer {
    let seconds = wait.as_millis().div_ceil(1000);
    let mut answer = Refused::new(
        429,
        "rate-limited",
        "Too many wrong tokens",
        format!(
            "The token is unknown, or for another device, and so were many before it from this address; \
             come back after {seconds} s, with a token that the operator made for this device."
        ),
    )
    .answer(refused.operation, refused.device);
    let headers = answer.response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds as u64));
    answer
}

#[derive(Clone, Copy)]
enum Operation {
    CaCertificates,
    CsrAttributes,
    SimpleEnroll,
    SimpleReenroll,
}

impl Operation {
    fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/.well-known/est/")? {
            "cacerts" => Some(Self::CaCertificates),
            "csrattrs" => Some(Self::CsrAttributes),
            "simpleenroll" => Some(Self::SimpleEnroll),
            "simplereenroll" => Some(Self::SimpleReenroll),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::CaCertificates => "cacerts",
            Self::CsrAttributes => "csrattrs",
            Self::SimpleEnroll => "simpleenroll",
            Self::SimpleReenroll => "simplereenroll",
        }
    }

    fn method(self) -> Method {
        match self {
            Self::CaCertificates | Self::CsrAttributes => Method::GET,
            Self::SimpleEnroll | Self::SimpleReenroll => Method::POST,
        }
    }
}

/// By what right the peer asks for its first certificate: a token, or else a certificate that it has.
fn first_right(
    authority: &Authority,
    request: &Request<Bytes>,
    peer: Option<&CertificateDer<'_>>,
) -> Result<Requester, Refused> {
    let mut credentials = request.headers().get_all(header::AUTHORIZATION).iter();
    match (credentials.next(), credentials.next(), peer) {
        (Some(credentials), None, _) => by_token(credentials),
        (Some(_), Some(_), _) => Err(Refused::credentials(
            "There are two Authorization headers. Send one.",
        )),
        (None, _, Some(peer)) => by_certificate(authority, peer),
        (None, _, None) => Err(Refused::credentials(
            "Send HTTP Basic credentials: the device id as user, the one-time token as password.",
        )),
    }
}

/// By what right the peer asks for its next certificate: with the current one, and nothing else.
fn renewal_right(
    authority: &Authority,
    peer: Option<&CertificateDer<'_>>,
) -> Result<Requester, Refused> {
    let peer = peer.ok_or_else(|| {
        Refused::new(
            403,
            "certificate-required",
            "A certificate is required",
            "Re-enrollment needs the current device certificate in the TLS handshake; \
             without one, enroll with a token at simpleenroll.",
        )
    })?;
    by_certificate(authority, peer)
}

fn by_token(credentials: &HeaderValue) -> Result<Requester, Refused> {
    let decoded = credentials
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Basic"))
        .and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = decoded.as_deref().and_then(|text| text.split_once(':'));
    let Some((user, password)) = parts else {
        return Err(Refused::credentials(
            "The Authorization header is not HTTP Basic.",
        ));
    };
    let device = DeviceId::parse(user).map_err(|error| {
        Refused::credentials(format!("The user name is no device id: {error}."))
    })?;
    let token: Token = password
        .parse()
        .map_err(|_| Refused::credentials("The password is no token of 32 hexadecimal digits."))?;
    Ok(Requester::Token {
        device,
        hash: token.hash(),
    })
}

fn by_certificate(authority: &Authority, peer: &CertificateDer<'_>) -> Result<Requester, Refused> {
    let invalid = |detail: String| {
        Refused::new(
            403,
            "identity-invalid",
            "The certificate names no device",
            detail,
        )
    };
    let leaf = Parsed::from_der(peer)
        .and_then(|parsed| parsed.leaf())
        .map_err(|error| invalid(format!("The presented certificate is refused: {error}.")))?;
    let SpiffeId {
        trust_domain,
        identity,
    } = leaf.spiffe_id;
    match identity {
        Identity::Device(device) if trust_domain == authority.trust_domain => {
            Ok(Requester::Certificate {
                device,
                index: authority.serial_key.open(&leaf.serial),
                certificate: leaf.certificate,
                not_before: leaf.validity.not_before,
                not_after: leaf.validity.not_after,
            })
        }
        Identity::Device(_)
        | Identity::Gateway(_)
        | Identity::Operator(_)
        | Identity::Station(_) => Err(invalid(
            "The presented certificate is not a device's.".into(),
        )),
    }
}

async fn enroll(
    authority: &Authority,
    operation: Operation,
    right: Result<Requester, Refused>,
    request: &Request<Bytes>,
) -> Answer {
    let requester = match right {
        Ok(requester) => requester,
        Err(refused) => return refused.answer(operation.name(), None),
    };
    let device = requester.device().clone();
    match issue(authority, requester, request).await {
        Ok(issued) => certificate(operation, device, &issued),
        Err(refused) => refused.answer(operation.name(), Some(device)),
    }
}

async fn issue(
    authority: &Authority,
    requester: Requester,
    request: &Request<Bytes>,
) -> Result<Issued, Refused> {
    let media_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    if !media_type.is_some_and(|value| value.eq_ignore_ascii_case("application/pkcs10")) {
        return Err(Refused::new(
            415,
            "media-type",
            "The media type is not application/pkcs10",
            "Send the certificate request as base64 of its DER, with Content-Type: application/pkcs10.",
        ));
    }
    let der = est_encoding::decode(request.body()).ok_or_else(|| {
        Refused::new(
            400,
            "csr-malformed",
            "The certificate request is not acceptable",
            "The body is not base64. Send base64 of the DER, without PEM's BEGIN and END lines.",
        )
    })?;
    let csr = VerifiedCsr::from_der(&der).map_err(IssueError::from)?;
    let actor = Actor::Device(requester.device().clone());
    Ok(authority.enroll(actor, requester, csr).await?)
}

fn ca_certificates(authority: &Authority) -> Answer {
    let operation = Operation::CaCertificates;
    match est_encoding::certs_only(&[authority.root().der(), authority.device_ca().der()]) {
        Ok(bag) => sent(
            operation,
            "application/pkcs7-mime",
            est_encoding::encode(&bag),
        ),
        Err(_) => Refused::internal().answer(operation.name(), None),
    }
}

fn certificate(operation: Operation, device: DeviceId, issued: &Issued) -> Answer {
    let Ok(bag) = est_encoding::certs_only(&[&issued.der]) else {
        return Refused::internal().answer(operation.name(), Some(device));
    };
    let mut answer = sent(
        operation,
        "application/pkcs7-mime; smime-type=certs-only",
        est_encoding::encode(&bag),
    );
    answer.decision.device = Some(device);
    answer.decision.index = Some(issued.index);
    answer.decision.outcome = if issued.repeated {
        "repeated"
    } else {
        "issued"
    }
    .into();
    answer
}

fn sent(operation: Operation, media_type: &'static str, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Bytes::from(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Answer {
        response,
        decision: Decision {
            operation: operation.name(),
            device: None,
            index: None,
            outcome: "sent".into(),
            detail: None,
        },
    }
}
