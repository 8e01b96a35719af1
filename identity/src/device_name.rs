//! What a device is called, and what its certificate's serial is, whichever CA vouches for it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::foreign::{ForeignId, ForeignSerial};
use crate::name::{DeviceId, Name, NameError};
use crate::serial::Serial;

/// A device of our registry, or of another CA: `<id>`, or `<anchor>:<id>`.
///
/// No id has a colon, so the two never meet, nor do two anchors' devices. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum DeviceName {
    /// The registry has it.
    Own(DeviceId),
    /// An anchor of the configuration vouches for it.
    Foreign(ForeignId),
}

impl DeviceName {
    /// The id, if the registry has it.
    pub fn own(&self) -> Option<&DeviceId> {
        match self {
            Self::Own(id) => Some(id),
            Self::Foreign(_) => None,
        }
    }

    /// The name in lower case.
    pub fn folded(&self) -> String {
        self.to_string().to_ascii_lowercase()
    }
}

impl From<DeviceId> for DeviceName {
    fn from(id: DeviceId) -> Self {
        Self::Own(id)
    }
}

impl From<ForeignId> for DeviceName {
    fn from(id: ForeignId) -> Self {
        Self::Foreign(id)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(id) => fmt::Display::fmt(id, f),
            Self::Foreign(id) => fmt::Display::fmt(id, f),
        }
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for DeviceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once(':') {
            None => DeviceId::parse(text).map(Self::Own),
            Some((anchor, id)) => Ok(Self::Foreign(ForeignId {
                anchor: Name::parse(anchor)?,
                id: DeviceId::parse(id)?,
            })),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl Serialize for DeviceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The serial number of a device's certificate, by whoever issued it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateSerial {
    /// Ours, which hides the registry index.
    Own(Serial),
    /// Another CA's.
    Foreign(ForeignSerial),
}

impl CertificateSerial {
    /// The serial, if it is ours.
    pub fn own(&self) -> Option<&Serial> {
        match self {
            Self::Own(serial) => Some(serial),
            Self::Foreign(_) => None,
        }
    }
}

impl From<Serial> for CertificateSerial {
    fn from(serial: Serial) -> Self {
        Self::Own(serial)
    }
}

impl From<ForeignSerial> for CertificateSerial {
    fn from(serial: ForeignSerial) -> Self {
        Self::Foreign(serial)
    }
}

impl fmt::Display for CertificateSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(serial) => fmt::Display::fmt(serial, f),
            Self::Foreign(serial) => fmt::Display::fmt(serial, f),
        }
    }
}

impl Serialize for CertificateSerial {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_printed_as_it_is_read_and_the_two_kinds_never_meet() {
        let check = |text: &str, is_own: bool| {
            let name: DeviceName = text.parse().expect("a name");
            assert_eq!(
                (name.to_string().as_str(), name.own().is_some()),
                (text, is_own)
            );
        };
        check("sensor-1", true);
        check("factory:Sensor-1", false);
        for refused in ["", ":", "factory:", ":a", "a:b:c", "a:b c", "a b:c"] {
            assert!(refused.parse::<DeviceName>().is_err(), "{refused:?}");
        }
    }
}
