//! The grammars of single values. Each function returns the value, or the sentence that says what to write.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use gateway::{ClientMode, Http2, IdentityHeader, UpstreamAddress};
use identity::labels::Group;
use identity::server_address::is_dns_name;

use super::Format;

/// A DNS name or IP address for the server certificate, in lower case.
pub(super) fn server_name(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    if text.contains('*') {
        return Err(format!(
            "{text:?} is a wildcard, which is not supported; write each name"
        ));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if is_dns_name(&name) {
        Ok(name)
    } else {
        Err(format!(
            "{text:?} is neither a host name nor an IP address; write it without scheme, port and path"
        ))
    }
}

/// Whether a certificate's name covers a host; `*.` stands for one label (RFC 9525, section 6.3). Both are in lower case.
pub(super) fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => name == host,
    }
}

/// An address and a port to listen on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an IP address and a port; write for example 0.0.0.0:8443 or [::]:8443"
        )
    })
}

/// The address of an upstream's server.
pub(super) fn upstream(text: &str) -> Result<UpstreamAddress, String> {
    text.parse().map_err(|fault| {
        format!("the upstream {text:?} is refused: {fault}; write for example http://10.0.0.5:8080")
    })
}

/// Whether a route's upstream is a name, and not an address.
pub(super) fn is_upstream_name(text: &str) -> bool {
    upstream_name(text).is_ok()
}

/// How lines of the access log look.
pub(super) fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "json" => Ok(Format::Json),
        "combined" => Ok(Format::Combined),
        _ => Err(format!(
            "the format {text:?} is none; write \"json\" or \"combined\""
        )),
    }
}

/// What a route calls an upstream. It has no colon, so no address is one.
pub(super) fn upstream_name(text: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
        Ok(())
    } else {
        Err(format!(
            "the name {text:?} is refused; write 1-64 letters, digits, dots, underscores or hyphens"
        ))
    }
}

/// Whether HTTP/2 is spoken over TLS.
pub(super) fn http2(text: &str) -> Result<Http2, String> {
    match text {
        "auto" => Ok(Http2::Auto),
        "never" => Ok(Http2::Never),
        "always" => Ok(Http2::Always),
        _ => Err(format!(
            "http2 = {text:?} is not known; write \"auto\", \"never\" or \"always\""
        )),
    }
}

/// The target of a health check: a path, perhaps with a query.
pub(super) fn check_path(text: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if text.starts_with('/') && text.len() <= 1024 && text.bytes().all(legal) {
        Ok(())
    } else {
        Err(format!(
            "the path {text:?} of a health check is refused; write for example /healthz"
        ))
    }
}

/// The host of a health check, perhaps with a port.
pub(super) fn check_host(text: &str) -> Result<(), String> {
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.contains(':') => name,
        Some(_) | None => text,
    };
    server_name(name).map(drop)
}

/// A form in which the upstream is told who calls.
pub(super) fn identity_form(text: &str) -> Result<IdentityHeader, String> {
    IdentityHeader::named(text).ok_or_else(|| {
        let known = IdentityHeader::ALL.map(|form| format!("{:?}", form.as_str()));
        let (last, others) = known.split_last().expect("there are forms");
        format!(
            "the identity form {text:?} is not known; write {} or {last}",
            others.join(", ")
        )
    })
}

/// `client`
pub(super) fn client(text: &str) -> Result<ClientMode, String> {
    match text {
        "require" => Ok(ClientMode::Require),
        "request" => Ok(ClientMode::Request),
        "anonymous" => Ok(ClientMode::Anonymous),
        "report-only" => Ok(ClientMode::ReportOnly),
        _ => Err(format!(
            "client = {text:?} is not known; write \"require\", \"request\", \"anonymous\" or \"report-only\", or leave it out, which is \"require\""
        )),
    }
}

/// A group of devices.
pub(super) fn group(text: &str) -> Result<Group, String> {
    Group::parse(text).map_err(|error| format!("the group {text:?} is refused: {error}"))
}

/// `512B`, `16KiB`, `10MiB` or `1GiB`; a bare number is refused because its unit would be a guess.
pub(super) fn size(key: &str, text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let unit = match &text[digits..] {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let number = text[..digits].parse::<u64>().ok();
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .ok_or_else(|| {
            format!("{key} = {text:?}: write a number and a unit, such as \"512B\", \"16KiB\" or \"10MiB\"")
        })
}

/// `50/s`, `30/m` or `100/h` as a number and its seconds; `unlimited` as none.
pub(super) fn rate(text: &str) -> Result<Option<(NonZeroU32, NonZeroU32)>, String> {
    if text == "unlimited" {
        return Ok(None);
    }
    let seconds = |unit| match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(60 * 60),
        _ => None,
    };
    let read = text.split_once('/').and_then(|(count, unit)| {
        let is_number = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count
            .parse()
            .ok()
            .filter(|count| is_number && *count <= FASTEST)?;
        Some((NonZeroU32::new(count)?, NonZeroU32::new(seconds(unit)?)?))
    });
    read.map(Some).ok_or_else(|| {
        format!(
            "rate = {text:?}: write how many requests in a second, minute or hour, such as \"50/s\", \"30/m\" or \"100/h\", of which there may be a million, or \"unlimited\""
        )
    })
}

/// What comes in five seconds, and one at least.
pub(super) fn default_burst(count: NonZeroU32, seconds: NonZeroU32) -> NonZeroU32 {
    let burst = u64::from(count.get()) * 5 / u64::from(seconds.get());
    let burst = u32::try_from(burst).unwrap_or(FASTEST).min(FASTEST);
    NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN)
}

const FASTEST: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names() {
        assert_eq!(
            server_name("API.Example.com."),
            Ok("api.example.com".into())
        );
        assert_eq!(server_name("::1"), Ok("::1".into()));
        assert_eq!(server_name("127.0.0.1"), Ok("127.0.0.1".into()));
        for refused in [
            "",
            "*.example.com",
            "a_b",
            "https://a",
            "a:1",
            "-a",
            "1.2.3",
            "é",
            "a b",
        ] {
            assert!(server_name(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_wildcard_is_one_label() {
        assert!(covers("a.example", "a.example"));
        assert!(covers("*.example", "a.example"));
        for (name, host) in [
            ("a.example", "b.example"),
            ("*.example", "example"),
            ("*.example", ".example"),
            ("*.example", "a.b.example"),
            ("*.example", "a.other"),
        ] {
            assert!(!covers(name, host), "{name} {host}");
        }
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(size("max_body", text).ok(), expected, "{text:?}");
        };
        check("512B", Some(512));
        check("16KiB", Some(16_384));
        check("10MiB", Some(10_485_760));
        check("1GiB", Some(1 << 30));
        check("0B", Some(0));
        for refused in [
            "",
            "B",
            "1",
            "1KB",
            "1 KiB",
            "-1B",
            "+1B",
            "1kib",
            "99999999999999999999B",
            "18446744073709551615KiB",
        ] {
            check(refused, None);
        }
    }

    #[test]
    fn rates() {
        let check = |text: &str, expected: Option<Option<(u32, u32, u32)>>| {
            let read = rate(text).ok().map(|rate| {
                rate.map(|(count, seconds)| {
                    (
                        count.get(),
                        seconds.get(),
                        default_burst(count, seconds).get(),
                    )
                })
            });
            assert_eq!(read, expected, "{text:?}");
        };
        check("200/s", Some(Some((200, 1, 1000))));
        check("30/m", Some(Some((30, 60, 2))));
        check("1/h", Some(Some((1, 3600, 1))));
        check("1000000/s", Some(Some((1_000_000, 1, 1_000_000))));
        check("unlimited", Some(None));
        for refused in [
            "",
            "5",
            "/s",
            "0/s",
            "5/d",
            "5 /s",
            "+5/s",
            "-1/s",
            "1000001/s",
            "5/s/s",
        ] {
            check(refused, None);
        }
    }

    #[test]
    fn upstreams() {
        for legal in ["http://10.0.0.5:8080", "https://a", "unix:/run/a"] {
            assert!(
                upstream(legal).is_ok() && !is_upstream_name(legal),
                "{legal:?}"
            );
        }
        for refused in ["10.0.0.5:8080", "http://a:0", "http://a/b"] {
            assert!(upstream(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn health_checks() {
        for legal in ["/", "/healthz", "/a?b=c%20"] {
            assert!(check_path(legal).is_ok(), "{legal:?}");
        }
        for refused in ["", "healthz", "/a b", "/a\r\n", "/#", "/\u{e9}"] {
            assert!(check_path(refused).is_err(), "{refused:?}");
        }
        for legal in ["a", "a.example:80", "10.0.0.1:1"] {
            assert!(check_host(legal).is_ok(), "{legal:?}");
        }
        for refused in ["", "a b", "http://a", "a:x", "a:99999"] {
            assert!(check_host(refused).is_err(), "{refused:?}");
        }
    }
}
