//! A gateway with its surroundings.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::tls::{Acceptor, AcceptorOptions, Clients, Policy, ServerCertificate, Versions};
use gateway::{
    AssertionSigner, Exchange, ForeignAnchor, ForeignAnchors, Gateway, IdentityHeader, Limits,
    Options, Outcome, Record, Route, RoutePolicy, RouteTable, Snapshot, TcpRouteTable, Telemetry,
    UpstreamTimeouts,
};
use identity::chain::Anchors;
use identity::feed::{Acknowledgement, Batch, ClassDefinition, Sighting, StatusChange};
use identity::{Class, Fingerprint, Group, Index, Kind, Name, SerialKey, Status};
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use rcgen::KeyPair;
use tokio::sync::mpsc;

use crate::authority::{Authority, Identity, SERIAL_KEY};
use crate::upstream::Upstream;

pub(crate) struct Rig {
    pub(crate) authority: Authority,
    pub(crate) certificate: Arc<ServerCertificate>,
    pub(crate) upstream: Upstream,
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
    pub(crate) assertions: Arc<AssertionSigner>,
    pub(crate) records: mpsc::Receiver<Arc<Record>>,
    pub(crate) exchanges: mpsc::Receiver<Exchange>,
    pub(crate) sightings: mpsc::Receiver<Sighting>,
    registry: Registry,
    acceptor: Arc<Acceptor>,
    policy: Policy,
    classes: HashMap<Index, Class>,
    seq: u64,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits {
            head_timeout: Duration::from_millis(500),
            upstream: UpstreamTimeouts {
                connect: Duration::from_secs(1),
                first_byte: Duration::from_secs(1),
                ..UpstreamTimeouts::default()
            },
            ..Limits::default()
        })
        .await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        Self::start_with_staleness(limits, Duration::from_secs(60)).await
    }

    pub(crate) async fn start_with_staleness(limits: Limits, max_staleness: Duration) -> Self {
        Self::start_as(limits, max_staleness, vec![]).await
    }

    /// Behind load balancers at these addresses.
    pub(crate) async fn start_behind(proxies: &[&str]) -> Self {
        let proxies = proxies.iter().map(|one| one.parse().expect("a network"));
        Self::start_as(
            Limits::default(),
            Duration::from_secs(60),
            proxies.collect(),
        )
        .await
    }

    async fn start_as(limits: Limits, max_staleness: Duration, proxies: Vec<IpNet>) -> Self {
        let authority = Authority::new();
        let upstream = Upstream::start().await;
        let server = authority.server();
        let certificate = ServerCertificate::new(vec![server.certificate.clone()], server.key())
            .expect("a server certificate");
        let certificate = Arc::new(certificate);
        let policy = Policy {
            certificate: certificate.clone(),
            anchors: Anchors::new(std::slice::from_ref(&authority.certificate)).expect("an anchor"),
            foreign: None,
            hints: vec![],
            clients: Clients::Required,
            clients_by_name: HashMap::new(),
            alpn_by_name: HashMap::from([("mqtt.test".into(), vec![b"mqtt".to_vec()])]),
        };
        let acceptor = Acceptor::new(AcceptorOptions {
            policy: policy.clone(),
            kinds: &[Kind::Device],
            versions: Versions::Tls13,
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            deadline: Duration::from_secs(2),
            max_handshakes: 512,
        })
        .expect("an acceptor");
        let acceptor = Arc::new(acceptor);
        let (records, record_receiver) = mpsc::channel(1_000);
        let (exchanges, exchange_receiver) = mpsc::channel(1_000);
        let (sightings, sighting_receiver) = mpsc::channel(1_000);
        let assertions = Arc::new(signer());
        let mut registry = Registry::default();
        let snapshot = snapshot(&[&format!("http://{}", upstream.address)]);
        let gateway = Gateway::bind(
            Options {
                name: Name::parse("gateway-1").expect("a name"),
                listen: vec!["127.0.0.1:0".parse().expect("an address")],
                workers: 2,
                acceptor: Arc::clone(&acceptor),
                serial_key: Arc::new(SerialKey::new(&SERIAL_KEY)),
                assertions: Arc::clone(&assertions),
                snapshot,
                inherited: Vec::new(),
                foreign: Arc::default(),
                max_staleness,
                limits,
                proxies,
                records,
                telemetry: Telemetry {
                    exchanges: true,
                    ..Telemetry::default()
                },
                exchanges,
                sightings,
            },
            &mut registry,
        )
        .expect("bound")
        .start()
        .expect("started");
        gateway.heartbeat(Instant::now());
        Self {
            address: gateway.addresses()[0],
            authority,
            certificate,
            upstream,
            gateway,
            assertions,
            records: record_receiver,
            exchanges: exchange_receiver,
            sightings: sighting_receiver,
            registry,
            acceptor,
            policy,
            classes: HashMap::new(),
            seq: 0,
        }
    }

    /// A device that is registered.
    pub(crate) async fn device(&mut self, id: &str, index: u64) -> Identity {
        let device = self.authority.device(id, index);
        self.set(&device, Status::Active).await;
        device
    }

    /// Puts a status in force, and waits for the acknowledgement.
    pub(crate) async fn set(&mut self, device: &Identity, status: Status) -> Acknowledgement {
        self.apply(device, status, vec![]).await
    }

    /// Puts an active device into a class of these groups.
    pub(crate) async fn classify(&mut self, device: &Identity, class: u16, groups: &[&str]) {
        let class = Class(class);
        self.classes.insert(device.index, class);
        let parse = |group: &&str| Group::parse(group).expect("legal");
        let groups = groups.iter().map(parse).collect();
        let definition = ClassDefinition { class, groups };
        self.apply(device, Status::Active, vec![definition]).await;
    }

    /// Believes other CAs, and no others. Returns how many connections that ended.
    pub(crate) fn believe(&mut self, anchors: &[ForeignAnchor]) -> usize {
        let anchors = ForeignAnchors::new(anchors).expect("anchors that can stand so");
        self.policy.foreign = Anchors::new(anchors.certificates()).ok();
        self.acceptor
            .replace(self.policy.clone())
            .expect("a policy");
        self.gateway.publish_foreign(Arc::new(anchors))
    }

    /// Puts routes in force, and asks for certificates as they do.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let policy = Policy {
            clients_by_name: snapshot.clients_by_name(),
            ..self.policy.clone()
        };
        self.acceptor.replace(policy).expect("a policy");
        self.gateway.publish(snapshot);
    }

    async fn apply(
        &mut self,
        device: &Identity,
        status: Status,
        classes: Vec<ClassDefinition>,
    ) -> Acknowledgement {
        let class = self.classes.get(&device.index).copied().unwrap_or_default();
        self.seq += 1;
        let certificate = Fingerprint::of(&device.certificate);
        let batch = Batch {
            after: self.seq - 1,
            upto: self.seq,
            classes,
            changes: vec![StatusChange {
                seq: self.seq,
                index: device.index,
                certificate,
                tbs: certificate,
                status,
                class,
            }],
        };
        let applied = self.gateway.apply(&batch);
        assert_eq!(
            self.gateway.status(device.index, &certificate),
            (status, class)
        );
        applied.finish(Duration::from_secs(1)).await
    }

    /// The outcome of the next audit record.
    pub(crate) async fn next_outcome(&mut self) -> Outcome {
        self.next_record().await.outcome
    }

    pub(crate) async fn next_record(&mut self) -> Arc<Record> {
        tokio::time::timeout(Duration::from_secs(10), self.records.recv())
            .await
            .expect("a record in time")
            .expect("a record")
    }

    /// A line of the metrics.
    pub(crate) fn metric(&self, name: &str) -> String {
        self.full_metric(&format!("keybound_gateway_{name}"))
    }

    /// A line of the metrics, by its whole name.
    pub(crate) fn full_metric(&self, name: &str) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")))
            .unwrap_or_else(|| panic!("{name} in {text}"))
            .to_owned()
    }
}

/// Routes to one upstream: hosts, paths and policies.
pub(crate) fn routes_of(
    upstream: &Upstream,
    routes: &[(Option<&str>, &str, RoutePolicy)],
) -> Snapshot {
    let routes = routes.iter().map(|(host, path, policy)| Route {
        host: host.map(str::to_owned),
        path: (*path).to_owned(),
        upstream: gateway::Upstream::of(vec![
            format!("http://{}", upstream.address)
                .parse()
                .expect("an upstream"),
        ]),
        identity: IdentityHeader::ALL.to_vec(),
        policy: policy.clone(),
    });
    Snapshot {
        routes: RouteTable::new(routes.collect()).expect("routes"),
        tcp_routes: TcpRouteTable::default(),
        server_names: vec!["api.test".into(), "127.0.0.1".into()],
        without_sni: vec!["127.0.0.1".into()],
    }
}

/// Signs assertions with a key of its own.
fn signer() -> AssertionSigner {
    let key = KeyPair::generate().expect("a key");
    AssertionSigner::from_pkcs8(
        &key.serialize_der(),
        "spiffe://keybound.test/gateway/a".into(),
    )
    .expect("a signer")
}

pub(crate) fn snapshot(upstreams: &[&str]) -> Snapshot {
    let route = |path: &str, identity| Route {
        host: None,
        path: path.to_owned(),
        upstream: gateway::Upstream::of(
            upstreams
                .iter()
                .map(|address| address.parse().expect("an upstream"))
                .collect(),
        ),
        identity,
        policy: RoutePolicy::default(),
    };
    let mut routes: Vec<_> = IdentityHeader::ALL
        .into_iter()
        .map(|form| route(&format!("/as/{}", form.as_str()), vec![form]))
        .collect();
    routes.extend([
        route("/as/all", IdentityHeader::ALL.to_vec()),
        route("/", vec![IdentityHeader::DeviceId]),
        route(
            "/cert",
            vec![IdentityHeader::DeviceId, IdentityHeader::ClientCert],
        ),
        route("/plain", vec![]),
        Route {
            host: Some("other.test".into()),
            ..route("/only", vec![])
        },
    ]);
    Snapshot {
        routes: RouteTable::new(routes).expect("routes"),
        tcp_routes: TcpRouteTable::default(),
        server_names: vec!["api.test".into(), "127.0.0.1".into()],
        without_sni: vec!["127.0.0.1".into()],
    }
}
