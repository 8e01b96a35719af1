//! Traces for an OpenTelemetry collector: spans of requests by OTLP over HTTP, in its JSON form.
//!
//! Nobody who serves waits for it: a span that finds no room, or no collector, is lost and counted.

mod span;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway::Exchange;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::Collector;
use crate::metrics::Metrics;

/// Takes spans. It is there also where none are wanted, so that a reload can change that.
pub(crate) struct Spans {
    queue: mpsc::Sender<Value>,
    state: Arc<State>,
}

/// Sends what [`Spans`] takes.
pub(crate) struct Exporter {
    queue: mpsc::Receiver<Value>,
    state: Arc<State>,
}

struct State {
    metrics: Metrics,
    collector: Mutex<Option<Arc<Collector>>>,
    /// Whether the last batch was lost.
    fails: AtomicBool,
}

/// The two ends.
pub(crate) fn channel(metrics: Metrics) -> (Spans, Exporter) {
    let (sender, receiver) = mpsc::channel(SPANS_WAITING);
    let state = Arc::new(State {
        metrics,
        collector: Mutex::default(),
        fails: AtomicBool::new(false),
    });
    let spans = Spans {
        queue: sender,
        state: Arc::clone(&state),
    };
    let exporter = Exporter {
        queue: receiver,
        state,
    };
    (spans, exporter)
}

impl Spans {
    /// Sends spans to this collector from now on, or to none.
    pub(crate) fn publish(&self, collector: Option<Collector>) {
        if collector.is_none() {
            self.state.fails.store(false, Ordering::Relaxed);
        }
        let mut present = (self.state.collector.lock()).unwrap_or_else(PoisonError::into_inner);
        *present = collector.map(Arc::new);
    }

    /// Takes the exchange's span, if it is to be exported.
    pub(crate) fn put(&self, exchange: &Exchange) {
        if let Some(span) = span::span(exchange)
            && self.queue.try_send(span).is_err()
        {
            self.state.metrics.spans_lost.inc();
        }
    }

    /// What is wrong, in a sentence.
    pub(crate) fn alarm(&self) -> Option<String> {
        let fails = self.state.fails.load(Ordering::Relaxed);
        fails.then(|| "The collector of traces does not take them; they are lost.".to_owned())
    }
}

impl Exporter {
    /// Sends batches until `shutdown`, and then once more what is left.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(SPANS_AT_ONCE);
        loop {
            let ends = tokio::select! {
                more = self.collect(&mut batch) => !more,
                () = shutdown.cancelled() => true,
            };
            if ends {
                // What is still on its way from the workers comes within a moment.
                sleep(ON_ITS_WAY).await;
                self.queue.close();
                while self.queue.recv_many(&mut batch, SPANS_AT_ONCE).await > 0 {}
                let _ = timeout(LAST_WORDS, self.state.send_once(&batch)).await;
                return;
            }
            tokio::select! {
                () = self.state.send(&batch) => batch.clear(),
                // It is tried once more there.
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Waits for a full batch, or for so long after the first span; false if there will be none.
    async fn collect(&mut self, batch: &mut Vec<Value>) -> bool {
        if batch.is_empty() && self.queue.recv_many(batch, SPANS_AT_ONCE).await == 0 {
            return false;
        }
        let deadline = Instant::now() + SEND_EVERY;
        while batch.len() < SPANS_AT_ONCE {
            let room = SPANS_AT_ONCE - batch.len();
            match timeout_at(deadline, self.queue.recv_many(batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        true
    }
}

/// Why a collector did not take a batch.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it did not answer in time")]
    Timeout,
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Request(#[from] http::Error),
}

impl Fault {
    /// Whether it may take the same batch later (OTLP specification, "OTLP/HTTP Response").
    fn passes(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Http(_) | Self::Timeout => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Request(_) => false,
        }
    }
}

impl State {
    fn collector(&self) -> Option<Arc<Collector>> {
        let collector = self.collector.lock();
        collector.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a batch, again and again for a while if need be.
    async fn send(&self, batch: &[Value]) {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let Some(collector) = self.collector() else {
                return;
            };
            match post(&collector, batch).await {
                Ok(()) => return self.taken(batch.len()),
                Err(fault) if attempt == ATTEMPTS || !fault.passes() => {
                    return self.lost(batch.len(), &collector, &fault);
                }
                Err(fault) => tracing::debug!(%fault, "a collector did not take spans"),
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn send_once(&self, batch: &[Value]) {
        if let Some(collector) = self.collector().filter(|_| !batch.is_empty()) {
            match post(&collector, batch).await {
                Ok(()) => self.taken(batch.len()),
                Err(fault) => self.lost(batch.len(), &collector, &fault),
            }
        }
    }

    fn taken(&self, spans: usize) {
        self.metrics.spans_exported.inc_by(spans as u64);
        self.fails.store(false, Ordering::Relaxed);
    }

    fn lost(&self, spans: usize, collector: &Collector, fault: &Fault) {
        self.metrics.spans_lost.inc_by(spans as u64);
        if !self.fails.swap(true, Ordering::Relaxed) {
            tracing::error!(target: "alarm", collector = collector.authority, %fault, "the collector of traces does not take them; they are lost");
        }
    }
}

/// Sends a batch once.
async fn post(collector: &Collector, batch: &[Value]) -> Result<(), Fault> {
    let body = span::request(batch).to_string();
    let posting = async {
        let tcp = TcpStream::connect(collector.authority.as_str()).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(collector.path.as_str())
            .header(HOST, collector.authority.as_str())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(bytes::Bytes::from(body)))?;
        // The connection ends with what is asked over it.
        let exchange = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            // What it says is not needed, but its end is.
            let _ = Limited::new(answer.into_body(), LONGEST_ANSWER)
                .collect()
                .await;
            Ok::<_, Fault>(status)
        };
        let (status, _) = tokio::join!(exchange, connection);
        let status = status?;
        if status.is_success() {
            Ok(())
        } else {
            Err(Fault::Status(status))
        }
    };
    timeout(POST_WITHIN, posting)
        .await
        .unwrap_or(Err(Fault::Timeout))
}

/// A few megabytes at most.
const SPANS_WAITING: usize = 4096;
const SPANS_AT_ONCE: usize = 512;
const SEND_EVERY: Duration = Duration::from_secs(2);
const POST_WITHIN: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const ON_ITS_WAY: Duration = Duration::from_millis(200);
/// What the last batch may take at a stop.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LONGEST_ANSWER: usize = 64 * 1024;
