//! Connections to upstreams, kept and shared out. Each worker has its own; nothing here is shared between threads but
//! what is known of health.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Weak as WeakArc};
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::UpstreamFault;
use super::health::{Health, ServerHealth};
use super::lease::{Lease, Outstanding, Place};
use super::server::{Need, NoConnection, Server};
use crate::Limits;
use crate::handle::{Asked, Flight};
use crate::metrics::Metrics;
use crate::pure::balance::{Candidate, choose};
use crate::pure::upstream::{Upstream, UpstreamTimeouts};
use crate::pure::upstream_address::UpstreamAddress;
use crate::refusal::Refusal;

/// The upstreams of one worker.
pub(crate) struct Pool {
    /// By where each is in memory. After a reload it is another one, with the connections of the old.
    groups: RefCell<HashMap<*const Upstream, Rc<Group>>>,
    servers: RefCell<HashMap<ServerKey, Rc<Server>>>,
    health: Arc<Health>,
    timeouts: UpstreamTimeouts,
    patience: Duration,
    pub(super) leases: Cell<usize>,
    pub(super) max_leases: usize,
}

/// A server, and where the TLS settings for it are, if it has some: connections made with others are not used. The
/// server keeps the settings, so that no others come to lie there.
type ServerKey = (UpstreamAddress, Option<*const ()>);

/// An upstream's servers as this worker knows them.
struct Group {
    /// As long as this is here, nothing else comes to lie where it lies.
    upstream: WeakArc<Upstream>,
    turn: Cell<usize>,
    members: Vec<Member>,
}

struct Member {
    server: Rc<Server>,
    health: Arc<ServerHealth>,
}

impl Pool {
    pub(crate) fn new(limits: &Limits, health: Arc<Health>) -> Rc<Self> {
        let pool = Rc::new(Self {
            groups: RefCell::default(),
            servers: RefCell::default(),
            health,
            timeouts: limits.upstream,
            patience: limits.patience,
            leases: Cell::new(0),
            max_leases: limits.max_connections,
        });
        spawn_local(close_old(Rc::downgrade(&pool)));
        pool
    }

    pub(super) fn timeouts(&self, upstream: &Upstream) -> UpstreamTimeouts {
        upstream.timeouts.unwrap_or(self.timeouts)
    }

    /// How long a request's body may hardly move; see [`Pace`](crate::pace::Pace).
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// A place on a connection to the server that [`choose`] chooses, or to the next one that accepts.
    pub(super) async fn lease(
        self: &Rc<Self>,
        metrics: &Metrics,
        upstream: &Arc<Upstream>,
        flight: &Flight,
        need: Need,
    ) -> Result<Lease, Refusal> {
        let place = Place::take(self).ok_or(Refusal::Overloaded)?;
        let group = self.group(upstream);
        let timeouts = self.timeouts(upstream);
        let turn = group.turn.replace(group.turn.get().wrapping_add(1));
        let mut tried: Vec<usize> = Vec::new();
        let mut fault = UpstreamFault::Connect;
        while let Some(position) = choose(group.members.len(), turn, |position| {
            let member = &group.members[position];
            (!tried.contains(&position)).then(|| Candidate {
                standing: member.health.standing(),
                outstanding: member.server.outstanding.get(),
            })
        }) {
            let Member { server, health } = &group.members[position];
            flight.ask(Asked {
                server: Arc::clone(health.address()),
                latency: None,
            });
            let outstanding = Outstanding::enter(server);
            health.on_trial(timeouts.connect);
            let began = Instant::now();
            let deadline = began + timeouts.connect;
            let max = upstream.max_connections;
            fault = match server.connection(metrics, max, need, deadline).await {
                Ok(connection) => {
                    return Ok(Lease {
                        connection,
                        outstanding,
                        health: Arc::clone(health),
                        place,
                        idle: timeouts.idle,
                    });
                }
                Err(NoConnection::Full) => return Err(Refusal::Overloaded),
                Err(NoConnection::Missing(fault)) => fault,
                Err(NoConnection::Refused(fault)) => {
                    tracing::debug!(server = %server.address, ?fault, "upstream does not accept a connection");
                    health.refused(began.into_std());
                    fault
                }
            };
            tried.push(position);
        }
        Err(Refusal::Upstream(fault))
    }

    fn group(&self, upstream: &Arc<Upstream>) -> Rc<Group> {
        let mut groups = self.groups.borrow_mut();
        let group = groups.entry(Arc::as_ptr(upstream)).or_insert_with(|| {
            let tls = upstream.tls.as_ref().map(|tls| tls.place());
            let mut servers = self.servers.borrow_mut();
            let member = |address: &UpstreamAddress| {
                let tls = tls.filter(|_| address.is_tls());
                let server = servers
                    .entry((address.clone(), tls))
                    .or_insert_with(|| Server::new(address, upstream.tls.as_ref(), self.patience));
                Member {
                    server: Rc::clone(server),
                    health: self.health.of(upstream, address),
                }
            };
            Rc::new(Group {
                upstream: Arc::downgrade(upstream),
                turn: Cell::new(0),
                members: upstream.servers.iter().map(member).collect(),
            })
        });
        Rc::clone(group)
    }
}

/// Closes connections that nobody has used for long, and forgets what no route leads to, as long as the pool lives.
async fn close_old(pool: Weak<Pool>) {
    loop {
        sleep(Server::MAX_IDLE / 2).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut groups = pool.groups.borrow_mut();
        groups.retain(|_, group| group.upstream.strong_count() > 0);
        drop(groups);
        let mut servers = pool.servers.borrow_mut();
        servers.retain(|_, server| {
            server.close_old();
            Rc::strong_count(server) > 1
        });
    }
}
