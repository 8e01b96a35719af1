//! The device behind a gateway in front, found once for each assertion that the connection brings.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use identity::Timestamp;

use crate::assertion::AssertionSigner;
use crate::presented::Assertions;
use crate::pure::assertion::Holder;
use crate::pure::authorize::Permit;
use crate::pure::headers::X_DEVICE_ASSERTION;
use crate::pure::hop::{Behind, HopFault, TrustedGateway, behind};
use crate::pure::route::Route;

/// What the gateway in front has said lately, the least recently said first.
#[derive(Debug, Default)]
pub(crate) struct Hops(RefCell<Vec<Rc<FarDevice>>>);

/// A device behind a gateway in front, as upstreams are told of it.
#[derive(Debug)]
pub(crate) struct FarDevice {
    token: HeaderValue,
    gateway: Arc<TrustedGateway>,
    behind: Behind,
    /// The value of `X-Device-Id`.
    pub(crate) device_id: HeaderValue,
    /// The value of `X-Device-Via`: the gateways, the nearest first.
    pub(crate) via: HeaderValue,
    assertions: Assertions,
}

impl Hops {
    /// The device for which a request asks, if a gateway sent it that may speak for others on this route; read before the
    /// headers are cleaned.
    pub(crate) fn of(
        &self,
        permit: &Permit<'_>,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Option<Rc<FarDevice>>, HopFault> {
        let Some(gateway) = permit.speaker() else {
            return Ok(None);
        };
        let mut tokens = headers.get_all(X_DEVICE_ASSERTION).iter();
        let token = tokens.next().ok_or(HopFault::Missing)?;
        if tokens.next().is_some() {
            return Err(HopFault::Several);
        }
        let mut kept = self.0.borrow_mut();
        kept.retain(|far| now <= far.behind.until);
        let known = |far: &&Rc<FarDevice>| far.token == *token && far.gateway == *gateway;
        if let Some(far) = kept.iter().find(known) {
            return Ok(Some(Rc::clone(far)));
        }
        let behind = behind(token.as_bytes(), gateway, now)?;
        if kept.len() >= MAX_KEPT {
            kept.remove(0);
        }
        let far = Rc::new(FarDevice::new(token.clone(), Arc::clone(gateway), behind)?);
        kept.push(Rc::clone(&far));
        Ok(Some(far))
    }
}

impl FarDevice {
    fn new(
        token: HeaderValue,
        gateway: Arc<TrustedGateway>,
        behind: Behind,
    ) -> Result<Self, HopFault> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| HopFault::Malformed);
        Ok(Self {
            device_id: value(&behind.id)?,
            via: value(&behind.via.join(", "))?,
            assertions: Assertions::default(),
            token,
            gateway,
            behind,
        })
    }

    /// Who it is, for people.
    pub(crate) fn id(&self) -> &str {
        &self.behind.id
    }

    /// The value of `X-Device-Assertion` for a route; it holds no longer than the one that it is made from.
    pub(crate) fn assertion(
        &self,
        signer: &AssertionSigner,
        route: &Route,
        now: Timestamp,
    ) -> HeaderValue {
        let holder = Holder {
            subject: &self.behind.subject,
            device: &self.behind.id,
            serial: &self.behind.serial,
            certificate: self.behind.certificate,
            not_after: self.behind.until,
            via: &self.behind.via,
        };
        self.assertions.of(signer, route, now, || holder)
    }
}

/// Devices behind one connection whose assertions are kept: a gateway uses each for half a minute.
const MAX_KEPT: usize = 256;
