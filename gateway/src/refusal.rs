//! Refusals as they leave: the one place where a reason becomes a status, a code and a sentence. It is long because it is one
//! place: each match is exhaustive, and they are read side by side.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Response, StatusCode};
use identity::Problem;

use crate::code::Code;
use crate::pure::authorize::Denial;
use crate::pure::framing::Violation;
use crate::pure::grpc;
use crate::pure::headers::HeaderFault;
use crate::pure::hop::HopFault;
use crate::pure::request_head::HeadFault;
use crate::upstream::UpstreamFault;

/// Why a request was answered by the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It may not be forwarded.
    Denied(Denial),
    /// Its head is wrong.
    Head(HeadFault),
    /// Its headers or trailers are wrong.
    Header(HeaderFault),
    /// The gateway that sent it does not say credibly for which device.
    Hop(HopFault),
    /// It broke the rules of framing.
    Framing(Violation),
    /// Its body stopped arriving.
    BodyStalled,
    /// Its body ended too soon, or cannot be read.
    BodyBroken,
    /// Its head is longer than its route allows.
    HeadTooLarge,
    /// Its body is longer than its route allows.
    BodyTooLarge,
    /// Its device, or the address of nobody in particular, has too many requests under way.
    TooManyRequests,
    /// Its device asks too often; in so many seconds it may ask again.
    RateLimited(u64),
    /// The gateway has too many requests under way.
    Overloaded,
    /// Its connection was cut while it was under way.
    Cut,
    /// The upstream did not answer it.
    Upstream(UpstreamFault),
    /// The gateway has a bug.
    Panic,
}

/// A refusal on the wire.
pub(crate) struct Wire {
    pub(crate) status: StatusCode,
    pub(crate) code: Code,
    /// The error type of RFC 9209, section 2.3.
    proxy_error: &'static str,
    title: &'static str,
    detail: String,
    /// After how many seconds it is worth to ask again.
    retry_after: Option<u64>,
}

/// Maps every reason to what the peer sees. Details are sentences that say what to do next.
pub(crate) fn wire(refusal: Refusal) -> Wire {
    const DENIED: &str = "http_request_denied";
    const ERROR: &str = "http_request_error";
    use StatusCode as S;
    let (status, code, proxy_error, title, detail) = match refusal {
        Refusal::Denied(denial) => {
            let (status, code, title, detail) = denied(denial);
            (status, code, DENIED, title, detail)
        }
        Refusal::Head(HeadFault::Method) => (
            S::METHOD_NOT_ALLOWED,
            Code::MethodRefused,
            DENIED,
            "Method refused",
            "CONNECT and TRACE do not pass the gateway. Use another method.".to_owned(),
        ),
        Refusal::Head(HeadFault::Protocol) => (
            S::NOT_IMPLEMENTED,
            Code::MethodRefused,
            DENIED,
            "Method refused",
            "CONNECT opens WebSockets and nothing else. Ask for the protocol websocket.".to_owned(),
        ),
        Refusal::Head(fault @ (HeadFault::Scheme | HeadFault::WebSocketKey)) => (
            S::BAD_REQUEST,
            Code::MalformedRequest,
            ERROR,
            "Malformed request",
            format!("{}. Correct the client.", capital(fault)),
        ),
        Refusal::Head(
            fault @ (HeadFault::NoHost
            | HeadFault::SeveralHosts
            | HeadFault::HostsDiffer
            | HeadFault::Host(_)),
        ) => (
            S::BAD_REQUEST,
            Code::HostRefused,
            ERROR,
            "Host refused",
            format!("{}. Name one host, the same everywhere.", capital(fault)),
        ),
        Refusal::Header(HeaderFault::Spelling) => (
            S::BAD_REQUEST,
            Code::IdentityHeaderSpelling,
            DENIED,
            "Header spelling refused",
            "A header is another spelling of one that only the gateway may set, with _ or . for -. Remove it.".to_owned(),
        ),
        Refusal::Header(HeaderFault::NotNames) => (
            S::BAD_REQUEST,
            Code::HeaderRefused,
            ERROR,
            "Header refused",
            "Connection or Trailer does not list header names. Correct it.".to_owned(),
        ),
        Refusal::Header(fault @ HeaderFault::Inexpressible(_)) => (
            S::FORBIDDEN,
            Code::IdentityInvalid,
            DENIED,
            "Identity not expressible",
            format!("{}. Use a certificate with plain names, or give the route another form of identity.", capital(fault)),
        ),
        Refusal::Header(HeaderFault::NoCertificate) => (
            S::FORBIDDEN,
            Code::IdentityInvalid,
            DENIED,
            "Identity not expressible",
            "The device's certificate stayed at the gateway in front. Give the route another form of identity.".to_owned(),
        ),
        Refusal::Hop(fault) => (
            S::FORBIDDEN,
            Code::AssertionInvalid,
            DENIED,
            "Assertion invalid",
            format!("The gateway in front must say for which device it asks: {fault}. Let its route send an assertion."),
        ),
        Refusal::Header(HeaderFault::NoAssertion) => (
            S::INTERNAL_SERVER_ERROR,
            Code::InternalError,
            "proxy_internal_error",
            "Internal error",
            "The gateway made no assertion for this request. Report it with the request id.".to_owned(),
        ),
        Refusal::Framing(Violation::HeadTimeout) | Refusal::BodyStalled => (
            S::REQUEST_TIMEOUT,
            Code::RequestTimeout,
            "http_request_error",
            "Request timeout",
            "The request did not arrive within the time allowed. Send it again.".to_owned(),
        ),
        Refusal::TooManyRequests => (
            S::TOO_MANY_REQUESTS,
            Code::TooManyRequests,
            DENIED,
            "Too many requests",
            "The device has too many requests under way. Wait for answers before asking more."
                .to_owned(),
        ),
        Refusal::RateLimited(_) => (
            S::TOO_MANY_REQUESTS,
            Code::RateLimited,
            DENIED,
            "Too many requests",
            "The device asks more often than it may. Wait as long as Retry-After says.".to_owned(),
        ),
        Refusal::HeadTooLarge => (
            S::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Code::HeadTooLarge,
            DENIED,
            "Request head too large",
            "The head is longer than this route allows. Send less in headers.".to_owned(),
        ),
        Refusal::BodyTooLarge => (
            S::PAYLOAD_TOO_LARGE,
            Code::BodyTooLarge,
            DENIED,
            "Request body too large",
            "The body is longer than this route allows. Send less, or in parts.".to_owned(),
        ),
        Refusal::Overloaded => (
            S::SERVICE_UNAVAILABLE,
            Code::Overloaded,
            "connection_limit_reached",
            "Overloaded",
            "The gateway has too many requests under way. Try again later.".to_owned(),
        ),
        Refusal::Framing(violation @ (Violation::HeadTooLong | Violation::TooManyFields)) => (
            S::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Code::HeadTooLarge,
            ERROR,
            "Request head too large",
            format!("{}. Send less in headers.", capital(violation)),
        ),
        Refusal::Framing(
            violation @ (Violation::EmptyLine
            | Violation::BareLineFeed
            | Violation::BareCarriageReturn
            | Violation::Nul
            | Violation::FoldedLine
            | Violation::Malformed
            | Violation::Target
            | Violation::NoHost
            | Violation::SeveralHosts
            | Violation::ContentLength
            | Violation::TransferEncoding
            | Violation::TwoLengths
            | Violation::Expect
            | Violation::ChunkSize
            | Violation::ChunkExtension
            | Violation::ChunkEnd
            | Violation::Trailer
            | Violation::TrailersTooLong
            | Violation::UpgradeWithBody
            | Violation::EarlyBytes),
        ) => (
            S::BAD_REQUEST,
            Code::MalformedRequest,
            ERROR,
            "Malformed request",
            format!("{}. Correct the client; RFC 9112 has the rules.", capital(violation)),
        ),
        Refusal::BodyBroken => (
            S::BAD_REQUEST,
            Code::MalformedRequest,
            ERROR,
            "Malformed request",
            "The request's body ended before its end, or has more than 16 KiB of chunk extensions or 100 trailers. Correct the client; RFC 9112 has the rules.".to_owned(),
        ),
        Refusal::Cut => (
            S::FORBIDDEN,
            Code::Revoked,
            DENIED,
            "Connection ended",
            "The connection was ended while the request was under way. Connect again to learn why.".to_owned(),
        ),
        Refusal::Upstream(fault) => upstream(fault),
        Refusal::Panic => (
            S::INTERNAL_SERVER_ERROR,
            Code::InternalError,
            "proxy_internal_error",
            "Internal error",
            "The gateway failed on this request. Report it with the request id.".to_owned(),
        ),
    };
    Wire {
        status,
        code,
        proxy_error,
        title,
        detail,
        retry_after: match refusal {
            Refusal::RateLimited(seconds) => Some(seconds),
            Refusal::TooManyRequests => Some(1),
            Refusal::Denied(_)
            | Refusal::Head(_)
            | Refusal::Header(_)
            | Refusal::Hop(_)
            | Refusal::Framing(_)
            | Refusal::BodyStalled
            | Refusal::BodyBroken
            | Refusal::HeadTooLarge
            | Refusal::BodyTooLarge
            | Refusal::Overloaded
            | Refusal::Cut
            | Refusal::Upstream(_)
            | Refusal::Panic => None,
        },
    }
}

type Fields = (StatusCode, Code, &'static str, String);

fn denied(denial: Denial) -> Fields {
    use StatusCode as S;
    let (status, code, title, detail) = match denial {
        Denial::IdentityInvalid(rule) => {
            return (
                S::FORBIDDEN,
                Code::IdentityInvalid,
                "Identity invalid",
                format!("The certificate identifies no device: {rule}. Enroll the device again."),
            );
        }
        Denial::NotYetValid => (
            S::FORBIDDEN,
            Code::NotYetValid,
            "Certificate not yet valid",
            "The certificate is not valid yet. Check the clocks of the CA and the gateway.",
        ),
        Denial::Expired => (
            S::FORBIDDEN,
            Code::Expired,
            "Certificate expired",
            "The certificate has expired. Enroll the device again with a new token.",
        ),
        Denial::Unregistered => (
            S::FORBIDDEN,
            Code::Unregistered,
            "Certificate unregistered",
            "The certificate is not in the registry. Enroll the device again, and find out who issued this one.",
        ),
        Denial::Retired => (
            S::FORBIDDEN,
            Code::Retired,
            "Certificate retired",
            "A newer certificate of the device is in use. Use that one.",
        ),
        Denial::Suspended => (
            S::FORBIDDEN,
            Code::Suspended,
            "Device suspended",
            "An operator suspended the device. Ask them to restore it.",
        ),
        Denial::Quarantined => (
            S::FORBIDDEN,
            Code::Quarantined,
            "Device quarantined",
            "The device was set aside because of suspicious use. Ask an operator to look into it.",
        ),
        Denial::Restricted => (
            S::FORBIDDEN,
            Code::Restricted,
            "Device restricted",
            "The device is restricted, and this route does not admit restricted devices. Ask an operator.",
        ),
        Denial::Revoked => (
            S::FORBIDDEN,
            Code::Revoked,
            "Certificate revoked",
            "The certificate was revoked. An operator can replace the device and enroll it again.",
        ),
        Denial::RegistryStale => (
            S::SERVICE_UNAVAILABLE,
            Code::RegistryStale,
            "Registry stale",
            "This gateway has not heard from the registry for too long. Restore its connection to the CA.",
        ),
        Denial::HostMismatch => (
            S::MISDIRECTED_REQUEST,
            Code::HostMismatch,
            "Host mismatch",
            "The request's host is not the server name of the connection. Connect anew for this host.",
        ),
        Denial::Path(fault) => {
            return (
                S::BAD_REQUEST,
                Code::PathRefused,
                "Path refused",
                format!("{}. Send the path in its plain form.", capital(fault)),
            );
        }
        Denial::NoRoute => (
            S::NOT_FOUND,
            Code::NoRoute,
            "No route",
            "No route has this host and path. Check the URL, or add a route.",
        ),
        Denial::CertificateRequired => (
            S::FORBIDDEN,
            Code::CertificateRequired,
            "Certificate required",
            "This route is for devices with a certificate, and the connection has none. Connect with one.",
        ),
        Denial::Untrusted(fault) => {
            return (
                S::FORBIDDEN,
                Code::CertificateUntrusted,
                "Certificate untrusted",
                fault.detail().to_owned(),
            );
        }
        Denial::GroupNotAllowed => (
            S::FORBIDDEN,
            Code::GroupNotAllowed,
            "Group not allowed",
            "The device is in none of the groups that this route admits. Ask an operator to add it to one.",
        ),
        Denial::WebSocketNotAllowed => (
            S::FORBIDDEN,
            Code::WebsocketNotAllowed,
            "WebSocket not allowed",
            "This route opens no WebSockets. Send requests, or ask an operator to allow them.",
        ),
        Denial::AnchorRemoved => (
            S::FORBIDDEN,
            Code::AnchorRemoved,
            "Anchor removed",
            "The certificate's CA is not believed any more, or names the device otherwise. Connect anew with a certificate that is.",
        ),
        Denial::AnchorExpired => (
            S::SERVICE_UNAVAILABLE,
            Code::AnchorExpired,
            "Anchor expired",
            "The certificate of the CA that issued this one is not valid now. Ask an operator for a new one.",
        ),
        Denial::CrlMissing => (
            S::FORBIDDEN,
            Code::CrlMissing,
            "Revocation list missing",
            "There is no list of revoked certificates by the CA that issued this one. Ask an operator to add CA and list.",
        ),
        Denial::CrlStale => (
            S::SERVICE_UNAVAILABLE,
            Code::CrlStale,
            "Revocation list stale",
            "The list of revoked certificates by the CA that issued this one is out of date. Ask an operator for a new one.",
        ),
    };
    (status, code, title, detail.to_owned())
}

fn upstream(fault: UpstreamFault) -> (StatusCode, Code, &'static str, &'static str, String) {
    use StatusCode as S;
    let (status, code, error, title, detail) = match fault {
        UpstreamFault::Name => (
            S::BAD_GATEWAY,
            Code::UpstreamUnreachable,
            "dns_error",
            "Upstream unreachable",
            "The upstream's name does not resolve. Check the route and the resolver.",
        ),
        UpstreamFault::Connect => (
            S::BAD_GATEWAY,
            Code::UpstreamUnreachable,
            "connection_refused",
            "Upstream unreachable",
            "No upstream of the route accepts connections. Check that it runs.",
        ),
        UpstreamFault::ConnectTimeout => (
            S::GATEWAY_TIMEOUT,
            Code::UpstreamTimeout,
            "connection_timeout",
            "Upstream timeout",
            "No upstream of the route accepted a connection in time. Check the network.",
        ),
        UpstreamFault::Untrusted => (
            S::BAD_GATEWAY,
            Code::UpstreamUntrusted,
            "tls_certificate_error",
            "Upstream untrusted",
            "The upstream's certificate is expired, for another name, or not by the roots of the route. Check both.",
        ),
        UpstreamFault::Tls => (
            S::BAD_GATEWAY,
            Code::UpstreamUnreachable,
            "tls_protocol_error",
            "Upstream unreachable",
            "There was no TLS with the upstream. Check what it speaks on that port, and whether it takes the gateway's certificate.",
        ),
        UpstreamFault::NoUpgrade => (
            S::BAD_GATEWAY,
            Code::UpstreamInvalid,
            "http_upgrade_failed",
            "Upstream without WebSockets",
            "Only HTTP/2 is spoken with the upstream, which does not take WebSockets over it (RFC 8441). Use http:// or https://.",
        ),
        UpstreamFault::NotSwitched => (
            S::BAD_GATEWAY,
            Code::UpstreamInvalid,
            "http_upgrade_failed",
            "Upstream without WebSockets",
            "The upstream answered as if it had opened a WebSocket, and did not. Check what it is.",
        ),
        UpstreamFault::Timeout => (
            S::GATEWAY_TIMEOUT,
            Code::UpstreamTimeout,
            "http_response_timeout",
            "Upstream timeout",
            "The upstream did not answer in time. Look at its load and its log.",
        ),
        UpstreamFault::Closed => (
            S::BAD_GATEWAY,
            Code::UpstreamUnreachable,
            "connection_terminated",
            "Upstream closed the connection",
            "The upstream closed the connection before it answered. Look at its log.",
        ),
        UpstreamFault::Invalid => (
            S::BAD_GATEWAY,
            Code::UpstreamInvalid,
            "http_protocol_error",
            "Upstream answer invalid",
            "The upstream did not answer with one well-framed HTTP response. Correct it.",
        ),
    };
    (status, code, error, title, detail.to_owned())
}

/// Whether the connection should end after the refusal, where it serves one request at a time.
pub(crate) fn closes(refusal: Refusal) -> bool {
    match refusal {
        Refusal::Framing(_)
        | Refusal::BodyStalled
        | Refusal::BodyBroken
        | Refusal::BodyTooLarge
        | Refusal::Cut
        | Refusal::Panic => true,
        Refusal::Denied(_)
        | Refusal::Head(_)
        | Refusal::Header(_)
        | Refusal::Hop(_)
        | Refusal::HeadTooLarge
        | Refusal::TooManyRequests
        | Refusal::RateLimited(_)
        | Refusal::Overloaded
        | Refusal::Upstream(_) => false,
    }
}

/// The answer to a refused request.
pub(crate) fn response(wire: &Wire, request_id: &HeaderValue, close: bool) -> Response<Bytes> {
    let mut problem = Problem::new(
        wire.status.as_u16(),
        wire.code.as_str(),
        wire.title,
        wire.detail.as_str(),
    );
    problem.request_id = request_id.to_str().ok().map(str::to_owned);
    let mut response = Response::new(Bytes::from(problem.to_json()));
    *response.status_mut() = wire.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
    say(headers, wire);
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same to a gRPC call: a head and nothing else ("Trailers-Only"), because clients show people the message that is in
/// it, and neither headers nor a body of an answer with another status.
pub(crate) fn grpc_response(wire: &Wire) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(grpc::MEDIA_TYPE));
    headers.insert(GRPC_STATUS, HeaderValue::from(grpc::status(wire.status)));
    let message = format!("{}: {}", wire.code.as_str(), wire.detail);
    headers.insert(GRPC_MESSAGE, grpc::message(&message));
    say(headers, wire);
    response
}

/// What is said in headers, whatever the form of the answer.
fn say(headers: &mut HeaderMap, wire: &Wire) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        PROXY_STATUS,
        HeaderValue::try_from(format!(
            "keybound; error={}; details=\"{}\"",
            wire.proxy_error,
            wire.code.as_str()
        ))
        .expect("codes have only letters, hyphens and underscores"),
    );
    if let Some(seconds) = wire.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The fault's sentence, beginning like one.
fn capital(fault: impl std::fmt::Display) -> String {
    let text = fault.to_string();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::path::PathFault;

    fn check(refusal: Refusal, status: u16, code: &str, proxy_status: &str) {
        let wire = wire(refusal);
        let id = HeaderValue::from_static("00ff");
        let response = response(&wire, &id, closes(refusal));
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()[PROXY_STATUS], proxy_status);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let problem: Problem = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!((problem.status, problem.code.as_str()), (status, code));
        assert_eq!(problem.request_id.as_deref(), Some("00ff"));
        assert!(problem.detail.ends_with('.'), "{}", problem.detail);
    }

    #[test]
    fn refusals_on_the_wire() {
        check(
            Refusal::Denied(Denial::Revoked),
            403,
            "revoked",
            "keybound; error=http_request_denied; details=\"revoked\"",
        );
        check(
            Refusal::Denied(Denial::HostMismatch),
            421,
            "host-mismatch",
            "keybound; error=http_request_denied; details=\"host-mismatch\"",
        );
        check(
            Refusal::Denied(Denial::Path(PathFault::DotSegment)),
            400,
            "path-refused",
            "keybound; error=http_request_denied; details=\"path-refused\"",
        );
        check(
            Refusal::Framing(Violation::TwoLengths),
            400,
            "malformed-request",
            "keybound; error=http_request_error; details=\"malformed-request\"",
        );
        check(
            Refusal::Upstream(UpstreamFault::Timeout),
            504,
            "upstream-timeout",
            "keybound; error=http_response_timeout; details=\"upstream-timeout\"",
        );
        check(
            Refusal::RateLimited(7),
            429,
            "rate-limited",
            "keybound; error=http_request_denied; details=\"rate-limited\"",
        );
    }

    #[test]
    fn refusals_of_calls() {
        let wire = wire(Refusal::RateLimited(7));
        let response = grpc_response(&wire);
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers();
        assert_eq!(headers[CONTENT_TYPE], "application/grpc");
        assert_eq!(headers[GRPC_STATUS], "14");
        assert_eq!(
            headers[GRPC_MESSAGE],
            "rate-limited: The device asks more often than it may. Wait as long as Retry-After says."
        );
        assert_eq!(headers[RETRY_AFTER], "7");
    }

    #[test]
    fn when_to_ask_again() {
        let check = |refusal, expected: Option<&str>| {
            let id = HeaderValue::from_static("00ff");
            let response = response(&wire(refusal), &id, false);
            let said = response.headers().get(RETRY_AFTER);
            assert_eq!(said.and_then(|value| value.to_str().ok()), expected);
        };
        check(Refusal::RateLimited(7), Some("7"));
        check(Refusal::TooManyRequests, Some("1"));
        check(Refusal::Overloaded, None);
    }
}
