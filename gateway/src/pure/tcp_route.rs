//! TCP routes: authenticated streams of any protocol, chosen by the server name of the handshake.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::host::{Host, HostFault};

/// One TCP route as it was configured. Every one requires a device's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    /// The server name that chooses it. Nothing else is served under this name.
    pub host: String,
    /// Where streams go, in turns.
    pub upstreams: Vec<StreamAddress>,
    /// Whether each stream begins with a header of the PROXY protocol, version 2, that says who the device is.
    pub announce: bool,
    /// The application protocols to agree on, most wanted first; if there are none, none is agreed on.
    pub alpn: Vec<String>,
}

/// Where a stream goes: `tcp://host:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StreamAddress {
    /// A TCP port.
    Tcp {
        /// The DNS name or IP address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for StreamAddress {
    type Err = StreamAddressFault;

    fn from_str(text: &str) -> Result<Self, StreamAddressFault> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') && !path.contains('\0') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(StreamAddressFault::Path)
            };
        }
        let authority = text
            .strip_prefix("tcp://")
            .ok_or(StreamAddressFault::Scheme)?;
        let (_, port) = authority.rsplit_once(':').ok_or(StreamAddressFault::Port)?;
        let host = Host::from_authority(authority).map_err(StreamAddressFault::Host)?;
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self::Tcp {
                host: host.as_str().to_owned(),
                port,
            }),
            Ok(_) | Err(_) => Err(StreamAddressFault::Port),
        }
    }
}

impl fmt::Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text is no address of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamAddressFault {
    /// It begins with neither scheme.
    #[error("it must start with tcp:// or unix:")]
    Scheme,
    /// The host is wrong.
    #[error("{0}")]
    Host(HostFault),
    /// There is no port, or none that can be connected to.
    #[error("it must end with a port from 1 to 65535")]
    Port,
    /// The socket's path is not absolute.
    #[error("the socket must be an absolute path")]
    Path,
}

/// All TCP routes, checked.
#[derive(Debug, Default)]
pub struct TcpRouteTable(HashMap<String, Arc<TcpRoute>>);

impl TcpRouteTable {
    /// Checks the routes; the first mistake of each is reported.
    pub fn new(routes: Vec<TcpRoute>) -> Result<Self, Vec<TcpRouteFault>> {
        let mut table = HashMap::with_capacity(routes.len());
        let mut faults = Vec::new();
        for (position, route) in routes.into_iter().enumerate() {
            let mut fault = |kind| faults.push(TcpRouteFault { position, kind });
            let host = match Host::from_name(&route.host) {
                Ok(host) => host.as_str().to_owned(),
                Err(error) => {
                    fault(TcpRouteFaultKind::Host(error));
                    continue;
                }
            };
            if route.upstreams.is_empty() {
                fault(TcpRouteFaultKind::NoUpstream);
            } else if table.insert(host, Arc::new(route)).is_some() {
                fault(TcpRouteFaultKind::Duplicate);
            }
        }
        if faults.is_empty() {
            Ok(Self(table))
        } else {
            Err(faults)
        }
    }

    /// The route that the server name of a handshake chooses.
    pub(crate) fn find(&self, server_name: &str) -> Option<&Arc<TcpRoute>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(Host::from_name(server_name).ok()?.as_str())
    }
}

/// One mistake in a list of TCP routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TCP route {}: {kind}", .position + 1)]
pub struct TcpRouteFault {
    /// Which route, counted from 0.
    pub position: usize,
    /// What is wrong with it.
    pub kind: TcpRouteFaultKind,
}

/// What is wrong with a TCP route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TcpRouteFaultKind {
    /// Its host is none.
    #[error("{0}")]
    Host(HostFault),
    /// It leads nowhere.
    #[error("there is no upstream")]
    NoUpstream,
    /// An earlier one has the same host.
    #[error("another TCP route has the same host")]
    Duplicate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in [
            "tcp://10.0.0.5:1883",
            "tcp://[2001:db8::1]:1883",
            "tcp://broker:1",
            "unix:/run/x.sock",
        ] {
            let address: StreamAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        let check =
            |text: &str, fault| assert_eq!(text.parse::<StreamAddress>(), Err(fault), "{text}");
        check("http://a:1", StreamAddressFault::Scheme);
        check("tcp://a", StreamAddressFault::Port);
        check("tcp://a:0", StreamAddressFault::Port);
        check("tcp://[::1]", StreamAddressFault::Port);
        check("tcp://u@a:1", StreamAddressFault::Host(HostFault::Userinfo));
        check("unix:run/x.sock", StreamAddressFault::Path);
    }

    fn route(host: &str) -> TcpRoute {
        TcpRoute {
            host: host.to_owned(),
            upstreams: vec!["tcp://127.0.0.1:9".parse().expect("legal")],
            announce: true,
            alpn: vec![],
        }
    }

    #[test]
    fn the_server_name_chooses() {
        let table =
            TcpRouteTable::new(vec![route("MQTT.test."), route("other.test")]).expect("routes");
        assert_eq!(
            table.find("mqtt.test").map(|route| route.host.as_str()),
            Some("MQTT.test.")
        );
        assert_eq!(table.find("third.test"), None);
        let kinds = |routes| {
            TcpRouteTable::new(routes)
                .map(|_| ())
                .map_err(|faults: Vec<TcpRouteFault>| {
                    faults
                        .into_iter()
                        .map(|fault| (fault.position, fault.kind))
                        .collect::<Vec<_>>()
                })
        };
        let nowhere = TcpRoute {
            upstreams: vec![],
            ..route("a")
        };
        assert_eq!(
            kinds(vec![route("a"), route("A"), nowhere, route("a b")]),
            Err(vec![
                (1, TcpRouteFaultKind::Duplicate),
                (2, TcpRouteFaultKind::NoUpstream),
                (3, TcpRouteFaultKind::Host(HostFault::Name)),
            ])
        );
    }
}
