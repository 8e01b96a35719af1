//! Headers and trailers on their way through: what is removed, and what the gateway says instead. A third of this file is its
//! tests.

use std::net::IpAddr;

use bytes::BytesMut;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};

use super::authorize::Permit;
use super::dialects::{Dialect, Inexpressible};
use super::identity_header::IdentityHeader;
use super::identity_names::{Name, judge, preset};
use super::route::Route;
use crate::hops::FarDevice;
use crate::peer::Device;

/// Removes from a request what ends at the gateway: hop-by-hop headers, those that Connection names, and
/// every identity header that the peer sent.
///
/// `te: trailers` stays, and the names in Trailer that may pass. Error: a name that only another spelling
/// hides, wherever it stands.
pub(crate) fn clean_request(headers: &mut HeaderMap) -> Result<(), HeaderFault> {
    let wants_trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    clean(headers, Disguise::IsRefused)?;
    headers.remove(EXPECT);
    join_cookies(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    Ok(())
}

/// Removes from a response what ends at the gateway, and every identity header.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    if clean(headers, Disguise::IsRemoved).is_err() {
        // What Connection or Trailer name cannot be read, so nothing may depend on them.
        headers.remove(TRAILER);
        remove_hop_by_hop(headers);
    }
    if varies_with_device(headers) {
        headers.insert(VARY, HeaderValue::from_static("*"));
    }
}

/// Copies the values out of the buffer that they were read into. HPACK remembers values for as long as a connection lasts, and
/// the smallest of them would keep all of that buffer.
pub(crate) fn own_values(headers: &mut HeaderMap) {
    let length = headers.values().map(HeaderValue::len).sum();
    let mut all = BytesMut::with_capacity(length);
    for value in headers.values() {
        all.extend_from_slice(value.as_bytes());
    }
    let mut all = all.freeze();
    for value in headers.values_mut() {
        let mut own = HeaderValue::from_maybe_shared(all.split_to(value.len()))
            .expect("its bytes were a value before");
        own.set_sensitive(value.is_sensitive());
        *value = own;
    }
}

/// Whether a response depends on a header that only the gateway set. The device never sent it, so no cache on the
/// way to it could tell devices apart (RFC 9440, section 2.4).
fn varies_with_device(headers: &HeaderMap) -> bool {
    headers
        .get_all(VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|item| {
            preset::NAMES
                .iter()
                .any(|name| name.as_bytes().eq_ignore_ascii_case(item))
        })
}

/// Removes identity and framing headers from the trailers of a request.
pub(crate) fn clean_request_trailers(trailers: &mut HeaderMap) -> Result<(), HeaderFault> {
    remove_identity(trailers, Disguise::IsRefused)?;
    remove_hop_by_hop(trailers);
    trailers.remove(HOST);
    trailers.remove(CONTENT_LENGTH);
    trailers.remove(TRAILER);
    Ok(())
}

/// Removes identity and framing headers from the trailers of a response.
pub(crate) fn clean_response_trailers(trailers: &mut HeaderMap) {
    if remove_identity(trailers, Disguise::IsRemoved).is_err() {
        trailers.clear();
    }
    remove_hop_by_hop(trailers);
    trailers.remove(CONTENT_LENGTH);
    trailers.remove(TRAILER);
}

/// Says who is calling, if anybody knows. Everything here replaces; nothing is taken from the request but its host. Error: the
/// certificate cannot be told in a form that the route asks for.
pub(crate) fn identify(
    headers: &mut HeaderMap,
    permit: &Permit<'_>,
    hop: &Hop<'_>,
) -> Result<(), HeaderFault> {
    if let Some(device) = permit.device() {
        tell(headers, device, permit.route(), hop)?;
    }
    headers.insert(X_REQUEST_ID, hop.request_id.clone());
    headers.insert(X_FORWARDED_FOR, hop.forwarded_for.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(X_FORWARDED_HOST, hop.host.clone());
    headers.insert(HOST, hop.host.clone());
    Ok(())
}

/// Tells the device in the forms that the route asks for.
fn tell(
    headers: &mut HeaderMap,
    device: Device<'_>,
    route: &Route,
    hop: &Hop<'_>,
) -> Result<(), HeaderFault> {
    let presented = device.presented();
    if let Some(far) = hop.far {
        headers.insert(X_DEVICE_VIA, far.via.clone());
    }
    for form in &route.identity {
        let dialect = match form {
            IdentityHeader::DeviceId => {
                let id = hop.far.map_or(presented.device_id(), |far| &far.device_id);
                headers.insert(X_DEVICE_ID, id.clone());
                continue;
            }
            IdentityHeader::Assertion => {
                let assertion = hop.assertion.ok_or(HeaderFault::NoAssertion)?;
                headers.insert(X_DEVICE_ASSERTION, assertion.clone());
                continue;
            }
            IdentityHeader::ClientCert => Dialect::ClientCert,
            IdentityHeader::ClientCertChain => Dialect::ClientCertChain,
            IdentityHeader::Xfcc => Dialect::Xfcc,
            IdentityHeader::Nginx => Dialect::Nginx,
            IdentityHeader::Traefik => Dialect::Traefik,
            IdentityHeader::AwsAlb => Dialect::AwsAlb,
            IdentityHeader::Cloudflare => Dialect::Cloudflare,
        };
        if hop.far.is_some() {
            return Err(HeaderFault::NoCertificate);
        }
        let fields = presented
            .fields(dialect)
            .map_err(HeaderFault::Inexpressible)?;
        for (name, value) in fields {
            headers.insert(name, value.clone());
        }
    }
    Ok(())
}

/// What the gateway knows about a request beside who sent it.
pub(crate) struct Hop<'a> {
    /// The request's id.
    pub(crate) request_id: &'a HeaderValue,
    /// Where it came from: see [`forwarded_for`].
    pub(crate) forwarded_for: &'a HeaderValue,
    /// The host that was asked for, as it was written.
    pub(crate) host: &'a HeaderValue,
    /// The assertion for the route, if it asks for one.
    pub(crate) assertion: Option<&'a HeaderValue>,
    /// The device behind the one that is connected, which is a gateway.
    pub(crate) far: Option<&'a FarDevice>,
}

/// Why headers are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderFault {
    /// A name that is another spelling of one that only the gateway may set.
    #[error("a header is another spelling of one that only the gateway may set")]
    Spelling,
    /// Connection or Trailer does not list header names.
    #[error("Connection or Trailer does not list header names")]
    NotNames,
    /// The certificate cannot be told in a form that the route asks for.
    #[error("the certificate cannot be told to the upstream: {0}")]
    Inexpressible(Inexpressible),
    /// The route asks for a certificate, and the device is behind another gateway, which has it.
    #[error("the certificate stayed at the gateway in front")]
    NoCertificate,
    /// The route asks for an assertion, and none was made.
    #[error("there is no assertion for the upstream")]
    NoAssertion,
}

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_DEVICE_ID: HeaderName = HeaderName::from_static(preset::DEVICE_ID);
pub(crate) const X_DEVICE_ASSERTION: HeaderName = HeaderName::from_static(preset::DEVICE_ASSERTION);
const X_DEVICE_VIA: HeaderName = HeaderName::from_static(preset::DEVICE_VIA);
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers about one connection (RFC 9110, section 7.6.1), beside those that Connection names.
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// What becomes of a name in disguise.
#[derive(Clone, Copy)]
enum Disguise {
    IsRefused,
    IsRemoved,
}

fn clean(headers: &mut HeaderMap, disguise: Disguise) -> Result<(), HeaderFault> {
    remove_identity(headers, disguise)?;
    if headers.contains_key(CONNECTION) {
        for name in names_in(headers, &CONNECTION, disguise)? {
            // These are about the message, whatever Connection says.
            if name != HOST && name != CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    remove_hop_by_hop(headers);
    if headers.contains_key(TRAILER) {
        let names = names_in(headers, &TRAILER, disguise)?;
        headers.remove(TRAILER);
        for name in names {
            if judge(name.as_str()) == Name::Ordinary {
                headers.append(TRAILER, HeaderValue::from(name));
            }
        }
    }
    Ok(())
}

fn remove_identity(headers: &mut HeaderMap, disguise: Disguise) -> Result<(), HeaderFault> {
    let mut found = Vec::new();
    for name in headers.keys() {
        match (judge(name.as_str()), disguise) {
            (Name::Ordinary, _) => {}
            (Name::Disguised, Disguise::IsRefused) => return Err(HeaderFault::Spelling),
            (Name::Disguised, Disguise::IsRemoved) | (Name::Identity, _) => {
                found.push(name.clone());
            }
        }
    }
    for name in found {
        headers.remove(name);
    }
    Ok(())
}

/// HTTP/2 may cut cookies into several lines, which HTTP/1.1 does not have (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let mut joined = first.as_bytes().to_vec();
        for crumb in std::iter::once(second).chain(crumbs) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(crumb.as_bytes());
        }
        let joined = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined))
            .expect("legal values with a separator between them are a legal value");
        headers.insert(COOKIE, joined);
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none, and looking at their few names costs less than looking each of these up.
    if headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
}

/// The header names that the values of `list` name.
fn names_in(
    headers: &HeaderMap,
    list: &HeaderName,
    disguise: Disguise,
) -> Result<Vec<HeaderName>, HeaderFault> {
    let mut names = Vec::new();
    for value in headers.get_all(list) {
        let text = value.to_str().map_err(|_| HeaderFault::NotNames)?;
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let name =
                HeaderName::from_bytes(item.as_bytes()).map_err(|_| HeaderFault::NotNames)?;
            if judge(name.as_str()) == Name::Disguised && matches!(disguise, Disguise::IsRefused) {
                return Err(HeaderFault::Spelling);
            }
            names.push(name);
        }
    }
    Ok(names)
}

/// An address as `X-Forwarded-For` tells it.
pub(crate) fn forwarded_for(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_canonical().to_string())
        .expect("an IP address has only legal characters")
}

#[cfg(test)]
mod tests {
    use super::super::identity_names::{FAMILIES, NAMES};
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                    HeaderValue::from_str(value).expect("a value"),
                )
            })
            .collect()
    }

    fn check(lines: &[(&str, &str)], expected: Result<&[(&str, &str)], HeaderFault>) {
        let mut cleaned = headers(lines);
        let result = clean_request(&mut cleaned).map(|()| cleaned);
        assert_eq!(result, expected.map(headers), "{lines:?}");
    }

    #[test]
    fn values_keep_no_buffer_that_they_were_read_into() {
        let read = bytes::Bytes::from(b"one\xfftwo ".repeat(1000));
        let value = |range| HeaderValue::from_maybe_shared(read.slice(range)).expect("a value");
        let mut owned = headers(&[("x-empty", "")]);
        owned.append("x-a", value(0..4));
        owned.append("x-a", value(4..7));
        owned.append("x-b", value(8..2000));
        let last = owned.get_mut("x-b").expect("it was put in");
        last.set_sensitive(true);
        let before = owned.clone();
        own_values(&mut owned);
        assert_eq!(owned, before);
        assert!(owned["x-b"].is_sensitive() && !owned["x-a"].is_sensitive());
        drop(before);
        assert!(read.is_unique());
    }

    #[test]
    fn every_identity_name_in_every_spelling() {
        let members = FAMILIES.iter().map(|family| format!("{family}cert"));
        let names = NAMES.iter().chain(preset::NAMES);
        let names = names.map(|name| (*name).to_owned());
        for name in members.chain(names) {
            let upper = name.to_ascii_uppercase();
            check(&[(&name, "forged")], Ok(&[]));
            check(&[(&upper, "forged")], Ok(&[]));
            check(
                &[(&name, "a"), ("accept", "b"), (&upper, "c")],
                Ok(&[("accept", "b")]),
            );
            check(&[(&name, "")], Ok(&[]));
            check(&[("connection", &name), (&name, "x")], Ok(&[]));
            check(&[("trailer", &name)], Ok(&[]));
            let mut trailers = headers(&[(&name, "forged"), ("digest", "x")]);
            assert_eq!(clean_request_trailers(&mut trailers), Ok(()));
            assert_eq!(trailers, headers(&[("digest", "x")]));
            let mut response = headers(&[(&name, "forged"), ("server", "x")]);
            clean_response(&mut response);
            assert_eq!(response, headers(&[("server", "x")]));
            for other in ["_", "."] {
                let disguised = name.replace('-', other);
                if disguised == name {
                    continue;
                }
                let spelling = Err(HeaderFault::Spelling);
                check(&[(&disguised, "forged")], spelling);
                check(&[(&disguised.to_ascii_uppercase(), "forged")], spelling);
                check(&[(&name, "a"), (&disguised, "b")], spelling);
                check(&[("connection", &disguised)], spelling);
                check(&[("trailer", &disguised)], spelling);
                let mut trailers = headers(&[(&disguised, "forged")]);
                assert_eq!(clean_request_trailers(&mut trailers), spelling.map(|_| ()));
                clean_response_trailers(&mut trailers);
                assert_eq!(trailers, headers(&[]));
            }
        }
    }

    #[test]
    fn hop_by_hop() {
        check(
            &[
                ("connection", "keep-alive, X-Private"),
                ("keep-alive", "timeout=5"),
                ("x-private", "1"),
                ("proxy-authorization", "x"),
                ("proxy-connection", "keep-alive"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("http2-settings", "x"),
                ("expect", "100-continue"),
                ("host", "a"),
                ("authorization", "b"),
            ],
            Ok(&[("host", "a"), ("authorization", "b")]),
        );
        check(
            &[
                ("connection", "host, content-length"),
                ("host", "a"),
                ("content-length", "3"),
            ],
            Ok(&[("host", "a"), ("content-length", "3")]),
        );
        check(
            &[("te", "gzip, trailers;q=1, Trailers")],
            Ok(&[("te", "trailers"), ("connection", "te")]),
        );
        check(&[("te", "gzip")], Ok(&[]));
        check(
            &[("trailer", "Digest, X-Device-Id"), ("trailer", "x-sum")],
            Ok(&[("trailer", "digest"), ("trailer", "x-sum")]),
        );
        check(&[("connection", "a b")], Err(HeaderFault::NotNames));
        check(
            &[("transfer_encoding", "chunked")],
            Err(HeaderFault::Spelling),
        );
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
        check(&crumbs, Ok(&[("cookie", "a=1; b=2; c=3")]));
        check(&[("cookie", "a=1")], Ok(&[("cookie", "a=1")]));
    }

    #[test]
    fn an_unreadable_connection_header_hides_nothing() {
        let mut response = headers(&[
            ("connection", "a b"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("proxy-authenticate", "Basic"),
            ("x-device-id", "forged"),
            ("content-length", "3"),
        ]);
        clean_response(&mut response);
        assert_eq!(response, headers(&[("content-length", "3")]));
    }

    #[test]
    fn a_response_that_varies_with_the_device_is_for_nobody_else() {
        let check = |sent: &[&str], expected: &[&str]| {
            let lines = |values: &[&str]| {
                let lines: Vec<_> = values.iter().map(|value| ("vary", *value)).collect();
                headers(&lines)
            };
            let mut response = lines(sent);
            clean_response(&mut response);
            assert_eq!(response, lines(expected), "{sent:?}");
        };
        check(&[], &[]);
        check(&["Accept", "Origin, Cookie"], &["Accept", "Origin, Cookie"]);
        check(&["X-Forwarded-Proto"], &["X-Forwarded-Proto"]);
        for name in preset::NAMES {
            check(&[name], &["*"]);
            let among = format!("Accept ,\t{} , Origin", name.to_ascii_uppercase());
            check(&["Cookie", &among], &["*"]);
            let longer = format!("{name}-x");
            check(&[&longer], &[&longer]);
        }
    }

    #[test]
    fn responses_keep_what_is_theirs() {
        let mut response = headers(&[
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "3"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("x_device_id", "forged"),
        ]);
        clean_response(&mut response);
        assert_eq!(
            response,
            headers(&[
                ("content-length", "3"),
                ("set-cookie", "a"),
                ("set-cookie", "b")
            ])
        );
    }
}
