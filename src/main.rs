//! Keybound: a device identity gateway.
//!
//! The table of contents: the command line ([`cli`]) becomes a command ([`commands`]); `up` and `serve` build the
//! server ([`app`]) from the configuration ([`config`]), the other commands talk to it ([`admin`]).

mod access_log;
mod admin;
mod alarm;
mod app;
mod assertion_key;
mod cli;
mod clock;
mod commands;
mod config;
mod configuration;
mod decisions;
mod duration;
mod enrollment;
mod fair_memory;
mod feed;
mod files;
mod foreign;
mod health;
mod http_server;
mod in_force;
mod lint;
mod log;
mod memory;
mod metrics;
mod otlp;
mod reasons;
mod receipts;
mod server_certificate;
mod service_manager;
mod source;
mod spoof;
mod throttle;
mod upstream;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Reads FAILPOINTS; only tests build it in.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();

    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                commands::output::note(&failure);
            }
            failure.exit_code()
        }
    }
}
