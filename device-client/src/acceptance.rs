//! Whether a certificate that came back is the one that was asked for. Pure: the time is an argument.

use identity::certificate::Parsed;
use identity::chain::ChainError;
use identity::{DeviceId, Identity, ReadError, SpiffeId, Timestamp};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::rfc3339;
use crate::trust::Roots;

/// What a certificate must be to be accepted.
pub(crate) struct Expected<'a> {
    /// The pending key, as a DER SubjectPublicKeyInfo.
    pub(crate) subject_public_key_info: &'a [u8],
    /// Whom it must name.
    pub(crate) device: &'a DeviceId,
    /// At a renewal, the name in the current certificate.
    pub(crate) spiffe_id: Option<&'a SpiffeId>,
    /// Who must vouch for it in the end.
    pub(crate) roots: &'a Roots,
    /// CA certificates between it and the roots, not believed by themselves.
    pub(crate) authorities: &'a [CertificateDer<'static>],
}

/// A certificate that passed every check. Only [`accept`] makes one, and only one goes into a key store.
#[derive(Debug)]
pub(crate) struct AcceptedCertificate(CertificateDer<'static>);

impl AcceptedCertificate {
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.0
    }
}

/// Checks key, name, chain and validity, in this order.
pub(crate) fn accept(
    der: CertificateDer<'static>,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<AcceptedCertificate, AcceptanceFault> {
    let leaf = Parsed::from_der(&der)
        .and_then(|parsed| parsed.leaf())
        .map_err(AcceptanceFault::Unreadable)?;
    let (_, x509) = X509Certificate::from_der(&der)
        .map_err(|_| AcceptanceFault::Unreadable(ReadError::NotDer))?;
    if x509.public_key().raw != expected.subject_public_key_info {
        return Err(AcceptanceFault::OtherKey);
    }
    check_name(&leaf.spiffe_id, expected)?;
    let issuer = x509.issuer().as_raw();
    let issuers: Vec<_> = expected
        .authorities
        .iter()
        .filter(|authority| !expected.roots.contain(authority) && has_subject(authority, issuer))
        .cloned()
        .collect();
    expected
        .roots
        .anchors()
        .verify(&der, &issuers, now)
        .map_err(AcceptanceFault::NotVouchedFor)?;
    if now < leaf.validity.not_before {
        return Err(AcceptanceFault::NotYetValid {
            not_before: leaf.validity.not_before,
            now,
        });
    }
    if now >= leaf.validity.not_after {
        return Err(AcceptanceFault::Expired {
            not_after: leaf.validity.not_after,
            now,
        });
    }
    Ok(AcceptedCertificate(der))
}

fn check_name(named: &SpiffeId, expected: &Expected<'_>) -> Result<(), AcceptanceFault> {
    let right = match &named.identity {
        Identity::Device(device) => device == expected.device,
        Identity::Gateway(_) | Identity::Operator(_) | Identity::Station(_) => false,
    };
    if !right || expected.spiffe_id.is_some_and(|current| current != named) {
        return Err(AcceptanceFault::OtherName {
            named: Box::new(named.clone()),
            expected: expected.device.clone(),
        });
    }
    Ok(())
}

fn has_subject(certificate: &CertificateDer<'_>, subject: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, x509)| x509.subject().as_raw() == subject)
}

/// Why a certificate that came back is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptanceFault {
    /// It is no device certificate that this crate can read.
    #[error("{0}")]
    Unreadable(ReadError),
    /// It is for another key than the request's.
    #[error("it is for another key than this device's")]
    OtherKey,
    /// It names somebody else, or the same device in another trust domain.
    #[error("it names {named}, and not the device {expected} of this key store")]
    OtherName {
        /// Whom it names.
        named: Box<SpiffeId>,
        /// Who asked.
        expected: DeviceId,
    },
    /// Its chain does not lead to the pinned roots.
    #[error("the trusted roots do not vouch for it: {0}")]
    NotVouchedFor(ChainError),
    /// Its time has not come.
    #[error("it is valid from {} on, and this device's clock says {}; set the clock", rfc3339(*.not_before), rfc3339(*.now))]
    NotYetValid {
        /// Its first second.
        not_before: Timestamp,
        /// What the clock said.
        now: Timestamp,
    },
    /// Its time is over.
    #[error("it ended on {}, and this device's clock says {}; set the clock", rfc3339(*.not_after), rfc3339(*.now))]
    Expired {
        /// Its last second.
        not_after: Timestamp,
        /// What the clock said.
        now: Timestamp,
    },
}

#[cfg(test)]
mod tests {
    use identity::TrustDomain;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType, date_time_ymd};

    use super::*;
    use crate::test_authority::TestAuthority;

    const NOW: Timestamp = Timestamp(1_780_000_000);

    fn check(
        change: impl FnOnce(&mut CertificateParams),
        judge: impl FnOnce(&mut Expected<'_>),
        expected_result: Result<(), AcceptanceFault>,
    ) {
        let authority = TestAuthority::new();
        let key = rcgen::KeyPair::generate().expect("a key");
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let der = authority.issue(&key, "a", change);
        let device = DeviceId::parse("a").expect("legal");
        let authorities = [authority.root.clone(), authority.device_ca.clone()];
        let roots = roots_of(&authority);
        let mut expected = Expected {
            subject_public_key_info: &spki,
            device: &device,
            spiffe_id: None,
            roots: &roots,
            authorities: &authorities,
        };
        judge(&mut expected);
        let result = accept(der, &expected, NOW);
        assert_eq!(result.map(|_| ()), expected_result);
    }

    fn roots_of(authority: &TestAuthority) -> Roots {
        Roots::from_pem(authority.root_pem().as_bytes(), NOW).expect("a root")
    }

    fn spiffe(text: &str) -> SpiffeId {
        SpiffeId::parse(text).expect("legal")
    }

    fn other_name(text: &str) -> Result<(), AcceptanceFault> {
        Err(AcceptanceFault::OtherName {
            named: Box::new(spiffe(text)),
            expected: DeviceId::parse("a").expect("legal"),
        })
    }

    #[test]
    fn the_certificate_that_was_asked_for() {
        check(|_| {}, |_| {}, Ok(()));
        check(
            |_| {},
            |expected| expected.subject_public_key_info = b"another",
            Err(AcceptanceFault::OtherKey),
        );
        check(
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            |_| {},
            Err(AcceptanceFault::Unreadable(ReadError::NoClientAuth)),
        );
    }

    #[test]
    fn names() {
        let name = |text: &str| vec![SanType::URI(text.try_into().expect("ASCII"))];
        for text in [
            "spiffe://keybound.local/device/b",
            "spiffe://keybound.local/device/A",
            "spiffe://keybound.local/operator/a",
        ] {
            check(
                |params| params.subject_alt_names = name(text),
                |_| {},
                other_name(text),
            );
        }
        let current: &'static _ = Box::leak(Box::new(SpiffeId {
            trust_domain: TrustDomain::parse("elsewhere").expect("legal"),
            identity: Identity::Device(DeviceId::parse("a").expect("legal")),
        }));
        check(
            |_| {},
            |expected| expected.spiffe_id = Some(current),
            other_name("spiffe://keybound.local/device/a"),
        );
    }

    #[test]
    fn chains() {
        let refused = |error| {
            Err(AcceptanceFault::NotVouchedFor(ChainError::NotVouchedFor(
                error,
            )))
        };
        check(
            |_| {},
            |expected| expected.authorities = &[],
            refused(webpki::Error::UnknownIssuer),
        );
        let namesake: &'static _ = Box::leak(Box::new(roots_of(&TestAuthority::new())));
        check(
            |_| {},
            |expected| expected.roots = namesake,
            refused(webpki::Error::InvalidSignatureForPublicKey),
        );
    }

    #[test]
    fn validity() {
        let (past, future) = (Timestamp(1_577_836_800), Timestamp(2_208_988_800));
        check(
            |params| {
                params.not_before = date_time_ymd(2019, 1, 1);
                params.not_after = date_time_ymd(2020, 1, 1);
            },
            |_| {},
            Err(AcceptanceFault::Expired {
                not_after: past,
                now: NOW,
            }),
        );
        check(
            |params| {
                params.not_before = date_time_ymd(2040, 1, 1);
                params.not_after = date_time_ymd(2041, 1, 1);
            },
            |_| {},
            Err(AcceptanceFault::NotYetValid {
                not_before: future,
                now: NOW,
            }),
        );
    }
}
