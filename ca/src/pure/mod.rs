//! Decisions: functions of their arguments.
//!
//! Nothing here reads a clock, a file, a socket, the environment or a random source, awaits or logs; time
//! and random bytes are parameters. Clippy holds that.
#![deny(clippy::disallowed_methods)]

pub(crate) mod crl_pace;
pub(crate) mod csr;
pub(crate) mod draft;
pub(crate) mod enroll;
pub(crate) mod est_encoding;
pub(crate) mod journal;
pub(crate) mod key_policy;
pub(crate) mod seal;
mod weak_rsa;
pub(crate) mod witness;
