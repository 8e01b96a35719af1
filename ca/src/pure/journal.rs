//! Journal entries and the hash that chains them.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use identity::{Class, DeviceId, DeviceLabels, Fingerprint, Index, Status, Timestamp};
use serde::{Deserialize, Serialize};

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "lowercase")]
pub enum Actor {
    /// A person or program that operates the server, e.g. `uid 0`.
    Operator(String),
    /// A device, by token or certificate.
    Device(DeviceId),
    /// The server itself.
    System,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(name) => write!(f, "operator {name}"),
            Self::Device(id) => write!(f, "device {id}"),
            Self::System => f.write_str("system"),
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A token was made for a device.
    TokenCreated,
    /// A certificate was issued.
    CertificateIssued,
    /// A certificate's status changed as a consequence of another entry or of a sighting.
    StatusChanged,
    /// A device was revoked.
    DeviceRevoked,
    /// A device was suspended.
    DeviceSuspended,
    /// A device was restored.
    DeviceRestored,
    /// A device was replaced: its id may be enrolled again.
    DeviceReplaced,
    /// A device's groups or labels were changed.
    DeviceLabelled,
    /// A certificate got its device's new class as a consequence.
    ClassChanged,
}

impl Action {
    /// The action as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenCreated => "token-created",
            Self::CertificateIssued => "certificate-issued",
            Self::StatusChanged => "status-changed",
            Self::DeviceRevoked => "device-revoked",
            Self::DeviceSuspended => "device-suspended",
            Self::DeviceRestored => "device-restored",
            Self::DeviceReplaced => "device-replaced",
            Self::DeviceLabelled => "device-labelled",
            Self::ClassChanged => "class-changed",
        }
    }

    /// The action that is stored as `text`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [
            Self::TokenCreated,
            Self::CertificateIssued,
            Self::StatusChanged,
            Self::DeviceRevoked,
            Self::DeviceSuspended,
            Self::DeviceRestored,
            Self::DeviceReplaced,
            Self::DeviceLabelled,
            Self::ClassChanged,
        ]
        .into_iter()
        .find(|action| action.as_str() == text)
    }
}

/// One entry: who did what to whom, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place: 1, 2, 3 … without gaps.
    pub seq: u64,
    /// When it was committed. Never earlier than the entry before.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: Action,
    /// The device or gateway concerned.
    pub subject: String,
    /// The certificate concerned.
    pub index: Option<Index>,
    /// The certificate's status from now on.
    pub status: Option<Status>,
    /// SHA-256 of the certificate, where it was issued.
    pub certificate: Option<Fingerprint>,
    /// Why, in the words of whoever did it.
    pub reason: Option<String>,
    /// All groups and labels of the device from now on, where they were changed.
    pub labelled: Option<Labelled>,
}

/// What a device's groups and labels are, and the class that stands for the groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    /// The class; 0 if there are no groups, and only then.
    pub class: Class,
    /// The groups and labels.
    pub labels: DeviceLabels,
}

impl Labelled {
    /// The one text of it: the class's number, a space, and the text of the labels.
    pub(crate) fn to_text(&self) -> String {
        format!("{} {}", self.class.0, self.labels.to_text())
    }

    /// Reads [`Self::to_text`]; any other text of the same is refused.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (number, labels) = text.split_once(' ')?;
        let read = Self {
            class: Class(number.parse().ok()?),
            labels: DeviceLabels::from_text(labels)?,
        };
        let sound = (read.class == Class::default()) == read.labels.groups.is_empty();
        (sound && read.to_text() == text).then_some(read)
    }
}

impl Entry {
    /// The hash that stands beside this entry: over the previous one's and every field of this one.
    ///
    /// Fields are length-prefixed, absent ones have a length of their own, so that no two different
    /// entries have the same encoding.
    pub(crate) fn hash(&self, previous: &Fingerprint) -> Fingerprint {
        let mut context = Context::new(&SHA256);
        let mut field = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
            context.update(&length.to_be_bytes());
            context.update(bytes.unwrap_or_default());
        };
        field(Some(&previous.0));
        field(Some(&self.seq.to_be_bytes()));
        field(Some(&self.at.0.to_be_bytes()));
        field(Some(self.actor.as_bytes()));
        field(Some(self.action.as_str().as_bytes()));
        field(Some(self.subject.as_bytes()));
        field(
            self.index
                .map(|index| index.0.to_be_bytes())
                .as_ref()
                .map(<[u8; 8]>::as_slice),
        );
        field(
            self.status
                .map(|status| [status.code()])
                .as_ref()
                .map(<[u8; 1]>::as_slice),
        );
        field(
            self.certificate
                .as_ref()
                .map(|certificate| certificate.0.as_slice()),
        );
        field(self.reason.as_deref().map(str::as_bytes));
        // A field more, where there is one: the number of fields is told by the lengths.
        if let Some(labelled) = &self.labelled {
            field(Some(labelled.to_text().as_bytes()));
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Fingerprint(hash)
    }
}

/// The end of a journal: what the next entry continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) at: Timestamp,
    pub(crate) hash: Fingerprint,
}

impl Head {
    /// Before the first entry.
    pub(crate) const START: Self = Self {
        seq: 0,
        at: Timestamp(0),
        hash: Fingerprint([0; 32]),
    };

    /// The head after `entry`, if it continues this one and has the hash that stands beside it.
    pub(crate) fn advance(&self, entry: &Entry, hash: &Fingerprint) -> Option<Self> {
        let continues = entry.seq == self.seq + 1 && entry.at >= self.at;
        (continues && entry.hash(&self.hash) == *hash).then_some(Self {
            seq: entry.seq,
            at: entry.at,
            hash: *hash,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64) -> Entry {
        Entry {
            seq,
            at: Timestamp(100 + seq),
            actor: Actor::Operator("uid 0".into()).to_string(),
            action: Action::CertificateIssued,
            subject: "a".into(),
            index: Some(Index(seq)),
            status: Some(Status::Pending),
            certificate: Some(Fingerprint([9; 32])),
            reason: None,
            labelled: None,
        }
    }

    fn accepts(entries: &[(Entry, Fingerprint)]) -> bool {
        entries
            .iter()
            .try_fold(Head::START, |head, (entry, hash)| head.advance(entry, hash))
            .is_some()
    }

    #[test]
    fn what_a_device_is_labelled_has_one_text() {
        let check = |text: &str, expected: bool| {
            assert_eq!(Labelled::from_text(text).is_some(), expected, "{text}");
        };
        check(r#"3 {"groups":["a"],"labels":{}}"#, true);
        check(r#"0 {"groups":[],"labels":{"k":"v"}}"#, true);
        for other in [
            r#"0 {"groups":["a"],"labels":{}}"#,
            r#"3 {"groups":[],"labels":{}}"#,
            r#"03 {"groups":["a"],"labels":{}}"#,
            r#"+3 {"groups":["a"],"labels":{}}"#,
            r#"65536 {"groups":["a"],"labels":{}}"#,
            r#"3  {"groups":["a"],"labels":{}}"#,
            r#"{"groups":["a"],"labels":{}}"#,
        ] {
            check(other, false);
        }
    }

    #[test]
    fn alteration_removal_and_reordering_are_seen() {
        let mut previous = Head::START.hash;
        let chain: Vec<_> = (1..=4)
            .map(|seq| {
                let entry = entry(seq);
                previous = entry.hash(&previous);
                (entry, previous)
            })
            .collect();
        assert!(accepts(&chain));

        let mut removed = chain.clone();
        removed.remove(1);
        assert!(!accepts(&removed));

        let mut reordered = chain.clone();
        reordered.swap(1, 2);
        assert!(!accepts(&reordered));

        let alterations: [fn(&mut Entry); 10] = [
            |e| e.seq += 1,
            |e| e.at.0 += 1,
            |e| e.actor.push('1'),
            |e| e.action = Action::DeviceRestored,
            |e| e.subject.push('b'),
            |e| e.index = None,
            |e| e.status = Some(Status::Active),
            |e| e.certificate = Some(Fingerprint([8; 32])),
            |e| e.reason = Some(String::new()),
            |e| e.labelled = Some(Labelled::default()),
        ];
        for alter in alterations {
            let mut altered = chain.clone();
            alter(&mut altered[2].0);
            assert!(!accepts(&altered), "{:?}", altered[2].0);
        }
    }
}
