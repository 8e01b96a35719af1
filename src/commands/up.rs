//! `keybound up` and `keybound serve`

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Failure, output};
use crate::app::{Hangups, Server, Signals, Start, server_address};
use crate::cli::{ProcessArguments, ServeArguments, UpArguments};
use crate::config::{DEFAULT_DATA, Purpose};
use crate::configuration::{Flags, Source};
use crate::log::Log;
use crate::service_manager::Inherited;

/// Every role, from flags, file and defaults.
pub(super) fn up(data: Option<PathBuf>, arguments: UpArguments) -> Result<(), Failure> {
    let flags = Flags {
        data: data.map(text).transpose()?,
        upstream: arguments.upstream,
        names: arguments.names,
        trust_domain: arguments.trust_domain,
        gateway_listen: arguments.gateway_listen,
        enrollment_listen: arguments.enrollment_listen,
        health_listen: arguments.health_listen,
    };
    let source = Source {
        file: arguments.config,
        flags,
        purpose: Purpose::Up,
    };
    run(source, arguments.process, Some(next_commands))
}

/// The roles that a file names.
pub(super) fn serve(data: Option<PathBuf>, arguments: ServeArguments) -> Result<(), Failure> {
    let source = Source {
        file: Some(arguments.config),
        flags: Flags {
            data: data.map(text).transpose()?,
            ..Flags::default()
        },
        purpose: Purpose::Serve,
    };
    run(source, arguments.process, None)
}

pub(super) fn text(path: PathBuf) -> Result<String, Failure> {
    path.into_os_string()
        .into_string()
        .map_err(|path: OsString| Failure::usage(format!("--data {path:?} is not UTF-8.")))
}

/// Starts, tells where everything is, and runs until a signal.
fn run(
    source: Source,
    process: ProcessArguments,
    welcome: Option<fn(&Installation, &Server) -> String>,
) -> Result<(), Failure> {
    let loaded = source.load()?;
    // While this is the only thread: it takes words out of the environment.
    let inherited = Inherited::take()
        .map_err(|fault| Failure::refused(format!("The server does not start: {fault}.")))?;
    let _log = Log::start(process.log_format)?;
    let passphrase = passphrase(process.passphrase_file.as_deref())?;
    // Issuance, queries and the feed run here; traffic has the gateway's own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("The server cannot start: {error}.")))?;
    let installation = Installation {
        data: loaded.config.data.clone(),
        name: loaded.config.names[0].clone(),
    };
    let outcome = runtime.block_on(async {
        let cannot_await = |error| Failure::refused(format!("Signals cannot be awaited: {error}."));
        let signals = Signals::new().map_err(cannot_await)?;
        // Without a file there is nothing to read again, and a terminal that closes ends the server.
        let hangups = match &source.file {
            Some(_) => Some(Hangups::new().map_err(cannot_await)?),
            None => None,
        };
        let start = Start {
            source,
            loaded,
            passphrase,
            inherited,
            hangups,
        };
        let server = Server::start(start)
            .await
            .map_err(|fault| Failure::refused(format!("The server does not start: {fault}.")))?;
        let addresses = &server.addresses;
        tracing::info!(
            gateway = addresses.gateway.map(tracing::field::display),
            enrollment = addresses.enrollment.map(tracing::field::display),
            health = addresses.health.map(tracing::field::display),
            admin = %addresses.admin.display(),
            "running"
        );
        if let Some(welcome) = welcome {
            let text = welcome(&installation, &server);
            // Perhaps nobody reads what it says; that is no reason not to serve, or to wait.
            let printed = std::thread::Builder::new().spawn(move || {
                if let Err(failure) = output::print(text)
                    && !failure.is_silent()
                {
                    tracing::warn!(%failure, "the welcome cannot be printed");
                }
            });
            if let Err(error) = printed {
                tracing::warn!(%error, "the welcome cannot be printed");
            }
        }
        server
            .run(signals)
            .await
            .map_err(|ended| Failure::refused(format!("The server ended: {ended}.")))
    });
    // A reader that hangs on the disk keeps nobody waiting.
    runtime.shutdown_background();
    outcome
}

/// What the welcome needs to know of the configuration.
struct Installation {
    data: PathBuf,
    name: String,
}

/// Where everything is, and what to type next.
fn next_commands(installation: &Installation, server: &Server) -> String {
    let addresses = &server.addresses;
    let url = |address: Option<SocketAddr>| {
        address.map_or_else(String::new, |address| {
            format!(
                "https://{}",
                server_address(&installation.name, address.port())
            )
        })
    };
    let gateway = url(addresses.gateway);
    let health = addresses
        .health
        .map_or_else(String::new, |address| format!("http://{address}/readyz"));
    let upstream = match server.builtin_upstream {
        Some(address) => format!("http://{address}, built in: it shows what it received"),
        None => "as configured".into(),
    };
    let program = program();
    let device = format!("{program}-device");
    // `cargo run` builds this program alone.
    let missing = if program.contains('/') && !Path::new(&device).exists() {
        "  cargo build --release --workspace     # makes keybound-device, too\n"
    } else {
        ""
    };
    let keybound = if installation.data == Path::new(DEFAULT_DATA) {
        shell_word(&program)
    } else {
        format!(
            "{} --data {}",
            shell_word(&program),
            shell_word(&installation.data.display().to_string())
        )
    };
    let device = shell_word(&device);
    format!(
        "\
Keybound is running; its data is in {data}. Ctrl-C ends it.

  gateway     {gateway}
  enrollment  {enrollment}
  health      {health}
  upstream    {upstream}

Next, in another terminal:

{missing}  {keybound} token new --device thermostat-7
  {device} enroll \"$({keybound} token new --device thermostat-7)\"
  {device} request {gateway}/
  {keybound} device revoke thermostat-7
  {keybound} explain thermostat-7
",
        data = installation.data.display(),
        enrollment = url(addresses.enrollment),
    )
}

/// This program as it was called, if that was by a path; its companion lies beside it.
fn program() -> String {
    std::env::args()
        .next()
        .filter(|called| called.contains('/'))
        .unwrap_or_else(|| "keybound".into())
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The passphrase of the CA's keys, if there is one.
fn passphrase(file: Option<&Path>) -> Result<Option<Zeroizing<String>>, Failure> {
    let from_environment = std::env::var_os(PASSPHRASE).map(OsString::into_string);
    let passphrase = match (file, from_environment) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Failure::usage(format!(
                "--passphrase-file and {PASSPHRASE} are both given; leave one of them out."
            )));
        }
        (None, Some(Ok(passphrase))) => Zeroizing::new(passphrase),
        (None, Some(Err(_))) => {
            return Err(Failure::usage(format!("{PASSPHRASE} is not UTF-8.")));
        }
        (Some(path), None) => {
            let cannot = |error: &io::Error| Failure::file("read", path, error);
            let file = File::open(path).map_err(|error| cannot(&error))?;
            let mut line = Zeroizing::new(String::new());
            BufReader::new(io::Read::take(file, LONGEST_PASSPHRASE))
                .read_line(&mut line)
                .map_err(|error| cannot(&error))?;
            Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())
        }
    };
    if passphrase.is_empty() {
        return Err(Failure::usage(
            "The passphrase is empty; leave it out, or give one.",
        ));
    }
    Ok(Some(passphrase))
}

const PASSPHRASE: &str = "KEYBOUND_CA_PASSPHRASE";
const LONGEST_PASSPHRASE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_can_be_copied() {
        assert_eq!(shell_word("./keybound-data"), "./keybound-data");
        assert_eq!(shell_word("a b'c"), r"'a b'\''c'");
        assert_eq!(shell_word("~/x"), "'~/x'");
    }
}
