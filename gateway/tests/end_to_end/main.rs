//! The gateway from outside: real handshakes, real sockets, and an upstream that keeps every byte.

mod authority;
mod client;
mod connections_end;
mod framing_is_strict;
mod hand_made_tls;
mod handshakes;
mod key_updates_are_bounded;
mod odd_certificates_name_nobody_else;
mod possession_is_proven;
mod presented_chains_are_bounded;
mod requests_are_identified;
mod rig;
mod server_names_select_the_policy;
mod upstream;
mod upstreams_fail;
