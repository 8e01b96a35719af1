//! The gateway's role: from its configuration to a bound gateway, and what comes out of it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway::tls::{Acceptor, AcceptorOptions, Clients, Policy, Versions};
use gateway::{
    Gateway, IdentityHeader, Limits, Record, Route, RoutePolicy, RouteTable, Snapshot,
    TcpRouteTable, Upstream,
};
use identity::feed::Sighting;
use identity::{Kind, Name};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Common, StartFault, descriptors};
use crate::alarm::Alarm;
use crate::config::GatewayConfig;
use crate::decisions::Decisions;
use crate::http_server;

/// A gateway that is bound, and what comes out of it.
pub(super) struct BoundGateway {
    pub(super) gateway: gateway::Bound,
    pub(super) records: mpsc::Receiver<Record>,
    pub(super) sightings: mpsc::Receiver<Sighting>,
    /// Serves the only route, if no other was configured.
    pub(super) builtin_upstream: Option<TcpListener>,
}

impl BoundGateway {
    /// Where the built-in upstream listens.
    pub(super) fn upstream_address(&self) -> Option<SocketAddr> {
        self.builtin_upstream
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }
}

/// Binds the gateway; it serves nobody yet.
pub(super) async fn bind_gateway(
    config: GatewayConfig,
    names: &[String],
    common: &Common,
    registry: &mut Registry,
) -> Result<BoundGateway, StartFault> {
    let mut routes = config.routes;
    let builtin_upstream = if routes.is_empty() {
        let (listener, mut route) = builtin_upstream().await?;
        route.policy.rate = config.rate;
        routes.push(route);
        Some(listener)
    } else {
        None
    };
    let routes = RouteTable::new(routes).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        StartFault::Listen(faults.join("; "))
    })?;
    let tcp_routes = TcpRouteTable::new(config.tcp_routes.clone()).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        StartFault::Listen(faults.join("; "))
    })?;
    let snapshot = Snapshot {
        routes,
        tcp_routes,
        server_names: names.to_vec(),
        without_sni: config.without_sni,
    };
    let optional: HashMap<String, Clients> = snapshot
        .names_without_certificate()
        .into_iter()
        .map(|name| (name, Clients::Optional))
        .collect();
    let acceptor = Acceptor::new(AcceptorOptions {
        policy: Policy {
            certificate: common.certificate.clone(),
            anchors: common.anchors.clone(),
            hints: common.hints.clone(),
            clients: Clients::Required,
            clients_by_name: optional,
            alpn_by_name: (config.tcp_routes.iter())
                .map(|route| {
                    let alpn = route.alpn.iter().map(|name| name.as_bytes().to_vec());
                    (route.host.clone(), alpn.collect())
                })
                .collect(),
        },
        kinds: &[Kind::Device],
        versions: Versions::Tls13,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        deadline: HANDSHAKE_WITHIN,
        max_handshakes: MAX_HANDSHAKES,
    })?;
    let workers = config
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let (record_sender, records) = mpsc::channel(RECORDS_WAITING);
    let (sighting_sender, sightings) = mpsc::channel(SIGHTINGS_WAITING);
    let options = gateway::Options {
        name: gateway_name(),
        listen: config.listen,
        workers,
        acceptor: Arc::new(acceptor),
        serial_key: Arc::new(common.authority.serial_key()),
        assertions: Arc::clone(&common.assertions),
        snapshot,
        max_staleness: config.max_staleness,
        limits: Limits {
            max_connections: descriptors::connections_per_worker(
                descriptors::raise_limit(),
                workers,
            ),
            max_connections_per_device: config.limits.connections_per_device,
            max_connections_per_address: config.limits.connections_per_address,
            max_requests_per_device: config.limits.requests_per_device,
            max_requests_per_address: config.limits.requests_per_address,
            ..Limits::default()
        },
        proxies: config.proxies,
        records: record_sender,
        sightings: sighting_sender,
    };
    let gateway = Gateway::bind(options, registry).map_err(|fault| match fault {
        gateway::StartFault::Bind { address, error } => {
            StartFault::Listen(http_server::cannot_listen("the gateway", address, &error))
        }
        gateway::StartFault::Random | gateway::StartFault::Worker(_) => fault.into(),
    })?;
    Ok(BoundGateway {
        gateway,
        records,
        sightings,
        builtin_upstream,
    })
}

async fn builtin_upstream() -> Result<(TcpListener, Route), StartFault> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let cannot = |error: io::Error| {
        StartFault::Listen(http_server::cannot_listen(
            "the built-in upstream",
            address,
            &error,
        ))
    };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let route = Route {
        host: None,
        path: "/".into(),
        upstream: Upstream::of(vec![
            format!("http://{address}")
                .parse()
                .expect("an address with a port is an upstream"),
        ]),
        identity: vec![IdentityHeader::DeviceId],
        policy: RoutePolicy::default(),
    };
    Ok((listener, route))
}

/// Remembers what the gateway decided, until the gateway has gone or `shutdown` and nothing is left.
pub(super) async fn keep_records(
    mut records: mpsc::Receiver<Record>,
    decisions: Arc<Decisions>,
    mut alarm: Alarm,
    shutdown: CancellationToken,
) {
    let mut batch = Vec::with_capacity(RECORDS_AT_ONCE);
    loop {
        tokio::select! {
            received = records.recv_many(&mut batch, RECORDS_AT_ONCE) => {
                if received == 0 {
                    return;
                }
            }
            () = shutdown.cancelled(), if !records.is_closed() => records.close(),
        }
        for record in batch.drain(..) {
            alarm.look_at(&record).await;
            decisions.gateway(record);
        }
    }
}

/// The one gateway of this version.
pub(super) fn gateway_name() -> Name {
    Name::parse("gateway-1").expect("the name is legal")
}

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const MAX_HANDSHAKES: usize = 512;
const RECORDS_WAITING: usize = 16_384;
const RECORDS_AT_ONCE: usize = 256;
const SIGHTINGS_WAITING: usize = 65_536;
