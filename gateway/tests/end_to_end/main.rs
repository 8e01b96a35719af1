//! The gateway from outside: real handshakes, real sockets, and an upstream that keeps every byte.
#![expect(missing_docs, reason = "tests say what they hold in their names")]

mod authority;
mod client;
mod connections_end;
mod framing_is_strict;
mod handshakes;
mod requests_are_identified;
mod rig;
mod upstream;
mod upstreams_fail;
