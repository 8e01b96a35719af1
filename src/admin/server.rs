//! The server's side: every command's request, and its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path as Segment, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca::{Authority, IssueError, Rejection, Standing, Unavailable};
use identity::{DeviceId, EnrollmentCode, Problem};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listener::{AdminListener, Operator};
use super::refusal::{Refusal, bad_request, internal, not_found, rejection};
use super::{api, explain, views};
use crate::app::{Reloader, server_address};
use crate::clock;
use crate::decisions::Decisions;
use crate::feed::Applied;
use crate::metrics::Metrics;
use crate::receipts::Receipts;

/// What the answers are made from.
pub(crate) struct Admin {
    pub(crate) authority: Arc<Authority>,
    pub(crate) receipts: Arc<Receipts>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) decisions: Arc<Decisions>,
    pub(crate) metrics: Metrics,
    pub(crate) reloader: Arc<Reloader>,
    /// The port in enrollment codes, if there is an enrollment listener.
    pub(crate) enrollment_port: Option<u16>,
}

type Answer<T> = Result<Json<T>, Refusal>;
type Shared = State<Arc<Admin>>;

/// Serves until `shutdown`.
pub(crate) async fn run(listener: AdminListener, admin: Arc<Admin>, shutdown: CancellationToken) {
    let routes = Router::new()
        .route("/v1/tokens", post(tokens))
        .route("/v1/certificates", post(certificates))
        .route("/v1/devices", get(devices))
        .route("/v1/devices/{id}", get(device))
        .route("/v1/devices/{id}/{change}", post(change))
        .route("/v1/explain", post(explain_query))
        .route("/v1/ca", get(authorities))
        .route("/v1/ca/crl", get(crl))
        .route("/v1/reload", post(reload))
        .fallback(|| async { not_found("not-found", "This version of the server does not know what was asked for. Are the command and the server of the same version?") })
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .with_state(admin)
        .into_make_service_with_connect_info::<Operator>();
    let served = axum::serve(listener, routes)
        .with_graceful_shutdown(async move { shutdown.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin socket ended");
    }
}

async fn tokens(
    State(admin): Shared,
    ConnectInfo(operator): ConnectInfo<Operator>,
    body: Bytes,
) -> Answer<api::TokensMade> {
    let api::NewTokens {
        devices,
        life_seconds,
    } = parse(&body)?;
    bounded(devices.len())?;
    let life = Duration::from_secs(life_seconds);
    if life.is_zero() || life > LONGEST_TOKEN_LIFE {
        return Err(bad_request(
            "A code can be used for at least 1s and at most 90d.",
        ));
    }
    let port = admin.enrollment_port.ok_or_else(|| {
        Refusal::from(Problem::new(
            409,
            "no-enrollment",
            "There is no enrollment listener",
            "This server has no enrollment listener, so a code would lead nowhere; add [enrollment] to its configuration.",
        ))
    })?;
    let server = server_address(&admin.reloader.name(), port);
    let expires_at = clock::rfc3339(clock::now().plus(life));
    let tokens = admin
        .authority
        .new_tokens(&operator.actor(), &devices, life)
        .await?;
    let root = admin.authority.root().fingerprint();
    let results = devices.into_iter().zip(tokens).map(|(device, token)| {
        let outcome = match token {
            Ok(token) => api::TokenOutcome::Made {
                token: token.expose(),
                code: EnrollmentCode {
                    server: server.clone(),
                    device: device.clone(),
                    token,
                    root,
                }
                .expose(),
            },
            Err(error) => api::TokenOutcome::Refused(api::Refused {
                code: rejection(&error.0).code,
                message: error.to_string(),
            }),
        };
        api::TokenResult { device, outcome }
    });
    Ok(Json(api::TokensMade {
        expires_at,
        results: results.collect(),
    }))
}

async fn certificates(
    State(admin): Shared,
    ConnectInfo(operator): ConnectInfo<Operator>,
    body: Bytes,
) -> Answer<api::Signed> {
    let api::SignRequests { requests } = parse(&body)?;
    bounded(requests.len())?;
    let mut csrs = Vec::with_capacity(requests.len());
    for request in requests {
        let csr = STANDARD
            .decode(&request.csr)
            .map_err(|_| bad_request("A certificate request is not base64."))?;
        csrs.push((request.device, csr));
    }
    // All at once, so that they share the registry's commits.
    let mut signing = JoinSet::new();
    let mut results: Vec<Option<api::SignResult>> = Vec::new();
    results.resize_with(csrs.len(), || None);
    for (place, (device, csr)) in csrs.into_iter().enumerate() {
        let (admin, actor) = (Arc::clone(&admin), operator.actor());
        signing.spawn(async move {
            let issued = admin.authority.sign(&actor, &device, &csr).await;
            (place, device, issued)
        });
    }
    while let Some(signed) = signing.join_next().await {
        let Ok((place, device, issued)) = signed else {
            return Err(internal());
        };
        let outcome = match issued {
            Ok(issued) => api::SignOutcome::Issued(api::Certificate {
                serial: issued.serial,
                not_after: clock::rfc3339(issued.not_after),
                repeated: issued.repeated,
                pem: issued.pem(),
            }),
            // It concerns all of them, and none was refused for good.
            Err(IssueError::Unavailable(unavailable)) => return Err(unavailable.into()),
            Err(error) => api::SignOutcome::Refused(api::Refused {
                code: error.code().to_owned(),
                message: error.to_string(),
            }),
        };
        results[place] = Some(api::SignResult { device, outcome });
    }
    admin.applied.settle(&admin.authority).await;
    let results = results
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or_else(internal)?;
    Ok(Json(api::Signed { results }))
}

async fn devices(
    State(admin): Shared,
    query: Result<Query<api::DeviceQuery>, QueryRejection>,
) -> Answer<api::DevicePage> {
    let Query(api::DeviceQuery {
        status,
        group,
        after,
    }) = query.map_err(|error| bad_request(format!("The filter is not understood: {error}.")))?;
    let standing = match status {
        Some(api::DeviceStatus::Revoked) => Some(Standing::Revoked),
        // A certificate can be suspended while its device is not, so the filter below decides.
        Some(_) | None => None,
    };
    let page = admin
        .authority
        .registry()
        .devices(ca::DeviceFilter {
            standing,
            group,
            prefix: None,
            after,
            limit: PAGE,
        })
        .await?;
    let next = page
        .devices
        .last()
        .filter(|_| page.more)
        .map(|last| last.id.clone());
    let now = clock::now();
    let devices = page
        .devices
        .into_iter()
        .map(|device| views::device_line(device, now))
        .filter(|line| status.is_none_or(|status| line.status == status))
        .collect();
    Ok(Json(api::DevicePage { devices, next }))
}

async fn device(State(admin): Shared, Segment(id): Segment<String>) -> Answer<api::Device> {
    let id = device_id(&id)?;
    let device = views::known_device(&admin.authority, &id).await?;
    device.map(Json).ok_or_else(|| {
        let unknown = Rejection::UnknownDevice(id);
        Refusal::from(rejection(&unknown))
    })
}

async fn change(
    State(admin): Shared,
    ConnectInfo(operator): ConnectInfo<Operator>,
    Segment((id, change)): Segment<(String, String)>,
    body: Bytes,
) -> Answer<api::DeviceChanged> {
    let started = Instant::now();
    let device = device_id(&id)?;
    let (authority, actor) = (&admin.authority, operator.actor());
    if change == api::DeviceChange::Label.as_str() {
        let message: api::LabelDevice = parse(&body)?;
        let reason = message.reason.as_deref();
        let done = authority.label(&actor, &device, message.labels, reason);
        let done = done.await?;
        let change = api::DeviceChange::Label;
        return changed(&admin, device, change, done, message.wait, started).await;
    }
    let api::ChangeDevice { reason, wait } = parse(&body)?;
    let reason = reason.as_deref();
    let (change, done) = match change.as_str() {
        "revoke" => {
            let done = authority.revoke(&actor, &device, reason).await;
            (api::DeviceChange::Revoke, done)
        }
        "suspend" => {
            let done = authority.suspend(&actor, &device, reason).await;
            (api::DeviceChange::Suspend, done)
        }
        "restore" => {
            let done = authority.restore(&actor, &device, reason).await;
            (api::DeviceChange::Restore, done)
        }
        "replace" => {
            let done = authority.replace(&actor, &device, reason).await;
            (api::DeviceChange::Replace, done)
        }
        _ => {
            return Err(bad_request(
                "A device can be revoked, suspended, restored, replaced or labelled.",
            ));
        }
    };
    changed(&admin, device, change, done?, wait, started).await
}

/// The answer to a change that is durable, with the gateways' receipt if somebody waits for it.
async fn changed(
    admin: &Admin,
    device: DeviceId,
    change: api::DeviceChange,
    done: ca::Change,
    wait: bool,
    started: Instant,
) -> Answer<api::DeviceChanged> {
    admin.metrics.device_changes.inc();
    let receipt = if wait {
        // Without a new entry the question is whether the old ones are in force everywhere.
        let (first, last) = match done.entries {
            Some((first, last)) => (Some(first), last),
            None => (None, admin.authority.registry().head().await?),
        };
        Some(
            admin
                .receipts
                .wait(first, last, started, RECEIPT_WITHIN)
                .await,
        )
    } else {
        None
    };
    if receipt.is_some_and(|receipt| !receipt.complete) {
        tracing::error!(%device, change = change.as_str(), "not every gateway has acknowledged a change in time");
    }
    Ok(Json(api::DeviceChanged {
        device,
        change,
        already: done.entries.is_none(),
        certificates: done.certificates,
        receipt,
    }))
}

async fn explain_query(State(admin): Shared, body: Bytes) -> Answer<api::Explanation> {
    let api::Explain { query } = parse(&body)?;
    let query = query.trim();
    if query.is_empty() || query.len() > LONGEST_QUERY {
        return Err(bad_request(
            "Ask for a device id, a serial, an address or a request id.",
        ));
    }
    match explain::explain(&admin.authority, &admin.decisions, query).await? {
        Some(explanation) => Ok(Json(explanation)),
        None => Err(not_found(
            "unknown",
            format!(
                "Nothing is known of {query:?}: it is no device id, serial, address or request id that was seen. \
                 Decisions are remembered since the server's start, the last 65536 of them."
            ),
        )),
    }
}

async fn authorities(State(admin): Shared) -> Json<api::CertificateAuthorities> {
    let view = |certificate: &ca::CaCertificate| api::CaCertificate {
        fingerprint: certificate.fingerprint(),
        pem: certificate.pem(),
    };
    Json(api::CertificateAuthorities {
        trust_domain: admin.authority.trust_domain().clone(),
        root: view(admin.authority.root()),
        device_ca: view(admin.authority.device_ca()),
        infrastructure_ca: view(admin.authority.infrastructure_ca()),
    })
}

async fn crl(State(admin): Shared) -> Answer<api::Crl> {
    let crl = admin.authority.crl();
    if crl.der.is_empty() {
        return Err(Unavailable.into());
    }
    Ok(Json(api::Crl {
        number: crl.number,
        this_update: clock::rfc3339(crl.this_update),
        next_update: clock::rfc3339(crl.next_update),
        entries: crl.entries,
        pem: crl.pem(),
    }))
}

async fn reload(State(admin): Shared) -> Answer<api::Reloaded> {
    let reloader = Arc::clone(&admin.reloader);
    // A command that is broken off does not break the reload off.
    let reloading = tokio::spawn(async move { reloader.reload_soon().await });
    let outcome = match reloading.await {
        Ok(Ok(changes)) => api::ReloadOutcome::Changes(changes),
        Ok(Err(fault)) => api::ReloadOutcome::Mistakes(fault.mistakes),
        Err(_) => return Err(internal()),
    };
    Ok(Json(api::Reloaded {
        name: admin.reloader.source_name(),
        outcome,
    }))
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| bad_request(format!("The request is not understood: {error}.")))
}

fn device_id(text: &str) -> Result<DeviceId, Refusal> {
    DeviceId::parse(text)
        .map_err(|error| bad_request(format!("{text:?} is not a device id: {error}.")))
}

fn bounded(length: usize) -> Result<(), Refusal> {
    if length > api::MAX_BATCH {
        return Err(bad_request(format!(
            "At most {} devices go into one request.",
            api::MAX_BATCH
        )));
    }
    Ok(())
}

/// 256 requests of 32 KiB in base64.
const LARGEST_REQUEST: usize = 16 * 1024 * 1024;
const LONGEST_TOKEN_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const LONGEST_QUERY: usize = 256;
const PAGE: usize = 1000;
const RECEIPT_WITHIN: Duration = Duration::from_secs(5);
