//! The commands: each file asks the server and tells people and programs what it said.

mod ca;
mod check;
mod completions;
mod device;
mod doctor;
mod explain;
mod failure;
pub(crate) mod output;
mod reload;
mod sign;
mod sign_folder;
mod token;
mod up;

use std::future::Future;

use identity::DeviceId;

use crate::admin::client::Client;
use crate::cli::{Cli, Command};
pub(crate) use failure::Failure;

/// Runs the command that was asked for.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let data = cli.data();
    let client = Client::new(&data);
    match cli.command {
        Command::Up(arguments) => up::up(cli.data, arguments),
        Command::Serve(arguments) => up::serve(cli.data, arguments),
        Command::Check { config, json } => check::run(cli.data, config, json),
        Command::Reload { json } => ask(reload::run(&client, json)),
        Command::Token(command) => ask(token::run(&client, command)),
        Command::Sign(arguments) => ask(sign::run(&client, arguments)),
        Command::Device(command) => ask(device::run(&client, command)),
        Command::Doctor(command) => ask(doctor::run(command)),
        Command::Explain { query, json } => ask(explain::run(&client, query, json)),
        Command::Ca(command) => ask(ca::run(&client, command)),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// A command asks one thing after the other, for which one thread is enough.
fn ask(conversation: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("The command cannot run: {error}.")))?
        .block_on(conversation)
}

/// A device id from the command line.
fn device_id(text: &str) -> Result<DeviceId, Failure> {
    DeviceId::parse(text)
        .map_err(|error| Failure::usage(format!("{text:?} is not a device id: {error}.")))
}
