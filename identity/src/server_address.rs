//! Where a server is: `host:port`, as it stands in enrollment codes, in URLs and in key stores.
//!
//! The host is a DNS name of letters, digits and hyphens (RFC 1123, section 2.1), an IPv4 address, or an IPv6 address in
//! brackets (RFC 3986, section 3.2.2); the port is a number from 1 to 65535 as it is usually written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rustls_pki_types::{DnsName, ServerName};
use serde::{Deserialize, Serialize};

/// A host and a port. The host is what the server's certificate has to name.
///
/// Names are in lower case and have no trailing dot; addresses are as they are usually printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress {
    host: ServerName<'static>,
    port: u16,
}

impl ServerAddress {
    /// Takes a host as [`Self::host`] gives it, or as it stands before a port: an IPv6 address may have its brackets.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => ServerName::IpAddress(IpAddr::V6(address).into()),
            Err(_) => parse_host(host)?,
        };
        if port == 0 {
            return Err(AddressError::Port);
        }
        Ok(Self { host, port })
    }

    /// The name to verify, and to send as SNI if it is a DNS name.
    pub fn server_name(&self) -> ServerName<'static> {
        self.host.clone()
    }

    /// The host, without brackets.
    pub fn host(&self) -> String {
        self.host.to_str().into_owned()
    }

    /// The port; never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Port)?;
        // `[::1]` lacks a port, more than it has a wrong host.
        let port = parse_port(port)?;
        Ok(Self {
            host: parse_host(host)?,
            port,
        })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.to_str();
        if host.contains(':') {
            write!(f, "[{host}]:{}", self.port)
        } else {
            write!(f, "{host}:{}", self.port)
        }
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

/// Why a text names no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The host is neither a DNS name nor an IP address.
    #[error("its host is neither a DNS name nor an IP address")]
    Host,
    /// No port, or none between 1 and 65535.
    #[error("it does not end in a port, as host:8444 does")]
    Port,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets, as in [::1]:8444")]
    Brackets,
}

/// Whether a name can be a server's: labels of 1 to 63 letters, digits and hyphens, no hyphen at either end, 253
/// characters at most (RFC 1123, section 2.1), without a trailing dot.
///
/// What ends in a number, such as `1.2.3`, is no name: somebody meant an address, and no certificate could name it.
pub fn is_dns_name(name: &str) -> bool {
    // What is left to the other reader are the lengths, the hyphens at the ends, and the numbers.
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    name.bytes().all(legal) && !name.ends_with('.') && DnsName::try_from(name).is_ok()
}

fn parse_host(text: &str) -> Result<ServerName<'static>, AddressError> {
    let of_address = |address| ServerName::IpAddress(IpAddr::into(address));
    if let Some(rest) = text.strip_prefix('[') {
        let address = rest.strip_suffix(']').ok_or(AddressError::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| AddressError::Host)?;
        return Ok(of_address(IpAddr::V6(address)));
    }
    if text.contains(':') {
        return Err(AddressError::Brackets);
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(of_address(IpAddr::V4(address)));
    }
    if !is_dns_name(text) {
        return Err(AddressError::Host);
    }
    DnsName::try_from(text.to_ascii_lowercase())
        .map(ServerName::DnsName)
        .map_err(|_| AddressError::Host)
}

/// One spelling: no sign, no zeros before it.
fn parse_port(text: &str) -> Result<u16, AddressError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if is_number => Ok(port),
        Ok(_) | Err(_) => Err(AddressError::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, AddressError>) {
        let parsed = text.parse::<ServerAddress>();
        let printed = parsed.as_ref().map(ToString::to_string);
        assert_eq!(
            printed.as_deref().map_err(|error| **error),
            expected,
            "{text:?}"
        );
        if let Ok(address) = parsed {
            assert_eq!(address.to_string().parse(), Ok(address.clone()));
            let made = ServerAddress::new(&address.host(), address.port());
            assert_eq!(made, Ok(address));
        }
    }

    #[test]
    fn addresses() {
        check("localhost:8444", Ok("localhost:8444"));
        check("Gate-1.Example.COM:1", Ok("gate-1.example.com:1"));
        check("3com.example:65535", Ok("3com.example:65535"));
        check("127.0.0.1:8444", Ok("127.0.0.1:8444"));
        check("[::1]:8444", Ok("[::1]:8444"));
        check("[2001:DB8:0::0:1]:1", Ok("[2001:db8::1]:1"));
        check("[::ffff:10.0.0.1]:1", Ok("[::ffff:10.0.0.1]:1"));
        for text in ["::1:8444", "a:b:8444", "a:1:8444", ":::1"] {
            check(text, Err(AddressError::Brackets));
        }
        for port in [
            "",
            "0",
            "00",
            "08444",
            "+1",
            "-1",
            " 1",
            "1 ",
            "65536",
            "99999999999",
            "x",
            "1]",
            "１",
        ] {
            check(&format!("localhost:{port}"), Err(AddressError::Port));
        }
        for text in ["", "localhost", "[::1]", "127.0.0.1"] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn hosts() {
        let (label, longest) = ("a".repeat(63), "a".repeat(61));
        let longest = format!("{label}.{label}.{label}.{longest}");
        check(&format!("{longest}:1"), Ok(&format!("{longest}:1")));
        let (label, longest) = (format!("{label}a"), format!("{longest}a"));
        for host in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a-.b",
            "a_b",
            "a b",
            "a\r\nX",
            "é",
            "a/b",
            "u@a",
            "*.a",
            "a~b",
            "1.2.3",
            "300.1.1.1",
            "01.2.3.4",
            "a.1",
            "a.0x1f",
            &label,
            &longest,
            "[]",
            "[",
            "]",
            "[a]",
            "[a.example]",
            "[127.0.0.1]",
            "[::1",
            "::1]",
            "[[::1]]",
            "[::1]]",
            "[::1%1]",
            "[::12345]",
            "a[::1]",
            "[::1]a",
        ] {
            let parsed = format!("{host}:1").parse::<ServerAddress>();
            let expected = match host.starts_with('[') || !host.contains(':') {
                true => AddressError::Host,
                false => AddressError::Brackets,
            };
            assert_eq!(parsed, Err(expected), "{host:?}");
            assert!(ServerAddress::new(host, 1).is_err(), "{host:?}");
        }
        assert_eq!(ServerAddress::new("a", 0), Err(AddressError::Port));
        let bare = ServerAddress::new("::1", 1).map(|address| address.to_string());
        assert_eq!(bare.as_deref(), Ok("[::1]:1"));
    }
}
