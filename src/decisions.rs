//! The last decisions, kept for `keybound explain`: what was asked, what was decided, and why.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway::{Outcome, Record};
use identity::{CertificateSerial, DeviceId, DeviceName, Timestamp};

use crate::admin::api;
use crate::clock::rfc3339;
use crate::fair_memory::FairMemory;
use crate::reasons::reason;
use crate::source::Source;

/// A bounded memory of decisions, in which nobody can make those about somebody else be forgotten.
pub(crate) struct Decisions {
    entries: Mutex<Entries>,
    log: Mutex<LogBudget>,
}

/// Log lines per second. Strangers cause decisions as often as they like, and must not fill a disk with them.
#[derive(Default)]
struct LogBudget {
    second: u64,
    written: u32,
    suppressed: u64,
}

/// Strangers have a memory of their own: they can come from any number of addresses.
struct Entries {
    of_devices: FairMemory<String, Entry>,
    of_strangers: FairMemory<Source, Entry>,
    number: u64,
}

enum Entry {
    Gateway(Arc<Record>),
    /// Boxed, because the others have no room of their own, and are many more.
    Enrollment(Box<EnrollmentDecision>),
}

/// A decision of the enrollment listener.
pub(crate) struct EnrollmentDecision {
    pub(crate) at: Timestamp,
    pub(crate) address: SocketAddr,
    pub(crate) device: Option<DeviceId>,
    pub(crate) server_name: Option<String>,
    /// The EST operation; none if the handshake did not finish.
    pub(crate) operation: Option<&'static str>,
    pub(crate) outcome: String,
    pub(crate) status: Option<u16>,
    pub(crate) duration: Duration,
    /// In a sentence, if it was refused.
    pub(crate) detail: Option<String>,
}

/// What to look for; a decision that matches one of these is found.
#[derive(Debug, Default)]
pub(crate) struct Subject {
    /// In lower case.
    pub(crate) device: Option<String>,
    /// All that the query can be read as.
    pub(crate) serials: Vec<CertificateSerial>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) request_id: Option<String>,
}

impl Decisions {
    pub(crate) fn new() -> Self {
        Self {
            entries: Mutex::new(Entries {
                of_devices: FairMemory::new(CAPACITY),
                of_strangers: FairMemory::new(CAPACITY_FOR_STRANGERS),
                number: 0,
            }),
            log: Mutex::default(),
        }
    }

    /// Remembers a decision of the gateway, and logs a refusal.
    pub(crate) fn gateway(&self, record: Arc<Record>) {
        let refused = match record.outcome {
            Outcome::Forwarded | Outcome::ForwardedAnonymously | Outcome::Abandoned => false,
            Outcome::Refused(_) | Outcome::HandshakeRefused(_) => true,
        };
        if (refused || record.reported.is_some()) && self.may_log(record.at) {
            // What a peer chose is logged with its control characters escaped.
            tracing::info!(
                target: "decision",
                outcome = record.outcome.as_str(),
                reported = record.reported.map(|code| code.as_str()),
                address = %record.address,
                device = record.device.as_ref().map(tracing::field::display),
                on_behalf_of = record.on_behalf_of.as_deref(),
                serial = record.serial.map(tracing::field::display),
                request_id = record.request_id.as_deref(),
                server_name = record.server_name.as_ref().map(tracing::field::debug),
                host = record.host.as_ref().map(tracing::field::debug),
                method = record.method.as_ref().map(tracing::field::debug),
                path = record.path.as_ref().map(tracing::field::debug),
                "{}",
                if refused { "refused by the gateway" } else { "let through by a route that only reports" }
            );
        }
        self.push(Entry::Gateway(record));
    }

    /// Remembers a decision of the enrollment listener, and logs it unless it is of no consequence.
    pub(crate) fn enrollment(&self, decision: EnrollmentDecision) {
        if decision.outcome != "sent" && self.may_log(decision.at) {
            tracing::info!(
                target: "decision",
                outcome = decision.outcome,
                operation = decision.operation,
                address = %decision.address,
                device = decision.device.as_ref().map(tracing::field::display),
                detail = decision.detail.as_ref().map(tracing::field::debug),
                "decided by enrollment"
            );
        }
        self.push(Entry::Enrollment(Box::new(decision)));
    }

    /// The newest decisions about a subject, newest first.
    pub(crate) fn about(&self, subject: &Subject, limit: usize) -> Vec<api::Decision> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let of_devices = entries.of_devices.newest_first();
        let of_strangers = entries.of_strangers.newest_first();
        let about = |(_, entry): &(u64, &Entry)| subject.matches(entry);
        let mut found: Vec<_> = (of_devices.filter(about).take(limit))
            .chain(of_strangers.filter(about).take(limit))
            .collect();
        found.sort_unstable_by_key(|(number, _)| Reverse(*number));
        found.truncate(limit);
        found.into_iter().map(|(_, entry)| view(entry)).collect()
    }

    fn may_log(&self, at: Timestamp) -> bool {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let before = log.suppressed;
        let may = log.spend(at);
        if log.suppressed == 0 && before > 0 {
            tracing::warn!(target: "decision", not_logged = before, "more was decided than is logged");
        }
        may
    }

    fn push(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Entries {
            of_devices,
            of_strangers,
            number,
        } = &mut *entries;
        *number += 1;
        match entry.whose() {
            Ok(device) => of_devices.remember(*number, device, entry),
            Err(source) => of_strangers.remember(*number, source, entry),
        }
    }
}

impl Entry {
    /// The device that proved to be the one, or else where the connection was from: a name alone anybody can say.
    fn whose(&self) -> Result<String, Source> {
        let (proven, address) = match self {
            Self::Gateway(record) => (
                record.device.as_ref().map(DeviceName::folded),
                record.address,
            ),
            Self::Enrollment(decision) => {
                let granted = matches!(decision.outcome.as_str(), "issued" | "repeated");
                let device = decision.device.as_ref().filter(|_| granted);
                (device.map(DeviceId::folded), decision.address)
            }
        };
        proven.ok_or_else(|| Source::of(address.ip()))
    }
}

impl LogBudget {
    /// Whether one more line may be written; a new second brings a new budget.
    fn spend(&mut self, at: Timestamp) -> bool {
        if at.0 != self.second {
            *self = Self {
                second: at.0,
                ..Self::default()
            };
        }
        let may = self.written < LINES_PER_SECOND;
        if may {
            self.written += 1;
        } else {
            self.suppressed += 1;
        }
        may
    }
}

impl Subject {
    fn matches(&self, entry: &Entry) -> bool {
        let (device, serial, address, request_id) = match entry {
            Entry::Gateway(record) => (
                record.device.as_ref().map(DeviceName::folded),
                record.serial,
                record.address,
                record.request_id.as_deref(),
            ),
            Entry::Enrollment(decision) => {
                let device = decision.device.as_ref().map(DeviceId::folded);
                (device, None, decision.address, None)
            }
        };
        let far = match entry {
            Entry::Gateway(record) => record.on_behalf_of.as_ref(),
            Entry::Enrollment(_) => None,
        };
        (self.device.is_some() && device == self.device)
            || (self.device.is_some() && far.map(|id| id.to_ascii_lowercase()) == self.device)
            || serial.is_some_and(|serial| self.serials.contains(&serial))
            || self.address == Some(address.ip().to_canonical())
            || (request_id.is_some() && request_id == self.request_id.as_deref())
    }
}

fn view(entry: &Entry) -> api::Decision {
    match entry {
        Entry::Gateway(record) => api::Decision {
            at: rfc3339(record.at),
            listener: api::Listener::Gateway,
            address: printed(record.address),
            request_id: record.request_id.clone(),
            device: record.device.clone(),
            serial: record.serial.as_ref().map(ToString::to_string),
            sni: record.server_name.clone(),
            host: record.host.clone(),
            method: record.method.clone(),
            path: record.path.clone(),
            on_behalf_of: record.on_behalf_of.clone(),
            outcome: record.outcome.as_str().to_owned(),
            reported: record.reported.map(|code| code.as_str().to_owned()),
            status: record.status,
            milliseconds: milliseconds(record.duration),
            reason: gateway_reason(record),
        },
        Entry::Enrollment(decision) => api::Decision {
            at: rfc3339(decision.at),
            listener: api::Listener::Enrollment,
            address: printed(decision.address),
            request_id: None,
            device: decision.device.clone().map(Into::into),
            serial: None,
            sni: decision.server_name.clone(),
            host: None,
            method: None,
            path: decision
                .operation
                .map(|operation| format!("/.well-known/est/{operation}")),
            on_behalf_of: None,
            outcome: decision.outcome.clone(),
            reported: None,
            status: decision.status,
            milliseconds: milliseconds(decision.duration),
            reason: enrollment_reason(decision),
        },
    }
}

fn gateway_reason(record: &Record) -> String {
    match record.reported {
        None => reason(record.outcome).to_owned(),
        Some(code) => format!(
            "The route only reports; else the request would have been refused. {}",
            reason(Outcome::Refused(code))
        ),
    }
}

fn enrollment_reason(decision: &EnrollmentDecision) -> String {
    match (&decision.detail, decision.outcome.as_str()) {
        (Some(detail), _) => format!("{}.", detail.trim_end_matches('.')),
        (None, "issued") => "A certificate was issued.".into(),
        (None, "repeated") => {
            "The same request had been answered before, and got the same certificate again.".into()
        }
        (None, _) => "It asked for what everybody may know.".into(),
    }
}

pub(crate) fn printed(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A few tens of megabytes at most, together.
const CAPACITY: usize = 49_152;
const CAPACITY_FOR_STRANGERS: usize = 16_384;
const LINES_PER_SECOND: u32 = 100;

#[cfg(test)]
mod tests {
    use gateway::Code;
    use gateway::tls::HandshakeFault;

    use super::*;

    fn record(address: &str, device: Option<&str>, outcome: Outcome) -> Arc<Record> {
        Arc::new(Record {
            at: Timestamp(0),
            request_id: device.map(|id| format!("request-of-{id}")),
            address: address.parse().expect("an address"),
            device: device.map(|id| id.parse().expect("legal")),
            serial: None,
            on_behalf_of: None,
            reported: None,
            unregistered: None,
            server_name: None,
            host: None,
            method: None,
            path: None,
            outcome,
            status: None,
            duration: Duration::ZERO,
        })
    }

    fn check(decisions: &Decisions, subject: Subject, expected: &[&str]) {
        let found = decisions.about(&subject, 2);
        let outcomes: Vec<_> = found.iter().map(|found| found.outcome.as_str()).collect();
        assert_eq!(outcomes, expected, "{subject:?}");
    }

    #[test]
    fn decisions_are_found_by_whatever_is_known_of_them() {
        let decisions = Decisions::new();
        let fault = HandshakeFault::UnknownIssuer;
        decisions.gateway(record("10.0.0.1:1", Some("A"), Outcome::Forwarded));
        decisions.gateway(record(
            "[::ffff:10.0.0.2]:1",
            None,
            Outcome::HandshakeRefused(fault),
        ));
        decisions.gateway(record(
            "10.0.0.3:1",
            Some("b"),
            Outcome::Refused(Code::Revoked),
        ));
        decisions.gateway(record(
            "10.0.0.3:2",
            Some("b"),
            Outcome::Refused(Code::NoRoute),
        ));
        decisions.gateway(record("10.0.0.3:3", Some("b"), Outcome::Forwarded));
        let device = |id: &str| Subject {
            device: Some(id.into()),
            ..Subject::default()
        };
        check(&decisions, device("a"), &["forwarded"]);
        check(&decisions, device("b"), &["forwarded", "no-route"]);
        check(&decisions, device("c"), &[]);
        check(&decisions, Subject::default(), &[]);
        let address = "10.0.0.2".parse().ok();
        check(
            &decisions,
            Subject {
                address,
                ..Subject::default()
            },
            &["unknown-issuer"],
        );
        let request_id = Some("request-of-A".into());
        check(
            &decisions,
            Subject {
                request_id,
                ..Subject::default()
            },
            &["forwarded"],
        );
    }

    #[test]
    fn a_flood_makes_nobody_else_forgotten() {
        let decisions = Decisions::new();
        let refused = Outcome::HandshakeRefused(HandshakeFault::UnknownIssuer);
        let guess = |address: String| EnrollmentDecision {
            at: Timestamp(0),
            address: address.parse().expect("an address"),
            device: DeviceId::parse("quiet").ok(),
            server_name: None,
            operation: Some("simpleenroll"),
            outcome: "token-invalid".into(),
            status: Some(401),
            duration: Duration::ZERO,
            detail: None,
        };
        decisions.gateway(record("10.0.0.1:1", Some("quiet"), Outcome::Forwarded));
        decisions.gateway(record("10.0.0.2:1", None, refused));
        // A device, a stranger, and strangers from everywhere who guess tokens of the quiet device.
        for number in 0..70_000_u32 {
            decisions.gateway(record("10.0.0.3:1", Some("loud"), Outcome::Forwarded));
            decisions.gateway(record("10.0.0.4:1", None, refused));
            let [a, b, c, _] = (number << 8).to_be_bytes();
            decisions.enrollment(guess(format!("[2001:db8:{a:x}{b:x}:{c:x}::1]:1")));
        }
        let of = |device: &str| Subject {
            device: Some(device.into()),
            ..Subject::default()
        };
        let from = |address: &str| Subject {
            address: address.parse().ok(),
            ..Subject::default()
        };
        let outcomes = |subject: &Subject| -> Vec<String> {
            let found = decisions.about(subject, CAPACITY);
            found.into_iter().map(|found| found.outcome).collect()
        };
        assert_eq!(outcomes(&of("quiet")).last().expect("kept"), "forwarded");
        assert_eq!(outcomes(&from("10.0.0.1")), ["forwarded"]);
        assert_eq!(outcomes(&of("loud")).len(), CAPACITY - 1);
        // What strangers can do to each other, they need as many addresses for.
        assert!(outcomes(&of("quiet")).len() <= 1 + CAPACITY_FOR_STRANGERS);
        assert!(!outcomes(&from("10.0.0.4")).is_empty());
    }

    #[test]
    fn one_address_makes_no_other_forgotten() {
        let decisions = Decisions::new();
        let refused = Outcome::HandshakeRefused(HandshakeFault::UnknownIssuer);
        decisions.gateway(record("10.0.0.2:1", None, refused));
        for _ in 0..20_000 {
            decisions.gateway(record("10.0.0.4:1", None, refused));
        }
        let subject = Subject {
            address: "10.0.0.2".parse().ok(),
            ..Subject::default()
        };
        check(&decisions, subject, &["unknown-issuer"]);
    }

    #[test]
    fn a_flood_does_not_fill_the_log() {
        let mut log = LogBudget::default();
        let written = (0..1_000).filter(|_| log.spend(Timestamp(7))).count();
        assert_eq!((written, log.suppressed), (100, 900));
        assert!(log.spend(Timestamp(8)));
        assert_eq!(log.suppressed, 0);
    }
}
