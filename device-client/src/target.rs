//! Where a request goes: an https URL, or a path at the gateway that the key store remembers.

use std::str::FromStr;

use http::Uri;
use http::uri::PathAndQuery;
use identity::ServerAddress;

use crate::server_url::{HTTPS, UrlError};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The gateway; `None` for the one that the key store remembers.
    pub(crate) gateway: Option<ServerAddress>,
    /// Path and query, from the first slash on.
    pub(crate) path: PathAndQuery,
}

impl FromStr for Target {
    type Err = TargetError;

    /// Takes an https URL, or a path that starts with `/`.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let uri: Uri = text.parse().map_err(|_| TargetError::Malformed)?;
        let path = match uri.path_and_query() {
            Some(path) if !path.as_str().starts_with('?') => path.clone(),
            Some(query) => PathAndQuery::try_from(format!("/{}", query.as_str()))
                .map_err(|_| TargetError::Malformed)?,
            None => PathAndQuery::from_static("/"),
        };
        let Some(authority) = uri.authority() else {
            return if text.starts_with('/') {
                Ok(Self {
                    gateway: None,
                    path,
                })
            } else {
                Err(TargetError::Malformed)
            };
        };
        match uri.scheme_str() {
            Some("https") => {}
            Some(_) => return Err(TargetError::Url(UrlError::NotHttps)),
            None => return Err(TargetError::Malformed),
        }
        if authority.as_str().contains('@') {
            return Err(TargetError::Url(UrlError::NotBare));
        }
        let port = authority.port_u16().unwrap_or(HTTPS);
        let gateway = ServerAddress::new(authority.host(), port)
            .map_err(|error| TargetError::Url(error.into()))?;
        Ok(Self {
            gateway: Some(gateway),
            path,
        })
    }
}

/// Why a text is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither a URL nor a path.
    #[error("it is neither an https URL nor a path that starts with /")]
    Malformed,
    /// The URL's scheme, host or port.
    #[error("{0}")]
    Url(UrlError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(Option<&str>, &str), TargetError>) {
        let target = text.parse::<Target>();
        assert_eq!(
            target
                .as_ref()
                .map(|target| (
                    target.gateway.as_ref().map(ToString::to_string),
                    target.path.as_str()
                ))
                .map_err(|error| *error),
            expected.map(|(gateway, path)| (gateway.map(str::to_owned), path)),
            "{text:?}"
        );
    }

    #[test]
    fn targets() {
        check("/hello?a=b", Ok((None, "/hello?a=b")));
        check("https://a.example", Ok((Some("a.example:443"), "/")));
        check(
            "https://A.example:8443?x",
            Ok((Some("a.example:8443"), "/?x")),
        );
        check("https://[::1]:8443/v1/", Ok((Some("[::1]:8443"), "/v1/")));
        check(
            "http://a.example/",
            Err(TargetError::Url(UrlError::NotHttps)),
        );
        check(
            "https://device@a.example/",
            Err(TargetError::Url(UrlError::NotBare)),
        );
        for text in ["", "hello", "a.example:8443", "/a b", "*", "?x", "https://"] {
            check(text, Err(TargetError::Malformed));
        }
    }
}
