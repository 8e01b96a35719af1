//! What a connection's certificate lets the gateway say of its device: made once per connection, and where it costs
//! more than a copy, only when a route of the connection asks for it.

use std::cell::{OnceCell, RefCell};

use http::HeaderValue;
use identity::chain::Anchors;
use identity::{Fingerprint, Timestamp};
use rustls_pki_types::CertificateDer;

use crate::assertion::AssertionSigner;
use crate::pure::assertion::{Holder, Life, audience};
use crate::pure::dialects::{Dialect, Field, Inexpressible, Proven, fields};
use crate::pure::route::Route;

/// A certificate, and by what it was proven.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    pub(crate) certificate: CertificateDer<'static>,
    /// What the device sent beside it, which may be anything.
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    /// Those that vouched for it.
    pub(crate) anchors: Anchors,
    /// When they did.
    pub(crate) at: Timestamp,
}

/// A device as upstreams are told of it.
#[derive(Debug)]
pub(crate) struct Presented {
    evidence: Evidence,
    /// The value of `X-Device-Id`.
    device_id: HeaderValue,
    subject: Box<str>,
    serial: Box<str>,
    not_after: Timestamp,
    issuers: OnceCell<Result<Vec<CertificateDer<'static>>, Inexpressible>>,
    /// By dialect. Most connections are idle and have none.
    fields: OnceCell<Box<[Told; Dialect::COUNT]>>,
    assertions: Assertions,
}

/// The last assertion about one device for each route, the least recently made first.
#[derive(Debug, Default)]
pub(crate) struct Assertions(RefCell<Vec<Asserted>>);

/// The headers of one dialect.
type Told = OnceCell<Result<Vec<Field>, Inexpressible>>;

/// An assertion that may be sent again.
#[derive(Debug)]
struct Asserted {
    host: Option<String>,
    path: String,
    life: Life,
    value: HeaderValue,
}

impl Presented {
    /// A device whose certificate was proven. `subject` is whom assertions are about.
    pub(crate) fn new(
        device: &str,
        subject: &str,
        serial: &str,
        not_after: Timestamp,
        evidence: Evidence,
    ) -> Self {
        Self {
            device_id: HeaderValue::from_str(device).expect(
                "a device's name has only letters, digits, dots, underscores, hyphens and a colon",
            ),
            subject: subject.into(),
            serial: serial.into(),
            not_after,
            issuers: OnceCell::new(),
            fields: OnceCell::new(),
            assertions: Assertions::default(),
            evidence,
        }
    }

    /// The value of `X-Device-Id`.
    pub(crate) fn device_id(&self) -> &HeaderValue {
        &self.device_id
    }

    /// The certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.evidence.certificate
    }

    /// The headers of a dialect.
    pub(crate) fn fields(&self, dialect: Dialect) -> Result<&[Field], Inexpressible> {
        let cells = self
            .fields
            .get_or_init(|| Box::new([const { OnceCell::new() }; Dialect::COUNT]));
        let built = cells[dialect as usize].get_or_init(|| {
            let issuers = if dialect.needs_issuers() {
                self.issuers()?
            } else {
                &[]
            };
            let leaf = &self.evidence.certificate;
            fields(dialect, Proven { leaf, issuers })
        });
        built.as_deref().map_err(|fault| *fault)
    }

    /// The verified path is found once more, as of the handshake: the handshake itself tells nobody.
    fn issuers(&self) -> Result<&[CertificateDer<'static>], Inexpressible> {
        let found = self.issuers.get_or_init(|| {
            let Evidence {
                certificate,
                intermediates,
                anchors,
                at,
            } = &self.evidence;
            anchors
                .issuers(certificate, intermediates, *at)
                .map_err(|_| Inexpressible::Path)
        });
        found.as_deref().map_err(|fault| *fault)
    }

    /// The value of `X-Device-Assertion` for a route.
    pub(crate) fn assertion(
        &self,
        signer: &AssertionSigner,
        route: &Route,
        now: Timestamp,
    ) -> HeaderValue {
        let holder = || Holder {
            subject: &self.subject,
            device: self
                .device_id
                .to_str()
                .expect("it was made from a device id"),
            serial: &self.serial,
            certificate: Fingerprint::of(&self.evidence.certificate),
            not_after: self.not_after,
            via: &[],
        };
        self.assertions.of(signer, route, now, holder)
    }
}

impl Assertions {
    /// The value of `X-Device-Assertion` for a route: the last one while at least half its life is left.
    pub(crate) fn of<'a>(
        &self,
        signer: &AssertionSigner,
        route: &Route,
        now: Timestamp,
        holder: impl FnOnce() -> Holder<'a>,
    ) -> HeaderValue {
        let mut kept = self.0.borrow_mut();
        let position = kept
            .iter()
            .position(|one| one.path == route.path && one.host == route.host);
        if let Some(position) = position {
            if kept[position].life.is_fresh(now) {
                return kept[position].value.clone();
            }
            kept.remove(position);
        } else if kept.len() >= MAX_KEPT {
            kept.remove(0);
        }
        let (token, life) = signer.sign(&holder(), &audience(route), now);
        let mut value =
            HeaderValue::try_from(token).expect("base64url and dots are legal characters");
        value.set_sensitive(true);
        kept.push(Asserted {
            host: route.host.clone(),
            path: route.path.clone(),
            life,
            value: value.clone(),
        });
        value
    }
}

/// Routes of a connection whose assertions are kept.
const MAX_KEPT: usize = 16;

#[cfg(test)]
#[path = "presented_tests.rs"]
pub(crate) mod tests;
