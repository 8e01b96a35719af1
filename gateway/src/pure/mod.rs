//! Decisions: functions of their arguments.
//!
//! Nothing here reads a clock, a file, a socket, the environment or a random source, awaits or logs; time
//! and random bytes are parameters. Clippy holds that.
#![deny(clippy::disallowed_methods)]

pub(crate) mod answer_head;
pub(crate) mod assertion;
pub(crate) mod authorize;
pub(crate) mod balance;
mod chunked;
pub(crate) mod classes;
pub(crate) mod dialects;
pub(crate) mod foreign;
pub(crate) mod framing;
pub(crate) mod grpc;
pub(crate) mod headers;
pub(crate) mod hop;
pub(crate) mod host;
pub(crate) mod http2_answers;
pub(crate) mod http2_frames;
pub(crate) mod identity_header;
pub(crate) mod identity_names;
pub(crate) mod path;
pub(crate) mod proxy_protocol;
pub(crate) mod rate;
pub(crate) mod request_head;
pub(crate) mod route;
pub(crate) mod route_policy;
pub(crate) mod tcp_route;
pub(crate) mod tls_overhead;
pub(crate) mod trace_context;
pub(crate) mod upstream;
pub(crate) mod upstream_address;
pub(crate) mod websocket;
