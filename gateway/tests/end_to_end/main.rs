//! The gateway from outside: real handshakes, real sockets, and an upstream that keeps every byte.

mod authority;
mod client;
mod connections_end;
mod framing_is_strict;
mod handshakes;
mod requests_are_identified;
mod rig;
mod upstream;
mod upstreams_fail;
