//! The grammar of names: devices, gateways, operators and stations share it.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name of 1–64 characters of `[A-Za-z0-9._-]` that starts with a letter or a digit.
///
/// Every such name is a valid SPIFFE path segment, a valid file name and a valid HTTP field value, so
/// nothing that prints one needs to escape it. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Parses a name; nothing is trimmed, folded or repaired.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some(first) = text.bytes().next() else {
            return Err(NameError::Empty);
        };
        if text.len() > MAX_LENGTH {
            return Err(NameError::TooLong { length: text.len() });
        }
        if let Some((position, character)) = text
            .char_indices()
            .find(|(_, c)| !matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-'))
        {
            return Err(NameError::Character {
                character,
                position,
            });
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Start {
                character: char::from(first),
            });
        }
        Ok(Self(text.into()))
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in lower case: two names that fold to the same text count as one.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

/// The name of a device. Unique under ASCII case folding.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId(Name);

impl DeviceId {
    /// Parses a device id by the grammar of [`Name`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Name::parse(text).map(Self)
    }

    /// The id as it was given.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The id in lower case, the key under which it is unique.
    pub fn folded(&self) -> String {
        self.0.folded()
    }
}

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters at all.
    #[error("it is empty")]
    Empty,
    /// More than 64 characters.
    #[error("it has {length} bytes, and 64 is the limit")]
    TooLong {
        /// How many bytes the text has.
        length: usize,
    },
    /// A character outside the alphabet.
    #[error("character {character:?} at byte {position} is not one of A-Z a-z 0-9 . _ -")]
    Character {
        /// The first offending character.
        character: char,
        /// Where it stands, in bytes from the start.
        position: usize,
    },
    /// It starts with a dot, an underscore or a hyphen.
    #[error("it starts with {character:?} and must start with a letter or a digit")]
    Start {
        /// The first character.
        character: char,
    },
}

const MAX_LENGTH: usize = 64;

macro_rules! text_value {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    };
}
text_value!(Name);
text_value!(DeviceId);

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, NameError>) {
        assert_eq!(
            Name::parse(text).as_ref().map(Name::as_str),
            expected.as_ref().copied(),
            "{text:?}"
        );
    }

    #[test]
    fn names() {
        let longest = "x".repeat(64);
        check("a", Ok("a"));
        check("Thermostat-7.b_2", Ok("Thermostat-7.b_2"));
        check(&longest, Ok(&longest));
        check("", Err(NameError::Empty));
        check(&"x".repeat(65), Err(NameError::TooLong { length: 65 }));
        check(".a", Err(NameError::Start { character: '.' }));
        check("-a", Err(NameError::Start { character: '-' }));
        for (text, character, position) in [
            ("a b", ' ', 1),
            ("a\0", '\0', 1),
            ("a\r\n", '\r', 1),
            ("a/b", '/', 1),
            ("аbc", 'а', 0),
            ("a\"", '"', 1),
            ("a%41", '%', 1),
        ] {
            check(
                text,
                Err(NameError::Character {
                    character,
                    position,
                }),
            );
        }
    }
}
