//! What health says of the configuration: what is in force, and what was not taken and why (I5).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gateway::tls::NamedCertificate;
use identity::certificate::Validity;
use identity::{Fingerprint, Timestamp};

use crate::config::{AnchorConfig, CertificateFiles, Config, CrlPlace};
use crate::foreign::{self, Asked, Which};
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
    /// That a reload takes long, while it does.
    reload_is_slow: Option<String>,
    certificates: Vec<NamedCertificate>,
    /// When the certificates are valid that upstreams are shown, by their names.
    shown: BTreeMap<String, Validity>,
    /// Certificate files that changed and cannot serve, and why.
    broken: BTreeMap<PathBuf, Fault>,
    anchors: Vec<AnchorConfig>,
    /// Lists of anchors that were not taken, and why.
    broken_lists: BTreeMap<Which, Fault>,
    /// Lists from URLs that could not be kept for the next start, and why.
    not_kept: BTreeMap<Which, String>,
    /// Why it is not written how new the lists in force are, if it is not.
    marks_not_written: Option<String>,
    /// What ends soon and was told already.
    told: BTreeSet<String>,
}

/// What is wrong with a file or a URL.
struct Fault {
    sentence: String,
    /// When it was seen last.
    seen: Instant,
}

impl Fault {
    fn now(sentence: &str) -> Self {
        Self {
            sentence: sentence.to_owned(),
            seen: Instant::now(),
        }
    }
}

impl State {
    /// Certificates, CAs and lists that end soon, have ended or have not begun.
    fn ends(&self, now: Timestamp) -> impl Iterator<Item = String> {
        let certificates = self.certificates.iter();
        let certificates = certificates.filter_map(move |one| lint::expiry(one, now));
        let upstreams = (self.shown.iter())
            .filter_map(move |(name, validity)| lint::upstream(name, *validity, now));
        certificates.chain(upstreams).chain(
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

    /// This configuration is in force, as its files were when they began to be `read`, and as the URLs are that were asked for
    /// it.
    pub(crate) fn loaded(
        &self,
        config: &Config,
        hash: &Fingerprint,
        asked: &[Asked],
        read: Instant,
    ) {
        self.metrics.config_loaded(hash, clock::now());
        let mut state = self.state();
        state.not_reloaded = None;
        let gateway = config.gateway.as_ref();
        let certificates = gateway.map_or(&[][..], |gateway| &gateway.certificates);
        // Every file was read; what was seen to be wrong with one since then is still wrong.
        state.broken.retain(|file, fault| {
            fault.seen >= read && certificates.iter().any(|one| one.certificate == *file)
        });
        let is_there = |(name, place): &Which| {
            let mut anchors = foreign::anchors_of(config).iter();
            let source = anchors
                .find(|anchor| anchor.name == *name)
                .and_then(|anchor| anchor.source(place));
            source.is_some()
        };
        // What is wrong with a URL that was not asked is as wrong as it was.
        let was_not_asked = |which: &Which| asked.iter().all(|one| one.which != *which);
        state.broken_lists.retain(|which, fault| {
            let is_url = matches!(which.1, CrlPlace::Url(_));
            let stays = if is_url {
                was_not_asked(which)
            } else {
                fault.seen >= read
            };
            stays && is_there(which)
        });
        state
            .not_kept
            .retain(|which, _| is_there(which) && was_not_asked(which));
        self.set_certificates(&mut state, certificates);
        state.shown = gateway.map_or_else(BTreeMap::new, |gateway| lint::shown(&gateway.routes));
        self.set_anchors(&mut state, foreign::anchors_of(config));
        drop(state);
        for one in asked {
            if let Some(fault) = &one.fault {
                self.list_not_replaced(&one.which, fault, false);
            }
            if let Some(error) = &one.not_kept {
                self.list_not_kept(&one.which, error);
            }
        }
    }

    /// A reload changed nothing.
    pub(crate) fn not_reloaded(&self, sentence: String) {
        self.metrics.reload_failures.inc();
        self.state().not_reloaded = Some(sentence);
    }

    /// A reload has waited for something for so long.
    pub(crate) fn reload_is_slow(&self, waits_for: &str, since: Duration) {
        let sentence = format!(
            "A reload has waited {} s for {waits_for}, and has not ended; the configuration before it is in force.",
            since.as_secs()
        );
        tracing::error!(target: "alarm", "{sentence}");
        self.state().reload_is_slow = Some(sentence);
    }

    /// A reload has ended, in whichever way.
    pub(crate) fn reload_ended(&self) {
        self.state().reload_is_slow = None;
    }

    /// These certificates are in force; what was wrong with the files of one of them is right again.
    pub(crate) fn certificate_replaced(&self, file: &Path, certificates: &[CertificateFiles]) {
        let mut state = self.state();
        state.broken.remove(file);
        self.set_certificates(&mut state, certificates);
    }

    /// The files of a certificate are again those that have been in force all the time.
    pub(crate) fn certificate_is_as_in_force(&self, file: &Path) {
        if self.state().broken.remove(file).is_some() {
            tracing::info!(file = %file.display(), "the files of a server certificate can be used again");
        }
    }

    /// The files of a certificate have changed and cannot serve; the old one is in force. Files that are as they were are
    /// counted once, however often they are tried.
    pub(crate) fn certificate_not_replaced(
        &self,
        file: &Path,
        fault: &str,
        are_as_they_were: bool,
    ) {
        let sentence = format!(
            "A server certificate was not replaced and the old one stays in force. {fault}"
        );
        let before = self
            .state()
            .broken
            .insert(file.to_owned(), Fault::now(&sentence));
        let is_known = before.is_some_and(|before| before.sentence == sentence);
        if !(are_as_they_were && is_known) {
            self.metrics.reload_failures.inc();
        }
        if !is_known {
            tracing::error!(target: "alarm", "{sentence}");
        }
    }

    /// What is at this place is in force for an anchor; what was wrong with it is right again.
    pub(crate) fn list_replaced(&self, which: &Which, anchors: &[AnchorConfig]) {
        self.list_is_as_in_force(which);
        let mut state = self.state();
        self.set_anchors(&mut state, anchors);
    }

    /// At this place is again what has been in force for an anchor all the time.
    pub(crate) fn list_is_as_in_force(&self, which: &Which) {
        if self.state().broken_lists.remove(which).is_some() {
            let (anchor, place) = which;
            tracing::info!(%anchor, crl = %place, "the list of revoked certificates can be used again");
        }
    }

    /// What is at this place for an anchor cannot be used; the last good list is in force. A file that is as it was is
    /// counted once, however often it is tried.
    pub(crate) fn list_not_replaced(&self, which: &Which, fault: &str, is_as_it_was: bool) {
        let (anchor, _) = which;
        let sentence = format!(
            "The list of revoked certificates of the anchor {anchor} was not replaced and the last good one stays in force. {fault}"
        );
        let mut state = self.state();
        let before = (state.broken_lists).insert(which.clone(), Fault::now(&sentence));
        let is_known = before.is_some_and(|before| before.sentence == sentence);
        if !(is_as_it_was && is_known) {
            self.metrics.list_refused(anchor);
        }
        // A URL that stays as it is is told of once.
        if !is_known {
            tracing::error!(target: "alarm", "{sentence}");
        }
    }

    /// What this URL led to is kept for the next start.
    pub(crate) fn list_kept(&self, which: &Which) {
        if self.state().not_kept.remove(which).is_some() {
            let (anchor, place) = which;
            tracing::info!(%anchor, crl = %place, "the list of revoked certificates is kept again");
        }
    }

    /// What this URL led to could not be kept for the next start.
    pub(crate) fn list_not_kept(&self, which: &Which, error: &io::Error) {
        let (anchor, place) = which;
        let sentence = format!(
            "The list of revoked certificates of the anchor {anchor} that is behind {place} cannot be kept for the next start, which has to ask for it: {error}."
        );
        let before = self
            .state()
            .not_kept
            .insert(which.clone(), sentence.clone());
        if before.as_ref() != Some(&sentence) {
            tracing::error!(target: "alarm", "{sentence}");
        }
    }

    /// Whether what this URL led to could not be kept.
    pub(crate) fn is_not_kept(&self, which: &Which) -> bool {
        self.state().not_kept.contains_key(which)
    }

    /// It is written how new the lists in force are, or why it is not.
    pub(crate) fn marks_written(&self, path: &Path, written: io::Result<()>) {
        let sentence = written.err().map(|error| {
            format!(
                "How new the lists of revoked certificates are that are in force cannot be written to {}, so that a restart might take older ones: {error}.",
                path.display()
            )
        });
        let mut state = self.state();
        if let Some(sentence) = &sentence
            && state.marks_not_written.as_ref() != Some(sentence)
        {
            tracing::error!(target: "alarm", "{sentence}");
        }
        state.marks_not_written = sentence;
    }

    /// What is wrong, in sentences.
    pub(crate) fn alarms(&self, now: Timestamp) -> Vec<String> {
        let state = self.state();
        let not_reloaded = state.not_reloaded.iter().cloned();
        let broken = state.broken.values().map(|fault| fault.sentence.clone());
        let broken_lists = (state.broken_lists.values()).map(|fault| fault.sentence.clone());
        not_reloaded
            .chain(state.reload_is_slow.clone())
            .chain(broken)
            .chain(broken_lists)
            .chain(state.not_kept.values().cloned())
            .chain(state.marks_not_written.clone())
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

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::config::file::ConfigFile;
    use crate::config::{Purpose, check};
    use crate::files;

    #[test]
    fn a_reload_ends_the_alarms_of_what_it_read_and_no_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        let mut source = String::from("[ca]\n[gateway]\nroute = [{ upstream = 'http://b' }]\n");
        for name in ["old", "new"] {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("made");
            std::fs::write(file(name), made.cert.pem()).expect("written");
            let key = file(&format!("{name}.key"));
            let content = made.signing_key.serialize_pem();
            files::replace(&key, content.as_bytes(), 0o600).expect("written");
            source += &format!(
                "[[gateway.certificate]]\ncertificate = '{}'\nkey = '{}'\n",
                file(name).display(),
                key.display()
            );
        }
        let (parsed, mistakes) = ConfigFile::parse(&source);
        let config = check(parsed, Purpose::Serve, None, mistakes).expect("no mistakes");
        let in_force = InForce::new(Metrics::register(&mut Registry::default()));
        in_force.certificate_not_replaced(&file("old"), "It is damaged (old).", false);
        let read = Instant::now();
        in_force.certificate_not_replaced(&file("new"), "It is damaged (new).", false);
        in_force.certificate_not_replaced(&file("none"), "It is damaged (none).", false);
        in_force.loaded(&config, &Fingerprint::of(b""), &[], read);
        let alarms = in_force.alarms(clock::now()).join("\n");
        assert!(alarms.contains("(new)"), "{alarms}");
        assert!(
            !alarms.contains("(old)") && !alarms.contains("(none)"),
            "{alarms}"
        );
    }
}
