//! The client's half of Enrollment over Secure Transport (RFC 7030, corrected by RFC 8951).

mod encoding;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use identity::{DeviceId, ServerAddress, Token};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::back_off::{Retry, random_byte};
use crate::exchange::{ExchangeError, exchange};
use crate::key_store::Credentials;
use crate::refusal::Refusal;
use crate::tls;
use crate::trust::Roots;

/// By what right a certificate is asked for.
pub(crate) enum Right<'a> {
    /// `simpleenroll`: a one-time token, in HTTP Basic.
    Token(&'a DeviceId, &'a Token),
    /// `simplereenroll`: the current certificate, in TLS.
    Certificate(&'a Credentials),
}

/// `cacerts` from a server that nobody has verified. What comes is believed by fingerprint only; the request
/// carries nothing that is secret.
pub(crate) async fn unverified_ca_certificates(
    server: &ServerAddress,
) -> Result<Vec<CertificateDer<'static>>, EstError> {
    fetch_ca_certificates(server, tls::unverified_for_public_bytes()).await
}

/// `cacerts` from the verified server.
pub(crate) async fn ca_certificates(
    server: &ServerAddress,
    roots: &Roots,
) -> Result<Vec<CertificateDer<'static>>, EstError> {
    fetch_ca_certificates(server, tls::verified(roots, None)).await
}

async fn fetch_ca_certificates(
    server: &ServerAddress,
    tls: Arc<ClientConfig>,
) -> Result<Vec<CertificateDer<'static>>, EstError> {
    let operation = "cacerts";
    let request = Request::get(path(operation))
        .body(Bytes::new())
        .expect("the path is legal");
    let answer = perform(server, tls, request).await?;
    certificates(server, operation, &answer)
}

/// Asks for a certificate, and again when the answer may have been lost: the same key gets the same certificate.
pub(crate) async fn certificate(
    server: &ServerAddress,
    roots: &Roots,
    csr: &[u8],
    right: Right<'_>,
    retry: Retry,
) -> Result<CertificateDer<'static>, EstError> {
    let (operation, tls) = match right {
        Right::Token(..) => ("simpleenroll", tls::verified(roots, None)),
        Right::Certificate(current) => ("simplereenroll", tls::verified(roots, Some(current))),
    };
    let mut request = Request::post(path(operation))
        .header(header::CONTENT_TYPE, "application/pkcs10")
        .body(Bytes::from(encoding::encode(csr)))
        .expect("the path and the header are legal");
    if let Right::Token(device, token) = right {
        let credentials = basic(device, token);
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, credentials);
    }
    let mut lost_before = false;
    let mut attempt = 1;
    let answer = loop {
        let error = match perform(server, tls.clone(), request.clone()).await {
            Ok(answer) => break answer,
            Err(error) => error,
        };
        let again = error.is_worth_repeating(lost_before);
        lost_before |= error.answer_may_be_lost();
        match retry.pause(attempt, random_byte()) {
            Some(pause) if again => tokio::time::sleep(pause).await,
            Some(_) | None => return Err(error),
        }
        attempt += 1;
    };
    let mut certificates = certificates(server, operation, &answer)?;
    let count = certificates.len();
    match certificates.pop() {
        Some(certificate) if count == 1 => Ok(certificate),
        Some(_) | None => Err(EstError::Answer {
            server: server.clone(),
            operation,
            fault: AnswerFault::Certificates { count },
        }),
    }
}

async fn perform(
    server: &ServerAddress,
    tls: Arc<ClientConfig>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, EstError> {
    let mut request = request.map(Full::new);
    let host = HeaderValue::try_from(server.to_string()).expect("an address is visible ASCII");
    request.headers_mut().insert(header::HOST, host);
    let method = request.method().clone();
    let answer = exchange(server, tls, request)
        .await
        .map_err(EstError::Exchange)?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        StatusCode::ACCEPTED if method == Method::POST => Err(EstError::Later {
            server: server.clone(),
        }),
        status => Err(EstError::Refused {
            server: server.clone(),
            refusal: Box::new(Refusal::read(status, answer.headers(), answer.body())),
        }),
    }
}

fn certificates(
    server: &ServerAddress,
    operation: &'static str,
    answer: &Response<Bytes>,
) -> Result<Vec<CertificateDer<'static>>, EstError> {
    let media_type = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    let found = if media_type.is_some_and(|value| value.eq_ignore_ascii_case(PKCS7)) {
        encoding::certificates(answer.body())
    } else {
        Err(AnswerFault::MediaType)
    };
    found.map_err(|fault| EstError::Answer {
        server: server.clone(),
        operation,
        fault,
    })
}

/// HTTP Basic (RFC 7617). A device id has no colon.
fn basic(device: &DeviceId, token: &Token) -> HeaderValue {
    let token = Zeroizing::new(token.expose());
    let pair = Zeroizing::new(format!("{device}:{}", token.as_str()));
    let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&encoded).expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

fn path(operation: &str) -> String {
    format!("/.well-known/est/{operation}")
}

/// Why the enrollment server gave no certificates.
#[derive(Debug, thiserror::Error)]
pub enum EstError {
    /// No answer came.
    #[error("{0}")]
    Exchange(ExchangeError),
    /// The server refused.
    #[error("the enrollment server {server} refused: {refusal}")]
    Refused {
        /// The server.
        server: ServerAddress,
        /// What it said.
        refusal: Box<Refusal>,
    },
    /// The server decides later (RFC 7030, section 4.2.3).
    #[error(
        "the enrollment server {server} has not decided yet; run the same command again later: the key is kept"
    )]
    Later {
        /// The server.
        server: ServerAddress,
    },
    /// The answer is not what EST prescribes.
    #[error("the answer of {server} to {operation} is refused: {fault}; is it an EST server?")]
    Answer {
        /// The server.
        server: ServerAddress,
        /// What it was asked for.
        operation: &'static str,
        /// What is wrong with the answer.
        fault: AnswerFault,
    },
}

impl EstError {
    /// Whether no server that this device trusts was reached.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Exchange(_) => true,
            Self::Refused { .. } | Self::Later { .. } | Self::Answer { .. } => false,
        }
    }

    /// Whether the server refused with one of these codes.
    pub(crate) fn has_code(&self, codes: &[&str]) -> bool {
        match self {
            Self::Refused { refusal, .. } => codes.iter().any(|code| refusal.has_code(code)),
            Self::Exchange(_) | Self::Later { .. } | Self::Answer { .. } => false,
        }
    }

    fn answer_may_be_lost(&self) -> bool {
        match self {
            Self::Exchange(error) => error.answer_may_be_lost(),
            Self::Refused { .. } | Self::Later { .. } | Self::Answer { .. } => false,
        }
    }

    /// Whether asking again can help: the answer was lost, the server was busy, or it went away after an answer
    /// was lost. A server that never answered is reported at once.
    fn is_worth_repeating(&self, lost_before: bool) -> bool {
        match self {
            Self::Exchange(error) => {
                error.answer_may_be_lost() || (lost_before && error.not_reached())
            }
            Self::Refused { refusal, .. } => [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ]
            .contains(&refusal.status),
            Self::Later { .. } | Self::Answer { .. } => false,
        }
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// Another media type.
    #[error("its media type is not {PKCS7}")]
    MediaType,
    /// The body is not base64.
    #[error("its body is not base64")]
    NotBase64,
    /// The body is no certs-only CMS in DER.
    #[error("its body is no certs-only CMS message")]
    NotCms,
    /// None, or more than asked for.
    #[error("it has {count} certificates where one is due")]
    Certificates {
        /// How many.
        count: usize,
    },
}

const PKCS7: &str = "application/pkcs7-mime";
