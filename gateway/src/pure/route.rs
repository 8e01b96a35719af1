//! Routes: which upstream a request goes to, and what that upstream is told.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use super::host::{Host, HostFault};
use super::identity_header::IdentityHeader;
use super::path::{PathFault, most_eager_reading};

/// One route as it was configured. Every route requires a device's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The host it is for; `None` is any host that the server certificate names.
    pub host: Option<String>,
    /// The path prefix, which ends at a segment's boundary: `/v1` is `/v1` and `/v1/x`, not `/v1x`.
    pub path: String,
    /// Where requests go, in turns.
    pub upstreams: Vec<UpstreamAddress>,
    /// The forms in which the upstream is told who the device is.
    pub identity: Vec<IdentityHeader>,
}

/// `http://host[:port]`: an HTTP/1.1 server in a network that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamAddress {
    host: String,
    port: u16,
}

impl UpstreamAddress {
    /// The DNS name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for UpstreamAddress {
    type Err = UpstreamAddressFault;

    fn from_str(url: &str) -> Result<Self, UpstreamAddressFault> {
        let authority = url
            .strip_prefix("http://")
            .ok_or(UpstreamAddressFault::Scheme)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#']) {
            return Err(UpstreamAddressFault::Path);
        }
        let host = Host::from_authority(authority).map_err(UpstreamAddressFault::Host)?;
        let port = match authority.rsplit_once(':') {
            Some((_, digits)) if !digits.ends_with(']') => digits
                .parse()
                .map_err(|_| UpstreamAddressFault::Host(HostFault::Port))?,
            Some(_) | None => 80,
        };
        Ok(Self {
            host: host.as_str().to_owned(),
            port,
        })
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is no upstream address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamAddressFault {
    /// It does not start with `http://`.
    #[error("it must start with http://")]
    Scheme,
    /// A path, query or fragment follows the host.
    #[error("it must end after the port; the route's path is forwarded as it is")]
    Path,
    /// The host or port is wrong.
    #[error("{0}")]
    Host(HostFault),
}

/// All routes, checked. Equal requests find equal routes.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<String, Vec<Route>>,
    any: Vec<Route>,
}

impl RouteTable {
    /// Checks the routes; all their mistakes are reported together.
    pub fn new(routes: Vec<Route>) -> Result<Self, Vec<RouteFault>> {
        let mut table = Self::default();
        let mut faults = Vec::new();
        let mut seen: HashMap<(Option<String>, String), usize> = HashMap::new();
        for (position, route) in routes.into_iter().enumerate() {
            let mut fault = |kind| faults.push(RouteFault { position, kind });
            let host = match route.host.as_deref().map(Host::from_name).transpose() {
                Ok(host) => host.map(|host| host.as_str().to_owned()),
                Err(error) => {
                    fault(RouteFaultKind::Host(error));
                    continue;
                }
            };
            match most_eager_reading(&route.path) {
                Ok(reading) if reading == route.path && !route.path.contains('?') => {}
                Ok(_) => fault(RouteFaultKind::PathNotPlain),
                Err(error) => fault(RouteFaultKind::Path(error)),
            }
            if route.upstreams.is_empty() {
                fault(RouteFaultKind::NoUpstream);
            }
            if let Some(first) = seen.insert((host.clone(), route.path.clone()), position) {
                fault(RouteFaultKind::Duplicate { first });
            }
            match host {
                Some(host) => table.exact.entry(host).or_default().push(route),
                None => table.any.push(route),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for routes in table.exact.values_mut().chain([&mut table.any]) {
            routes.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        }
        Ok(table)
    }

    /// The route of a path at a host: the host's own routes first, then those for any host if
    /// `host_is_served`; among them the longest prefix.
    pub(crate) fn find(
        &self,
        host: &Host<'_>,
        host_is_served: bool,
        path: &str,
    ) -> Result<Option<&Route>, PathFault> {
        let reading = most_eager_reading(path)?;
        let found = self.longest_prefix(host, host_is_served, path);
        let eagerly = self.longest_prefix(host, host_is_served, &reading);
        let same = match (found, eagerly) {
            (Some(found), Some(eagerly)) => std::ptr::eq(found, eagerly),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            Ok(found)
        } else {
            Err(PathFault::Ambiguous)
        }
    }

    fn longest_prefix(&self, host: &Host<'_>, host_is_served: bool, path: &str) -> Option<&Route> {
        let any = if host_is_served { &self.any[..] } else { &[] };
        let exact = self.exact.get(host.as_str()).map_or(&[][..], Vec::as_slice);
        exact
            .iter()
            .chain(any)
            .find(|route| is_prefix(&route.path, path))
    }
}

/// One mistake in a list of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {}: {kind}", .position + 1)]
pub struct RouteFault {
    /// Which route, counted from 0.
    pub position: usize,
    /// What is wrong with it.
    pub kind: RouteFaultKind,
}

/// What is wrong with a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteFaultKind {
    /// Its host is none.
    #[error("{0}")]
    Host(HostFault),
    /// Its path can never match.
    #[error("{0}")]
    Path(PathFault),
    /// Its path has escapes, parameters, empty segments or a query.
    #[error("the path must be plain: no %, ; or ? and no empty segments")]
    PathNotPlain,
    /// It leads nowhere.
    #[error("there is no upstream")]
    NoUpstream,
    /// An earlier route has the same host and path.
    #[error("it has the host and path of route {}", .first + 1)]
    Duplicate {
        /// The earlier route, counted from 0.
        first: usize,
    },
}

fn is_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: Option<&str>, path: &str) -> Route {
        Route {
            host: host.map(str::to_owned),
            path: path.to_owned(),
            upstreams: vec!["http://127.0.0.1:9".parse().expect("legal")],
            identity: vec![IdentityHeader::DeviceId],
        }
    }

    fn check(host: &str, path: &str, expected: Result<Option<(Option<&str>, &str)>, PathFault>) {
        let table = RouteTable::new(vec![
            route(None, "/"),
            route(None, "/v1"),
            route(None, "/v1/admin/"),
            route(Some("API.example.com."), "/v1/"),
            route(Some("api.example.com"), "/only"),
        ])
        .expect("routes");
        let host = Host::from_name(host).expect("a host");
        let served = host.as_str() != "unserved";
        let found = table.find(&host, served, path);
        assert_eq!(
            found.map(|route| route.map(|route| (
                route.host.as_deref().map(|_| "api.example.com"),
                route.path.as_str()
            ))),
            expected,
            "{host:?} {path}"
        );
    }

    #[test]
    fn longest_prefix_on_segment_boundaries() {
        check("a", "/", Ok(Some((None, "/"))));
        check("a", "/v1", Ok(Some((None, "/v1"))));
        check("a", "/v1/x", Ok(Some((None, "/v1"))));
        check("a", "/v1x", Ok(Some((None, "/"))));
        check("a", "/v1/admin", Ok(Some((None, "/v1"))));
        check("a", "/v1/admin/", Ok(Some((None, "/v1/admin/"))));
        check("a", "/V1/x", Ok(Some((None, "/"))));
        check("unserved", "/v1/x", Ok(None));
    }

    #[test]
    fn exact_host_before_any_host() {
        let own = Some("api.example.com");
        check("api.example.com", "/v1/x", Ok(Some((own, "/v1/"))));
        check("api.example.com", "/v1/admin/x", Ok(Some((own, "/v1/"))));
        check("api.example.com", "/v1", Ok(Some((None, "/v1"))));
        check("api.example.com", "/else", Ok(Some((None, "/"))));
    }

    #[test]
    fn a_path_that_another_reading_sends_elsewhere() {
        check("a", "/v1/%61dmin/x", Err(PathFault::Ambiguous));
        check("a", "//v1/x", Err(PathFault::Ambiguous));
        check("a", "/v1;a/x", Err(PathFault::Ambiguous));
        check("a", "/v1/x;a", Ok(Some((None, "/v1"))));
        check("a", "/v1/x%20y//z", Ok(Some((None, "/v1"))));
        check("a", "/v1/../admin", Err(PathFault::DotSegment));
        check("a", "/v1/%2e%2e/admin", Err(PathFault::DotSegment));
    }

    #[test]
    fn all_mistakes_at_once() {
        let mut nowhere = route(None, "/a");
        nowhere.upstreams.clear();
        let faults = RouteTable::new(vec![
            route(Some("a b"), "/"),
            route(None, "v1"),
            nowhere,
            route(None, "/a"),
            route(None, "/%61"),
            route(None, "/x/../y"),
            route(None, "/ok"),
        ])
        .map(|_| ());
        let fault = |position, kind| RouteFault { position, kind };
        assert_eq!(
            faults,
            Err(vec![
                fault(0, RouteFaultKind::Host(HostFault::Name)),
                fault(1, RouteFaultKind::Path(PathFault::NotAbsolute)),
                fault(2, RouteFaultKind::NoUpstream),
                fault(3, RouteFaultKind::Duplicate { first: 2 }),
                fault(4, RouteFaultKind::PathNotPlain),
                fault(5, RouteFaultKind::Path(PathFault::DotSegment)),
            ])
        );
    }

    #[test]
    fn upstream_addresses() {
        let check = |text: &str, expected: Result<&str, UpstreamAddressFault>| {
            assert_eq!(
                text.parse::<UpstreamAddress>().map(|a| a.to_string()),
                expected.map(str::to_owned),
                "{text}"
            );
        };
        check("http://10.0.0.5:8080", Ok("http://10.0.0.5:8080"));
        check("http://Backend/", Ok("http://backend:80"));
        check("http://[::1]:81", Ok("http://[::1]:81"));
        check("http://[::1]", Ok("http://[::1]:80"));
        check("https://a", Err(UpstreamAddressFault::Scheme));
        check("a:80", Err(UpstreamAddressFault::Scheme));
        check("http://a/b", Err(UpstreamAddressFault::Path));
        check("http://a?b", Err(UpstreamAddressFault::Path));
        check(
            "http://u@a",
            Err(UpstreamAddressFault::Host(HostFault::Userinfo)),
        );
        check(
            "http://a:99999",
            Err(UpstreamAddressFault::Host(HostFault::Port)),
        );
    }
}
