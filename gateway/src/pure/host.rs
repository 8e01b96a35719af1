//! Hosts: one normal form, in which SNI, Host, `:authority`, routes and server names are compared.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

/// A host without its port: lower case, without a trailing dot; an IP address as it is usually printed,
/// without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host<'a>(Cow<'a, str>);

impl<'a> Host<'a> {
    /// Parses `host[:port]` as it stands in Host and in `:authority` (RFC 9110, section 7.2).
    pub(crate) fn from_authority(authority: &'a str) -> Result<Self, HostFault> {
        if authority.contains('@') {
            return Err(HostFault::Userinfo);
        }
        if let Some(rest) = authority.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(HostFault::Address)?;
            check_port(port)?;
            let address: Ipv6Addr = address.parse().map_err(|_| HostFault::Address)?;
            return Ok(Self(Cow::Owned(address.to_string())));
        }
        let end = authority.find(':').unwrap_or(authority.len());
        let (name, port) = authority.split_at(end);
        check_port(port)?;
        Self::from_name(name)
    }

    /// Parses a DNS name, or an IP address without brackets.
    pub(crate) fn from_name(name: &'a str) -> Result<Self, HostFault> {
        if name.contains(':') {
            let address: IpAddr = name.parse().map_err(|_| HostFault::Address)?;
            return Ok(Self(Cow::Owned(address.to_string())));
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            return Err(HostFault::Empty);
        }
        if name.len() > MAX_LENGTH {
            return Err(HostFault::Name);
        }
        let mut has_upper_case = false;
        let mut before = b'.';
        for byte in name.bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
                b'A'..=b'Z' => has_upper_case = true,
                // No label is empty.
                b'.' if before != b'.' => {}
                _ => return Err(HostFault::Name),
            }
            before = byte;
        }
        if before == b'.' {
            return Err(HostFault::Name);
        }
        Ok(Self(if has_upper_case {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        }))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// No name at all.
    #[error("the host is empty")]
    Empty,
    /// A user name stands before the host.
    #[error("user information stands before the host")]
    Userinfo,
    /// Not the characters or labels of a DNS name.
    #[error("the host is not a DNS name")]
    Name,
    /// Brackets or colons without an IP address.
    #[error("the host is not an IP address")]
    Address,
    /// Not a port number.
    #[error("the port is not a number from 0 to 65535")]
    Port,
}

/// Checks `:port`, or nothing.
fn check_port(text: &str) -> Result<(), HostFault> {
    let Some(digits) = text.strip_prefix(':') else {
        return if text.is_empty() {
            Ok(())
        } else {
            Err(HostFault::Port)
        };
    };
    if !(1..=5).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostFault::Port);
    }
    digits
        .parse::<u16>()
        .map(|_| ())
        .map_err(|_| HostFault::Port)
}

/// The longest DNS name (RFC 1035, section 2.3.4).
const MAX_LENGTH: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(authority: &str, expected: Result<&str, HostFault>) {
        let host = Host::from_authority(authority);
        assert_eq!(
            host.as_ref().map(Host::as_str),
            expected.as_ref().copied(),
            "{authority:?}"
        );
    }

    #[test]
    fn one_normal_form() {
        check("api.example.com", Ok("api.example.com"));
        check("API.Example.com:8443", Ok("api.example.com"));
        check("api.example.com.", Ok("api.example.com"));
        check("api.example.com.:443", Ok("api.example.com"));
        check("127.0.0.1:1", Ok("127.0.0.1"));
        check("[::1]:8443", Ok("::1"));
        check("[0:0:0:0:0:0:0:1]", Ok("::1"));
        check("my_host", Ok("my_host"));
    }

    #[test]
    fn what_is_no_host() {
        check("", Err(HostFault::Empty));
        check(".", Err(HostFault::Empty));
        check(":80", Err(HostFault::Empty));
        check("a..", Err(HostFault::Name));
        check("a..b", Err(HostFault::Name));
        check(".a", Err(HostFault::Name));
        check("user@a", Err(HostFault::Userinfo));
        check("user:secret@a:80", Err(HostFault::Userinfo));
        check("a:", Err(HostFault::Port));
        check("a:+80", Err(HostFault::Port));
        check("a:65536", Err(HostFault::Port));
        check("a:000443", Err(HostFault::Port));
        check("a:80:80", Err(HostFault::Port));
        check("::1", Err(HostFault::Port));
        check("[::1", Err(HostFault::Address));
        check("[::1]x", Err(HostFault::Port));
        check("[a]", Err(HostFault::Address));
        check("a b", Err(HostFault::Name));
        check("a/b", Err(HostFault::Name));
        check("a,b", Err(HostFault::Name));
        check("аpi", Err(HostFault::Name));
        check(&"x".repeat(254), Err(HostFault::Name));
    }
}
