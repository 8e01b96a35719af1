//! What operators say about a device: the groups that policy asks for, and labels for people and listings.
//!
//! Both have one grammar each and one canonical text, [`DeviceLabels::to_text`], which the registry's journal keeps.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A group or the key of a label: 1–64 characters of `[a-z0-9._-]` that start with a letter or a digit.
///
/// There are no capitals, so that no two of them differ in something that people overlook. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Arc<str>);

/// A group that a device is in: what routes admit.
pub type Group = Tag;

impl Tag {
    /// Parses a tag; nothing is trimmed, folded or repaired.
    pub fn parse(text: &str) -> Result<Self, TagError> {
        let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let start = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if start && text.len() <= MAX_TAG && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(TagError)
        }
    }

    /// The tag as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no group and no label's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not 1-64 characters of a-z 0-9 . _ - that start with a letter or a digit")]
pub struct TagError;

/// The value of a label: 1–128 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(Arc<str>);

impl LabelValue {
    /// Takes a value as it is.
    pub fn parse(text: &str) -> Result<Self, LabelValueError> {
        if (1..=MAX_VALUE).contains(&text.len()) && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(LabelValueError)
        }
    }

    /// The value as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no label's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not 1-128 bytes of text without control characters")]
pub struct LabelValueError;

/// The groups and labels of a device. Both are bounded by [`MAX_GROUPS`] and [`MAX_LABELS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceLabels {
    /// Which groups it is in.
    pub groups: BTreeSet<Group>,
    /// What people know of it.
    pub labels: BTreeMap<Tag, LabelValue>,
}

/// What to add to a device's groups and labels, and what to take away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelChange {
    /// Groups that it is in from now on.
    pub add_groups: BTreeSet<Group>,
    /// Groups that it is in no longer.
    pub remove_groups: BTreeSet<Group>,
    /// Labels that are set.
    pub set: BTreeMap<Tag, LabelValue>,
    /// Labels that go.
    pub unset: BTreeSet<Tag>,
}

impl DeviceLabels {
    /// The groups and labels after a change. What is not there need not be taken away.
    pub fn changed(&self, change: &LabelChange) -> Result<Self, LabelChangeError> {
        if change
            .add_groups
            .intersection(&change.remove_groups)
            .next()
            .is_some()
            || change.set.keys().any(|key| change.unset.contains(key))
        {
            return Err(LabelChangeError::Contradiction);
        }
        let mut after = self.clone();
        after
            .groups
            .retain(|group| !change.remove_groups.contains(group));
        after.groups.extend(change.add_groups.iter().cloned());
        after.labels.retain(|key, _| !change.unset.contains(key));
        after.labels.extend(
            change
                .set
                .iter()
                .map(|(key, value)| (key.clone(), value.clone())),
        );
        if after.groups.len() > MAX_GROUPS {
            return Err(LabelChangeError::TooManyGroups);
        }
        if after.labels.len() > MAX_LABELS {
            return Err(LabelChangeError::TooManyLabels);
        }
        Ok(after)
    }

    /// The one text of these groups and labels: JSON with sorted keys and no spaces.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("sets and maps of texts have a JSON form")
    }

    /// Reads [`Self::to_text`]; any other text of the same is refused.
    pub fn from_text(text: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(text).ok()?;
        let bounded = read.groups.len() <= MAX_GROUPS && read.labels.len() <= MAX_LABELS;
        (bounded && read.to_text() == text).then_some(read)
    }
}

/// Why groups and labels cannot be changed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LabelChangeError {
    /// Something is to be added and taken away at once.
    #[error("the same group or label is both set and taken away; say one of them")]
    Contradiction,
    /// More than [`MAX_GROUPS`].
    #[error("a device is in at most 16 groups; take one away first")]
    TooManyGroups,
    /// More than [`MAX_LABELS`].
    #[error("a device has at most 16 labels; take one away first")]
    TooManyLabels,
}

/// Groups per device.
pub const MAX_GROUPS: usize = 16;
/// Labels per device.
pub const MAX_LABELS: usize = 16;
const MAX_TAG: usize = 64;
const MAX_VALUE: usize = 128;

macro_rules! text_value {
    ($type:ty, $error:ty) => {
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
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                Self::parse(text)
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                Self::parse(&text)
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.as_str().to_owned()
            }
        }
    };
}
text_value!(Tag, TagError);
text_value!(LabelValue, LabelValueError);

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> Tag {
        Tag::parse(text).expect("legal")
    }

    #[test]
    fn tags_and_values() {
        let longest = "x".repeat(64);
        for legal in ["a", "blue", "7", "line-3.b_2", longest.as_str()] {
            assert_eq!(Tag::parse(legal).map(String::from), Ok(legal.to_owned()));
        }
        let too_long = "x".repeat(65);
        for refused in ["", "Blue", "a b", "-a", "a,b", "é", "a\0", "a/b", &too_long] {
            assert_eq!(Tag::parse(refused), Err(TagError), "{refused:?}");
        }
        let longest = "é".repeat(64);
        for legal in ["Berlin, hall 3", "=", longest.as_str()] {
            assert!(LabelValue::parse(legal).is_ok(), "{legal:?}");
        }
        let too_long = "é".repeat(65);
        for refused in ["", "a\nb", "\u{1b}[31m", too_long.as_str()] {
            assert_eq!(
                LabelValue::parse(refused),
                Err(LabelValueError),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_change_adds_and_takes_away() {
        let before = DeviceLabels {
            groups: [tag("blue"), tag("green")].into(),
            labels: [(tag("site"), LabelValue::parse("Berlin").expect("legal"))].into(),
        };
        let change = LabelChange {
            add_groups: [tag("red"), tag("green")].into(),
            remove_groups: [tag("blue"), tag("unknown")].into(),
            set: [(tag("line"), LabelValue::parse("3").expect("legal"))].into(),
            unset: [tag("site")].into(),
        };
        let after = before.changed(&change).expect("a change");
        assert_eq!(
            after.to_text(),
            r#"{"groups":["green","red"],"labels":{"line":"3"}}"#
        );
        assert_eq!(after.changed(&change), Ok(after.clone()));
        let both = LabelChange {
            add_groups: [tag("red")].into(),
            remove_groups: [tag("red")].into(),
            ..LabelChange::default()
        };
        assert_eq!(before.changed(&both), Err(LabelChangeError::Contradiction));
    }

    #[test]
    fn there_are_sixteen_at_most() {
        let many = |number: usize| -> BTreeSet<Tag> {
            (0..number).map(|n| tag(&format!("g{n}"))).collect()
        };
        let groups = |number| LabelChange {
            add_groups: many(number),
            ..LabelChange::default()
        };
        let none = DeviceLabels::default();
        assert!(none.changed(&groups(16)).is_ok());
        assert_eq!(
            none.changed(&groups(17)),
            Err(LabelChangeError::TooManyGroups)
        );
        let labels = |number| LabelChange {
            set: many(number)
                .into_iter()
                .map(|key| (key, LabelValue::parse("x").expect("legal")))
                .collect(),
            ..LabelChange::default()
        };
        assert!(none.changed(&labels(16)).is_ok());
        assert_eq!(
            none.changed(&labels(17)),
            Err(LabelChangeError::TooManyLabels)
        );
    }

    #[test]
    fn there_is_one_text() {
        let check = |text: &str, expected: bool| {
            let read = DeviceLabels::from_text(text);
            assert_eq!(read.is_some(), expected, "{text}");
        };
        check(r#"{"groups":["a","b"],"labels":{"k":"v"}}"#, true);
        check(r#"{"groups":[],"labels":{}}"#, true);
        for other in [
            r#"{"groups":["b","a"],"labels":{}}"#,
            r#"{"groups":["a","a"],"labels":{}}"#,
            r#"{"groups": [],"labels":{}}"#,
            r#"{"labels":{},"groups":[]}"#,
            r#"{"groups":["A"],"labels":{}}"#,
            r#"{"groups":[],"labels":{"k":""}}"#,
            r#"{"groups":[],"labels":{},"more":1}"#,
            "",
        ] {
            check(other, false);
        }
    }
}
