//! A request to a service, through the gateway, as the device.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use identity::ServerAddress;
use tokio::time::timeout;

use crate::clock;
use crate::exchange::{Driver, ExchangeError, Stage, Streaming, send};
use crate::key_store::{Credentials, KeyStore, StoreError};
use crate::refusal::{Refusal, code_of_gateway};
use crate::target::Target;
use crate::tls;
use crate::trust::Roots;

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Asked {
    target: Target,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    /// A GET without a body.
    pub fn get(target: Target) -> Self {
        Self {
            target,
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// The same with another method.
    pub fn with_method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// The same with a body.
    pub fn with_body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }

    /// The same with one more header; `None` for those that frame the message, which are not the caller's to set.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Option<Self> {
        if [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(&name) {
            return None;
        }
        self.headers.append(name, value);
        Some(self)
    }

    fn request_to(&self, gateway: &ServerAddress) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.target.path.clone());
        *request.headers_mut() = self.headers.clone();
        let host = HeaderValue::try_from(gateway.to_string()).expect("an address is visible ASCII");
        request.headers_mut().entry(HOST).or_insert(host);
        request
    }
}

/// An answer whose body is still coming.
pub struct Answer {
    head: http::response::Parts,
    body: Incoming,
    gateway: ServerAddress,
    /// Closes the connection when the answer is dropped.
    _driver: Driver,
    /// Whether the gateway was remembered with this answer; a store that could not be written does not spoil it.
    pub remembered: Result<bool, StoreError>,
}

impl Answer {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The HTTP version.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The gateway that answered.
    pub fn gateway(&self) -> &ServerAddress {
        &self.gateway
    }

    /// The next part of the body, within five minutes; `None` when it is complete. Trailers are skipped.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RequestError> {
        let slow = |_| ExchangeError::too_slow(&self.gateway, Stage::Body, BODY_WITHIN);
        while let Some(frame) = timeout(BODY_WITHIN, self.body.frame())
            .await
            .map_err(slow)?
        {
            let frame = frame.map_err(|error| ExchangeError::of_http(&self.gateway, error))?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Whether the gateway itself refused, rather than the service behind it (RFC 9209).
    pub fn is_refused_by_gateway(&self) -> bool {
        code_of_gateway(&self.head.headers).is_some()
    }

    /// What a refusal says, given the beginning of its body.
    pub fn refusal(&self, body: &[u8]) -> Refusal {
        Refusal::read(self.head.status, &self.head.headers, body)
    }
}

/// Sends a request with the certificate of `store`, and remembers the first gateway that answered well.
///
/// If the certificate was replaced between reading it and the gateway's judgement, so that the gateway calls it
/// retired, the request is sent again with the new one: a refused request has reached no service.
pub async fn request(store: &KeyStore, asked: &Asked) -> Result<Answer, RequestError> {
    let gateway = match &asked.target.gateway {
        Some(gateway) => gateway.clone(),
        None => store.settings()?.gateway.ok_or(RequestError::NoGateway)?,
    };
    let roots = store.roots(clock::now())?;
    let mut credentials = store.credentials()?;
    loop {
        let streaming = send_as(&credentials, &roots, &gateway, asked).await?;
        let code = code_of_gateway(streaming.response.headers());
        if code.as_deref() == Some("retired") {
            let newest = store.credentials()?;
            if newest.newer_than(&credentials) {
                credentials = newest;
                continue;
            }
        }
        let (head, body) = streaming.response.into_parts();
        let remembered = if asked.target.gateway.is_some() && is_success(head.status) {
            remember(store, &gateway)
        } else {
            Ok(false)
        };
        return Ok(Answer {
            head,
            body,
            gateway,
            _driver: streaming.driver,
            remembered,
        });
    }
}

async fn send_as(
    credentials: &Credentials,
    roots: &Roots,
    gateway: &ServerAddress,
    asked: &Asked,
) -> Result<Streaming, ExchangeError> {
    let tls = tls::verified(roots, Some(credentials));
    let upload = u64::try_from(asked.body.len()).unwrap_or(u64::MAX) / SLOWEST_UPLOAD;
    let within = ANSWER_WITHIN + Duration::from_secs(upload);
    send(gateway, tls, asked.request_to(gateway), within).await
}

fn is_success(status: StatusCode) -> bool {
    status.as_u16() < 400
}

fn remember(store: &KeyStore, gateway: &ServerAddress) -> Result<bool, StoreError> {
    if store.settings()?.gateway.is_some() {
        return Ok(false);
    }
    match store.lock() {
        Ok(locked) => locked.remember_gateway(gateway),
        // Whoever is renewing has precedence; the next request remembers it.
        Err(StoreError::Locked { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The key store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A path alone, and no gateway is remembered.
    #[error(
        "this key store remembers no gateway yet; give the whole URL once, as in https://gateway.example:8443/"
    )]
    NoGateway,
    /// The gateway.
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
}

impl RequestError {
    /// Whether no gateway that this device trusts answered.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Exchange(_) => true,
            Self::Store(_) | Self::NoGateway => false,
        }
    }
}

/// A gateway waits 60 s for its upstream; this is longer, so that its own answer arrives.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// Bytes per second that even a poor link carries; a longer body is given longer.
const SLOWEST_UPLOAD: u64 = 1024;
/// A stream may be silent for a while; a dead connection is not waited for for ever.
const BODY_WITHIN: Duration = Duration::from_secs(300);
