//! What health says of the configuration: what is in force, and what was not taken and why (I5).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway::tls::NamedCertificate;
use identity::{Fingerprint, Timestamp};

use crate::config::{CertificateFiles, Config};
use crate::metrics::Metrics;
use crate::{clock, lint};

/// Told by whoever loads configurations, asked by whoever watches the process.
pub(crate) struct InForce {
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Why the last reload changed nothing, if it did not.
    not_reloaded: Option<String>,
    certificates: Vec<NamedCertificate>,
    /// Certificate files that changed and cannot serve, and why.
    broken: BTreeMap<PathBuf, String>,
}

impl InForce {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            state: Mutex::default(),
        }
    }

    /// This configuration is in force, as its files are now.
    pub(crate) fn loaded(&self, config: &Config, hash: &Fingerprint) {
        self.metrics.config_loaded(hash, clock::now());
        let mut state = self.state();
        state.not_reloaded = None;
        state.broken.clear();
        let gateway = config.gateway.as_ref();
        let certificates = gateway.map_or(&[][..], |gateway| &gateway.certificates);
        self.set_certificates(&mut state, certificates);
    }

    /// A reload changed nothing.
    pub(crate) fn not_reloaded(&self, sentence: String) {
        self.metrics.reload_failures.inc();
        self.state().not_reloaded = Some(sentence);
    }

    /// These certificates are in force; what was wrong with the files of one of them is right again.
    pub(crate) fn certificate_replaced(&self, file: &Path, certificates: &[CertificateFiles]) {
        let mut state = self.state();
        state.broken.remove(file);
        self.set_certificates(&mut state, certificates);
    }

    /// The files of a certificate have changed and cannot serve; the old one is in force.
    pub(crate) fn certificate_not_replaced(&self, file: &Path, sentence: String) {
        self.metrics.reload_failures.inc();
        self.state().broken.insert(file.to_owned(), sentence);
    }

    /// What is wrong, in sentences.
    pub(crate) fn alarms(&self, now: Timestamp) -> Vec<String> {
        let state = self.state();
        let expiries = state
            .certificates
            .iter()
            .filter_map(|certificate| lint::expiry(certificate, now));
        let not_reloaded = state.not_reloaded.iter().cloned();
        let broken = state.broken.values().cloned();
        not_reloaded.chain(broken).chain(expiries).collect()
    }

    fn set_certificates(&self, state: &mut State, certificates: &[CertificateFiles]) {
        state.certificates = certificates
            .iter()
            .map(|files| files.read.clone())
            .collect();
        let ends = state.certificates.iter().map(|certificate| {
            let name = certificate.names.first().map_or("", String::as_str);
            (name, certificate.validity.not_after)
        });
        self.metrics.certificates_of_files(ends);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole when the lock is released, even by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
