//! `keybound-device`: the command line over the library. Only this file ends the process.

mod cli;
mod commands;
mod failure;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Arguments, Command};

fn main() -> ExitCode {
    let Arguments { keystore, command } = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the system gave no runtime: {error}"));
            return ExitCode::from(1);
        }
    };
    let result = runtime.block_on(async {
        match command {
            Command::Enroll(enroll) => commands::enroll(&keystore, enroll).await,
            Command::Renew(renew) => commands::renew(&keystore, renew).await,
            Command::Status(status) => commands::status(&keystore, status),
            Command::Request(request) => commands::request(&keystore, request).await,
            Command::Completions { shell } => commands::completions(shell),
        }
    });
    // A name look-up that is still under way would otherwise hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Says what went wrong. If nobody can hear it, the exit code still tells.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "keybound-device: {message}");
}
