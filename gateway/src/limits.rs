//! The limits of a route, held against a request that is permitted.

use std::sync::Arc;
use std::time::Instant;

use http::Request;
use http_body::Body as _;
use hyper::body::Incoming;

use crate::peer::Device;
use crate::pure::authorize::Permit;
use crate::pure::request_head::head_length;
use crate::pure::route::LimitId;
use crate::pure::route_policy::{RateLimit, RateScope};
use crate::rate_limits::{Bucket, Caller, network};
use crate::refusal::Refusal;
use crate::request::Connection;

/// Holds a request to its route's limit on how often there may be one.
pub(crate) fn check_rate(
    connection: &Connection,
    permit: &Permit<'_>,
    instant: Instant,
) -> Result<(), Refusal> {
    let policy = &permit.route().policy;
    if let Some(RateLimit { rate, scope }) = &policy.rate {
        let limit = match scope {
            RateScope::Gateway => permit.device().map(|_| LimitId::of_gateway()),
            RateScope::Route => Some(permit.limit()),
        };
        if let Some(limit) = limit {
            let rates = &connection.worker.shared.rates;
            let bucket = bucket(connection, permit.device(), limit, instant);
            rates
                .take(&bucket, rate, instant)
                .map_err(Refusal::RateLimited)?;
        }
    }
    Ok(())
}

/// Holds a request to its route's limits on how long head and body may be.
pub(crate) fn check_size(permit: &Permit<'_>, request: &Request<Incoming>) -> Result<(), Refusal> {
    let policy = &permit.route().policy;
    let is_longer = |length: u64, most: Option<u64>| most.is_some_and(|most| length > most);
    if policy.max_head.is_some() {
        let length = head_length(request.method(), request.uri(), request.headers());
        if is_longer(length, policy.max_head) {
            return Err(Refusal::HeadTooLarge);
        }
    }
    // Of one that does not say its length, whoever passes it on counts it.
    if is_longer(request.body().size_hint().lower(), policy.max_body) {
        return Err(Refusal::BodyTooLarge);
    }
    Ok(())
}

/// The caller's bucket, looked up once per connection.
fn bucket(
    connection: &Connection,
    device: Option<Device<'_>>,
    limit: LimitId,
    instant: Instant,
) -> Arc<Bucket> {
    let mut buckets = connection.buckets.borrow_mut();
    let known = buckets
        .iter()
        .find(|(which, is_device, _)| *which == limit && *is_device == device.is_some());
    if let Some((_, _, bucket)) = known {
        return Arc::clone(bucket);
    }
    let caller = match device {
        Some(device) => Caller::Device(device.name()),
        None => Caller::Address(network(connection.peer.address.ip())),
    };
    let rates = &connection.worker.shared.rates;
    let bucket = rates.bucket(caller, limit, instant);
    buckets.push((limit, device.is_some(), Arc::clone(&bucket)));
    bucket
}
