//! The administration interface: JSON over HTTP on a Unix socket in the data directory.

pub(crate) mod api;
pub(crate) mod client;
mod explain;
pub(crate) mod listener;
mod refusal;
pub(crate) mod server;
mod views;
