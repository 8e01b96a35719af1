//! Active health checks: one task per server, all of them on one worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout_at};

use super::UpstreamFault;
use super::connect::{Connected, Http1, Http2, connect};
use super::health::ServerHealth;
use crate::pure::upstream::{HealthCheck, Upstream};
use crate::pure::upstream_address::UpstreamAddress;
use crate::shared::Shared;

/// Checks the servers of the routes in force for ever, unless another worker does.
pub(crate) async fn run_checks(shared: Arc<Shared>) {
    if !shared.health.claim_checks() {
        return;
    }
    let mut running: HashMap<(*const Upstream, usize), Task> = HashMap::new();
    loop {
        let view = shared.policy.view();
        let mut wanted = HashMap::new();
        for upstream in view.snapshot().routes.upstreams() {
            let Some(check) = &upstream.health_check else {
                continue;
            };
            for (position, server) in upstream.servers.iter().enumerate() {
                let key = (Arc::as_ptr(upstream), position);
                let task = running.remove(&key).unwrap_or_else(|| {
                    let health = shared.health.of(upstream, server);
                    let checking = watch(Arc::clone(upstream), position, check.clone(), health);
                    // What a check is about is kept as long as the task, so that no other comes to lie there.
                    Task {
                        handle: spawn_local(checking).abort_handle(),
                        _upstream: Arc::clone(upstream),
                    }
                });
                wanted.entry(key).or_insert(task);
            }
        }
        // The others end here.
        running = wanted;
        drop(view);
        shared.health.published().await;
    }
}

/// A server's checks, until this is dropped.
struct Task {
    handle: AbortHandle,
    _upstream: Arc<Upstream>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

async fn watch(
    upstream: Arc<Upstream>,
    position: usize,
    check: HealthCheck,
    health: Arc<ServerHealth>,
) {
    let server = &upstream.servers[position];
    let (mut good, mut bad) = (0_u32, 0_u32);
    loop {
        match examine(&upstream, server, &check).await {
            Ok(()) => {
                (good, bad) = (good.saturating_add(1), 0);
                if good == check.healthy_after {
                    health.checked(true);
                }
            }
            Err(fault) => {
                (good, bad) = (0, bad.saturating_add(1));
                if bad == check.unhealthy_after {
                    tracing::warn!(%server, ?fault, "a server of an upstream is unhealthy");
                    health.checked(false);
                }
            }
        }
        sleep(about(check.every)).await;
    }
}

/// Asks once, over a connection of its own. Anything but a final 2xx within the time is a fault.
async fn examine(
    upstream: &Upstream,
    server: &UpstreamAddress,
    check: &HealthCheck,
) -> Result<(), CheckFault> {
    let deadline = Instant::now() + check.timeout;
    let connected = connect(server, upstream.tls.as_ref(), false, deadline).await?;
    let authority = check.host.clone().unwrap_or_else(|| server.authority());
    let asking = async {
        match connected {
            Connected::Http1(transport) => {
                let mut sender = Http1::<Nothing>::start(transport, None, check.timeout).await?;
                sender.watch.begin(false);
                let request = Request::get(check.path.as_str()).header(HOST, authority);
                let request = request.body(Nothing).map_err(|_| CheckFault::Request)?;
                judge(sender.http.send_request(request).await)
            }
            Connected::Http2(transport) => {
                let mut sender = Http2::<Nothing>::start(transport, None, deadline).await?;
                let uri = Uri::builder()
                    .scheme(if server.is_tls() { "https" } else { "http" })
                    .authority(authority)
                    .path_and_query(check.path.as_str());
                let uri = uri.build().map_err(|_| CheckFault::Request)?;
                let request = Request::get(uri).version(Version::HTTP_2);
                let request = request.body(Nothing).map_err(|_| CheckFault::Request)?;
                judge(sender.http.send_request(request).await)
            }
        }
    };
    timeout_at(deadline, asking)
        .await
        .map_err(|_| CheckFault::Late)?
}

fn judge(answer: hyper::Result<Response<Incoming>>) -> Result<(), CheckFault> {
    match answer {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(CheckFault::Status(response.status().as_u16())),
        Err(_) => Err(CheckFault::NoAnswer),
    }
}

/// Why a server failed a check; for the log.
#[derive(Debug)]
#[expect(dead_code, reason = "the log prints what is in them")]
enum CheckFault {
    Unreachable(UpstreamFault),
    Request,
    Status(u16),
    NoAnswer,
    Late,
}

impl From<UpstreamFault> for CheckFault {
    fn from(fault: UpstreamFault) -> Self {
        Self::Unreachable(fault)
    }
}

/// The body of a check.
struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

/// A tenth more or less, so that many gateways do not ask at the same moment.
fn about(time: Duration) -> Duration {
    let mut random = [0; 1];
    if rand::fill(&mut random).is_err() {
        return time;
    }
    time * (900 + u32::from(random[0]) * 200 / 255) / 1000
}
