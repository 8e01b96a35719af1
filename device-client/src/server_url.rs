//! A server as a person writes it: `https://host[:port][/]`, or `host:port`.

use identity::ServerAddress;
use identity::server_address::AddressError;

/// Takes `https://host[:port][/]`, as `--server` does, or `host:port`. The port of a URL without one is 443.
pub fn server_url(text: &str) -> Result<ServerAddress, UrlError> {
    let Some(rest) = text.strip_prefix("https://") else {
        return match text.contains("://") {
            true => Err(UrlError::NotHttps),
            false => Ok(text.parse()?),
        };
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(UrlError::NotBare);
    }
    Ok(if authority.contains(':') && !authority.ends_with(']') {
        authority.parse()?
    } else {
        ServerAddress::new(authority, HTTPS)?
    })
}

/// Why a text is no URL of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Its host or its port.
    #[error("{0}")]
    Address(#[from] AddressError),
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

    fn check(text: &str, expected: Result<&str, UrlError>) {
        assert_eq!(
            server_url(text).map(|address| address.to_string()),
            expected.map(str::to_owned),
            "{text:?}"
        );
    }

    #[test]
    fn urls() {
        check("localhost:8444", Ok("localhost:8444"));
        check("https://Example.COM:8444/", Ok("example.com:8444"));
        check("https://example.com", Ok("example.com:443"));
        check("https://[::1]", Ok("[::1]:443"));
        check("https://[::1]:8444", Ok("[::1]:8444"));
        let refused = |error: AddressError| Err(UrlError::Address(error));
        check("https://::1", refused(AddressError::Brackets));
        check("https://", refused(AddressError::Host));
        check("https://[a.example]", refused(AddressError::Host));
        check("localhost", refused(AddressError::Port));
        check("https://a b:8444", refused(AddressError::Host));
        check("https://localhost:08444", refused(AddressError::Port));
        check("http://localhost:8444", Err(UrlError::NotHttps));
        check("https://user@localhost:8444", Err(UrlError::NotBare));
        check("https://localhost:8444/est", Err(UrlError::NotBare));
    }
}
