//! What `tests/bench/run` measures gateways with: load as devices make it, an upstream that costs next to nothing, a relay
//! that stands in for a long way, and fleets. Each command ends with one line of JSON on standard output.

mod cli;
mod counted;
mod devices;
mod dial;
mod downloads;
mod fleet;
mod flood;
mod handshakes;
mod http1;
mod http2;
mod idle;
mod kept_key;
mod outcome;
mod probe;
mod relay;
mod requests;
mod round_trips;
mod signing_requests;
mod start;
mod streams;
#[cfg(test)]
mod tests;
mod uploads;
mod upstream;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Arguments, Command};

/// The load must not be what is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(line) => {
            let printed = writeln!(io::stdout(), "{line}");
            ExitCode::from(u8::from(printed.is_err()))
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "keybound-bench: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// What a command measured.
fn run(command: Command) -> anyhow::Result<serde_json::Value> {
    // One thread: the run gives it one core, which the upstream shares.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match command {
        Command::SigningRequests(options) => signing_requests::run(&options),
        Command::Fleet(options) => fleet::run(options),
        Command::Upstream(options) => runtime.block_on(upstream::run(options)),
        Command::Relay(options) => runtime.block_on(relay::run(options)),
        Command::Probe(options) => runtime.block_on(probe::run(options)),
        Command::Handshakes(options) => runtime.block_on(handshakes::run(options)),
        Command::Requests(options) => runtime.block_on(requests::run(options)),
        Command::Streams(options) => runtime.block_on(streams::run(options)),
        Command::Downloads(options) => runtime.block_on(downloads::run(options)),
        Command::Uploads(options) => runtime.block_on(uploads::run(options)),
        Command::Idle(options) => runtime.block_on(idle::run(options)),
        Command::Flood(options) => runtime.block_on(flood::run(options)),
        Command::RoundTrips(options) => runtime.block_on(round_trips::run(options)),
    }
}
