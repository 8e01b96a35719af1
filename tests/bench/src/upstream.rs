//! An upstream that costs next to nothing, and says whom it was told of.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::cli::Upstream;
use crate::http1::TOLD;
use crate::start;

/// `GET /N` answers N bytes, `GET /headers` the headers that came, `POST` anywhere the number of bytes that came.
pub(crate) async fn run(options: Upstream) -> anyhow::Result<Value> {
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    start::say(&json!({ "address": address.to_string() }).to_string()).await?;
    let mut connections = 0_u64;
    let mut ended = std::pin::pin!(start::input_ended());
    loop {
        tokio::select! {
            () = &mut ended => return Ok(json!({ "connections": connections })),
            accepted = listener.accept() => {
                connections += 1;
                tokio::spawn(serve(accepted?.0));
            }
        }
    }
}

async fn serve(tcp: TcpStream) {
    // Gateways end connections as they like.
    let _ = tcp.set_nodelay(true);
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(tcp), service_fn(answer))
        .await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Zeros>, Infallible> {
    let told = told(request.headers());
    let body = if request.method() == Method::POST {
        let mut body = request.into_body();
        let mut length = 0;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => length += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return Ok(refused(StatusCode::BAD_REQUEST)),
                None => break Zeros::text(length.to_string()),
            }
        }
    } else if request.uri().path() == HEADERS {
        Zeros::text(listing(request.headers()).to_string())
    } else {
        match request.uri().path().trim_start_matches('/').parse() {
            Ok(length) => Zeros::new(length),
            Err(_) => return Ok(refused(StatusCode::NOT_FOUND)),
        }
    };
    let mut answer = Response::new(body);
    if let Some(told) = told {
        answer.headers_mut().insert(TOLD, told);
    }
    Ok(answer)
}

/// The header that names the device: ours, or Envoy's.
fn told(headers: &HeaderMap) -> Option<HeaderValue> {
    let ours = headers.get("x-device-id");
    ours.or_else(|| headers.get("x-forwarded-client-cert"))
        .cloned()
}

fn listing(headers: &HeaderMap) -> Value {
    let fields = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), Value::String(value))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

fn refused(status: StatusCode) -> Response<Zeros> {
    let mut answer = Response::new(Zeros::new(0));
    *answer.status_mut() = status;
    answer
}

/// A body: so many zeros, or a text.
struct Zeros {
    text: Option<Bytes>,
    left: u64,
}

impl Zeros {
    fn new(left: u64) -> Self {
        Self { text: None, left }
    }

    fn text(text: String) -> Self {
        Self {
            left: text.len() as u64,
            text: Some(text.into()),
        }
    }
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let data = self.text.take().unwrap_or_else(|| {
            let length = self.left.min(ZEROS.len() as u64) as usize;
            Bytes::from_static(&ZEROS[..length])
        });
        self.left -= data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Where the headers are told.
pub(crate) const HEADERS: &str = "/headers";
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
