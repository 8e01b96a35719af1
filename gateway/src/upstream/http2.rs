//! Requests as HTTP/2 wants them, and what its failures mean.

use std::error::Error as _;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri, Version};
use http_body::Body as _;
use hyper::ext::Protocol;

use super::lease::Stream;
use super::{Failure, RequestBody};
use crate::websocket::WEBSOCKET;

/// Host becomes `:authority`, an upgrade to WebSocket an extended CONNECT (RFC 8441, section 4), and what is about an
/// HTTP/1.1 connection goes (RFC 9113, section 8.2.2).
///
/// `None` for what has no such form, which no request has that got as far as this.
pub(super) fn to_http2(
    mut request: Request<RequestBody>,
    is_tls: bool,
) -> Option<Request<RequestBody>> {
    if request.version() == Version::HTTP_2 {
        return Some(request);
    }
    let host = request.headers_mut().remove(HOST)?;
    let headers = request.headers_mut();
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    if headers.remove(UPGRADE).is_some() {
        // The key stays: HTTP/2 has no use for it, but a proxy may pass the request on over HTTP/1.1.
        *request.method_mut() = Method::CONNECT;
        let protocol = Protocol::from_static(WEBSOCKET);
        request.extensions_mut().insert(protocol);
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.version_mut() = Version::HTTP_2;
    Some(request)
}

/// The way back, for a request that was not sent and goes to another server.
pub(super) fn to_http1(mut request: Request<RequestBody>) -> Request<RequestBody> {
    if request.version() != Version::HTTP_2 {
        return request;
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let host = parts.authority.take();
    parts.scheme = None;
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_11;
    if request.extensions_mut().remove::<Protocol>().is_some() {
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.remove(TE);
    }
    let is_chunked = !request.body().is_end_stream()
        && request.body().size_hint().exact().is_none()
        && !request.headers().contains_key(CONTENT_LENGTH);
    let headers = request.headers_mut();
    if let Some(Ok(host)) = host.map(|host| HeaderValue::try_from(host.as_str())) {
        headers.insert(HOST, host);
    }
    if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if is_chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}

/// What it means for the request that there is no answer.
pub(super) fn failure(error: &hyper::Error, stream: &Stream) -> Failure {
    if stream.is_broken() {
        return Failure::Invalid;
    }
    // The server does not answer pings.
    if error.is_timeout() {
        return Failure::Timeout;
    }
    let Some(error) = error
        .source()
        .and_then(|cause| cause.downcast_ref::<h2::Error>())
    else {
        return Failure::Closed;
    };
    // The HTTP/2 implementation ends with the server's GOAWAY only streams later than the last that it names
    // (RFC 9113, section 6.8); the others end as they end.
    if error.is_remote() && error.is_go_away() {
        stream.retire();
        return Failure::NotProcessed;
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => Failure::NotProcessed,
        Some(_) if error.is_remote() => Failure::Reset,
        // The implementation found a rule broken.
        Some(_) if error.is_library() => Failure::Invalid,
        Some(_) | None => Failure::Closed,
    }
}
