//! The head of a request, beside what the watcher checks of HTTP/1.1: the host that is asked for, by
//! whichever of the three ways to say it, and the methods that are not for proxying.

use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, Uri};

use super::host::{Host, HostFault};

/// The host that a request asks for, as it was written; every way in which it was said agrees.
pub(crate) fn asked_host(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<HeaderValue, HeadFault> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(HeadFault::Method);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadFault::SeveralHosts);
    }
    let schemes = ["https", "http"];
    let known = |scheme: &str| {
        schemes
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
    };
    if uri.authority().is_some() && !uri.scheme_str().is_some_and(known) {
        return Err(HeadFault::Scheme);
    }
    let host = match (uri.authority(), header) {
        (None, None) => return Err(HeadFault::NoHost),
        (None, Some(header)) => header.clone(),
        (Some(authority), None) => HeaderValue::from_str(authority.as_str())
            .map_err(|_| HeadFault::Host(HostFault::Name))?,
        (Some(authority), Some(header)) => {
            if !header
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes())
            {
                return Err(HeadFault::HostsDiffer);
            }
            header.clone()
        }
    };
    Ok(host)
}

/// The host in normal form.
pub(crate) fn normal_host(host: &HeaderValue) -> Result<Host<'_>, HeadFault> {
    let text = host
        .to_str()
        .map_err(|_| HeadFault::Host(HostFault::Name))?;
    Host::from_authority(text).map_err(HeadFault::Host)
}

/// Whether an HTTP/1.1 request asks for a WebSocket (RFC 6455, section 4.1), the only tunnel there is;
/// maybe among other protocols, of which it is the one that is passed on.
pub(crate) fn is_websocket<'a>(
    method: &str,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> bool {
    let lists = |value: &[u8], token: &[u8]| {
        value
            .split(|byte| *byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
    };
    let mut websocket = false;
    let mut upgrade = false;
    for (name, value) in fields {
        if name.eq_ignore_ascii_case("upgrade") {
            websocket |= lists(value, b"websocket");
        } else if name.eq_ignore_ascii_case("connection") {
            upgrade |= lists(value, b"upgrade");
        }
    }
    method == "GET" && websocket && upgrade
}

/// How long a head is: method and target, names and values, and four bytes for what stands between them, as in HTTP/1.1,
/// whichever version it came in.
pub(crate) fn head_length(method: &Method, uri: &Uri, headers: &HeaderMap) -> u64 {
    let target = uri
        .path_and_query()
        .map_or(1, |target| target.as_str().len());
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let fields: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    (method.as_str().len() + target + authority + fields) as u64
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadFault {
    /// CONNECT and TRACE.
    #[error("the method is not for a gateway")]
    Method,
    /// CONNECT to a protocol other than WebSocket (RFC 8441, section 4).
    #[error("the protocol that CONNECT asks for is not websocket")]
    Protocol,
    /// No key, or none that a server may answer (RFC 6455, section 4.2.1).
    #[error("Sec-WebSocket-Key is not once 16 bytes in Base64")]
    WebSocketKey,
    /// A host with a scheme that is not HTTP's, or without one.
    #[error("the target's scheme is neither https nor http")]
    Scheme,
    /// No host at all.
    #[error("the request names no host")]
    NoHost,
    /// Host occurs more than once.
    #[error("there is more than one Host header")]
    SeveralHosts,
    /// Host and `:authority`, or the target of an absolute request, differ.
    #[error("the request names two different hosts")]
    HostsDiffer,
    /// What it names is no host.
    #[error("{0}")]
    Host(HostFault),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, uri: &str, hosts: &[&str], expected: Result<&str, HeadFault>) {
        let headers: HeaderMap = hosts
            .iter()
            .map(|host| (HOST, HeaderValue::from_str(host).expect("a value")))
            .collect();
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let uri = uri.parse().expect("a URI");
        let host = asked_host(&method, &uri, &headers);
        let normal = match &host {
            Ok(host) => normal_host(host).map(|host| host.as_str().to_owned()),
            Err(fault) => Err(*fault),
        };
        assert_eq!(
            normal,
            expected.map(str::to_owned),
            "{method} {uri} {hosts:?}"
        );
    }

    #[test]
    fn every_way_to_say_it_agrees() {
        check("GET", "/", &["a.example:1"], Ok("a.example"));
        check("GET", "https://a.example/x", &[], Ok("a.example"));
        check(
            "GET",
            "https://A.example/x",
            &["a.example"],
            Ok("a.example"),
        );
        check("GET", "/", &[], Err(HeadFault::NoHost));
        check("GET", "/", &["a", "a"], Err(HeadFault::SeveralHosts));
        check("GET", "https://a/", &["b"], Err(HeadFault::HostsDiffer));
        check("GET", "https://a/", &["a:443"], Err(HeadFault::HostsDiffer));
        check(
            "GET",
            "https://u@a/",
            &[],
            Err(HeadFault::Host(HostFault::Userinfo)),
        );
        check(
            "GET",
            "/",
            &["u@a"],
            Err(HeadFault::Host(HostFault::Userinfo)),
        );
        check("GET", "/", &[""], Err(HeadFault::Host(HostFault::Empty)));
        check("GET", "ftp://a/", &["a"], Err(HeadFault::Scheme));
        check("GET", "a", &["a"], Err(HeadFault::Scheme));
        check("GET", "HTTP://a/", &["a"], Ok("a"));
        check("CONNECT", "a:443", &["a:443"], Err(HeadFault::Method));
        check("TRACE", "/", &["a"], Err(HeadFault::Method));
    }

    #[test]
    fn the_length_of_a_head() {
        let headers: HeaderMap = [(HOST, HeaderValue::from_static("a"))]
            .into_iter()
            .collect();
        let length = |uri: &str| head_length(&Method::GET, &uri.parse().expect("a URI"), &headers);
        assert_eq!(length("/"), 3 + 1 + 9);
        assert_eq!(length("/x?y"), 3 + 4 + 9);
        assert_eq!(length("https://a/x?y"), 3 + 4 + 1 + 9);
    }

    #[test]
    fn websockets() {
        let check = |method, fields: &[(&str, &str)], expected| {
            let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
            assert_eq!(is_websocket(method, fields), expected);
        };
        let upgrade = ("Connection", "keep-alive,Upgrade");
        check("GET", &[upgrade, ("upgrade", "WebSocket")], true);
        check("POST", &[upgrade, ("upgrade", "websocket")], false);
        check("GET", &[upgrade, ("upgrade", "h2c")], false);
        check("GET", &[upgrade, ("upgrade", "websocket/13")], false);
        check("GET", &[upgrade, ("upgrade", "h2c ,WebSocket")], true);
        check(
            "GET",
            &[upgrade, ("upgrade", "websocket"), ("upgrade", "h2c")],
            true,
        );
        check(
            "GET",
            &[("connection", "close"), ("upgrade", "websocket")],
            false,
        );
        check("GET", &[("upgrade", "websocket")], false);
    }
}
