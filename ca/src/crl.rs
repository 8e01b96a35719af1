//! The certificate revocation list (RFC 5280, section 5), for whoever checks device certificates elsewhere.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use identity::Timestamp;
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;

use crate::authority::Authority;
use crate::clock;
use crate::pure::crl_pace::{RESIGN_EVERY, VALID_FOR, pause_after};
use crate::pure::draft::date;
use crate::pure::journal::Actor;
use crate::registry::{CrlNumber, Operation, Outcome, Unavailable, Withdrawn};

/// A CRL as signed.
#[derive(Debug)]
pub struct SignedCrl {
    /// The list in DER; empty before the first was signed.
    pub der: Vec<u8>,
    /// Its CRL number: each list has a greater one than the list before, across restarts.
    pub number: u64,
    /// When it was made; never earlier than the list before.
    pub this_update: Timestamp,
    /// Until when it is to be believed.
    pub next_update: Timestamp,
    /// How many certificates it names.
    pub entries: usize,
}

impl SignedCrl {
    pub(crate) const NONE_YET: Self = Self {
        der: Vec::new(),
        number: 0,
        this_update: Timestamp(0),
        next_update: Timestamp(0),
        entries: 0,
    };

    /// The list in PEM.
    pub fn pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new("X509 CRL", self.der.clone()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }
}

impl Authority {
    /// Signs the CRL now, then hourly and after withdrawals, until `shutdown` completes.
    ///
    /// A failure leaves the previous list in force and is tried again.
    pub async fn publish(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut head = self.registry.subscribe();
        loop {
            head.mark_unchanged();
            let started = Instant::now();
            match self.sign_crl().await {
                Ok(crl) => {
                    *self.crl.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(crl);
                }
                Err(error) => tracing::error!(%error, "the CRL cannot be signed"),
            }
            let pause = pause_after(started.elapsed());
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(pause) => {}
            }
            let again = tokio::time::sleep(RESIGN_EVERY.saturating_sub(pause));
            let mut again = pin!(again);
            loop {
                tokio::select! {
                    () = &mut shutdown => return,
                    () = &mut again => break,
                    changed = head.changed() => {
                        if changed.is_err() { return; }
                        if self.withdrawals_differ().await { break; }
                        // What was issued or used changes no CRL; look again when a group was committed.
                        tokio::select! {
                            () = &mut shutdown => return,
                            () = tokio::time::sleep(pause) => {}
                        }
                    }
                }
            }
        }
    }

    /// Whether the list in force names another set of certificates than the registry.
    async fn withdrawals_differ(&self) -> bool {
        let entries = self.crl().entries;
        let since = self.crl().this_update;
        match self.registry.withdrawn(clock::now()).await {
            Ok(withdrawn) => {
                withdrawn.len() != entries || withdrawn.iter().any(|entry| entry.since >= since)
            }
            Err(Unavailable) => true,
        }
    }

    async fn sign_crl(&self) -> Result<SignedCrl, CrlError> {
        let outcome = self.submit_one(Actor::System, Operation::StartCrl).await?;
        let Ok(Outcome::Crl(start)) = outcome else {
            return Err(CrlError::Unavailable(Unavailable));
        };
        // Read after the number was drawn, so that a greater number never means an older list.
        let withdrawn = self.registry.withdrawn(clock::now()).await?;
        let entries = withdrawn.len();
        let params = list(&withdrawn, start, self.device_ca().der())?;
        let der = self.keys.device.sign_crl(&params)?;
        Ok(SignedCrl {
            der,
            number: start.number,
            this_update: start.this_update,
            next_update: start.this_update.plus(VALID_FOR),
            entries,
        })
    }
}

/// The list before it is signed.
pub(crate) fn list(
    withdrawn: &[Withdrawn],
    start: CrlNumber,
    issuer: &CertificateDer<'_>,
) -> Result<CertificateRevocationListParams, CrlError> {
    let revoked_certs = withdrawn
        .iter()
        .map(|entry| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(entry.serial.as_bytes()),
                revocation_time: date(entry.since).map_err(|_| CrlError::Date)?,
                reason_code: entry.on_hold.then_some(RevocationReason::CertificateHold),
                invalidity_date: None,
            })
        })
        .collect::<Result<_, CrlError>>()?;
    Ok(CertificateRevocationListParams {
        this_update: date(start.this_update).map_err(|_| CrlError::Date)?,
        next_update: date(start.this_update.plus(VALID_FOR)).map_err(|_| CrlError::Date)?,
        crl_number: SerialNumber::from_slice(&start.number.to_be_bytes()),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: key_identifier(issuer),
    })
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CrlError {
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
    #[error("{0}")]
    Sign(#[from] rcgen::Error),
    #[error("a date is out of range; check the system's clock")]
    Date,
}

/// The issuer's own key identifier, so that AKI and SKI are the same bytes.
fn key_identifier(issuer: &CertificateDer<'_>) -> KeyIdMethod {
    let identifier = x509_parser::parse_x509_certificate(issuer)
        .ok()
        .and_then(|(_, x509)| {
            x509.iter_extensions().find_map(|extension| {
                if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
                    Some(id.0.to_vec())
                } else {
                    None
                }
            })
        });
    identifier.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}
