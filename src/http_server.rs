//! The one loop that serves plain HTTP/1.1 on the listeners of the control plane, within bounds.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service_manager::Inherited;

/// A response that is there as a whole.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Accepts connections, at most `limit` at a time, and gives each to `handle`, until `shutdown`.
///
/// Connections that are open then have a moment to finish.
pub(crate) async fn accept<F: Future<Output: Send> + Send + 'static>(
    listener: TcpListener,
    limit: usize,
    shutdown: CancellationToken,
    handle: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let places = Arc::new(Semaphore::new(limit));
    let connections = TaskTracker::new();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((tcp, address)) => {
                let connection = handle(tcp, address);
                connections.spawn(async move {
                    if unless_it_panics(connection).await.is_none() {
                        tracing::error!(%address, "a connection was ended by a bug");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely; trying again at once would only burn the processor.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
    // Whoever comes now is refused, rather than kept waiting for an answer that never comes.
    drop(listener);
    connections.close();
    // Whoever has not finished by then is cut off when the runtime ends.
    let _ = tokio::time::timeout(DRAIN_WITHIN, connections.wait()).await;
}

/// What a future comes to; `None` if it panics, of which the panic's own message says more.
pub(crate) async fn unless_it_panics<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        // It is not polled again after a panic.
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As it should, or the peer broke it off.
    Done,
    /// No whole request head came in time.
    HeadTimeout,
    /// It was open for longer than its lifetime.
    Lifetime,
}

/// Serves one connection, for at most `lifetime`, and gently ends it on `shutdown`.
pub(crate) async fn serve<F: Future<Output = Answer> + Send>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    lifetime: Duration,
    shutdown: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F,
) -> Ended {
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // It also ends connections that idle between requests.
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    match tokio::time::timeout(lifetime, served).await {
        Ok(Ok(())) => Ended::Done,
        Ok(Err(error)) if error.is_timeout() => Ended::HeadTimeout,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection ended early");
            Ended::Done
        }
        Err(_) => Ended::Lifetime,
    }
}

/// A response with a body that is there as a whole.
pub(crate) fn answer(status: u16, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() =
        http::StatusCode::from_u16(status).expect("callers give registered status codes");
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(media_type),
    );
    response
}

/// The listeners of one role: those that were handed over, and the rest bound here; an error names the address and what
/// to do.
pub(crate) async fn bind(
    addresses: &[SocketAddr],
    role: &str,
    inherited: &mut Inherited,
) -> Result<Vec<TcpListener>, String> {
    let (handed_over, addresses) = inherited.claim(role, addresses);
    let mut listeners = Vec::with_capacity(handed_over.len() + addresses.len());
    for listener in handed_over {
        let listener = TcpListener::from_std(listener)
            .map_err(|error| format!("{role} cannot use a socket that was handed over: {error}"))?;
        listeners.push(listener);
    }
    for address in &addresses {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| cannot_listen(role, *address, &error))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Why a role cannot listen, and what to do.
pub(crate) fn cannot_listen(role: &str, address: SocketAddr, error: &io::Error) -> String {
    let kind = error.kind();
    let advice = if kind == io::ErrorKind::AddrInUse {
        "stop the other process, or choose another port"
    } else if kind == io::ErrorKind::PermissionDenied {
        "ports below 1024 need a privilege; choose another port"
    } else if kind == io::ErrorKind::AddrNotAvailable {
        "this machine does not have the address; choose another"
    } else {
        "choose another address"
    };
    format!("{role} cannot listen on {address}: {error}; {advice}")
}

/// Where somebody on this machine reaches a listener.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const MAX_BUFFER: usize = 32 * 1024;
