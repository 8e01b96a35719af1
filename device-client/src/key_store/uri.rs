//! Which key store: `file:<folder>`, or a folder's bare path.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a device keeps its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyStoreUri {
    /// A folder. The path is taken as it stands; nothing in it is percent-decoded.
    File(PathBuf),
}

impl Default for KeyStoreUri {
    fn default() -> Self {
        Self::File(PathBuf::from("./keybound-device"))
    }
}

impl FromStr for KeyStoreUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let path = match text.split_once(':') {
            Some(("file", path)) => path.strip_prefix("//").map_or(path, |rest| rest),
            Some((scheme, _)) if is_scheme(scheme) => {
                return Err(UriError::UnknownScheme {
                    scheme: scheme.to_owned(),
                });
            }
            Some(_) | None => text,
        };
        if path.is_empty() {
            return Err(UriError::Empty);
        }
        Ok(Self::File(PathBuf::from(path)))
    }
}

impl fmt::Display for KeyStoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Whether the text before a colon is a URI scheme (RFC 3986, section 3.1) and no part of a path.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Why a text names no key store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No path.
    #[error("it names no folder; write file:./keybound-device, for example")]
    Empty,
    /// A kind of key store that this version does not have.
    #[error("there is no key store of the kind {scheme:?} in this version; file:FOLDER exists")]
    UnknownScheme {
        /// The text before the colon.
        scheme: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, UriError>) {
        assert_eq!(
            text.parse(),
            expected.map(|path| KeyStoreUri::File(PathBuf::from(path))),
            "{text:?}"
        );
    }

    #[test]
    fn key_stores() {
        check("file:./keybound-device", Ok("./keybound-device"));
        check("file:/var/lib/device", Ok("/var/lib/device"));
        check("file:///var/lib/device", Ok("/var/lib/device"));
        check("./keybound-device", Ok("./keybound-device"));
        check("/var/lib/a:b", Ok("/var/lib/a:b"));
        check("device", Ok("device"));
        check("", Err(UriError::Empty));
        check("file:", Err(UriError::Empty));
        for (text, scheme) in [
            ("pkcs11:token=a", "pkcs11"),
            ("tpm2:0x81", "tpm2"),
            ("a:b", "a"),
        ] {
            let scheme = scheme.to_owned();
            check(text, Err(UriError::UnknownScheme { scheme }));
        }
    }
}
