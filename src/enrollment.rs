//! The enrollment listener: EST over TLS, where a client certificate is welcome and not required.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ca::{Authority, Refusal, est};
use gateway::tls::{
    Accepted, Acceptor, AcceptorOptions, Clients, Policy, ServerCertificate, Versions,
};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use identity::chain::Anchors;
use identity::{Kind, Problem};
use rustls::DistinguishedName;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::decisions::{Decisions, EnrollmentDecision};
use crate::feed::Applied;
use crate::http_server::{self, Answer, Ended};
use crate::metrics::Metrics;
use crate::source::{Places, Source};
use crate::throttle::Throttle;

/// What the listener needs.
pub(crate) struct Enrollment {
    pub(crate) authority: Arc<Authority>,
    pub(crate) acceptor: Acceptor,
    pub(crate) decisions: Arc<Decisions>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) metrics: Metrics,
    pub(crate) places: Arc<Places>,
    pub(crate) throttle: Throttle,
}

/// The places of one source among all.
pub(crate) fn places() -> Arc<Places> {
    Places::new(MAX_CONNECTIONS_OF_ONE)
}

/// The TLS of this listener. Deployed EST clients speak TLS 1.2 (RFC 7030, section 3.3.1).
pub(crate) fn acceptor(
    certificate: Arc<ServerCertificate>,
    anchors: Anchors,
    hints: Vec<DistinguishedName>,
) -> Result<Acceptor, rustls::Error> {
    Acceptor::new(AcceptorOptions {
        policy: Policy {
            certificate,
            anchors,
            // Whoever has a certificate by another CA enrolls with a token.
            foreign: None,
            hints,
            clients: Clients::Optional,
            clients_by_name: HashMap::new(),
            alpn_by_name: HashMap::new(),
        },
        kinds: &[Kind::Device],
        versions: Versions::Tls12AndTls13,
        alpn: vec![b"http/1.1".to_vec()],
        deadline: HANDSHAKE_WITHIN,
        max_handshakes: MAX_HANDSHAKES,
    })
}

/// Serves until `shutdown`.
pub(crate) async fn run(
    listener: TcpListener,
    enrollment: Arc<Enrollment>,
    shutdown: CancellationToken,
) {
    let ending = shutdown.clone();
    http_server::accept(listener, MAX_CONNECTIONS, shutdown, move |tcp, address| {
        let (enrollment, ending) = (Arc::clone(&enrollment), ending.clone());
        async move { enrollment.connection(tcp, address, ending).await }
    })
    .await;
}

impl Enrollment {
    async fn connection(&self, tcp: TcpStream, address: SocketAddr, shutdown: CancellationToken) {
        let started = Instant::now();
        let source = Source::of(address.ip());
        let Some(_place) = self.places.take(source) else {
            let detail = "The address has too many connections to the enrollment listener. Look for a flood, or for \
                          clients that do not close theirs.";
            self.ended(
                "connection",
                "too-many-connections",
                detail,
                address,
                started,
            );
            return;
        };
        let accepted = match self.acceptor.accept(tcp).await {
            Ok(accepted) => accepted,
            Err(fault) => {
                self.ended(
                    "handshake",
                    fault.as_str(),
                    fault.detail(),
                    address,
                    started,
                );
                return;
            }
        };
        let Accepted {
            stream,
            client,
            server_name,
            ..
        } = accepted;
        let certificate = client.as_ref().map(|client| &client.certificate);
        let server_name = &server_name;
        let asked = AtomicBool::new(false);
        let ended = http_server::serve(stream, LIFETIME, shutdown, |request| {
            asked.store(true, Ordering::Relaxed);
            self.request(request, address, certificate, server_name.as_deref())
        })
        .await;
        // Who asked before merely kept a connection for longer than it is kept.
        if ended == Ended::HeadTimeout && !asked.load(Ordering::Relaxed) {
            let detail = "No request came, or its head came too slowly. Look for packet loss, or a client that only connects.";
            self.ended("connection", "request-timeout", detail, address, started);
        }
    }

    /// Remembers a connection on which nothing was answered.
    fn ended(
        &self,
        phase: &'static str,
        outcome: &str,
        detail: &str,
        address: SocketAddr,
        started: Instant,
    ) {
        self.metrics.enrollment(phase, outcome);
        self.decisions.enrollment(EnrollmentDecision {
            at: clock::now(),
            address,
            device: None,
            server_name: None,
            operation: None,
            outcome: outcome.to_owned(),
            status: None,
            duration: started.elapsed(),
            detail: Some(detail.to_owned()),
        });
    }

    async fn request(
        &self,
        request: Request<Incoming>,
        address: SocketAddr,
        peer: Option<&CertificateDer<'static>>,
        server_name: Option<&str>,
    ) -> Answer {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let body = Limited::new(body, est::MAX_BODY).collect();
        let est::Answer { response, decision } = match tokio::time::timeout(BODY_WITHIN, body).await
        {
            Ok(Ok(body)) => {
                let request = Request::from_parts(head, body.to_bytes());
                let answer = self.answer(request, Source::of(address.ip()), peer);
                match http_server::unless_it_panics(answer).await {
                    Some(answer) => answer,
                    None => return self.failed(address, started),
                }
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => est::too_large(),
            Ok(Err(_)) | Err(_) => est::too_late(),
        };
        if decision.index.is_some() {
            self.applied.settle(&self.authority).await;
        }
        self.metrics
            .enrollment(decision.operation, &decision.outcome);
        self.decisions.enrollment(EnrollmentDecision {
            at: clock::now(),
            address,
            device: decision.device,
            server_name: server_name.map(str::to_owned),
            operation: Some(decision.operation),
            outcome: decision.outcome,
            status: Some(response.status().as_u16()),
            duration: started.elapsed(),
            detail: decision.detail,
        });
        match response.status().as_u16() {
            408 | 413 => closing(complete(response)),
            _ => complete(response),
        }
    }
}

impl Enrollment {
    /// The answer to a request that hit a bug; others go on.
    fn failed(&self, address: SocketAddr, started: Instant) -> Answer {
        const CODE: &str = "internal-error";
        tracing::error!(%address, "a request for enrollment hit a bug");
        self.metrics.enrollment("-", CODE);
        self.decisions.enrollment(EnrollmentDecision {
            at: clock::now(),
            address,
            device: None,
            server_name: None,
            operation: None,
            outcome: CODE.to_owned(),
            status: Some(500),
            duration: started.elapsed(),
            detail: None,
        });
        let problem = Problem::new(
            500,
            CODE,
            "Internal error",
            "The server failed on this request; its log says more. Send it again.",
        );
        closing(http_server::answer(
            500,
            Problem::MEDIA_TYPE,
            problem.to_json(),
        ))
    }

    /// The authority's answer, but of somebody who guesses tokens it is asked slowly.
    async fn answer(
        &self,
        request: Request<Bytes>,
        source: Source,
        peer: Option<&CertificateDer<'static>>,
    ) -> est::Answer {
        if request.headers().contains_key(header::AUTHORIZATION) {
            self.throttle.turn(source).await;
        }
        let answer = est::answer(&self.authority, request, peer).await;
        if answer.decision.outcome == Refusal::TokenInvalid.code()
            && let Some(wait) = self.throttle.wrong(source, Instant::now())
        {
            return est::too_many_wrong_tokens(answer.decision, wait);
        }
        answer
    }
}

fn complete(response: Response<Bytes>) -> Answer {
    response.map(Full::new)
}

/// The last answer of its connection: whatever still comes is not the next request.
fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(
        http::header::CONNECTION,
        http::HeaderValue::from_static("close"),
    );
    answer
}

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const BODY_WITHIN: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 1024;
/// It takes eight sources to hold all connections. A right token waits for at most so many others.
const MAX_CONNECTIONS_OF_ONE: usize = 128;
const MAX_HANDSHAKES: usize = 256;
/// Of a connection, after its handshake: enrollment is a handful of requests.
const LIFETIME: Duration = Duration::from_secs(30);
