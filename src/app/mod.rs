//! The composition root: builds every part from the configuration, joins them, and takes them down in order.
//! Long, because the order of the start and that of the stop are read side by side.

mod certificate_watch;
mod crl_watch;
mod data_directory;
mod descriptors;
mod fault;
mod gateway_role;
mod reload;
mod signals;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca::Authority;
use gateway::tls::ServerCertificate;
use gateway::{AssertionSigner, Gateway};
use identity::ServerAddress;
use identity::chain::Anchors;
use identity::{CaCertificate, Identity, SpiffeId, TrustDomain};
use prometheus_client::registry::Registry;
use rustls::DistinguishedName;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use self::gateway_role::{BoundGateway, bind_gateway, gateway_name, keep_records, pass_on};
use self::reload::Parts;
use crate::access_log::AccessLog;
use crate::admin::client::SOCKET;
use crate::admin::listener::AdminListener;
use crate::admin::server::{self as admin, Admin};
use crate::config::Config;
use crate::configuration::{Loaded, Source};
use crate::decisions::Decisions;
use crate::enrollment::{self, Enrollment};
use crate::feed::{self, Applied, Feed};
use crate::foreign::{self, KeptMarks, WRITTEN_WITHIN};
use crate::health::{self, Health};
use crate::in_force::InForce;
use crate::metrics::Metrics;
use crate::otlp::{self, Spans};
use crate::receipts::Receipts;
use crate::server_certificate::Renewal;
use crate::service_manager::{self, Inherited};
use crate::throttle::Throttle;
use crate::{alarm, assertion_key, http_server, memory, upstream};

pub(crate) use self::data_directory::Addresses;
pub(crate) use self::fault::{Ended, StartFault};
pub(crate) use self::reload::Reloader;
pub(crate) use self::signals::{Hangups, Signals};

/// Everything, running.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    /// Where the built-in upstream is, if it runs.
    pub(crate) builtin_upstream: Option<SocketAddr>,
    data: PathBuf,
    authority: Arc<Authority>,
    gateway: Option<Arc<Gateway>>,
    health: Arc<Health>,
    tasks: JoinSet<&'static str>,
    /// Ends what brings new work in.
    enrollment_ends: CancellationToken,
    /// Ends the rest, once nothing new comes in.
    rest_ends: CancellationToken,
}

/// What a server is started from.
pub(crate) struct Start {
    /// Read again at each reload.
    pub(crate) source: Source,
    /// What it says now.
    pub(crate) loaded: Loaded,
    /// Of the CA's keys.
    pub(crate) passphrase: Option<Zeroizing<String>>,
    /// Sockets that were handed over.
    pub(crate) inherited: Inherited,
    /// What asks for reloads, if there is a file.
    pub(crate) hangups: Option<Hangups>,
}

/// What the parts share.
struct Common {
    authority: Arc<Authority>,
    decisions: Arc<Decisions>,
    access_log: Arc<AccessLog>,
    spans: Arc<Spans>,
    metrics: Metrics,
    trust: Trust,
    assertions: Arc<AssertionSigner>,
}

/// What the embedded CA gives to every listener that speaks TLS.
#[derive(Clone)]
struct Trust {
    /// The server's own certificate.
    certificate: Arc<ServerCertificate>,
    anchors: Anchors,
    hints: Vec<DistinguishedName>,
    /// In which the CA names devices.
    domain: TrustDomain,
}

impl Server {
    /// Opens, binds and starts everything that the configuration names. What fails leaves nothing listening.
    pub(crate) async fn start(start: Start) -> Result<Self, StartFault> {
        let Start {
            source,
            mut loaded,
            passphrase,
            mut inherited,
            hangups,
        } = start;
        data_directory::prepare(&loaded.config.data)?;
        let authority = Arc::new(open(&loaded.config, passphrase).await?);
        // The lock is ours, and nothing is written yet.
        data_directory::remove_unfinished(&loaded.config.data);
        let own_cas = own_cas(&authority);
        let mut asked = foreign::complete(&mut loaded.config, &[], &own_cas)
            .await
            .map_err(StartFault::Foreign)?;
        let config = &loaded.config;
        let marks = KeptMarks::load(&config.data).map_err(StartFault::Foreign)?;
        marks
            .check(foreign::anchors_of(config))
            .map_err(|older| StartFault::OlderList {
                marks: marks.path().to_owned(),
                unanswered: foreign::unanswered(&asked, &older),
                older: Box::new(older),
            })?;
        foreign::keep_all(&config.data, &mut asked).await;
        let marks = Arc::new(marks);
        // The lock is ours: an older file was left by a process that was killed.
        Addresses::withdraw(&config.data)?;
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let in_force = Arc::new(InForce::new(metrics.clone()));
        // Before anybody is judged by these lists.
        marks.raise(foreign::anchors_of(config));
        in_force.marks_written(marks.path(), marks.write(WRITTEN_WITHIN).await);
        let renewal = Arc::new(
            Renewal::start(
                Arc::clone(&authority),
                gateway_name(),
                config.names.clone(),
                &config.data,
                metrics.clone(),
            )
            .await?,
        );
        let (spans, exporter) = otlp::channel(metrics.clone());
        let access_log = AccessLog::start(metrics.clone()).map_err(StartFault::AccessLogThread)?;
        let device_ca = authority.device_ca().der();
        let common = Common {
            decisions: Arc::new(Decisions::new()),
            access_log: Arc::new(access_log),
            spans: Arc::new(spans),
            metrics: metrics.clone(),
            trust: Trust {
                certificate: Arc::clone(renewal.certificate()),
                anchors: Anchors::new(std::slice::from_ref(device_ca))?,
                hints: subject_of(device_ca),
                domain: authority.trust_domain().clone(),
            },
            assertions: Arc::new(assertion_key::signer(&config.data, issuer(&authority))?),
            authority: Arc::clone(&authority),
        };

        // Everything is bound before anything is served.
        let bound = match &config.gateway {
            Some(gateway) => {
                Some(bind_gateway(config, gateway, &common, &mut registry, &mut inherited).await?)
            }
            None => None,
        };
        let mut bind = async |addresses: &Option<Vec<SocketAddr>>, role| match addresses {
            Some(addresses) => http_server::bind(addresses, role, &mut inherited)
                .await
                .map_err(StartFault::Listen),
            None => Ok(Vec::new()),
        };
        let enrollment_listeners = bind(&config.enrollment, "enrollment").await?;
        let health_listeners = bind(&config.health, "health").await?;
        inherited.finish()?;
        let socket = config.data.join(SOCKET);
        let admin_listener =
            AdminListener::bind(&socket).map_err(|error| StartFault::AdminSocket {
                path: socket.clone(),
                error,
            })?;
        let addresses = Addresses {
            gateway: bound.as_ref().and_then(|bound| {
                let address = bound.gateway.addresses().first();
                address.map(|address| http_server::reachable(*address))
            }),
            enrollment: first_address(&enrollment_listeners),
            health: first_address(&health_listeners),
            admin: socket,
        };

        let mut server = Self {
            builtin_upstream: bound.as_ref().and_then(|bound| bound.upstream_address()),
            data: config.data.clone(),
            authority,
            gateway: None,
            health: Arc::new(Health::new(
                bound.is_some(),
                Arc::clone(&in_force),
                Arc::clone(&common.access_log),
                Arc::clone(&common.spans),
            )),
            tasks: JoinSet::new(),
            enrollment_ends: CancellationToken::new(),
            rest_ends: CancellationToken::new(),
            addresses,
        };
        let acceptor = bound.as_ref().map(|bound| Arc::clone(&bound.acceptor));
        let builtin = bound.as_ref().and_then(|bound| bound.builtin_route());
        let (receipts, applied) = match bound {
            Some(bound) => server.start_gateway(bound, &common).await?,
            None => (Receipts::new([], 0), Applied::new(u64::MAX)),
        };
        let parts = Parts {
            gateway: server.gateway.clone().zip(acceptor),
            builtin,
            trust: common.trust.clone(),
            renewal: Arc::clone(&renewal),
            access_log: Arc::clone(&common.access_log),
            spans: Arc::clone(&common.spans),
            own_cas,
        };
        in_force.loaded(&loaded.config, &loaded.hash, &asked, Instant::now());
        let reloader = Arc::new(Reloader::new(
            source,
            loaded,
            &common.authority,
            parts,
            in_force,
            marks,
            server.status(),
        ));
        server.start_reloading(&reloader, hangups);
        server.spawn("spans", exporter.run(server.rest_ends.clone()));
        let ends = server.rest_ends.clone();
        server.spawn("memory", memory::return_what_is_free(ends));
        server.start_control_plane(ControlPlane {
            receipts,
            applied,
            enrollment_listeners,
            health_listeners,
            admin_listener,
            reloader,
            enrollment_port: server.addresses.enrollment.map(|address| address.port()),
            registry: Arc::new(registry),
            common,
        })?;
        let ends = server.rest_ends.clone();
        server.spawn("certificate renewal", async move {
            renewal.run(ends).await;
        });
        server.addresses.announce(&server.data)?;
        service_manager::ready(&server.status());
        Ok(server)
    }

    /// Runs until `signals` says so, then drains. A second signal ends the draining.
    pub(crate) async fn run(mut self, mut signals: Signals) -> Result<(), Ended> {
        let outcome = tokio::select! {
            () = signals.next() => {
                tracing::info!("ending; connections may finish, a second signal ends at once");
                Ok(())
            }
            ended = self.tasks.join_next() => Err(Ended::of(ended)),
            fault = distrusted(&self.authority) => {
                // Nobody is served any longer on the word of such a registry.
                if let Some(gateway) = self.gateway.take() {
                    gateway.stop(Duration::ZERO).await;
                }
                Err(Ended::Registry(fault))
            }
        };
        tokio::select! {
            () = self.drain() => tracing::info!("ended"),
            () = signals.next() => tracing::warn!("ended at once; connections were cut"),
        }
        self.leave();
        outcome
    }

    /// First what brings new work in, then the gateway, and last what must outlive its last connection.
    async fn drain(&mut self) {
        self.health.draining();
        service_manager::stopping();
        self.enrollment_ends.cancel();
        if let Some(gateway) = self.gateway.take() {
            gateway.stop(DRAIN_WITHIN).await;
        }
        self.rest_ends.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FLUSH_WITHIN, all).await.is_err() {
            tracing::warn!("some parts did not end in time");
        }
    }

    fn leave(&self) {
        let withdrawn = Addresses::withdraw(&self.data)
            .and_then(|()| data_directory::remove_if_present(&self.addresses.admin));
        if let Err(error) = withdrawn {
            tracing::warn!(%error, "the data directory cannot be tidied up");
        }
    }

    async fn start_gateway(
        &mut self,
        bound: BoundGateway,
        common: &Common,
    ) -> Result<(Receipts, Arc<Applied>), StartFault> {
        // Whoever connects meanwhile waits to be accepted, rather than being refused by an empty table.
        let seq = feed::load(&common.authority, &bound.gateway).await?;
        let gateway = Arc::new(bound.gateway.start()?);
        self.health.loaded(Arc::clone(&gateway));
        self.gateway = Some(gateway);
        if let Some((listener, _)) = bound.builtin_upstream {
            let ends = self.rest_ends.clone();
            self.spawn("built-in upstream", upstream::run(listener, ends));
        }
        let (authority, ends) = (Arc::clone(&common.authority), self.rest_ends.clone());
        self.spawn(
            "sightings",
            feed::report_sightings(authority, bound.sightings, ends),
        );
        let (decisions, ends) = (Arc::clone(&common.decisions), self.rest_ends.clone());
        let (access_log, spans) = (Arc::clone(&common.access_log), Arc::clone(&common.spans));
        self.spawn(
            "exchanges",
            pass_on(bound.exchanges, access_log, spans, ends.clone()),
        );
        let alarm = alarm::Alarm::new(Arc::clone(&common.authority), common.metrics.clone());
        self.spawn(
            "records",
            keep_records(bound.records, decisions, alarm, ends),
        );
        Ok((Receipts::new([gateway_name()], seq), Applied::new(seq)))
    }

    /// What has the configuration read again, and what tells the service manager that the process lives.
    fn start_reloading(&mut self, reloader: &Arc<Reloader>, hangups: Option<Hangups>) {
        let ends = self.rest_ends.clone();
        self.spawn("service manager", service_manager::keep_alive(ends));
        if let Some(hangups) = hangups {
            let (reloader, ends) = (Arc::clone(reloader), self.rest_ends.clone());
            self.spawn("reload on SIGHUP", async move {
                reloader.on_hangup(hangups, ends).await;
            });
        }
        let (watching, ends) = (Arc::clone(reloader), self.rest_ends.clone());
        self.spawn("certificate files", async move {
            certificate_watch::watch(&watching, ends).await;
        });
        let (reloader, ends) = (Arc::clone(reloader), self.rest_ends.clone());
        self.spawn("lists of revoked certificates", async move {
            crl_watch::watch(&reloader, ends).await;
        });
    }

    /// What the service manager shows while the process serves.
    fn status(&self) -> String {
        match self.addresses.gateway {
            Some(gateway) => format!("serving devices on port {}", gateway.port()),
            None => "serving".to_owned(),
        }
    }

    fn start_control_plane(&mut self, parts: ControlPlane) -> Result<(), StartFault> {
        let ControlPlane {
            receipts,
            applied,
            enrollment_listeners,
            health_listeners,
            admin_listener,
            reloader,
            enrollment_port,
            registry,
            common,
        } = parts;
        let receipts = Arc::new(receipts);
        if let Some(gateway) = &self.gateway {
            let feed = Feed::new(
                Arc::clone(&common.authority),
                Arc::clone(gateway),
                Arc::clone(&receipts),
                Arc::clone(&applied),
                common.metrics.clone(),
            );
            let ends = self.rest_ends.clone();
            self.spawn("feed", async move { feed.run(ends).await });
        }
        let (authority, ends) = (Arc::clone(&common.authority), self.rest_ends.clone());
        self.spawn(
            "CRL",
            async move { authority.publish(ends.cancelled()).await },
        );
        let (health, authority) = (Arc::clone(&self.health), Arc::clone(&common.authority));
        let (metrics, ends) = (common.metrics.clone(), self.rest_ends.clone());
        self.spawn("probe", async move {
            health.probe(&authority, &metrics, ends).await;
        });
        for listener in health_listeners {
            let public = health::Public {
                health: Arc::clone(&self.health),
                metrics: Arc::clone(&registry),
                assertion_keys: common.assertions.key_set(),
            };
            let ends = self.rest_ends.clone();
            self.spawn("health", health::run(listener, public, ends));
        }
        let enrollment = Arc::new(Enrollment {
            acceptor: enrollment::acceptor(
                common.trust.certificate,
                common.trust.anchors,
                common.trust.hints,
            )?,
            authority: Arc::clone(&common.authority),
            decisions: Arc::clone(&common.decisions),
            applied: Arc::clone(&applied),
            metrics: common.metrics.clone(),
            places: enrollment::places(),
            throttle: Throttle::default(),
        });
        for listener in enrollment_listeners {
            let (enrollment, ends) = (Arc::clone(&enrollment), self.enrollment_ends.clone());
            self.spawn("enrollment", enrollment::run(listener, enrollment, ends));
        }
        let admin = Arc::new(Admin {
            authority: common.authority,
            receipts,
            applied,
            decisions: common.decisions,
            metrics: common.metrics,
            reloader,
            enrollment_port,
        });
        let ends = self.rest_ends.clone();
        self.spawn("admin socket", admin::run(admin_listener, admin, ends));
        Ok(())
    }

    /// Runs a part that is to end only when everything does.
    fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            name
        });
    }
}

/// What the control plane is started with.
struct ControlPlane {
    receipts: Receipts,
    applied: Arc<Applied>,
    enrollment_listeners: Vec<TcpListener>,
    health_listeners: Vec<TcpListener>,
    admin_listener: AdminListener,
    reloader: Arc<Reloader>,
    enrollment_port: Option<u16>,
    registry: Arc<Registry>,
    common: Common,
}

/// Returns if the registry turns out not to be as it was left.
async fn distrusted(authority: &Authority) -> Arc<ca::RegistryFault> {
    match authority.registry().checked().await {
        Ok(()) => std::future::pending().await,
        Err(fault) => fault,
    }
}

async fn open(
    config: &Config,
    passphrase: Option<Zeroizing<String>>,
) -> Result<Authority, StartFault> {
    let options = ca::Options {
        directory: config.data.join("ca"),
        trust_domain: config.trust_domain.clone(),
        passphrase,
        device_certificate_life: config.device_certificate_life,
    };
    // It reads every certificate's row, and of a short journal every entry.
    let opened = tokio::task::spawn_blocking(move || Authority::open(options)).await;
    Ok(opened.map_err(|_| StartFault::Panicked)??)
}

/// The CAs of this server, none of which may be taken for somebody else's.
fn own_cas(authority: &Authority) -> Vec<CaCertificate> {
    let all = [
        authority.root(),
        authority.device_ca(),
        authority.infrastructure_ca(),
    ];
    let read = all.into_iter().map(|ca| CaCertificate::read(ca.der()));
    read.map(|ca| ca.expect("the CA's own certificates were read when it was opened"))
        .collect()
}

/// Who asserts: this gateway, by its SPIFFE ID.
fn issuer(authority: &Authority) -> String {
    SpiffeId {
        trust_domain: authority.trust_domain().clone(),
        identity: Identity::Gateway(gateway_name()),
    }
    .to_string()
}

fn first_address(listeners: &[TcpListener]) -> Option<SocketAddr> {
    let address = listeners.first()?.local_addr().ok()?;
    Some(http_server::reachable(address))
}

/// What devices are told to choose their certificate by: the issuer's name.
fn subject_of(ca: &CertificateDer<'_>) -> Vec<DistinguishedName> {
    match x509_parser::parse_x509_certificate(ca) {
        Ok((_, x509)) => vec![DistinguishedName::from(x509.subject().as_raw().to_vec())],
        Err(_) => Vec::new(),
    }
}

/// Where a listener of ours is, by a name of the server certificate.
pub(crate) fn server_address(name: &str, port: u16) -> ServerAddress {
    ServerAddress::new(name, port)
        .expect("the configuration's names are hosts, and a listener's port is not 0")
}

/// With the second that the gateway takes to cut what remains, and the time below, 30 s.
const DRAIN_WITHIN: Duration = Duration::from_secs(25);
const FLUSH_WITHIN: Duration = Duration::from_secs(4);
