//! A request or stream as a span, in the JSON form of OTLP (opentelemetry-proto 1.x). Requests are named by the semantic
//! conventions for HTTP servers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway::{Exchange, Outcome, Trace};
use serde_json::{Value, json};

/// The span of an exchange; `None` if it is not to be exported.
pub(super) fn span(exchange: &Exchange) -> Option<Value> {
    let Trace {
        trace_id,
        span_id,
        parent,
    } = exchange.trace?;
    let span_id = span_id?;
    let record = &exchange.record;
    let mut attributes = Attributes::default();
    let name = match exchange.http_version {
        Some(version) => request_attributes(&mut attributes, exchange, version),
        None => stream_attributes(&mut attributes, exchange),
    };
    attributes.some_text("server.address", record.host.as_deref().map(without_port));
    let client = record.address.ip().to_canonical().to_string();
    attributes.text("client.address", &client);
    attributes.number("client.port", record.address.port().into());
    attributes.text(
        "tls.protocol.version",
        exchange.tls_version.trim_start_matches("TLSv"),
    );
    attributes.some_text(
        "keybound.device",
        record.device.as_ref().map(ToString::to_string).as_deref(),
    );
    attributes.some_text("keybound.on_behalf_of", record.on_behalf_of.as_deref());
    attributes.some_text("keybound.request_id", record.request_id.as_deref());
    attributes.text("keybound.outcome", record.outcome.as_str());
    attributes.text("keybound.end", exchange.ending.as_str());
    attributes.some_text("keybound.upstream", exchange.upstream.as_deref());
    if let Some(latency) = exchange.upstream_latency {
        attributes.seconds("keybound.upstream.latency", latency);
    }
    let error = error_type(exchange);
    attributes.some_text("error.type", error.as_deref());
    let failed = error.is_some();
    let mut span = json!({
        "traceId": format!("{trace_id:032x}"),
        "spanId": format!("{span_id:016x}"),
        "name": name,
        "kind": SERVER,
        "startTimeUnixNano": nanoseconds(exchange.began),
        "endTimeUnixNano": nanoseconds(exchange.began + exchange.duration),
        "attributes": attributes.0,
        "status": if failed { json!({ "code": ERROR }) } else { json!({}) },
        // Sampled; and whether the parent is somebody else's is known.
        "flags": 0x101 | if parent.is_some() { 0x200 } else { 0 },
    });
    if let Some(parent) = parent {
        span["parentSpanId"] = format!("{parent:016x}").into();
    }
    Some(span)
}

/// What is told of a request alone, and the name of its span.
fn request_attributes(attributes: &mut Attributes, exchange: &Exchange, version: &str) -> String {
    let record = &exchange.record;
    let method = record.method.as_deref().unwrap_or_default();
    let known = KNOWN_METHODS.contains(&method);
    attributes.text("http.request.method", if known { method } else { "_OTHER" });
    if !known {
        attributes.text("http.request.method_original", method);
    }
    attributes.text("url.scheme", "https");
    attributes.some_text("url.path", record.path.as_deref());
    attributes.some_text("http.route", exchange.route.as_deref());
    attributes.text("network.protocol.name", "http");
    let version = version.trim_start_matches("HTTP/").trim_end_matches(".0");
    attributes.text(
        "network.protocol.version",
        if version == "1" { "1.0" } else { version },
    );
    attributes.some_text("user_agent.original", exchange.user_agent.as_deref());
    attributes.number("http.request.body.size", exchange.received);
    attributes.number("http.response.body.size", exchange.sent);
    if let Some(status) = record.status {
        attributes.number("http.response.status_code", status.into());
    }
    let name_of_method = if known { method } else { "HTTP" };
    match &exchange.route {
        Some(route) => format!("{name_of_method} {route}"),
        None => name_of_method.to_owned(),
    }
}

/// The same of a stream. The conventions have no names for what goes through one.
fn stream_attributes(attributes: &mut Attributes, exchange: &Exchange) -> String {
    let route = exchange.record.host.as_deref().unwrap_or_default();
    attributes.text("network.transport", "tcp");
    attributes.text("keybound.tcp_route", route);
    attributes.number("keybound.received", exchange.received);
    attributes.number("keybound.sent", exchange.sent);
    format!("TCP {route}")
}

/// What `error.type` says; `None` if it is no error. Of a request, a refusal is the client's error, unless its status says
/// otherwise; of a stream, which has no status, every refusal is one.
fn error_type(exchange: &Exchange) -> Option<String> {
    let record = &exchange.record;
    let is_stream = exchange.http_version.is_none();
    match (record.outcome, record.status) {
        (_, Some(status)) if status < 500 => None,
        (Outcome::Refused(code), _) => Some(code.as_str().to_owned()),
        (Outcome::Forwarded, None) if is_stream => None,
        (
            Outcome::Forwarded
            | Outcome::ForwardedAnonymously
            | Outcome::Abandoned
            | Outcome::HandshakeRefused(_),
            status,
        ) => Some(status.map_or(record.outcome.as_str().to_owned(), |status| {
            status.to_string()
        })),
    }
}

/// What is sent for these spans.
pub(super) fn request(spans: &[Value]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let mut resource = Attributes::default();
    resource.text("service.name", "keybound");
    resource.text("service.version", version);
    json!({
        "resourceSpans": [{
            "resource": { "attributes": resource.0 },
            "scopeSpans": [{
                "scope": { "name": "keybound", "version": version },
                "spans": spans,
            }],
        }],
    })
}

#[derive(Default)]
struct Attributes(Vec<Value>);

impl Attributes {
    fn text(&mut self, key: &str, value: &str) {
        self.0
            .push(json!({ "key": key, "value": { "stringValue": value } }));
    }

    fn some_text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// 64-bit numbers are texts in the JSON form of Protocol Buffers.
    fn number(&mut self, key: &str, value: u64) {
        self.0
            .push(json!({ "key": key, "value": { "intValue": value.to_string() } }));
    }

    fn seconds(&mut self, key: &str, value: Duration) {
        self.0
            .push(json!({ "key": key, "value": { "doubleValue": value.as_secs_f64() } }));
    }
}

fn nanoseconds(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

/// The host of an authority; an IPv6 address keeps its brackets.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}

/// Of the semantic conventions; others would be as many names of spans as clients like.
const KNOWN_METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
const SERVER: u8 = 2;
const ERROR: u8 = 2;
