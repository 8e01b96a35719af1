//! From what was written to what is true. Every mistake is reported, none is repaired.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use identity::TrustDomain;

use super::file::{ConfigFile, GatewayTable, ListenTable};
use super::{Config, DEFAULT_DATA, Located, Mistake, Place, values};

/// What a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `serve`: the roles whose tables are present.
    Serve,
    /// `up`: every role, whatever is written; without routes it adds a built-in upstream.
    Up,
}

/// Judges a configuration. `host_name` is this machine's, for the default names.
pub(crate) fn check(
    file: ConfigFile,
    purpose: Purpose,
    host_name: Option<&str>,
    mistakes: Vec<Mistake>,
) -> Result<Config, Vec<Mistake>> {
    let mut notes = Notes(mistakes);
    if purpose == Purpose::Serve {
        notes.roles(&file);
    }
    let names = notes.names(file.names, host_name);
    let everything = purpose == Purpose::Up;
    let gateway = file
        .gateway
        .or_else(|| everything.then(|| GatewayTable::new(Place::Nowhere)));
    let listen_only = |place| ListenTable {
        place,
        listen: None,
    };
    let enrollment = file
        .enrollment
        .or_else(|| everything.then(|| listen_only(Place::Nowhere)));
    let health = file
        .health
        .or_else(|| everything.then(|| listen_only(Place::Nowhere)));

    let mut taken = Vec::new();
    let gateway = gateway.map(|table| notes.gateway(table, purpose, &names, &mut taken));
    let enrollment = enrollment
        .map(|table| notes.listen(table.listen, table.place, DEFAULT_ENROLLMENT, &mut taken));
    let health =
        health.map(|table| notes.listen(table.listen, table.place, DEFAULT_HEALTH, &mut taken));
    let days = file
        .ca
        .and_then(|ca| ca.device_certificate_days)
        .map_or(DEFAULT_DAYS, |days| {
            notes.number(days, 1, MAX_DAYS, "device_certificate_days")
        });
    let config = Config {
        data: notes.data(file.data),
        trust_domain: file.trust_domain.and_then(|text| notes.trust_domain(&text)),
        names,
        device_certificate_life: Duration::from_secs(days * 24 * 60 * 60),
        gateway,
        enrollment,
        health,
        telemetry: file
            .telemetry
            .map(|table| notes.telemetry(table))
            .unwrap_or_default(),
    };
    let Notes(mut mistakes) = notes;
    if mistakes.is_empty() {
        return Ok(config);
    }
    mistakes.sort();
    mistakes.dedup();
    Err(mistakes)
}

/// The mistakes so far.
pub(super) struct Notes(Vec<Mistake>);

impl Notes {
    pub(super) fn note(&mut self, place: Place, sentence: impl Into<String>) {
        self.0.push(Mistake {
            place,
            sentence: sentence.into(),
        });
    }

    /// The value, or nothing after noting what is wrong with it.
    pub(super) fn take<T>(&mut self, place: Place, result: Result<T, String>) -> Option<T> {
        result.map_err(|sentence| self.note(place, sentence)).ok()
    }

    pub(super) fn number(&mut self, number: Located<i64>, least: u64, most: u64, key: &str) -> u64 {
        let value = u64::try_from(number.value).ok();
        match value.filter(|value| (least..=most).contains(value)) {
            Some(value) => value,
            None => {
                let sentence = format!("{key} must lie between {least} and {most}");
                self.note(number.place, sentence);
                least
            }
        }
    }

    fn data(&mut self, data: Option<Located<String>>) -> PathBuf {
        match data {
            Some(data) if data.value.trim().is_empty() => {
                self.note(data.place, "data is blank; name a directory");
                PathBuf::new()
            }
            Some(data) => PathBuf::from(data.value),
            None => PathBuf::from(DEFAULT_DATA),
        }
    }

    fn trust_domain(&mut self, text: &Located<String>) -> Option<TrustDomain> {
        let parsed = TrustDomain::parse(&text.value)
            .map_err(|error| format!("the trust domain {:?} is refused: {error}", text.value));
        self.take(text.place, parsed)
    }

    fn names(
        &mut self,
        written: Option<Vec<Located<String>>>,
        host_name: Option<&str>,
    ) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let Some(written) = written else {
            let host_name = host_name.and_then(|name| values::server_name(name).ok());
            names.push("localhost".into());
            names.extend(host_name.filter(|name| name != "localhost"));
            names.extend(["127.0.0.1".into(), "::1".into()]);
            return names;
        };
        if written.is_empty() {
            self.note(
                Place::Nowhere,
                "names is empty; name the hosts that devices connect to, or leave it out",
            );
        }
        for Located { place, value } in written {
            let Some(name) = self.take(place, values::server_name(&value)) else {
                continue;
            };
            if names.contains(&name) {
                self.note(place, format!("the name {name} is written twice"));
            } else {
                names.push(name);
            }
        }
        names
    }

    fn roles(&mut self, file: &ConfigFile) {
        let dependents = [
            ("[gateway]", file.gateway.as_ref().map(|table| table.place)),
            (
                "[enrollment]",
                file.enrollment.as_ref().map(|table| table.place),
            ),
            ("[health]", file.health.as_ref().map(|table| table.place)),
        ];
        if file.ca.is_some() {
            return;
        }
        let mut any = false;
        for (table, place) in dependents {
            if let Some(place) = place {
                any = true;
                self.note(
                    place,
                    format!(
                        "{table} needs the CA in the same process in this version; add a [ca] table, which may be empty"
                    ),
                );
            }
        }
        if !any {
            self.note(
                Place::Nowhere,
                "the file names no role; add the tables [ca], [gateway], [enrollment] or [health]",
            );
        }
    }

    pub(super) fn listen(
        &mut self,
        written: Option<Vec<Located<String>>>,
        table: Place,
        default: &str,
        taken: &mut Vec<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let written = written.unwrap_or_else(|| {
            vec![Located {
                place: table,
                value: default.to_owned(),
            }]
        });
        if written.is_empty() {
            self.note(
                table,
                "listen is empty; name an address and a port, or leave it out",
            );
        }
        let mut addresses = Vec::with_capacity(written.len());
        for Located { place, value } in written {
            let Some(address) = self.take(place, values::listen_address(&value)) else {
                continue;
            };
            if let Some(other) = taken.iter().find(|other| overlap(address, **other)) {
                self.note(
                    place,
                    format!("{address} is taken already, by {other}; every listener needs a port of its own"),
                );
            }
            taken.push(address);
            addresses.push(address);
        }
        addresses
    }
}

/// Whether two listeners would want the same port.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

const DEFAULT_ENROLLMENT: &str = "0.0.0.0:8444";
const DEFAULT_HEALTH: &str = "127.0.0.1:8446";
const DEFAULT_DAYS: u64 = 90;
/// Device certificates end before the CA that issues them, which lives ten years.
const MAX_DAYS: u64 = 3650;
