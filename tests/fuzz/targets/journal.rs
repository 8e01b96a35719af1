//! The journal: any row is read or refused; what was altered in a chain is refused; and two different entries never
//! have the same hash, however alike their fields are when they stand in a row.
#![no_main]

use std::cell::OnceCell;
use std::collections::BTreeSet;

use ca::fuzzing::{Journal, Stored, journal_follow, journal_hash};
use ca::{JournalEntry, Labelled};
use identity::{Class, DeviceLabels, Fingerprint, Index, LabelValue, Status, Tag, Timestamp};
use keybound_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(first_inputs), |bytes: &[u8]| {
    let mut source = Source(bytes);
    match source.byte() % 3 {
        0 => any_row(&mut source),
        1 => altered_chain(&mut source),
        _ => hashes_differ(&mut source),
    }
});

/// The input, byte by byte; zeros after its end.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        let length = usize::from(self.byte() % 9);
        self.take(length)
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte());
        self.take(length)
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn array(&mut self) -> [u8; 32] {
        let mut array = [0; 32];
        let bytes = self.take(32);
        array[..bytes.len()].copy_from_slice(&bytes);
        array
    }

    fn stored(&mut self) -> Stored {
        match self.byte() % 8 {
            0 => Stored::Null,
            1 | 2 => Stored::Integer(self.number() as i64),
            3 => Stored::Real(f64::from_bits(self.number())),
            4 => Stored::Text(self.bytes()),
            5 => Stored::Text(ACTIONS[usize::from(self.byte()) % ACTIONS.len()].into()),
            6 => Stored::Blob(self.array().to_vec()),
            _ => Stored::Blob(self.bytes()),
        }
    }

    fn entry(&mut self, seq: u64, at: u64) -> JournalEntry {
        let action = ACTIONS[usize::from(self.byte()) % ACTIONS.len()];
        let present = self.byte();
        let if_present = |bit: u8| present & bit != 0;
        JournalEntry {
            seq,
            at: Timestamp(at),
            actor: self.text(),
            action: serde_json::from_value(action.into()).expect("an action"),
            subject: self.text(),
            index: if_present(1).then(|| Index(self.number() >> 1)),
            status: if_present(2).then(|| Status::from_code(self.byte() % 8)),
            certificate: if_present(4).then(|| Fingerprint(self.array())),
            reason: if_present(8).then(|| self.text()),
            labelled: (action == LABELLED).then(|| self.labelled()),
        }
    }

    fn labelled(&mut self) -> Labelled {
        let groups: BTreeSet<Tag> = (0..self.byte() % 3)
            .map(|_| Tag::parse(&format!("g{}", self.byte())).expect("legal"))
            .collect();
        let labels = (0..self.byte() % 3)
            .filter_map(|_| {
                let key = Tag::parse(&format!("k{}", self.byte())).expect("legal");
                Some((key, LabelValue::parse(&self.text()).ok()?))
            })
            .collect();
        Labelled {
            class: Class(if groups.is_empty() {
                0
            } else {
                1 + u16::from(self.byte())
            }),
            labels: DeviceLabels { groups, labels },
        }
    }
}

const LABELLED: &str = "device-labelled";
const ACTIONS: [&str; 9] = [
    "token-created",
    "certificate-issued",
    "status-changed",
    "device-revoked",
    "device-suspended",
    "device-restored",
    "device-replaced",
    "class-changed",
    LABELLED,
];

/// Whatever a damaged database holds is refused or read, and what is read is what is stored.
fn any_row(source: &mut Source<'_>) {
    let row: Vec<Stored> = (0..11).map(|_| source.stored()).collect();
    if let Some((entry, hash)) = read(&row) {
        assert_eq!(store(&entry, &hash), row);
    }
}

fn altered_chain(source: &mut Source<'_>) {
    let length = 1 + usize::from(source.byte() % 4);
    let mut previous = Fingerprint([0; 32]);
    let mut at = 0;
    let mut chain = Vec::new();
    for seq in 1..=length as u64 {
        at += source.number() >> 8;
        let entry = source.entry(seq, at);
        previous = journal_hash(&entry, &previous);
        chain.push((entry, previous));
    }
    let rows: Vec<Vec<Stored>> = chain
        .iter()
        .map(|(entry, hash)| store(entry, hash))
        .collect();
    let again: Vec<_> = rows
        .iter()
        .map(|row| read(row).expect("what was written can be read"))
        .collect();
    assert_eq!(again, chain);
    assert_eq!(journal_follow(&chain), length);
    let place = usize::from(source.byte()) % length;
    match source.byte() % 4 {
        // One value, altered where it is stored.
        0 | 1 => {
            let mut row = rows[place].clone();
            let column = usize::from(source.byte()) % row.len();
            alter(&mut row[column], source);
            // SQLite stores what is not a number as NULL.
            if matches!(row[column], Stored::Real(number) if number.is_nan()) {
                row[column] = Stored::Null;
            }
            if row == rows[place] {
                return;
            }
            if let Some(altered) = read(&row) {
                assert_ne!(altered, chain[place], "{row:?} reads as {:?}", rows[place]);
                chain[place] = altered;
                assert_eq!(journal_follow(&chain), place);
            }
        }
        2 => {
            chain.remove(place);
            assert_eq!(journal_follow(&chain), place);
        }
        _ => {
            let other = usize::from(source.byte()) % length;
            chain.swap(place, other);
            if place != other {
                assert_eq!(journal_follow(&chain), place.min(other));
            }
        }
    }
}

fn alter(value: &mut Stored, source: &mut Source<'_>) {
    let kind = source.byte();
    match value {
        Stored::Text(bytes) if kind & 1 == 0 => change(bytes, source),
        Stored::Blob(bytes) if kind & 1 == 0 => change(bytes, source),
        Stored::Integer(number) if kind & 1 == 0 => *number ^= 1 << (source.byte() % 64),
        Stored::Null | Stored::Integer(_) | Stored::Real(_) | Stored::Text(_) | Stored::Blob(_) => {
            *value = source.stored();
        }
    }
}

fn change(bytes: &mut Vec<u8>, source: &mut Source<'_>) {
    let place = usize::from(source.byte());
    if bytes.is_empty() || source.byte() & 1 == 0 {
        let byte = source.byte();
        bytes.insert(place.min(bytes.len()), byte);
    } else {
        let place = place % bytes.len();
        bytes[place] ^= source.byte();
    }
}

/// Two entries whose texts move between neighbouring fields.
fn hashes_differ(source: &mut Source<'_>) {
    let previous = Fingerprint(source.array());
    let entry = source.entry(1, 1);
    let mut other = entry.clone();
    let action = entry.action.as_str();
    match source.byte() % 8 {
        // actor | action | subject: the action's name taken for a part of the texts beside it.
        0 => {
            let text = format!("{}{action}{}", entry.actor, entry.subject);
            let places: Vec<usize> = text.match_indices(action).map(|(place, _)| place).collect();
            let place = places[usize::from(source.byte()) % places.len()];
            other.actor = text[..place].to_owned();
            other.subject = text[place + action.len()..].to_owned();
        }
        // What follows the subject taken for a part of it, or the other way round.
        1 => {
            other.index = None;
            if let Some(Index(index)) = entry.index {
                other
                    .subject
                    .push_str(&String::from_utf8_lossy(&index.to_be_bytes()));
            }
        }
        2 => {
            other.status = None;
            other.reason = entry.status.map(|status| {
                format!(
                    "{}{}",
                    char::from(status.code()),
                    entry.reason.as_deref().unwrap_or_default()
                )
            });
        }
        3 => {
            other.certificate = None;
            let text = entry
                .certificate
                .map(|Fingerprint(bytes)| String::from_utf8_lossy(&bytes).into_owned());
            other.reason = text.map(|text| text + entry.reason.as_deref().unwrap_or_default());
        }
        // Absent and empty.
        4 => other.reason = entry.reason.is_none().then(String::new),
        5 => {
            other.index = if entry.index.is_none() {
                Some(Index(0))
            } else {
                None
            }
        }
        6 => {
            other.status = if entry.status.is_none() {
                Some(Status::Unknown)
            } else {
                None
            }
        }
        _ => other = source.entry(1, 1),
    }
    let same = entry == other;
    assert_eq!(
        journal_hash(&entry, &previous) == journal_hash(&other, &previous),
        same,
        "{entry:?} {other:?}"
    );
    let mut earlier = previous;
    earlier.0[usize::from(source.byte() % 32)] ^= 1;
    assert_ne!(
        journal_hash(&entry, &previous),
        journal_hash(&entry, &earlier)
    );
}

fn read(row: &[Stored]) -> Option<(JournalEntry, Fingerprint)> {
    thread_local! {
        static JOURNAL: OnceCell<Journal> = const { OnceCell::new() };
    }
    JOURNAL.with(|journal| {
        journal
            .get_or_init(|| Journal::open().expect("a database in memory"))
            .read(row)
    })
}

/// The row of an entry, as the registry writes it.
fn store(entry: &JournalEntry, hash: &Fingerprint) -> Vec<Stored> {
    let text = |text: &str| Stored::Text(text.as_bytes().to_vec());
    let integer = |number: u64| Stored::Integer(number as i64);
    vec![
        integer(entry.seq),
        integer(entry.at.0),
        text(&entry.actor),
        text(entry.action.as_str()),
        text(&entry.subject),
        entry.index.map_or(Stored::Null, |index| integer(index.0)),
        entry
            .status
            .map_or(Stored::Null, |status| integer(u64::from(status.code()))),
        entry.certificate.map_or(Stored::Null, |certificate| {
            Stored::Blob(certificate.0.to_vec())
        }),
        entry.reason.as_deref().map_or(Stored::Null, text),
        entry.labelled.as_ref().map_or(Stored::Null, |labelled| {
            text(&format!(
                "{} {}",
                labelled.class.0,
                labelled.labels.to_text()
            ))
        }),
        Stored::Blob(hash.0.to_vec()),
    ]
}

fn first_inputs() -> Vec<Vec<u8>> {
    let row: Vec<u8> = [
        &[0, 1, 1, 1][..],
        &[1, 1, 9],
        &[4, 5],
        b"uid 0",
        &[5, 1],
        &[4, 1],
        b"a",
        &[1, 1, 1],
        &[1, 1, 1],
        &[6],
        &[7; 32],
        &[4, 3],
        b"why",
        &[0],
        &[6],
        &[8; 32],
    ]
    .concat();
    let entry = [
        &[1, 15, 5][..],
        b"uid 0",
        &[8],
        b"device-a",
        &[1, 9],
        &[1],
        &[7; 32],
        &[3],
        b"why",
    ]
    .concat();
    let chain = |tail: &[u8]| [&[1, 1, 2, 9, 9][..], &entry, &[2, 9, 9], &entry, tail].concat();
    let hash = |tail: u8| [&[2][..], &[9; 32], &entry, &[tail, 1]].concat();
    let mut inputs = vec![
        row,
        chain(&[1, 0, 2, 0, 0, 0, 65]),
        chain(&[0, 0, 6, 0, 3]),
        chain(&[0, 2]),
        chain(&[0, 3, 1]),
    ];
    inputs.extend((0..8).map(hash));
    let tricky = [
        &[2][..],
        &[9; 32],
        &[0, 0, 1],
        b"x",
        &[31],
        b"a-token-created-b-token-created",
        &[0, 1],
    ]
    .concat();
    inputs.push(tricky);
    inputs
}
