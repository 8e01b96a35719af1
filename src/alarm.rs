//! The alarm that somebody else may be using the CA's key.

use std::collections::HashSet;
use std::sync::Arc;

use ca::Authority;
use gateway::Record;
use identity::Fingerprint;

use crate::metrics::Metrics;

/// Looks at certificates that the CA's key signed and the gateway does not find in the registry.
pub(crate) struct Alarm {
    authority: Arc<Authority>,
    metrics: Metrics,
    /// Certificates of which was told; bounded, because whoever has the key can make any number.
    told: HashSet<Fingerprint>,
}

impl Alarm {
    pub(crate) fn new(authority: Arc<Authority>, metrics: Metrics) -> Self {
        Self {
            authority,
            metrics,
            told: HashSet::new(),
        }
    }

    /// Raises the alarm if the record is about a certificate that the registry does not know.
    pub(crate) async fn look_at(&mut self, record: &Record) {
        let Some(unregistered) = record.unregistered else {
            return;
        };
        self.metrics.unregistered.inc();
        if self.told.len() >= MAX_TOLD {
            self.told.clear();
        }
        if !self.told.insert(unregistered.certificate) {
            return;
        }
        let known_serial = match record.serial.as_ref().and_then(|serial| serial.own()) {
            Some(serial) => self.authority.certificate(serial).await,
            None => Ok(None),
        };
        let (certificate, tbs) = (unregistered.certificate, unregistered.tbs);
        let device = record.device.as_ref().map(tracing::field::display);
        match known_serial {
            // What was signed is known: a device can write its certificate's ECDSA signature in another way.
            Ok(Some(known)) if known.tbs == tbs => tracing::warn!(
                target: "alarm", %certificate, %tbs, device, address = %record.address,
                "a certificate of the registry came with its signature written in another way; it was refused"
            ),
            Ok(_) => tracing::error!(
                target: "alarm", %certificate, %tbs, device, address = %record.address,
                "a certificate bears our CA's signature and is not in the registry: the registry was lost in part, or \
                 somebody else uses the CA's key; it was refused"
            ),
            Err(error) => {
                // To be told when the registry can be read again.
                self.told.remove(&certificate);
                tracing::error!(target: "alarm", %certificate, %error, "an unregistered certificate cannot be looked up");
            }
        }
    }
}

const MAX_TOLD: usize = 1024;
