//! What differs between the configuration in force and another one: what a reload puts in force, and what it cannot.

use std::fmt::{self, Debug, Display};

use gateway::Route;
use identity::TrustDomain;

use super::file::ConfigFile;
use super::{AnchorConfig, Config, GatewayConfig, Mistake, Place};

/// The differences.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// What a reload changes, one sentence each.
    pub(crate) sentences: Vec<String>,
    /// What needs a restart.
    pub(crate) beyond_reload: Vec<Mistake>,
}

/// Where a file says what only a restart can change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FixedPlaces {
    data: Place,
    trust_domain: Place,
    device_certificate_days: Place,
    gateway: Place,
    gateway_listen: Place,
    workers: Place,
    proxies: Place,
    enrollment: Place,
    health: Place,
}

impl ConfigFile {
    /// Where it says what only a restart can change.
    pub(crate) fn fixed_places(&self) -> FixedPlaces {
        let gateway = self.gateway.as_ref();
        let listen = |table: Option<&super::file::ListenTable>| {
            let table = table?;
            let first = table.listen.as_ref().and_then(|listen| listen.first());
            Some(first.map_or(table.place, |first| first.place))
        };
        let days = self
            .ca
            .as_ref()
            .and_then(|ca| ca.device_certificate_days.as_ref());
        let first_address = gateway
            .and_then(|table| table.listen.as_ref())
            .and_then(|listen| listen.first());
        let table = gateway.map_or(Place::Nowhere, |table| table.place);
        FixedPlaces {
            data: place_of(self.data.as_ref().map(|data| data.place)),
            trust_domain: place_of(self.trust_domain.as_ref().map(|domain| domain.place)),
            device_certificate_days: place_of(days.map(|days| days.place)),
            gateway: table,
            gateway_listen: first_address.map_or(table, |address| address.place),
            workers: gateway
                .and_then(|table| table.workers.as_ref())
                .map_or(table, |workers| workers.place),
            proxies: gateway
                .and_then(|table| table.proxy_protocol_from.as_ref()?.first())
                .map_or(table, |network| network.place),
            enrollment: place_of(listen(self.enrollment.as_ref())),
            health: place_of(listen(self.health.as_ref())),
        }
    }
}

fn place_of(place: Option<Place>) -> Place {
    place.unwrap_or(Place::Nowhere)
}

/// Compares the configuration in force with another one. `trust_domain` is the CA's.
pub(crate) fn compare(
    old: &Config,
    new: &Config,
    places: &FixedPlaces,
    trust_domain: &TrustDomain,
) -> Changes {
    let mut changes = Changes::default();
    changes.fixed("data", places.data, &old.data, &new.data);
    if let Some(wanted) = &new.trust_domain {
        changes.fixed("trust_domain", places.trust_domain, trust_domain, wanted);
    }
    changes.fixed(
        "device_certificate_days in [ca]",
        places.device_certificate_days,
        &old.device_certificate_life,
        &new.device_certificate_life,
    );
    let (enrollment, health) = (places.enrollment, places.health);
    changes.fixed("[enrollment]", enrollment, &old.enrollment, &new.enrollment);
    changes.fixed("[health]", health, &old.health, &new.health);
    if old.names != new.names {
        changes.say(format!(
            "names: {}; the server's own certificate is made anew",
            new.names.join(", ")
        ));
    }
    if old.telemetry != new.telemetry {
        changes.say("telemetry".to_owned());
    }
    match (&old.gateway, &new.gateway) {
        (None, None) => {}
        (Some(old), Some(new)) => changes.gateway(old, new, places),
        (Some(_), None) | (None, Some(_)) => changes.needs_restart("[gateway]", places.gateway),
    }
    changes
}

impl Changes {
    fn say(&mut self, sentence: String) {
        self.sentences.push(sentence);
    }

    fn fixed<T: PartialEq>(&mut self, key: &str, place: Place, old: &T, new: &T) {
        if old != new {
            self.needs_restart(key, place);
        }
    }

    fn needs_restart(&mut self, key: &str, place: Place) {
        self.beyond_reload.push(Mistake {
            place,
            sentence: format!(
                "{key} is not what it was, which needs a restart; put it back, or restart"
            ),
        });
    }

    fn gateway(&mut self, old: &GatewayConfig, new: &GatewayConfig, places: &FixedPlaces) {
        self.fixed(
            "listen in [gateway]",
            places.gateway_listen,
            &old.listen,
            &new.listen,
        );
        self.fixed(
            "workers in [gateway]",
            places.workers,
            &old.workers,
            &new.workers,
        );
        self.fixed(
            "proxy_protocol_from in [gateway]",
            places.proxies,
            &old.proxies,
            &new.proxies,
        );
        // Without routes there is a built-in upstream, which is made at a start.
        if old.routes.is_empty() != new.routes.is_empty() && new.routes.is_empty() {
            self.needs_restart("[[gateway.route]], of which none is left,", places.gateway);
        }
        let before = self.sentences.len();
        if old.without_sni != new.without_sni {
            self.say(format!("without_sni: {}", new.without_sni.join(", ")));
        }
        if old.max_staleness != new.max_staleness {
            self.say(format!("max_staleness: {}s", new.max_staleness.as_secs()));
        }
        if (old.limits, old.rate) != (new.limits, new.rate) {
            self.say("limits of devices and addresses".to_owned());
        }
        if old.access_log != new.access_log {
            self.say(match &new.access_log {
                None => "access log: none".to_owned(),
                Some(settings) => format!("access log: {settings}"),
            });
        }
        self.parts(
            &old.routes,
            &new.routes,
            |a, b| (&a.host, &a.path) == (&b.host, &b.path),
            |a, b| a == b,
            |route| Box::new(RouteName(route)),
        );
        self.parts(
            &old.tcp_routes,
            &new.tcp_routes,
            |a, b| a.host == b.host,
            |a, b| a == b,
            |route| Box::new(format!("TCP route {}", route.host)),
        );
        self.parts(
            &old.certificates,
            &new.certificates,
            |a, b| a.certificate == b.certificate,
            |a, b| a.read.fingerprint == b.read.fingerprint && a.key == b.key,
            |files| Box::new(format!("certificate {}", files.certificate.display())),
        );
        self.parts(
            &old.anchors,
            &new.anchors,
            |a, b| a.name == b.name,
            AnchorConfig::is_as,
            |anchor| Box::new(format!("anchor {}", anchor.name)),
        );
        // Whatever else there is: nothing changes without being told.
        if self.sentences.len() == before && format!("{old:?}") != format!("{new:?}") {
            self.say("other settings of [gateway]".to_owned());
        }
    }

    /// Parts of a list, found again by what they are called.
    fn parts<'p, T: Debug>(
        &mut self,
        old: &'p [T],
        new: &'p [T],
        is_same: impl Fn(&T, &T) -> bool,
        is_equal: impl Fn(&T, &T) -> bool,
        name: impl Fn(&'p T) -> Box<dyn Display + 'p>,
    ) {
        for part in new {
            match old.iter().find(|other| is_same(other, part)) {
                None => self.say(format!("{} added", name(part))),
                Some(other) if !is_equal(other, part) => {
                    self.say(format!("{} changed", name(part)));
                }
                Some(_) => {}
            }
        }
        for part in old {
            if !new.iter().any(|other| is_same(other, part)) {
                self.say(format!("{} removed", name(part)));
            }
        }
    }
}

struct RouteName<'r>(&'r Route);

impl Display for RouteName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host.as_deref().unwrap_or("any host");
        write!(f, "route {host} {}", self.0.path)
    }
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
