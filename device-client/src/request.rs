//! A request to a service, through the gateway, as the device.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use crate::clock;
use crate::exchange::{Driver, ExchangeError, Streaming, send};
use crate::key_store::{Credentials, KeyStore, StoreError};
use crate::refusal::{Refusal, code_of_gateway};
use crate::server_address::{AddressError, HTTPS, ServerAddress};
use crate::tls;
use crate::trust::Roots;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The gateway; `None` for the one that the key store remembers.
    gateway: Option<ServerAddress>,
    path: PathAndQuery,
}

impl FromStr for Target {
    type Err = TargetError;

    /// Takes an https URL, or a path that starts with `/`.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let uri: Uri = text.parse().map_err(|_| TargetError::Malformed)?;
        let path = match uri.path_and_query() {
            Some(path) if !path.as_str().starts_with('?') => path.clone(),
            Some(query) => {
                PathAndQuery::try_from(format!("/{}", query.as_str())).map_err(|_| TargetError::Malformed)?
            }
            None => PathAndQuery::from_static("/"),
        };
        let Some(authority) = uri.authority() else {
            return if text.starts_with('/') {
                Ok(Self {
                    gateway: None,
                    path,
                })
            } else {
                Err(TargetError::Malformed)
            };
        };
        match uri.scheme_str() {
            Some("https") => {}
            Some(_) => return Err(TargetError::Address(AddressError::NotHttps)),
            None => return Err(TargetError::Malformed),
        }
        if authority.as_str().contains('@') {
            return Err(TargetError::Address(AddressError::NotBare));
        }
        let port = authority.port_u16().unwrap_or(HTTPS);
        let gateway = ServerAddress::new(authority.host(), port).map_err(TargetError::Address)?;
        Ok(Self {
            gateway: Some(gateway),
            path,
        })
    }
}

/// Why a text is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither a URL nor a path.
    #[error("it is neither an https URL nor a path that starts with /")]
    Malformed,
    /// The URL's scheme, host or port.
    #[error("{0}")]
    Address(AddressError),
}

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

    /// The next part of the body; `None` when it is complete. Trailers are skipped.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RequestError> {
        while let Some(frame) = self.body.frame().await {
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
    send(gateway, tls, asked.request_to(gateway), ANSWER_WITHIN).await
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(Option<&str>, &str), TargetError>) {
        let target = text.parse::<Target>();
        assert_eq!(
            target
                .as_ref()
                .map(|target| (
                    target.gateway.as_ref().map(ToString::to_string),
                    target.path.as_str()
                ))
                .map_err(|error| *error),
            expected.map(|(gateway, path)| (gateway.map(str::to_owned), path)),
            "{text:?}"
        );
    }

    #[test]
    fn targets() {
        check("/hello?a=b", Ok((None, "/hello?a=b")));
        check("https://a.example", Ok((Some("a.example:443"), "/")));
        check(
            "https://A.example:8443?x",
            Ok((Some("a.example:8443"), "/?x")),
        );
        check("https://[::1]:8443/v1/", Ok((Some("[::1]:8443"), "/v1/")));
        check(
            "http://a.example/",
            Err(TargetError::Address(AddressError::NotHttps)),
        );
        check(
            "https://device@a.example/",
            Err(TargetError::Address(AddressError::NotBare)),
        );
        for text in ["", "hello", "a.example:8443", "/a b", "*", "?x", "https://"] {
            check(text, Err(TargetError::Malformed));
        }
    }
}
