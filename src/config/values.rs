//! The grammars of single values. Each function returns the value, or the sentence that says what to write.

use std::net::{IpAddr, SocketAddr};

use gateway::{IdentityHeader, UpstreamAddress};
use identity::server_address::is_dns_name;

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

/// `http://host[:port]`
pub(super) fn upstream(text: &str) -> Result<UpstreamAddress, String> {
    if text.starts_with("https://") {
        return Err(format!(
            "the upstream {text:?} asks for TLS, which comes in a later version; use http://"
        ));
    }
    match text.parse::<UpstreamAddress>() {
        Ok(address) if address.port() == 0 => Err(format!(
            "the upstream {text:?} has port 0, where nobody listens"
        )),
        Ok(address) => Ok(address),
        Err(fault) => Err(format!(
            "the upstream {text:?} is refused: {fault}; write for example http://10.0.0.5:8080"
        )),
    }
}

/// A form in which the upstream is told who calls.
pub(super) fn identity_form(text: &str) -> Result<IdentityHeader, String> {
    match text {
        "device-id" => Ok(IdentityHeader::DeviceId),
        "client-cert" => Ok(IdentityHeader::ClientCert),
        _ => Err(format!(
            "the identity form {text:?} is not known; write \"device-id\" or \"client-cert\""
        )),
    }
}

/// `client`, of which only one value exists so far.
pub(super) fn client(text: &str) -> Result<(), String> {
    match text {
        "require" => Ok(()),
        "request" | "anonymous" => Err(format!(
            "client = {text:?} comes in a later version; write \"require\" or leave it out"
        )),
        _ => Err(format!(
            "client = {text:?} is not known; write \"require\" or leave it out"
        )),
    }
}

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
    fn upstreams() {
        assert!(upstream("http://10.0.0.5:8080").is_ok());
        for refused in ["10.0.0.5:8080", "https://a", "http://a:0", "http://a/b"] {
            assert!(upstream(refused).is_err(), "{refused:?}");
        }
    }
}
