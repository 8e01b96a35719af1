//! The checks of `[[gateway.upstream]]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gateway::{
    HealthCheck, Upstream, UpstreamAddress, UpstreamTimeouts, UpstreamTls, UpstreamTlsFault,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::check::Notes;
use super::file_upstream::{HealthCheckTable, UpstreamTable};
use super::{Located, Place, pem_files, values};
use crate::duration;

/// The upstreams that routes may name. Those with mistakes are there, too, so that routes that name them have none.
pub(super) struct Upstreams(Vec<Arc<Upstream>>);

impl Upstreams {
    /// The upstream of that name, or the sentence that says which there are.
    pub(super) fn find(&self, name: &str) -> Result<Arc<Upstream>, String> {
        let named = |upstream: &&Arc<Upstream>| upstream.name.as_deref() == Some(name);
        if let Some(upstream) = self.0.iter().find(named) {
            return Ok(Arc::clone(upstream));
        }
        let names: Vec<_> = self
            .0
            .iter()
            .filter_map(|upstream| upstream.name.as_deref())
            .collect();
        Err(if names.is_empty() {
            format!(
                "the upstream {name:?} is neither a URL, such as http://10.0.0.5:8080, nor the name of a [[gateway.upstream]]"
            )
        } else {
            format!(
                "no [[gateway.upstream]] has the name {name:?}; there are: {}",
                names.join(", ")
            )
        })
    }
}

impl Notes {
    pub(super) fn upstream_tables(&mut self, tables: Vec<UpstreamTable>) -> Upstreams {
        let mut upstreams: Vec<Arc<Upstream>> = Vec::with_capacity(tables.len());
        for table in tables {
            let place = table.name.as_ref().map_or(table.place, |name| name.place);
            let upstream = self.upstream_table(table);
            if upstream.name.is_some() && upstreams.iter().any(|one| one.name == upstream.name) {
                self.note(place, "another [[gateway.upstream]] has the same name");
            } else {
                upstreams.push(Arc::new(upstream));
            }
        }
        Upstreams(upstreams)
    }

    fn upstream_table(&mut self, table: UpstreamTable) -> Upstream {
        let name = match &table.name {
            None => {
                self.note(
                    table.place,
                    "the upstream has no name; write for example name = \"backend\"",
                );
                None
            }
            Some(name) => {
                self.take(name.place, values::upstream_name(&name.value));
                Some(name.value.clone())
            }
        };
        let example =
            "the upstream has no servers; write for example servers = [\"https://10.0.0.5:8443\"]";
        let servers = self.servers(table.servers.as_deref(), table.place, example);
        let tls = self.tls(&table, &servers);
        let defaults = UpstreamTimeouts::default();
        let timeouts = UpstreamTimeouts {
            connect: self.time(table.connect_timeout, "connect_timeout", defaults.connect),
            first_byte: self.time(
                table.first_byte_timeout,
                "first_byte_timeout",
                defaults.first_byte,
            ),
            idle: self.time(table.idle_timeout, "idle_timeout", defaults.idle),
        };
        Upstream {
            name,
            servers,
            tls,
            health_check: table.health_check.map(|check| self.health_check(check)),
            timeouts: Some(timeouts),
            max_connections: table
                .max_connections
                .map_or(Upstream::DEFAULT_MAX_CONNECTIONS, |number| {
                    self.number(number, 1, MAX_CONNECTIONS, "max_connections") as usize
                }),
        }
    }

    /// Addresses of servers; `missing` is said if there are none.
    pub(super) fn servers(
        &mut self,
        written: Option<&[Located<String>]>,
        table: Place,
        missing: &str,
    ) -> Vec<UpstreamAddress> {
        let written = written.unwrap_or_default();
        if written.is_empty() {
            self.note(table, missing);
        }
        if written.len() > MAX_SERVERS {
            self.note(table, format!("there are more than {MAX_SERVERS} servers"));
        }
        let mut servers = Vec::with_capacity(written.len());
        for Located { place, value } in written {
            let Some(server) = self.take(*place, values::upstream(value)) else {
                continue;
            };
            if servers.contains(&server) {
                self.note(*place, format!("the upstream {value:?} is written twice"));
            } else {
                servers.push(server);
            }
        }
        servers
    }

    fn tls(&mut self, table: &UpstreamTable, servers: &[UpstreamAddress]) -> Option<UpstreamTls> {
        let http2 = table
            .http2
            .as_ref()
            .and_then(|text| self.take(text.place, values::http2(&text.value)))
            .unwrap_or_default();
        if !servers.iter().any(UpstreamAddress::is_tls) {
            self.without_tls(table, !servers.is_empty());
            return None;
        }
        let server_name = table
            .server_name
            .as_ref()
            .and_then(|name| self.take(name.place, values::server_name(&name.value)));
        if table.server_name.is_none() {
            self.names_for_tls(table, servers);
        }
        let roots = match &table.roots {
            Some(roots) => self.pem_certificates(roots, "roots")?,
            None => {
                self.note(
                    table.place,
                    "a server speaks TLS, so roots must name a PEM file with the CA certificates that vouch for it; those of the system are never used",
                );
                self.upstream_identity(table);
                return None;
            }
        };
        let identity = self.upstream_identity(table);
        let place = |value: &Option<Located<String>>| {
            value.as_ref().map_or(table.place, |value| value.place)
        };
        match UpstreamTls::new(&roots, identity, server_name.as_deref(), http2) {
            Ok(tls) => Some(tls),
            Err(fault) => {
                let (place, sentence) = match fault {
                    UpstreamTlsFault::NoRoots | UpstreamTlsFault::Root { .. } => {
                        (place(&table.roots), format!("roots: {fault}"))
                    }
                    UpstreamTlsFault::KeyMismatch => (
                        place(&table.key),
                        "key is not the key of the certificate; name the two that belong together"
                            .to_owned(),
                    ),
                    UpstreamTlsFault::Identity(_) => (place(&table.certificate), fault.to_string()),
                    UpstreamTlsFault::ServerName => (place(&table.server_name), fault.to_string()),
                    UpstreamTlsFault::Library(_) => (table.place, fault.to_string()),
                };
                self.note(place, sentence);
                None
            }
        }
    }

    /// Whether a certificate could name the hosts at all.
    fn names_for_tls(&mut self, table: &UpstreamTable, servers: &[UpstreamAddress]) {
        for server in servers.iter().filter(|server| server.is_tls()) {
            if let UpstreamAddress::Tcp { host, .. } = server
                && ServerName::try_from(host.as_str()).is_err()
            {
                self.note(
                    table.place,
                    format!("no certificate can name the host of {server}; write in server_name what its certificate names"),
                );
            }
        }
    }

    fn without_tls(&mut self, table: &UpstreamTable, any: bool) {
        let keys = [
            ("roots", &table.roots),
            ("certificate", &table.certificate),
            ("key", &table.key),
            ("server_name", &table.server_name),
            ("http2", &table.http2),
        ];
        for (key, value) in keys {
            if let Some(value) = value
                && any
            {
                self.note(
                    value.place,
                    format!("{key} is for TLS, and no server of the upstream speaks it; write https:// or leave {key} out"),
                );
            }
        }
    }

    fn upstream_identity(
        &mut self,
        table: &UpstreamTable,
    ) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = table.certificate.as_ref();
        let key = table.key.as_ref();
        match (chain, key) {
            (Some(one), None) => {
                self.note(
                    one.place,
                    "certificate needs its key; name the PEM file in key",
                );
            }
            (None, Some(one)) => self.note(
                one.place,
                "key needs its certificate; name the PEM file in certificate",
            ),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let chain = chain.and_then(|path| self.pem_certificates(path, "certificate"));
        let key = key.and_then(|path| {
            let read = pem_files::private_key(Path::new(&path.value));
            self.take(path.place, read.map_err(|error| format!("key: {error}")))
        });
        Some((chain?, key?))
    }

    fn pem_certificates(
        &mut self,
        path: &Located<String>,
        key: &str,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let read = pem_files::certificates(Path::new(&path.value));
        self.take(path.place, read.map_err(|error| format!("{key}: {error}")))
    }

    fn health_check(&mut self, table: HealthCheckTable) -> HealthCheck {
        let path = match table.path {
            None => {
                self.note(
                    table.place,
                    "health_check has no path; write for example path = \"/healthz\"",
                );
                String::new()
            }
            Some(path) => {
                self.take(path.place, values::check_path(&path.value));
                path.value
            }
        };
        let host = table.host.map(|host| {
            self.take(host.place, values::check_host(&host.value));
            host.value
        });
        let every = self.time(table.every, "every", DEFAULT_EVERY);
        let place = table
            .timeout
            .as_ref()
            .map_or(table.place, |text| text.place);
        let timeout = self.time(table.timeout, "timeout", DEFAULT_CHECK_TIMEOUT.min(every));
        if timeout > every {
            self.note(place, "a check's timeout must not be longer than every");
        }
        let mut count = |number: Option<Located<i64>>, key, default| {
            number.map_or(default, |number| {
                u32::try_from(self.number(number, 1, 100, key)).unwrap_or(default)
            })
        };
        HealthCheck {
            path,
            host,
            every,
            timeout,
            healthy_after: count(table.healthy_after, "healthy_after", 2),
            unhealthy_after: count(table.unhealthy_after, "unhealthy_after", 3),
        }
    }

    /// A length of time from a second to a day.
    fn time(&mut self, written: Option<Located<String>>, key: &str, default: Duration) -> Duration {
        let Some(text) = written else {
            return default;
        };
        let parsed = duration::parse(&text.value)
            .map_err(|error| format!("{key} = {:?}: {error}", text.value))
            .and_then(|time| {
                if (SHORTEST..=LONGEST).contains(&time) {
                    Ok(time)
                } else {
                    Err(format!("{key} must lie between 1s and 24h"))
                }
            });
        self.take(text.place, parsed).unwrap_or(default)
    }
}

const MAX_SERVERS: usize = 256;
const MAX_CONNECTIONS: u64 = 65_535;
const DEFAULT_EVERY: Duration = Duration::from_secs(5);
const DEFAULT_CHECK_TIMEOUT: Duration = Duration::from_secs(2);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
