//! Where a server is: `host:port`, the host being a DNS name or an IP address.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// A host and a port. The host is what the server's certificate has to name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress {
    host: ServerName<'static>,
    port: u16,
}

impl ServerAddress {
    /// Takes the host as it stands in a URL: an IPv6 address may have its brackets.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let host =
            ServerName::try_from(bare.to_ascii_lowercase()).map_err(|_| AddressError::Host)?;
        if port == 0 {
            return Err(AddressError::Port);
        }
        Ok(Self { host, port })
    }

    /// Takes `https://host[:port][/]`, as `--server` does, or `host:port`. The port of a URL without one is 443.
    pub fn from_url(text: &str) -> Result<Self, AddressError> {
        let Some(rest) = text.strip_prefix("https://") else {
            return match text.contains("://") {
                true => Err(AddressError::NotHttps),
                false => text.parse(),
            };
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(AddressError::NotBare);
        }
        if authority.contains(':') && !authority.ends_with(']') {
            authority.parse()
        } else {
            Self::new(authority, HTTPS)
        }
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
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(AddressError::Brackets);
        }
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError::Port);
        }
        Self::new(host, port.parse().map_err(|_| AddressError::Port)?)
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
    /// Another scheme than https.
    #[error("it is not an https URL; a device's certificate needs TLS")]
    NotHttps,
    /// A path, a query, a fragment or a user name.
    #[error("it has more than scheme, host and port")]
    NotBare,
}

pub(crate) const HTTPS: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, AddressError>) {
        assert_eq!(
            ServerAddress::from_url(text).map(|address| address.to_string()),
            expected.map(str::to_owned),
            "{text:?}"
        );
    }

    #[test]
    fn addresses() {
        check("localhost:8444", Ok("localhost:8444"));
        check("https://Example.COM:8444/", Ok("example.com:8444"));
        check("https://example.com", Ok("example.com:443"));
        check("https://[::1]", Ok("[::1]:443"));
        check("https://[::1]:8444", Ok("[::1]:8444"));
        check("[2001:db8::1]:1", Ok("[2001:db8::1]:1"));
        check("127.0.0.1:8444", Ok("127.0.0.1:8444"));
        check("::1:8444", Err(AddressError::Brackets));
        check("https://::1", Err(AddressError::Brackets));
        check("localhost", Err(AddressError::Port));
        check("localhost:0", Err(AddressError::Port));
        check("localhost:+1", Err(AddressError::Port));
        check("localhost:65536", Err(AddressError::Port));
        check(":8444", Err(AddressError::Host));
        check("a b:8444", Err(AddressError::Host));
        check("a\r\nX:8444", Err(AddressError::Host));
        check("http://localhost:8444", Err(AddressError::NotHttps));
        check("https://user@localhost:8444", Err(AddressError::NotBare));
        check("https://localhost:8444/est", Err(AddressError::NotBare));
    }
}
