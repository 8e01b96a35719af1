//! Pretending to be a device, to learn who believes it: forged identity headers, sent to an upstream through the gateway and
//! around it.
//! Long, because what is sent, what is believed of it and what is told are one examination.

mod door;
mod forgery;
mod judgement;
mod spelling;
mod stranger;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::rand;
use gateway::UpstreamAddress;
use http::{HeaderName, HeaderValue};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs as provider;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::config::pem_files;
pub(crate) use door::Http;
use door::{Door, Silence};
use forgery::Impostor;
pub(crate) use judgement::Effect;
use judgement::Heard;
pub(crate) use spelling::Spelling;

/// What is asked for, and as whom.
pub(crate) struct Question {
    /// A path and perhaps a query.
    pub(crate) path: String,
    /// The host that is asked for.
    pub(crate) host: String,
    /// A device id to pretend; without one, each request invents one.
    pub(crate) device: Option<String>,
}

/// How the gateway is reached: with a device's certificate and key, and the roots of the gateway.
pub(crate) struct Credentials {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) roots: PathBuf,
}

/// Why a door was not tried, or not to the end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The sentence says which file and why.
    #[error("{0}")]
    File(String),
    /// Certificate, key or roots cannot be used for TLS.
    #[error("TLS cannot be configured: {0}")]
    Tls(rustls::Error),
    /// The host is none.
    #[error("{0:?} cannot be asked for as a host")]
    Host(String),
    /// No certificate could be made up.
    #[error("no certificate can be made up: {0}")]
    Certificate(rcgen::Error),
    /// The system has no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// Nobody answers.
    #[error("{url}, over {http}: {reason}")]
    Silent {
        /// Who was asked.
        url: String,
        /// In which version of HTTP.
        http: &'static str,
        /// Why there is no answer.
        reason: String,
    },
    /// It speaks another version of HTTP.
    #[error("{url}: it does not speak {http}")]
    NotSpoken {
        /// Who was asked.
        url: String,
        /// The version.
        http: &'static str,
    },
    /// The gateway refuses the request for another reason than its headers.
    #[error("{url}: the gateway refuses the request with {code}")]
    Refused {
        /// Who was asked.
        url: String,
        /// The gateway's code.
        code: String,
    },
}

/// What was found at doors, and why some were not tried, or not to the end: neither hides the other.
#[derive(Default)]
pub(crate) struct Examined {
    pub(crate) findings: Vec<Finding>,
    pub(crate) faults: Vec<Fault>,
}

impl Examined {
    pub(crate) fn add(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.faults.extend(other.faults);
    }
}

/// What was found at one door.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// Which of the two.
    pub(crate) door: Which,
    /// Who was asked.
    pub(crate) url: String,
    /// In which version of HTTP.
    pub(crate) http: Http,
    /// Why strangers get no answer at all, if they do not.
    pub(crate) closed: Option<String>,
    /// The status without a forged header.
    pub(crate) status: Option<u16>,
    /// Whether answers are the same from one request to the next, so that their bodies were compared.
    pub(crate) steady: bool,
    /// What came of each forgery that was answered.
    pub(crate) trials: Vec<Trial>,
}

/// Through the gateway, or around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Which {
    /// With a device's certificate.
    Gateway,
    /// Without any.
    Upstream,
}

/// What came of one forgery.
#[derive(Debug, Serialize)]
pub(crate) struct Trial {
    /// The header in the gateway's list, or the dialect whose headers were sent together.
    pub(crate) header: String,
    /// How it was spelled.
    pub(crate) spelling: Spelling,
    /// The names that were sent.
    pub(crate) sent: Vec<String>,
    /// The status of the answer.
    pub(crate) status: u16,
    /// What came of it.
    pub(crate) effect: Effect,
    /// Whether somebody believes what it says.
    pub(crate) believed: bool,
}

/// Through the gateway at `address`, as the device of `credentials`; a finding for each version of HTTP.
pub(crate) async fn through(
    address: &UpstreamAddress,
    question: &Question,
    credentials: &Credentials,
) -> Examined {
    let config = match device_tls(credentials) {
        Ok(config) => config,
        Err(fault) => {
            return Examined {
                faults: vec![fault],
                ..Examined::default()
            };
        }
    };
    let door = |http: Http| {
        let mut config = config.clone();
        config.alpn_protocols = vec![http.alpn().to_vec()];
        door(
            address,
            http,
            question,
            Some(Arc::new(config)),
            Arc::default(),
        )
    };
    examine_each(Which::Gateway, address, door, question).await
}

/// Around the gateway, to the upstream at `address`, as a stranger; the same.
pub(crate) async fn around(address: &UpstreamAddress, question: &Question) -> Examined {
    let door = |http| {
        let asked = Arc::new(AtomicBool::new(false));
        let tls = match address.is_tls() {
            true => Some(stranger::tls(http, &asked).map_err(Fault::Tls)?),
            false => None,
        };
        door(address, http, question, tls, asked)
    };
    examine_each(Which::Upstream, address, door, question).await
}

fn door(
    address: &UpstreamAddress,
    http: Http,
    question: &Question,
    tls: Option<Arc<ClientConfig>>,
    wants_certificate: Arc<AtomicBool>,
) -> Result<Door, Fault> {
    Ok(Door {
        address: address.clone(),
        http,
        path: question.path.clone(),
        host: HeaderValue::from_str(&question.host)
            .map_err(|_| Fault::Host(question.host.clone()))?,
        tls,
        wants_certificate,
    })
}

fn device_tls(credentials: &Credentials) -> Result<ClientConfig, Fault> {
    let mut roots = RootCertStore::empty();
    for root in pem_files::certificates(&credentials.roots).map_err(Fault::File)? {
        roots.add(root).map_err(Fault::Tls)?;
    }
    let chain = pem_files::certificates(&credentials.certificate).map_err(Fault::File)?;
    let key = pem_files::private_key(&credentials.key).map_err(Fault::File)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Fault::Tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(Fault::Tls)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Examines a door for each version of HTTP that is spoken there. That one is not is a fault only if none is.
async fn examine_each(
    which: Which,
    address: &UpstreamAddress,
    door: impl Fn(Http) -> Result<Door, Fault>,
    question: &Question,
) -> Examined {
    let mut examined = Examined::default();
    let mut not_spoken = None;
    for http in Http::of(address) {
        let tried = match door(*http) {
            Ok(door) => examine(which, door, question, &mut examined.findings).await,
            Err(fault) => Err(fault),
        };
        match tried {
            Ok(()) => {}
            Err(fault @ Fault::NotSpoken { .. }) => not_spoken = Some(fault),
            Err(fault) => examined.faults.push(fault),
        }
    }
    if examined.findings.is_empty() && examined.faults.is_empty() {
        examined.faults.extend(not_spoken);
    }
    examined
}

/// Asks without forgery, and then with each. What was found before something failed is among the findings, too.
async fn examine(
    which: Which,
    door: Door,
    question: &Question,
    findings: &mut Vec<Finding>,
) -> Result<(), Fault> {
    let mut finding = Finding {
        door: which,
        url: format!("{}{}", door.address, door.path),
        http: door.http,
        closed: None,
        status: None,
        steady: true,
        trials: Vec::new(),
    };
    let url = finding.url.clone();
    let http = door.http.words();
    let failed = |silence: Silence| {
        let url = url.clone();
        if let Silence::OtherVersion(http) = silence {
            let http = http.words();
            return Fault::NotSpoken { url, http };
        }
        let reason = silence.to_string();
        Fault::Silent { url, http, reason }
    };
    let without = match ask(&door, &[]).await {
        Ok(heard) => passed(heard, &url)?,
        Err(silence) if silence.is_deliberate() => {
            finding.closed = Some(silence.to_string());
            findings.push(finding);
            return Ok(());
        }
        Err(silence) => return Err(failed(silence)),
    };
    finding.status = Some(without.status);
    let door = Arc::new(door);
    let answers = answers(&door, forgeries(question)?).await;
    // Bodies that differ without a forgery prove nothing; it is known now, after everything else was asked.
    let again = ask(&door, &[]).await.map_err(failed);
    finding.steady = again
        .as_ref()
        .is_ok_and(|again| again.body == without.body && again.status == without.status);
    let mut outcome = again.map(|_| ());
    for (forgery, answer) in answers {
        let heard = match answer.map_err(failed).and_then(|heard| passed(heard, &url)) {
            Ok(heard) => heard,
            Err(fault) => {
                outcome = outcome.and(Err(fault));
                continue;
            }
        };
        let effect = judgement::judge(&heard, &without, &forgery.traces, finding.steady);
        finding.trials.push(Trial {
            believed: judgement::believed(effect, forgery.circumstance, &heard, &without),
            header: forgery.header,
            spelling: forgery.spelling,
            sent: forgery.sent,
            status: heard.status,
            effect,
        });
    }
    findings.push(finding);
    outcome
}

/// An answer, unless it is the gateway's, and about something else than headers.
fn passed(heard: Heard, url: &str) -> Result<Heard, Fault> {
    match &heard.refusal {
        Some(code) if !REFUSED_FOR_HEADERS.contains(&code.as_str()) => Err(Fault::Refused {
            url: url.to_owned(),
            code: code.clone(),
        }),
        Some(_) | None => Ok(heard),
    }
}

/// Asks with every forgery, a few at a time; the answers in the order of the forgeries. When many have failed, the rest is not
/// asked.
async fn answers(
    door: &Arc<Door>,
    forgeries: Vec<Forgery>,
) -> Vec<(Forgery, Result<Heard, Silence>)> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let failures = Arc::new(AtomicUsize::new(0));
    let asked: Vec<_> = forgeries
        .into_iter()
        .map(|forgery| {
            let (door, places, failures) =
                (Arc::clone(door), Arc::clone(&places), Arc::clone(&failures));
            tokio::spawn(async move {
                let _place = places.acquire().await;
                if failures.load(Ordering::Relaxed) >= MOST_FAILURES {
                    return None;
                }
                let heard = ask(&door, &forgery.fields).await;
                if heard.is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                Some((forgery, heard))
            })
        })
        .collect();
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers.extend(answer.await.ok().flatten());
    }
    answers
}

/// One request's worth of pretence.
struct Forgery {
    header: String,
    circumstance: bool,
    spelling: Spelling,
    sent: Vec<String>,
    fields: Vec<(HeaderName, HeaderValue)>,
    traces: Vec<String>,
}

/// Every header alone, then those that belong together, in each spelling.
fn forgeries(question: &Question) -> Result<Vec<Forgery>, Fault> {
    let alone = forgery::names()
        .into_iter()
        .map(|name| (name.to_owned(), vec![name]));
    let together = forgery::DIALECTS
        .iter()
        .map(|(dialect, names)| (format!("{dialect}, together"), names.to_vec()));
    let mut forgeries = Vec::new();
    for (header, names) in alone.chain(together) {
        for spelling in Spelling::ALL {
            let spelled: Option<Vec<_>> = names.iter().map(|name| spelling.of(name)).collect();
            let Some(sent) = spelled else {
                continue;
            };
            let impostor = impostor(question.device.as_deref())?;
            forgeries.push(Forgery {
                header: header.clone(),
                circumstance: names.iter().all(|name| forgery::is_circumstance(name)),
                spelling,
                fields: fields(&impostor, &names, &sent),
                traces: impostor.traces(),
                sent,
            });
        }
    }
    Ok(forgeries)
}

fn impostor(device: Option<&str>) -> Result<Impostor, Fault> {
    let mut bytes = [0; 24];
    rand::fill(&mut bytes).map_err(|_| Fault::Random)?;
    let (number, serial) = bytes.split_at(8);
    let id = device.map_or_else(
        || {
            let digits: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("spoof-{digits}")
        },
        str::to_owned,
    );
    let serial = serial.try_into().map_err(|_| Fault::Random)?;
    Impostor::new(id, serial).map_err(Fault::Certificate)
}

/// Names as they are spelled with the values of those that are meant.
fn fields(impostor: &Impostor, names: &[&str], sent: &[String]) -> Vec<(HeaderName, HeaderValue)> {
    names
        .iter()
        .zip(sent)
        .filter_map(|(name, spelled)| {
            let value = HeaderValue::from_str(&impostor.value(name)).ok()?;
            Some((HeaderName::from_bytes(spelled.as_bytes()).ok()?, value))
        })
        .collect()
}

/// Asks, and again after a moment where the gateway finds that this device asks too often.
async fn ask(door: &Door, fields: &[(HeaderName, HeaderValue)]) -> Result<Heard, Silence> {
    let mut heard = door.ask(fields).await?;
    for _ in 0..PATIENCE {
        if heard.refusal.as_deref() != Some("rate-limited") {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        heard = door.ask(fields).await?;
    }
    Ok(heard)
}

/// The gateway's codes for what is forged here; others are about something else.
const REFUSED_FOR_HEADERS: [&str; 3] = [
    "identity-header-spelling",
    "header-refused",
    "head-too-large",
];
/// How many requests are under way at a time.
const AT_ONCE: usize = 8;
/// Of one door.
const MOST_FAILURES: usize = 16;
/// How often it is waited for the device's rate.
const PATIENCE: usize = 60;
