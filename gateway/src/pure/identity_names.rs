//! The names of headers by which back ends learn who is calling: the gateway's own, and those of every
//! dialect that some back end behind it may believe.
//!
//! This is the one list. What it names is stripped from requests, responses and trailers; what is only
//! spelled differently is refused, because servers fold `_` and `.` into `-`.

/// What a header name is to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// None of the gateway's business.
    Ordinary,
    /// A name in the list, spelled exactly: the peer's value goes, the gateway's may come.
    Identity,
    /// Another spelling of such a name, or of a header that frames the message.
    Disguised,
}

/// Judges a header name, which is in lower case as the `http` crate keeps it.
pub(crate) fn judge(name: &str) -> Name {
    let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if name.bytes().all(plain) {
        return if is_identity(name.as_bytes()) {
            Name::Identity
        } else {
            Name::Ordinary
        };
    }
    // No listed name or prefix is longer than the buffer, so what is cut off decides nothing.
    let mut folded = [0; MAX_LISTED_LENGTH + 1];
    let length = name.len().min(folded.len());
    for (to, from) in folded.iter_mut().zip(name.bytes()) {
        *to = match from.to_ascii_lowercase() {
            alphanumeric if alphanumeric.is_ascii_alphanumeric() => alphanumeric,
            _ => b'-',
        };
    }
    let folded = &folded[..length];
    if is_identity(folded) || FRAMING.iter().any(|listed| listed.as_bytes() == folded) {
        Name::Disguised
    } else {
        Name::Ordinary
    }
}

fn is_identity(name: &[u8]) -> bool {
    // Most names end here: few begin like a listed one.
    let Some(b'c' | b'f' | b'l' | b'p' | b's' | b't' | b'x') = name.first() else {
        return false;
    };
    FAMILIES
        .iter()
        .any(|family| name.starts_with(family.as_bytes()))
        || NAMES.iter().any(|listed| listed.as_bytes() == name)
}

/// Every name that starts like one of these.
pub(crate) const FAMILIES: &[&str] = &[
    // the gateway's own: X-Device-Id, X-Device-Assertion, X-Device-Via
    "x-device-",
    "x-keybound-",
    // RFC 9440: Client-Cert, Client-Cert-Chain
    "client-cert",
    "x-client-cert",
    // X-Forwarded-For, -Proto, -Host, -Port, -Server, -Prefix, Envoy's -Client-Cert,
    // Traefik's -Tls-Client-Cert and -Tls-Client-Cert-Info
    "x-forwarded-",
    // nginx, HAProxy, OpenShift
    "x-ssl-",
    "ssl-client-",
    "x-tls-client-",
    // AWS load balancers and CloudFront
    "x-amzn-mtls-",
    "cloudfront-viewer-cert-",
    // Cloudflare
    "cf-client-cert-",
    "cf-access-",
    // Azure
    "x-arr-clientcert",
];

/// Single names.
pub(crate) const NAMES: &[&str] = &[
    "cf-connecting-ip",
    "forwarded",
    "l5d-client-id",
    "proxy-status",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-request-id",
];

/// What the gateway itself may set from a device's certificate. Each is judged [`Name::Identity`].
pub(crate) mod preset {
    pub(crate) const DEVICE_ID: &str = "x-device-id";
    pub(crate) const DEVICE_ASSERTION: &str = "x-device-assertion";
    pub(crate) const DEVICE_VIA: &str = "x-device-via";
    pub(crate) const CLIENT_CERT: &str = "client-cert";
    pub(crate) const CLIENT_CERT_CHAIN: &str = "client-cert-chain";
    pub(crate) const XFCC: &str = "x-forwarded-client-cert";
    pub(crate) const SSL_VERIFY: &str = "x-ssl-client-verify";
    pub(crate) const SSL_S_DN: &str = "x-ssl-client-s-dn";
    pub(crate) const SSL_I_DN: &str = "x-ssl-client-i-dn";
    pub(crate) const SSL_SERIAL: &str = "x-ssl-client-serial";
    pub(crate) const SSL_FINGERPRINT: &str = "x-ssl-client-fingerprint";
    pub(crate) const SSL_CERT: &str = "x-ssl-client-cert";
    pub(crate) const TRAEFIK_CERT: &str = "x-forwarded-tls-client-cert";
    pub(crate) const TRAEFIK_INFO: &str = "x-forwarded-tls-client-cert-info";
    pub(crate) const AMZN_SERIAL: &str = "x-amzn-mtls-clientcert-serial-number";
    pub(crate) const AMZN_ISSUER: &str = "x-amzn-mtls-clientcert-issuer";
    pub(crate) const AMZN_SUBJECT: &str = "x-amzn-mtls-clientcert-subject";
    pub(crate) const AMZN_VALIDITY: &str = "x-amzn-mtls-clientcert-validity";
    pub(crate) const AMZN_LEAF: &str = "x-amzn-mtls-clientcert-leaf";
    pub(crate) const CF_DER: &str = "cf-client-cert-der-base64";
    pub(crate) const CF_SHA256: &str = "cf-client-cert-sha256";

    /// All of them.
    pub(crate) const NAMES: &[&str] = &[
        DEVICE_ID,
        DEVICE_ASSERTION,
        DEVICE_VIA,
        CLIENT_CERT,
        CLIENT_CERT_CHAIN,
        XFCC,
        SSL_VERIFY,
        SSL_S_DN,
        SSL_I_DN,
        SSL_SERIAL,
        SSL_FINGERPRINT,
        SSL_CERT,
        TRAEFIK_CERT,
        TRAEFIK_INFO,
        AMZN_SERIAL,
        AMZN_ISSUER,
        AMZN_SUBJECT,
        AMZN_VALIDITY,
        AMZN_LEAF,
        CF_DER,
        CF_SHA256,
    ];
}

/// Headers that say where a message ends or where it goes: one spelling only.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const MAX_LISTED_LENGTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_in_every_spelling() {
        let members = FAMILIES.iter().map(|family| format!("{family}x"));
        let names = NAMES.iter().chain(preset::NAMES);
        let names = names.map(|name| (*name).to_owned());
        for name in members.chain(names) {
            assert_eq!(judge(&name), Name::Identity, "{name}");
            for other in ['_', '.', '~', '\'', '!', '|'] {
                let disguised = name.replace('-', &other.to_string());
                if disguised != name {
                    assert_eq!(judge(&disguised), Name::Disguised, "{disguised}");
                    let once = name.replacen('-', &other.to_string(), 1);
                    assert_eq!(judge(&once), Name::Disguised, "{once}");
                }
            }
        }
        for family in FAMILIES {
            let long = format!("{family}{}", "y".repeat(100));
            assert_eq!(judge(&long), Name::Identity);
            assert_eq!(judge(&long.replacen('-', "_", 1)), Name::Disguised);
        }
    }

    #[test]
    fn framing_has_one_spelling() {
        assert_eq!(judge("transfer-encoding"), Name::Ordinary);
        assert_eq!(judge("transfer_encoding"), Name::Disguised);
        assert_eq!(judge("content.length"), Name::Disguised);
    }

    #[test]
    fn what_the_list_promises() {
        let listed = || FAMILIES.iter().chain(NAMES);
        assert!(listed().all(|name| name.len() <= MAX_LISTED_LENGTH));
        assert!(listed().all(|name| is_identity(name.as_bytes())));
    }

    #[test]
    fn ordinary_names() {
        for name in [
            "accept",
            "content-type",
            "x-api-key",
            "x_api_key",
            "x-device",
            "sec-websocket-key",
            "cookie",
            "traceparent",
        ] {
            assert_eq!(judge(name), Name::Ordinary, "{name}");
        }
    }
}
