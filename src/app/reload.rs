//! Reloading: another configuration is built whole, from the file to the last certificate, and published last. Whatever
//! is wrong anywhere leaves everything as it is (I5).
//!
//! Long, because what is waited for and what nobody may wait for stand beside each other.

use std::pin::pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ca::Authority;
use gateway::tls::{Acceptor, Prepared};
use gateway::{ForeignAnchors, Gateway, Limits, Route, Snapshot, Telemetry};
use identity::{CaCertificate, TrustDomain};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::signals::Hangups;
use super::{Trust, gateway_role};
use crate::access_log::{self, AccessLog};
use crate::config::{Collector, Config, changes, changes::Changes};
use crate::configuration::{Fault, Loaded, Source};
use crate::foreign::{self, Asked, KeptMarks, WRITTEN_WITHIN, Which};
use crate::in_force::InForce;
use crate::otlp::Spans;
use crate::server_certificate::{Renamed, Renewal};
use crate::service_manager;

/// Whoever reloads: one reload at a time, each of which sees what the one before it left.
pub(crate) struct Reloader {
    source: Arc<Source>,
    /// What is in force. Whoever holds it puts something in force in the same moment, and waits for nothing: a reload that a
    /// disk holds up holds up no list of revoked certificates.
    config: std::sync::Mutex<Arc<Config>>,
    /// Held by whoever reloads: readings of the configuration that have not ended yet, because a file system hangs.
    reloading: Mutex<Vec<Loading>>,
    trust_domain: TrustDomain,
    parts: Parts,
    in_force: Arc<InForce>,
    /// How new the lists of other CAs were that have been in force.
    marks: Arc<KeptMarks>,
    /// What URLs led to that a reload has put in force, to be kept for the next start.
    to_keep: std::sync::Mutex<Vec<(Which, Bytes)>>,
    /// What the service manager is told while the process serves.
    status: String,
}

type Loading = JoinHandle<Result<Loaded, Fault>>;

/// What a configuration is published to.
pub(super) struct Parts {
    pub(super) gateway: Option<(Arc<Gateway>, Arc<Acceptor>)>,
    /// The route to the built-in upstream, if there is one.
    pub(super) builtin: Option<Route>,
    pub(super) trust: Trust,
    pub(super) renewal: Arc<Renewal>,
    pub(super) access_log: Arc<AccessLog>,
    pub(super) spans: Arc<Spans>,
    /// No anchor of somebody else may be one of these.
    pub(super) own_cas: Vec<CaCertificate>,
}

/// Everything that a configuration comes to, built and not yet in force. What else is to be reloaded is built in
/// [`Parts::build`], or in [`Parts::gateway`] if nothing is waited for, and put in force in [`Built::publish`].
struct Built<'p> {
    gateway: Option<BuiltGateway<'p>>,
    access_log: Option<BuiltAccessLog<'p>>,
    own_certificate: Option<Renamed<'p>>,
}

struct BuiltGateway<'p> {
    gateway: &'p Gateway,
    acceptor: &'p Acceptor,
    policy: Prepared,
    snapshot: Snapshot,
    foreign: Arc<ForeignAnchors>,
    max_staleness: Duration,
    limits: Limits,
    telemetry: Telemetry,
    spans: &'p Spans,
    collector: Option<Collector>,
}

/// The access log that is to be in force.
struct BuiltAccessLog<'p> {
    access_log: &'p AccessLog,
    opened: Option<access_log::Opened>,
}

/// Why a reload changed nothing.
#[derive(Debug)]
pub(crate) struct NotReloaded {
    /// The file, or else the command.
    name: String,
    /// Each with its line, if it has one.
    pub(crate) mistakes: Vec<String>,
}

impl Reloader {
    pub(super) fn new(
        source: Source,
        loaded: Loaded,
        authority: &Authority,
        parts: Parts,
        in_force: Arc<InForce>,
        marks: Arc<KeptMarks>,
        status: String,
    ) -> Self {
        Self {
            source: Arc::new(source),
            config: std::sync::Mutex::new(Arc::new(loaded.config)),
            reloading: Mutex::default(),
            trust_domain: authority.trust_domain().clone(),
            parts,
            in_force,
            marks,
            to_keep: std::sync::Mutex::default(),
            status,
        }
    }

    /// The file that is read again, or what else mistakes are reported under.
    pub(crate) fn source_name(&self) -> String {
        self.source.name()
    }

    /// The first name of the server, for enrollment codes.
    pub(crate) fn name(&self) -> String {
        self.config().names[0].clone()
    }

    /// The same as [`Self::reload`], for somebody who waits for it: while another one hangs, that is what they are told.
    pub(crate) async fn reload_soon(&self) -> Result<Vec<String>, NotReloaded> {
        match timeout(TURN_WITHIN, self.reloading.lock()).await {
            Ok(turn) => self.reload_in_turn(turn).await,
            Err(_) => Err(NotReloaded {
                name: self.source.name(),
                mistakes: vec![format!(
                    "another reload has been under way for {} s; see /readyz, and try again when it has ended",
                    TURN_WITHIN.as_secs()
                )],
            }),
        }
    }

    /// Puts the configuration in force as it is written now, and says what that changed; or says every mistake and
    /// changes nothing. To be run to its end.
    async fn reload(&self) -> Result<Vec<String>, NotReloaded> {
        self.reload_in_turn(self.reloading.lock().await).await
    }

    async fn reload_in_turn(
        &self,
        mut unfinished: tokio::sync::MutexGuard<'_, Vec<Loading>>,
    ) -> Result<Vec<String>, NotReloaded> {
        service_manager::reloading();
        let outcome = self.replace(&mut unfinished).await;
        self.in_force.reload_ended();
        match &outcome {
            Ok(changes) => {
                tracing::info!(
                    changes = changes.join("; "),
                    "the configuration was reloaded"
                );
            }
            Err(fault) => {
                tracing::error!(target: "alarm", "{}", fault.in_one_line());
                self.in_force.not_reloaded(fault.in_one_line());
                // Whoever moved the access log's file waits for another one all the same.
                let access_log = Arc::clone(&self.parts.access_log);
                tokio::task::spawn_blocking(move || access_log.reopen());
            }
        }
        service_manager::ready(&self.status);
        outcome
    }

    async fn replace(&self, unfinished: &mut Vec<Loading>) -> Result<Vec<String>, NotReloaded> {
        let refused = |mistakes| NotReloaded {
            name: self.source.name(),
            mistakes,
        };
        let one = |mistake: String| refused(vec![mistake]);
        let before = self.config();
        let began = Instant::now();
        let mut loaded = self.load(unfinished).await.map_err(refused)?;
        // Whoever is asked for a list may take their time, as may a disk, and nobody else waits for them meanwhile.
        let own = &self.parts.own_cas;
        let asking = foreign::complete(&mut loaded.config, foreign::anchors_of(&before), own);
        let mut asked = self.tell_if_slow(A_URL, asking).await.map_err(one)?;
        self.judge(&mut loaded, &before, &self.config(), &asked)
            .map_err(refused)?;
        let building = self.parts.build(&before, &loaded.config);
        let mut built = self.tell_if_slow(A_DISK, building).await.map_err(one)?;
        // Before anybody is judged by these lists.
        self.marks.announce(foreign::anchors_of(&loaded.config));
        let written = self.marks.write(WRITTEN_WITHIN).await;

        // From here on nothing is waited for. What others have put in force since then stays.
        let mut config = self.held();
        let changes = self.judge(&mut loaded, &before, &config, &asked);
        let changes = changes.map_err(refused)?;
        if !Arc::ptr_eq(&config, &before) {
            built.gateway = self.parts.gateway(&loaded.config).map_err(one)?;
        }
        built.publish();
        self.marks.raise(foreign::anchors_of(&loaded.config));
        self.in_force.marks_written(self.marks.path(), written);
        let answers = asked
            .iter_mut()
            .filter_map(|one| Some((one.which.clone(), one.answer.take()?)));
        self.to_keep().extend(answers);
        self.in_force
            .loaded(&loaded.config, &loaded.hash, &asked, began);
        *config = Arc::new(loaded.config);
        Ok(changes.sentences)
    }

    /// Goes on from what is in force `now`, and says what differs from that. Error: every mistake. `before`: what was in force
    /// when it began to be read; `asked`: the URLs that were asked since then.
    fn judge(
        &self,
        loaded: &mut Loaded,
        before: &Config,
        now: &Config,
        asked: &[Asked],
    ) -> Result<Changes, Vec<String>> {
        let (before, in_force) = (foreign::anchors_of(before), foreign::anchors_of(now));
        foreign::follow(&mut loaded.config, before, in_force);
        self.marks
            .check(foreign::anchors_of(&loaded.config))
            .map_err(|older| {
                let unanswered = foreign::unanswered(asked, &older);
                let unanswered = unanswered.map_or_else(String::new, |fault| {
                    format!("; a URL that may have a newer one gave none: {fault}")
                });
                vec![format!("{older}{unanswered}")]
            })?;
        let changes = changes::compare(now, &loaded.config, &loaded.places, &self.trust_domain);
        if changes.beyond_reload.is_empty() {
            Ok(changes)
        } else {
            let beyond = changes.beyond_reload.iter();
            Err(beyond.map(ToString::to_string).collect())
        }
    }

    /// Waits for a step of a reload, however long it takes; an alarm says so until the reload has ended.
    async fn tell_if_slow<T>(&self, waits_for: &str, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        match timeout(SLOW, &mut step).await {
            Ok(done) => done,
            Err(_) => {
                self.in_force.reload_is_slow(waits_for, SLOW);
                step.await
            }
        }
    }

    /// What is written now. A file system that hangs holds up this reload, and nothing else. Whoever then names other files
    /// can reload, a few times; no more threads than that are left to what hangs.
    async fn load(&self, unfinished: &mut Vec<Loading>) -> Result<Loaded, Vec<String>> {
        unfinished.retain(|loading| !loading.is_finished());
        if unfinished.len() >= MOST_UNFINISHED {
            return Err(vec![format!(
                "{MOST_UNFINISHED} earlier reloads are still reading it, or a file that it names; look at its file system, or restart"
            )]);
        }
        let source = Arc::clone(&self.source);
        let mut loading = tokio::task::spawn_blocking(move || source.load());
        match timeout(READ_WITHIN, &mut loading).await {
            Ok(Ok(Ok(loaded))) => Ok(loaded),
            Ok(Ok(Err(Fault::Mistakes { mistakes, .. }))) => {
                Err(mistakes.iter().map(ToString::to_string).collect())
            }
            Ok(Ok(Err(fault @ (Fault::Unreadable { .. } | Fault::Contradiction { .. })))) => {
                Err(vec![fault.to_string()])
            }
            Ok(Err(_)) => Err(vec![
                "reading it failed; the server's log says more".to_owned(),
            ]),
            Err(_) => {
                unfinished.push(loading);
                Err(vec![format!(
                    "it could not be read within {} s",
                    READ_WITHIN.as_secs()
                )])
            }
        }
    }

    /// Reloads at every SIGHUP.
    pub(super) async fn on_hangup(&self, mut hangups: Hangups, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = hangups.next() => {}
                () = shutdown.cancelled() => return,
            }
            // What is wrong was logged, and health tells it.
            let _ = self.reload().await;
        }
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.held())
    }

    /// The configuration in force, held by whoever puts something in force: nobody else does meanwhile, so nothing may be
    /// waited for.
    pub(super) fn held(&self) -> MutexGuard<'_, Arc<Config>> {
        // It is swapped whole.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other certificates in force beside everything else that is.
    pub(super) fn publish_certificates(&self, config: &Config) -> Result<(), String> {
        Built {
            gateway: self.parts.gateway(config)?,
            access_log: None,
            own_certificate: None,
        }
        .publish();
        Ok(())
    }

    /// Puts other lists of revoked certificates in force beside everything else that is. Returns how many connections
    /// that ended.
    pub(super) fn publish_foreign(&self, config: &Config) -> Result<usize, String> {
        let anchors = foreign::gateway_anchors(foreign::anchors_of(config), &self.trust_domain)?;
        let gateway = self.parts.gateway.as_ref();
        Ok(gateway.map_or(0, |(gateway, _)| gateway.publish_foreign(anchors)))
    }

    /// Ends connections for what has ended with time.
    pub(super) fn end_those_who_fell(&self) {
        if let Some((gateway, _)) = &self.parts.gateway {
            let ended = gateway.end_those_who_fell();
            if ended > 0 {
                tracing::warn!(
                    connections_ended = ended,
                    "a list of revoked certificates or a CA has ended"
                );
            }
        }
    }

    pub(super) fn marks(&self) -> &Arc<KeptMarks> {
        &self.marks
    }

    /// What reloads have put in force and nobody has kept yet.
    pub(super) fn to_keep(&self) -> std::sync::MutexGuard<'_, Vec<(Which, Bytes)>> {
        // Every answer is whole, even after a panic.
        self.to_keep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn in_force(&self) -> &InForce {
        &self.in_force
    }
}

impl Parts {
    /// Builds everything that `new` comes to. What fails leaves nothing behind that is in force.
    async fn build(&self, old: &Config, new: &Config) -> Result<Built<'_>, String> {
        let gateway = self.gateway(new)?;
        let access_log = match (&gateway, &new.gateway) {
            (Some(_), Some(written)) => Some(BuiltAccessLog {
                access_log: &self.access_log,
                opened: gateway_role::open_access_log(written).await?,
            }),
            _ => None,
        };
        // Last, because the registry remembers every certificate.
        let own_certificate = if old.names == new.names {
            None
        } else {
            let renamed = self.renewal.rename(new.names.clone()).await;
            Some(renamed.map_err(|fault| format!("names: {fault}"))?)
        };
        Ok(Built {
            gateway,
            access_log,
            own_certificate,
        })
    }

    fn gateway(&self, config: &Config) -> Result<Option<BuiltGateway<'_>>, String> {
        let (Some((gateway, acceptor)), Some(written)) = (&self.gateway, &config.gateway) else {
            return Ok(None);
        };
        let snapshot = gateway_role::snapshot(config, written, self.builtin.as_ref())?;
        let foreign = foreign::gateway_anchors(&written.anchors, &self.trust.domain)?;
        let policy = acceptor
            .prepare(gateway_role::policy(
                written,
                &snapshot,
                &foreign,
                &self.trust,
            ))
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        Ok(Some(BuiltGateway {
            gateway,
            acceptor,
            policy,
            snapshot,
            foreign,
            limits: gateway_role::limits(written, gateway.limits()),
            max_staleness: written.max_staleness,
            telemetry: gateway_role::telemetry(config, written),
            spans: &self.spans,
            collector: gateway_role::collector(config).map(|(collector, _)| collector),
        }))
    }
}

impl Built<'_> {
    /// Puts everything in force, for every handshake and request from now on. Nothing here can fail.
    fn publish(self) {
        // A name is served before there is a route for it.
        if let Some(own) = self.own_certificate {
            own.publish();
        }
        if let Some(built) = self.access_log {
            built.access_log.publish(built.opened);
        }
        if let Some(built) = self.gateway {
            // Whoever is let in by an anchor is judged by it: so first what judges.
            built.gateway.publish_foreign(built.foreign);
            built.acceptor.publish(built.policy);
            built.gateway.adjust(built.limits, built.max_staleness);
            built.spans.publish(built.collector);
            built.gateway.observe(built.telemetry);
            built.gateway.publish(built.snapshot);
        }
    }
}

impl NotReloaded {
    /// For the log and for health.
    fn in_one_line(&self) -> String {
        format!(
            "The configuration was not reloaded and the old one stays in force. {}: {}",
            self.name,
            self.mistakes.join("; ").replace('\n', " ")
        )
    }
}

const READ_WITHIN: Duration = Duration::from_secs(10);
/// After so long a step of a reload is an alarm.
const SLOW: Duration = Duration::from_secs(30);
const A_URL: &str = "a URL that leads to a list of revoked certificates";
const A_DISK: &str = "the disk, for the access log or for a certificate with the new names, which the registry remembers";
/// How long another reload may take before whoever asks for the next one is told of it.
const TURN_WITHIN: Duration = Duration::from_secs(15);
const MOST_UNFINISHED: usize = 4;
