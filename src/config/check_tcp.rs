//! The checks of `[[gateway.tcp]]`, and of the load balancers that speak the PROXY protocol.

use gateway::{Route, StreamAddress, TcpRoute, TcpRouteFaultKind, TcpRouteTable};
use ipnet::IpNet;

use super::check::Notes;
use super::file::TcpTable;
use super::{Located, Place};

impl Notes {
    /// Judges the TCP routes; `names` are those of the server certificate, `routes` the others.
    pub(super) fn tcp_routes(
        &mut self,
        tables: Vec<TcpTable>,
        names: &[String],
        routes: &[Route],
    ) -> Vec<TcpRoute> {
        let mut places = Vec::with_capacity(tables.len());
        let mut found = Vec::with_capacity(tables.len());
        for table in tables {
            let place = table.place;
            if let Some(route) = self.tcp_route(table, names) {
                if routes
                    .iter()
                    .any(|http| http.host.as_ref() == Some(&route.host))
                {
                    let sentence = format!(
                        "the host {} has a [[gateway.route]], too; under the name of a TCP route nothing else is served",
                        route.host
                    );
                    self.note(place, sentence);
                }
                places.push(place);
                found.push(route);
            }
        }
        for fault in TcpRouteTable::new(found.clone()).err().unwrap_or_default() {
            let place = places.get(fault.position).copied();
            match fault.kind {
                // Noted where they were read.
                TcpRouteFaultKind::NoUpstream | TcpRouteFaultKind::Host(_) => {}
                TcpRouteFaultKind::Duplicate => self.note(
                    place.unwrap_or(Place::Nowhere),
                    "another [[gateway.tcp]] has the same host; list all upstreams in one",
                ),
            }
        }
        found
    }

    fn tcp_route(&mut self, table: TcpTable, names: &[String]) -> Option<TcpRoute> {
        let host = match table.host {
            Some(host) => self.named_host(&host, "the TCP route's host", names),
            None => {
                self.note(
                    table.place,
                    "the TCP route has no host; write the server name that chooses it",
                );
                None
            }
        };
        let written = table.upstream.unwrap_or_default();
        if written.is_empty() {
            self.note(
                table.place,
                "the TCP route has no upstream; write for example upstream = \"tcp://10.0.0.5:1883\"",
            );
        }
        let mut upstreams: Vec<StreamAddress> = Vec::with_capacity(written.len());
        for Located { place, value } in written {
            let parsed = value.parse().map_err(|fault| {
                format!(
                    "the upstream {value:?} is refused: {fault}; write for example tcp://10.0.0.5:1883"
                )
            });
            let Some(upstream) = self.take(place, parsed) else {
                continue;
            };
            if upstreams.contains(&upstream) {
                self.note(place, format!("the upstream {value:?} is written twice"));
            } else {
                upstreams.push(upstream);
            }
        }
        let announce = table.proxy_protocol.is_none_or(|version| {
            let announce = match version.value.as_str() {
                "v2" => Ok(true),
                "none" => Ok(false),
                other => Err(format!(
                    "proxy_protocol = {other:?} is not known; write \"v2\", or \"none\" for an upstream that cannot read it"
                )),
            };
            self.take(version.place, announce).unwrap_or(true)
        });
        let mut alpn = Vec::new();
        for Located { place, value } in table.alpn.unwrap_or_default() {
            if value.trim().is_empty() || value.len() > 255 {
                self.note(
                    place,
                    "an application protocol has 1 to 255 bytes, and not only blanks",
                );
            } else if alpn.contains(&value) {
                self.note(place, format!("the protocol {value:?} is written twice"));
            } else {
                alpn.push(value);
            }
        }
        Some(TcpRoute {
            host: host?,
            upstreams,
            announce,
            alpn,
        })
    }

    /// Judges the networks of load balancers.
    pub(super) fn networks(&mut self, written: Option<Vec<Located<String>>>) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for Located { place, value } in written.unwrap_or_default() {
            let network = value
                .parse::<IpNet>()
                .or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from))
                .map_err(|_| {
                    format!("{value:?} is neither a network nor an address; write for example 10.0.0.0/8")
                });
            match self.take(place, network) {
                Some(network) if network.prefix_len() == 0 => self.note(
                    place,
                    format!("{value} is everybody; whoever is in it says for whom it connects, so list load balancers alone"),
                ),
                Some(network) => networks.push(network.trunc()),
                None => {}
            }
        }
        networks
    }
}
