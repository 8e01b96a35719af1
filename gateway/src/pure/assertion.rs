//! What a device assertion claims, and how long: a JSON Web Token (RFC 7519) about one device, for one route.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::{Fingerprint, Timestamp};
use serde::Serialize;

use super::route::Route;

/// Who is asserted to be calling.
#[derive(Clone, Debug)]
pub(crate) struct Holder<'a> {
    /// The subject: the device's SPIFFE ID.
    pub(crate) subject: &'a str,
    pub(crate) device: &'a str,
    /// The certificate's serial number, in lower-case hexadecimal digits.
    pub(crate) serial: &'a str,
    /// The SHA-256 of the certificate.
    pub(crate) certificate: Fingerprint,
    /// The last second of the certificate.
    pub(crate) not_after: Timestamp,
    /// The gateways that it came through before this one, the nearest first.
    pub(crate) via: &'a [String],
}

/// When an assertion holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// The first second.
    pub(crate) from: Timestamp,
    /// The first second in which it does not hold any more (RFC 7519, section 4.1.4).
    pub(crate) until: Timestamp,
}

impl Life {
    /// That of an assertion made now: a minute, and not longer than the certificate.
    pub(crate) fn beginning(now: Timestamp, not_after: Timestamp) -> Self {
        let certificate_ends = Timestamp(not_after.0.saturating_add(1));
        let until = Timestamp(now.0.saturating_add(SECONDS)).min(certificate_ends);
        Self { from: now, until }
    }

    /// Whether an assertion may be sent once more: at least half its life is left.
    pub(crate) fn is_fresh(self, now: Timestamp) -> bool {
        let whole = self.until.since(self.from);
        self.from <= now && self.until.since(now) * 2 >= whole && now < self.until
    }
}

/// The audience of a route's assertions: `https://`, its host or `*`, and its path.
pub(crate) fn audience(route: &Route) -> String {
    let host = route.host.as_deref().unwrap_or("*");
    format!("https://{host}{}", route.path)
}

/// The two parts that are signed, in the compact serialization (RFC 7515, section 7.1).
pub(crate) fn signing_input(
    key_id: &str,
    issuer: &str,
    holder: &Holder<'_>,
    audience: &str,
    life: Life,
    unique: [u8; 16],
) -> String {
    let header = Header {
        alg: "ES256",
        typ: "JWT",
        kid: key_id,
    };
    let claims = Claims {
        iss: issuer,
        sub: holder.subject,
        aud: audience,
        iat: life.from.0,
        nbf: life.from.0,
        exp: life.until.0,
        jti: URL_SAFE_NO_PAD.encode(unique),
        cnf: Confirmation {
            certificate: URL_SAFE_NO_PAD.encode(holder.certificate.0),
        },
        device_id: holder.device,
        serial: holder.serial,
        act: actors(holder.via),
    };
    format!("{}.{}", part(&header), part(&claims))
}

/// Who acted for the device, each for the one before it.
fn actors(via: &[String]) -> Option<Actor<'_>> {
    let farthest_first = via.iter().rev();
    farthest_first.fold(None, |before, sub| {
        Some(Actor {
            sub,
            act: before.map(Box::new),
        })
    })
}

fn part(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).expect("strings and numbers always have a JSON form");
    URL_SAFE_NO_PAD.encode(json)
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    kid: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    cnf: Confirmation,
    device_id: &'a str,
    serial: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Actor<'a>>,
}

/// RFC 8693, section 4.1.
#[derive(Serialize)]
struct Actor<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Box<Actor<'a>>>,
}

/// RFC 8705, section 3.1.
#[derive(Serialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: String,
}

/// How long an assertion holds.
const SECONDS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_of_a_minute_that_ends_with_the_certificate() {
        let life = |now, not_after| Life::beginning(Timestamp(now), Timestamp(not_after));
        let check = |life: Life, until, fresh_until| {
            assert_eq!(life.until, Timestamp(until));
            assert!(life.is_fresh(life.from));
            assert!(life.is_fresh(Timestamp(fresh_until)));
            assert!(!life.is_fresh(Timestamp(fresh_until + 1)));
            // One of the future was made while the clock was wrong.
            assert!(!life.is_fresh(Timestamp(life.from.0 - 1)));
        };
        check(life(1_000, 9_000), 1_060, 1_030);
        check(life(1_000, 1_059), 1_060, 1_030);
        check(life(1_000, 1_009), 1_010, 1_005);
        check(life(1_000, 1_000), 1_001, 1_000);
    }

    #[test]
    fn one_audience_per_route() {
        let mut route = Route {
            host: Some("api.example.com".into()),
            path: "/v1/".into(),
            upstream: crate::pure::upstream::Upstream::of(vec![
                "http://127.0.0.1:1".parse().expect("an address"),
            ]),
            identity: vec![],
            policy: crate::RoutePolicy::default(),
        };
        assert_eq!(audience(&route), "https://api.example.com/v1/");
        route.host = None;
        assert_eq!(audience(&route), "https://*/v1/");
    }
}
