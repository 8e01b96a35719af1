//! The library and `keybound-device` against a server over real TLS.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "a test that is surprised fails, and nothing here is anybody's interface"
)]

mod answers;
mod command_line;
mod enrollment;
mod renewal;
mod requests;
mod server;
#[path = "../../src/test_authority.rs"]
mod test_authority;
