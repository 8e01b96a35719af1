//! What health says of the configuration: what is in force, and what was not taken and why (I5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway::tls::NamedCertificate;
use identity::{Fingerprint, Name, Timestamp};

use crate::config::{AnchorConfig, CertificateFiles, Config, CrlPlace};
use crate::foreign;
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
    anchors: Vec<AnchorConfig>,
    /// Lists of anchors that were not taken, and why.
    broken_lists: BTreeMap<(Name, CrlPlace), String>,
    /// What ends soon and was told already.
    told: BTreeSet<String>,
}

impl State {
    /// Certificates, CAs and lists that end soon, have ended or have not begun.
    fn ends(&self, now: Timestamp) -> impl Iterator<Item = String> {
        let certificates = self.certificates.iter();
        let certificates = certificates.filter_map(move |one| lint::expiry(one, now));
        certificates.chain(
            self.anchors
                .iter()
                .flat_map(move |one| lint::anchor(one, now)),
        )
    }
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
        state.broken_lists.clear();
        let gateway = config.gateway.as_ref();
        let certificates = gateway.map_or(&[][..], |gateway| &gateway.certificates);
        self.set_certificates(&mut state, certificates);
        self.set_anchors(&mut state, foreign::anchors_of(config));
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

    /// What is at this place is in force for an anchor; what was wrong with it is right again.
    pub(crate) fn list_replaced(&self, anchor: &Name, place: &CrlPlace, anchors: &[AnchorConfig]) {
        let mut state = self.state();
        let key = (anchor.clone(), place.clone());
        if state.broken_lists.remove(&key).is_some() {
            tracing::info!(%anchor, crl = %place, "the list of revoked certificates can be used again");
        }
        self.set_anchors(&mut state, anchors);
    }

    /// What is at this place for an anchor cannot be used; the last good list is in force.
    pub(crate) fn list_not_replaced(&self, anchor: &Name, place: &CrlPlace, fault: &str) {
        let sentence = format!(
            "The list of revoked certificates of the anchor {anchor} was not replaced and the last good one stays in force. {fault}"
        );
        self.metrics.list_refused(anchor);
        let key = (anchor.clone(), place.clone());
        // A URL that stays as it is is told of once.
        let before = self.state().broken_lists.insert(key, sentence.clone());
        if before.as_ref() != Some(&sentence) {
            tracing::error!(target: "alarm", "{sentence}");
        }
    }

    /// What is wrong, in sentences.
    pub(crate) fn alarms(&self, now: Timestamp) -> Vec<String> {
        let state = self.state();
        let not_reloaded = state.not_reloaded.iter().cloned();
        let broken = state.broken.values().cloned();
        let broken_lists = state.broken_lists.values().cloned();
        not_reloaded
            .chain(broken)
            .chain(broken_lists)
            .chain(state.ends(now))
            .collect()
    }

    /// Writes to the log what ends soon or has ended, once each.
    pub(crate) fn tell_what_ends(&self, now: Timestamp) {
        let mut state = self.state();
        let ends: BTreeSet<String> = state.ends(now).collect();
        for sentence in ends.difference(&state.told) {
            tracing::warn!(target: "alarm", "{sentence}");
        }
        state.told = ends;
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

    fn set_anchors(&self, state: &mut State, anchors: &[AnchorConfig]) {
        state.anchors = anchors.to_vec();
        self.metrics.anchors(anchors);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole when the lock is released, even by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
