//! `keybound completions`

use clap::CommandFactory;

use super::{Failure, output};
use crate::cli::Cli;

pub(super) fn run(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "keybound", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end())
}
