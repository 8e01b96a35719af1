//! Addresses of upstream servers: one parser and one printer.

use std::fmt;
use std::str::FromStr;

use super::host::{Host, HostFault};

/// Where one server of an upstream is, and what is spoken with it.
///
/// `http://host[:port]`, `https://host[:port]`, `h2c://host[:port]` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamAddress {
    /// A TCP port.
    Tcp {
        /// What is spoken.
        scheme: Scheme,
        /// The DNS name or IP address, without brackets.
        host: String,
        /// The TCP port, never 0.
        port: u16,
    },
    /// A Unix socket in the file system, for HTTP/1.1; the path is absolute.
    Unix(String),
}

/// What is spoken over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 in the clear, in a network that is trusted.
    Http,
    /// HTTP/2 or HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 in the clear, with prior knowledge (RFC 9113, section 3.3).
    H2c,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Http, Self::Https, Self::H2c];

    /// As it stands before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http | Self::H2c => 80,
            Self::Https => 443,
        }
    }
}

impl UpstreamAddress {
    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        matches!(
            self,
            Self::Tcp {
                scheme: Scheme::Https,
                ..
            }
        )
    }

    /// Whether it is HTTP/2 without being asked.
    pub fn is_h2c(&self) -> bool {
        matches!(
            self,
            Self::Tcp {
                scheme: Scheme::H2c,
                ..
            }
        )
    }

    /// `host:port` as a client would ask for it; `localhost` for a Unix socket.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl FromStr for UpstreamAddress {
    type Err = UpstreamAddressFault;

    fn from_str(text: &str) -> Result<Self, UpstreamAddressFault> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        let (scheme, authority) = Scheme::ALL
            .into_iter()
            .find_map(|scheme| {
                let rest = text.strip_prefix(scheme.as_str())?.strip_prefix("://")?;
                Some((scheme, rest))
            })
            .ok_or(UpstreamAddressFault::Scheme)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#']) {
            return Err(UpstreamAddressFault::Path);
        }
        let host = Host::from_authority(authority).map_err(UpstreamAddressFault::Host)?;
        let port = match authority.rsplit_once(':') {
            Some((_, digits)) if !digits.ends_with(']') => digits
                .parse()
                .map_err(|_| UpstreamAddressFault::Host(HostFault::Port))?,
            Some(_) | None => scheme.default_port(),
        };
        if port == 0 {
            return Err(UpstreamAddressFault::PortZero);
        }
        Ok(Self::Tcp {
            scheme,
            host: host.as_str().to_owned(),
            port,
        })
    }
}

fn unix(path: &str) -> Result<UpstreamAddress, UpstreamAddressFault> {
    let sound = path.starts_with('/')
        && !path.ends_with('/')
        && path.len() <= MAX_SOCKET_PATH
        && !path.chars().any(char::is_control);
    if sound {
        Ok(UpstreamAddress::Unix(path.to_owned()))
    } else {
        Err(UpstreamAddressFault::SocketPath)
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { scheme, .. } => write!(f, "{}://{}", scheme.as_str(), self.authority()),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Why a text is no upstream address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamAddressFault {
    /// It starts with none of the schemes.
    #[error("it must start with http://, https://, h2c:// or unix:/")]
    Scheme,
    /// A path, query or fragment follows the host.
    #[error("it must end after the port; the route's path is forwarded as it is")]
    Path,
    /// The host or port is wrong.
    #[error("{0}")]
    Host(HostFault),
    /// Nobody listens there.
    #[error("nobody listens on port 0")]
    PortZero,
    /// Not what can name a socket.
    #[error(
        "the socket's path must be absolute, at most 107 bytes, and without control characters"
    )]
    SocketPath,
}

/// The kernel's own limit (unix(7)), less the NUL at the end.
const MAX_SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_addresses() {
        let check = |text: &str, expected: Result<&str, UpstreamAddressFault>| {
            let parsed = text.parse::<UpstreamAddress>();
            let printed = parsed.clone().map(|address| address.to_string());
            assert_eq!(printed, expected.map(str::to_owned), "{text}");
            if let Ok(address) = parsed {
                assert_eq!(address.to_string().parse(), Ok(address));
            }
        };
        check("http://10.0.0.5:8080", Ok("http://10.0.0.5:8080"));
        check("http://Backend/", Ok("http://backend:80"));
        check("http://[::1]:81", Ok("http://[::1]:81"));
        check("http://[::1]", Ok("http://[::1]:80"));
        check("https://a", Ok("https://a:443"));
        check("https://[::1]:8443/", Ok("https://[::1]:8443"));
        check("h2c://a:50051", Ok("h2c://a:50051"));
        check("unix:/run/service.sock", Ok("unix:/run/service.sock"));
        for text in [
            "a:80", "ftp://a", "HTTP://a", "http:a", "https:/a", "unix//a", "h2://a",
        ] {
            check(text, Err(UpstreamAddressFault::Scheme));
        }
        check("http://a/b", Err(UpstreamAddressFault::Path));
        check("https://a?b", Err(UpstreamAddressFault::Path));
        check("http://a:0", Err(UpstreamAddressFault::PortZero));
        check(
            "https://u@a",
            Err(UpstreamAddressFault::Host(HostFault::Userinfo)),
        );
        check(
            "http://a:99999",
            Err(UpstreamAddressFault::Host(HostFault::Port)),
        );
        let long = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH));
        for text in [
            "unix:",
            "unix:run/x",
            "unix:///",
            "unix:/run/",
            "unix:/a\nb",
            "unix:/a\0",
            &long,
        ] {
            check(text, Err(UpstreamAddressFault::SocketPath));
        }
        check(&long[..long.len() - 1], Ok(&long[..long.len() - 1]));
    }
}
