//! The roots that a device trusts: pinned at enrollment, by fingerprint or as a file, and kept in its key
//! store. The system's roots are never asked.

use std::sync::Arc;

use identity::chain::{AnchorError, Anchors};
use identity::{Fingerprint, Timestamp};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Trusted root certificates. Never empty; each is a CA certificate, unexpired when it was taken.
#[derive(Clone, Debug)]
pub struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Anchors,
    tls: Arc<RootCertStore>,
}

impl Roots {
    /// Takes a PEM text of one or more certificates.
    ///
    /// webpki looks at no anchor's own validity, so an expired root is refused here.
    pub fn from_pem(pem: &[u8], now: Timestamp) -> Result<Self, RootsError> {
        if pem.len() > MAX_PEM_LENGTH {
            return Err(RootsError::TooLarge);
        }
        let certificates = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| RootsError::NotPem)?;
        Self::new(certificates, now)
    }

    /// The root with this fingerprint among `certificates`, alone: nothing else of them is believed.
    pub(crate) fn pinned(
        certificates: &[CertificateDer<'static>],
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Result<Self, RootsError> {
        let root = certificates
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == fingerprint)
            .ok_or(RootsError::NoneMatches)?;
        let (_, parsed) = X509Certificate::from_der(root).map_err(|_| RootsError::NotDer)?;
        if parsed.subject().as_raw() != parsed.issuer().as_raw() {
            return Err(RootsError::NotSelfSigned);
        }
        Self::new(vec![root.clone()], now)
    }

    fn new(certificates: Vec<CertificateDer<'static>>, now: Timestamp) -> Result<Self, RootsError> {
        if certificates.is_empty() {
            return Err(RootsError::None);
        }
        let mut tls = RootCertStore::empty();
        for certificate in &certificates {
            check(certificate, now)?;
            tls.add(certificate.clone())
                .map_err(|_| RootsError::NotDer)?;
        }
        Ok(Self {
            anchors: Anchors::new(&certificates).map_err(RootsError::Anchor)?,
            tls: Arc::new(tls),
            certificates,
        })
    }

    /// The certificates in PEM, as curl's `--cacert` takes them.
    pub fn to_pem(&self) -> String {
        let sections: Vec<_> = self
            .certificates
            .iter()
            .map(|der| pem::Pem::new("CERTIFICATE", der.as_ref()))
            .collect();
        pem::encode_many_config(
            &sections,
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }

    /// SHA-256 of each root.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.certificates
            .iter()
            .map(|certificate| Fingerprint::of(certificate))
            .collect()
    }

    /// Whether `certificate` is one of the roots.
    pub(crate) fn contain(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|root| root == certificate)
    }

    /// Whether both trust the same roots, in whatever order.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.certificates.len() == other.certificates.len()
            && self.certificates.iter().all(|root| other.contain(root))
    }

    /// For the chain of device certificates.
    pub(crate) fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// For the chain of TLS servers.
    pub(crate) fn for_tls(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.tls)
    }
}

fn check(certificate: &CertificateDer<'_>, now: Timestamp) -> Result<(), RootsError> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| RootsError::NotDer)?;
    if !rest.is_empty() {
        return Err(RootsError::NotDer);
    }
    let is_ca = matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    if !is_ca {
        return Err(RootsError::NotCa);
    }
    let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    if now > Timestamp(not_after) {
        return Err(RootsError::Expired {
            not_after: Timestamp(not_after),
        });
    }
    Ok(())
}

/// Why certificates cannot be trusted as roots.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// No certificate at all.
    #[error("it has no certificate")]
    None,
    /// Longer than any list of roots.
    #[error("it has more than {MAX_PEM_LENGTH} bytes")]
    TooLarge,
    /// Not PEM.
    #[error("it is not PEM (-----BEGIN CERTIFICATE-----)")]
    NotPem,
    /// A certificate that cannot be read.
    #[error("a certificate in it cannot be read")]
    NotDer,
    /// A certificate that is not a CA's.
    #[error("a certificate in it is not a CA certificate")]
    NotCa,
    /// The certificate with the right fingerprint is not a root.
    #[error("the certificate with the expected fingerprint is not self-signed")]
    NotSelfSigned,
    /// No certificate has the expected fingerprint.
    #[error("no certificate has the expected fingerprint")]
    NoneMatches,
    /// A root whose time is over.
    #[error("a root certificate expired on {}; check this device's clock, or ask the operator for the new root", crate::clock::rfc3339(*.not_after))]
    Expired {
        /// Its last second.
        not_after: Timestamp,
    },
    /// A certificate that cannot be an anchor.
    #[error("{0}")]
    Anchor(AnchorError),
}

pub(crate) const MAX_PEM_LENGTH: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    const NOW: Timestamp = Timestamp(1_780_000_000);

    fn certificate(is_ca: IsCa, until: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = is_ca;
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a root").der().clone()
    }

    fn ca(until: i32) -> CertificateDer<'static> {
        certificate(IsCa::Ca(BasicConstraints::Unconstrained), until)
    }

    #[test]
    fn only_the_root_with_the_fingerprint_is_taken() {
        let (ours, theirs) = (ca(2040), ca(2040));
        let bag = [theirs.clone(), ours.clone()];
        let roots = Roots::pinned(&bag, Fingerprint::of(&ours), NOW).expect("ours is there");
        assert_eq!(roots.fingerprints(), [Fingerprint::of(&ours)]);
        let read = Roots::from_pem(roots.to_pem().as_bytes(), NOW).expect("what was printed");
        assert!(read.same_as(&roots));
        let missing = Roots::pinned(&[theirs], Fingerprint::of(&ours), NOW);
        assert_eq!(missing.map(|_| ()), Err(RootsError::NoneMatches));
    }

    #[test]
    fn what_is_no_root() {
        let check = |pem: &str, expected| {
            assert_eq!(
                Roots::from_pem(pem.as_bytes(), NOW).map(|_| ()),
                Err(expected)
            );
        };
        let pem =
            |der: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref()));
        check("", RootsError::None);
        check("-----BEGIN CERTIFICATE-----\n!\n", RootsError::NotPem);
        check(&pem(&CertificateDer::from(vec![0])), RootsError::NotDer);
        check(&pem(&certificate(IsCa::NoCa, 2040)), RootsError::NotCa);
        let expired = RootsError::Expired {
            not_after: Timestamp(946_684_800),
        };
        check(&pem(&ca(2000)), expired);
        check(&"x".repeat(MAX_PEM_LENGTH + 1), RootsError::TooLarge);
    }
}
