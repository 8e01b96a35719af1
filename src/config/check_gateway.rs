//! The checks of `[gateway]` and its routes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gateway::{
    IdentityHeader, RateLimit, Route, RouteFaultKind, RouteTable, Upstream, UpstreamAddress,
};

use super::check::{Notes, Purpose};
use super::check_hop::TrustedGateways;
use super::check_upstream::Upstreams;
use super::file::{GatewayTable, RouteTable as RouteSection};
use super::{GatewayConfig, Located, Place, names_with, values};
use crate::duration;

impl Notes {
    /// Judges `[gateway]`; `names` are those of the server certificate.
    pub(super) fn gateway(
        &mut self,
        table: GatewayTable,
        purpose: Purpose,
        names: &[String],
        taken: &mut Vec<SocketAddr>,
    ) -> GatewayConfig {
        let listen = self.listen(table.listen, table.place, DEFAULT_GATEWAY, taken);
        let workers = table
            .workers
            .map(|workers| self.number(workers, 1, MAX_WORKERS, "workers") as usize);
        let without_sni = match table.without_sni {
            None => names
                .iter()
                .filter(|name| !name.contains('.') || is_address(name))
                .cloned()
                .collect(),
            Some(hosts) => hosts
                .into_iter()
                .filter_map(|host| self.named_host(&host, "without_sni", names))
                .collect(),
        };
        let max_staleness = match table.max_staleness {
            None => DEFAULT_STALENESS,
            Some(text) => {
                let parsed = duration::parse(&text.value)
                    .map_err(|error| format!("max_staleness = {:?}: {error}", text.value));
                let length = self.take(text.place, parsed).unwrap_or(DEFAULT_STALENESS);
                if length.is_zero() {
                    self.note(
                        text.place,
                        "max_staleness is 0, which would refuse every device",
                    );
                }
                length
            }
        };
        if purpose == Purpose::Serve && table.routes.is_empty() && table.tcp_routes.is_empty() {
            self.note(
                table.place,
                "[gateway] has no route, so every request would be refused; add [[gateway.route]] with an upstream",
            );
        }
        let certificates = self.certificates(table.certificates);
        let names = names_with(names, &certificates);
        let upstreams = self.upstream_tables(table.upstreams);
        let (limits, rate) = self.limits(table.limits);
        let gateways = self.trusted_gateways(table.trusted_gateways);
        let routes = self.routes(table.routes, &names, (&upstreams, &gateways), rate);
        let tcp_routes = self.tcp_routes(table.tcp_routes, &names, &routes);
        GatewayConfig {
            listen,
            workers,
            without_sni,
            max_staleness,
            tcp_routes,
            proxies: self.networks(table.proxy_protocol_from),
            access_log: table.access_log.and_then(|table| self.access_log(table)),
            certificates,
            anchors: self.anchors(table.anchors, &gateways),
            limits,
            rate,
            routes,
        }
    }

    fn routes(
        &mut self,
        tables: Vec<RouteSection>,
        names: &[String],
        others: (&Upstreams, &TrustedGateways),
        rate: Option<RateLimit>,
    ) -> Vec<Route> {
        let mut places = Vec::with_capacity(tables.len());
        let mut routes = Vec::with_capacity(tables.len());
        for table in tables {
            let place = table.place;
            if let Some(route) = self.route(table, names, others, rate) {
                places.push(place);
                routes.push(route);
            }
        }
        // The gateway's own check; its faults are reported where the route was written.
        for fault in RouteTable::new(routes.clone()).err().unwrap_or_default() {
            let place = places
                .get(fault.position)
                .copied()
                .unwrap_or(Place::Nowhere);
            match fault.kind {
                RouteFaultKind::Host(_)
                | RouteFaultKind::Path(_)
                | RouteFaultKind::PathNotPlain => {
                    self.note(place, format!("this route is refused: {}", fault.kind));
                }
                // Noted where the upstream was read.
                RouteFaultKind::NoUpstream | RouteFaultKind::NoRoots => {}
                RouteFaultKind::Duplicate { first } => {
                    let other = match places.get(first) {
                        Some(Place::Line(line)) => format!("the route of line {line}"),
                        Some(Place::Flag(_) | Place::Nowhere) | None => "another route".to_owned(),
                    };
                    self.note(
                        place,
                        format!("this route has the same host and path as {other}; list all its upstreams in one route"),
                    );
                }
            }
        }
        routes
    }

    /// `None` if the route's host was refused, so that the route would be another one without it.
    fn route(
        &mut self,
        mut table: RouteSection,
        names: &[String],
        (upstreams, gateways): (&Upstreams, &TrustedGateways),
        rate: Option<RateLimit>,
    ) -> Option<Route> {
        let host = table
            .host
            .map(|host| self.named_host(&host, "the route's host", names));
        let identity = table.identity.as_ref().map(|identity| {
            let first = identity.first();
            first.map_or(table.place, |first| first.place)
        });
        let via = table.policy.via.take();
        let mut route = Route {
            path: table.path.map_or_else(|| "/".to_owned(), |path| path.value),
            identity: self.identity(table.identity),
            upstream: self.upstream(table.upstream, table.place, upstreams),
            host: None,
            policy: self.policy(table.policy, table.place, identity, rate),
        };
        self.via(via, &mut route, gateways);
        match host {
            None => Some(route),
            Some(host) => Some(Route {
                host: Some(host?),
                ..route
            }),
        }
    }

    /// The upstream of that name, or one of the servers that were written.
    fn upstream(
        &mut self,
        written: Option<Vec<Located<String>>>,
        route: Place,
        upstreams: &Upstreams,
    ) -> Arc<Upstream> {
        let written = written.unwrap_or_default();
        if let [name] = &written[..]
            && values::is_upstream_name(&name.value)
        {
            let found = self.take(name.place, upstreams.find(&name.value));
            return found.unwrap_or_else(|| Upstream::of(vec![]));
        }
        let example =
            "the route has no upstream; write for example upstream = \"http://10.0.0.5:8080\"";
        let servers = self.servers(Some(&written), route, example);
        let tls = |one: &&Located<String>| one.value.starts_with("https://");
        if servers.iter().any(UpstreamAddress::is_tls)
            && let Some(one) = written.iter().find(tls)
        {
            self.note(
                one.place,
                format!(
                    "the upstream {:?} speaks TLS, so it needs roots: write a [[gateway.upstream]] with name, servers and roots, and its name here",
                    one.value
                ),
            );
        }
        Upstream::of(servers)
    }

    fn identity(&mut self, written: Option<Vec<Located<String>>>) -> Vec<IdentityHeader> {
        let Some(written) = written else {
            return vec![IdentityHeader::DeviceId];
        };
        let mut forms = Vec::with_capacity(written.len());
        for Located { place, value } in written {
            let Some(form) = self.take(place, values::identity_form(&value)) else {
                continue;
            };
            if forms.contains(&form) {
                self.note(
                    place,
                    format!("the identity form {value:?} is written twice"),
                );
            } else {
                forms.push(form);
            }
        }
        forms
    }

    /// A host that devices can ask for: one that the server certificate names.
    pub(super) fn named_host(
        &mut self,
        host: &Located<String>,
        what: &str,
        names: &[String],
    ) -> Option<String> {
        let name = self.take(host.place, values::server_name(&host.value))?;
        if names.iter().any(|pattern| values::covers(pattern, &name)) {
            return Some(name);
        }
        self.note(
            host.place,
            format!(
                "{what} {name} is not a name of the server certificate; add it to names, which are: {}",
                names.join(", ")
            ),
        );
        None
    }
}

fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

const DEFAULT_GATEWAY: &str = "0.0.0.0:8443";
const MAX_WORKERS: u64 = 1024;
const DEFAULT_STALENESS: Duration = Duration::from_secs(24 * 60 * 60);
