//! Where a list of revoked certificates is, as a URL.

use std::fmt;

use http::Uri;
use http::uri::Scheme;

/// An `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CrlUrl {
    pub(crate) is_tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) target: String,
}

impl CrlUrl {
    /// The error is the sentence that says what to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "the URL {text:?} is refused; write http:// or https://, a host and a path, without user and fragment"
            )
        };
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let authority = uri.authority().ok_or_else(refused)?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) | None => return Err(refused()),
        };
        // The parser drops fragments.
        if authority.as_str().contains('@') || authority.host().is_empty() || text.contains('#') {
            return Err(refused());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port: match authority.port() {
                Some(port) => port.as_u16(),
                None if authority.as_str().len() > authority.host().len() => return Err(refused()),
                None if is_tls => 443,
                None => 80,
            },
            target: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }

    /// Host and port, as a Host header has them.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.is_tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for CrlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |text: &str, expected: Option<&str>| {
            let printed = CrlUrl::parse(text).map(|url| url.to_string()).ok();
            assert_eq!(printed.as_deref(), expected, "{text}");
        };
        check("http://pki.example/a.crl", Some("http://pki.example/a.crl"));
        check(
            "https://pki.example:8443/a?b=c",
            Some("https://pki.example:8443/a?b=c"),
        );
        check("http://pki.example:80", Some("http://pki.example/"));
        check("http://[::1]:8080/a", Some("http://[::1]:8080/a"));
        for refused in [
            "ftp://pki.example/a",
            "file:///etc/passwd",
            "http://user@pki.example/a",
            "http://pki.example/a#b",
            "http://",
            "http://pki.example:/a",
            "http://pki.example:99999/a",
            "http://pki example/a",
        ] {
            check(refused, None);
        }
    }
}
