//! Routes: which upstream a request goes to, and what that upstream is told.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use super::host::{Host, HostFault};
use super::identity_header::IdentityHeader;
use super::path::{PathFault, most_eager_reading};
use super::route_policy::RoutePolicy;
use super::upstream::Upstream;
use super::upstream_address::UpstreamAddress;

/// One route as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The host it is for; `None` is any host that the server certificate names.
    pub host: Option<String>,
    /// The path prefix, which ends at a segment's boundary: `/v1` is `/v1` and `/v1/x`, not `/v1x`.
    pub path: String,
    /// Where requests go.
    pub upstream: Arc<Upstream>,
    /// The forms in which the upstream is told who the device is.
    pub identity: Vec<IdentityHeader>,
    /// Who may take it, and how much of it.
    pub policy: RoutePolicy,
}

/// All routes, checked. Equal requests find equal routes.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<String, Vec<Arc<Placed>>>,
    any: Vec<Arc<Placed>>,
    length: usize,
}

/// A route in its table. Whoever takes it keeps it, and not the table.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) route: Route,
    /// Its number in the table, from 0.
    pub(crate) number: usize,
    /// Its own limit on requests, if it has one: the same in the next table that has a route with its host and path.
    pub(crate) limit: LimitId,
}

/// What a device's requests are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LimitId(u64);

impl LimitId {
    /// The limit that all routes share which have none of their own.
    pub(crate) fn of_gateway() -> Self {
        Self(0)
    }

    fn of_route(host: Option<&str>, path: &str) -> Self {
        // Two routes whose hashes are the same would share a bucket; operators do not attack themselves.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((host, path));
        Self(hash.max(1))
    }
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
            let upstream = &route.upstream;
            if upstream.servers.is_empty() {
                fault(RouteFaultKind::NoUpstream);
            }
            if upstream.tls.is_none() && upstream.servers.iter().any(UpstreamAddress::is_tls) {
                fault(RouteFaultKind::NoRoots);
            }
            if let Some(first) = seen.insert((host.clone(), route.path.clone()), position) {
                fault(RouteFaultKind::Duplicate { first });
            }
            let placed = Arc::new(Placed {
                number: position,
                limit: LimitId::of_route(host.as_deref(), &route.path),
                route,
            });
            table.length = position + 1;
            match host {
                Some(host) => table.exact.entry(host).or_default().push(placed),
                None => table.any.push(placed),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for routes in table.exact.values_mut().chain([&mut table.any]) {
            routes.sort_by_key(|placed| std::cmp::Reverse(placed.route.path.len()));
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
    ) -> Result<Option<&Arc<Placed>>, PathFault> {
        let reading = most_eager_reading(path)?;
        let found = self.longest_prefix(host, host_is_served, path);
        let eagerly = self.longest_prefix(host, host_is_served, &reading);
        let same = match (found, eagerly) {
            (Some(found), Some(eagerly)) => Arc::ptr_eq(found, eagerly),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            Ok(found)
        } else {
            Err(PathFault::Ambiguous)
        }
    }

    /// The upstreams of all routes; one that several routes lead to comes up as often.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.all().map(|placed| &placed.route.upstream)
    }

    fn longest_prefix(
        &self,
        host: &Host<'_>,
        host_is_served: bool,
        path: &str,
    ) -> Option<&Arc<Placed>> {
        let any = if host_is_served { &self.any[..] } else { &[] };
        let exact = self.exact.get(host.as_str()).map_or(&[][..], Vec::as_slice);
        exact
            .iter()
            .chain(any)
            .find(|placed| is_prefix(&placed.route.path, path))
    }

    /// How many there are: every number is less.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Every route.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Placed> {
        let all = self.exact.values().flatten().chain(&self.any);
        all.map(Arc::as_ref)
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
    /// It leads to a server whose certificate nobody could judge.
    #[error("an upstream speaks TLS, and there are no roots to check its certificate with")]
    NoRoots,
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
            upstream: Upstream::of(vec!["http://127.0.0.1:9".parse().expect("legal")]),
            identity: vec![IdentityHeader::DeviceId],
            policy: RoutePolicy::default(),
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
            found.map(|found| found.map(|found| (
                found.route.host.as_deref().map(|_| "api.example.com"),
                found.route.path.as_str()
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
        nowhere.upstream = Upstream::of(vec![]);
        let mut rootless = route(None, "/rootless");
        rootless.upstream = Upstream::of(vec!["https://a".parse().expect("legal")]);
        let faults = RouteTable::new(vec![
            route(Some("a b"), "/"),
            route(None, "v1"),
            nowhere,
            route(None, "/a"),
            route(None, "/%61"),
            route(None, "/x/../y"),
            route(None, "/ok"),
            rootless,
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
                fault(7, RouteFaultKind::NoRoots),
            ])
        );
    }

    #[test]
    fn a_routes_limit_is_the_same_in_the_next_table() {
        let limits = |paths: &[&str]| -> Vec<LimitId> {
            let routes = paths.iter().map(|path| route(None, path)).collect();
            let table = RouteTable::new(routes).expect("routes");
            let mut all: Vec<_> = table.all().map(|p| (p.number, p.limit)).collect();
            all.sort_by_key(|(number, _)| *number);
            all.into_iter().map(|(_, limit)| limit).collect()
        };
        let (before, after) = (limits(&["/a", "/b"]), limits(&["/c", "/b"]));
        assert_eq!(before[1], after[1]);
        assert_ne!(before[0], after[0]);
        assert_ne!(before[0], before[1]);
        assert!(!before.contains(&LimitId::of_gateway()));
    }
}
