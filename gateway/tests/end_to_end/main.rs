//! The gateway from outside: real handshakes, real sockets, and an upstream that keeps every byte.
#![allow(clippy::print_stdout)] // Figures; tests/run lists them.

mod a_stop_tells_everybody;
mod answers_come_early;
mod authority;
mod bad_answers;
mod broken_http2_is_recorded;
mod calls_are_refused_as_calls;
mod certificates_end_while_in_use;
mod client;
mod connections_end;
mod each_dialect_reaches_its_upstream;
mod echo;
mod events_arrive_at_once;
mod exchanges_are_told;
mod floods_are_ended;
mod floods_of_calls;
mod foreign_devices;
mod forged_identity;
mod frames;
mod framing_is_strict;
mod gateways_in_a_chain;
mod groups_are_asked_for;
mod hand_made_http2;
mod hand_made_tls;
mod handshakes;
mod hostile;
mod hostile_http2_upstreams;
mod hostile_streams;
/// The list itself, so that a test cannot fall behind it.
#[path = "../../src/pure/identity_names.rs"]
mod identity_names;
mod interleaved;
mod key_updates_are_bounded;
mod long_work_keeps_no_lists;
mod mutated_answers;
mod odd_certificates_name_nobody_else;
mod odd_frames;
mod odd_framing;
mod odd_parts;
mod paths_and_routes;
mod possession_is_proven;
mod presented_chains_are_bounded;
mod proxied_connections;
mod quiet_connections_keep_nothing;
mod random;
#[allow(dead_code, reason = "the tests of the whole product use the rest")]
mod raw_http2;
mod requests_are_identified;
mod rig;
mod routes_have_limits;
mod routes_that_only_report;
mod server_names_select_the_policy;
mod session;
mod slow_peers_are_let_go;
mod strict;
mod tcp_routes;
mod trace_contexts_are_passed_on;
mod upstream;
mod upstreams_answer_badly;
mod upstreams_are_balanced_and_bounded;
mod upstreams_fail;
mod upstreams_over_http2;
mod upstreams_over_tls_and_sockets;
mod websockets_are_refused;
mod websockets_over_http2;
mod without_certificate;
