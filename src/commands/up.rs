//! `keybound up` and `keybound serve`

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Failure, check, output};
use crate::app::{Server, Signals, server_address};
use crate::cli::{ProcessArguments, ServeArguments, UpArguments};
use crate::config::file::{ConfigFile, GatewayTable, ListenTable, RouteTable};
use crate::config::file_policy::PolicyKeys;
use crate::config::{Config, DEFAULT_DATA, Located, Place, Purpose};
use crate::log::Log;

/// Every role, from flags, file and defaults.
pub(super) fn up(data: Option<PathBuf>, arguments: UpArguments) -> Result<(), Failure> {
    let (mut file, mistakes) = match &arguments.config {
        Some(path) => check::read(path)?,
        None => Default::default(),
    };
    let name = match &arguments.config {
        Some(path) => path.display().to_string(),
        None => "keybound up".to_owned(),
    };
    let process = arguments.process;
    if let Some(upstream) = &arguments.upstream
        && file
            .gateway
            .as_ref()
            .is_some_and(|gateway| !gateway.routes.is_empty())
    {
        return Err(Failure::usage(format!(
            "--upstream {upstream} and the routes of {name} contradict each other; leave one of them out."
        )));
    }
    let flags = Flags {
        data: data.clone(),
        upstream: arguments.upstream,
        names: arguments.names,
        trust_domain: arguments.trust_domain,
        gateway_listen: arguments.gateway_listen,
        enrollment_listen: arguments.enrollment_listen,
        health_listen: arguments.health_listen,
    };
    flags.write_into(&mut file)?;
    let config = check::judge(&name, file, mistakes, Purpose::Up)?;
    run(config, process, Some(next_commands))
}

/// The roles that a file names.
pub(super) fn serve(data: Option<PathBuf>, arguments: ServeArguments) -> Result<(), Failure> {
    let path = arguments.config;
    let (mut file, mistakes) = check::read(&path)?;
    if let Some(data) = data {
        file.data = Some(flag("--data", text(data)?));
    }
    let config = check::judge(&path.display(), file, mistakes, Purpose::Serve)?;
    run(config, arguments.process, None)
}

/// What flags say, to be written over what the file says.
struct Flags {
    data: Option<PathBuf>,
    upstream: Option<String>,
    names: Vec<String>,
    trust_domain: Option<String>,
    gateway_listen: Option<SocketAddr>,
    enrollment_listen: Option<SocketAddr>,
    health_listen: Option<SocketAddr>,
}

impl Flags {
    fn write_into(self, file: &mut ConfigFile) -> Result<(), Failure> {
        if let Some(data) = self.data {
            file.data = Some(flag("--data", text(data)?));
        }
        if let Some(trust_domain) = self.trust_domain {
            file.trust_domain = Some(flag("--trust-domain", trust_domain));
        }
        if !self.names.is_empty() {
            let names = self.names.into_iter().map(|name| flag("--name", name));
            file.names = Some(names.collect());
        }
        let listen =
            |name: &'static str, address: SocketAddr| vec![flag(name, address.to_string())];
        if self.upstream.is_some() || self.gateway_listen.is_some() {
            let gateway = file
                .gateway
                .get_or_insert_with(|| GatewayTable::new(Place::Nowhere));
            if let Some(address) = self.gateway_listen {
                gateway.listen = Some(listen("--gateway-listen", address));
            }
            if let Some(upstream) = self.upstream {
                gateway.routes.push(RouteTable {
                    place: Place::Flag("--upstream"),
                    host: None,
                    path: None,
                    upstream: Some(vec![flag("--upstream", upstream)]),
                    policy: PolicyKeys::default(),
                    identity: None,
                });
            }
        }
        let listener = |name: &'static str, address| ListenTable {
            place: Place::Flag(name),
            listen: Some(listen(name, address)),
        };
        if let Some(address) = self.enrollment_listen {
            file.enrollment = Some(listener("--enrollment-listen", address));
        }
        if let Some(address) = self.health_listen {
            file.health = Some(listener("--health-listen", address));
        }
        Ok(())
    }
}

fn flag<T>(name: &'static str, value: T) -> Located<T> {
    Located {
        place: Place::Flag(name),
        value,
    }
}

fn text(path: PathBuf) -> Result<String, Failure> {
    path.into_os_string()
        .into_string()
        .map_err(|path: OsString| Failure::usage(format!("--data {path:?} is not UTF-8.")))
}

/// Starts, tells where everything is, and runs until a signal.
fn run(
    config: Config,
    process: ProcessArguments,
    welcome: Option<fn(&Installation, &Server) -> String>,
) -> Result<(), Failure> {
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
        data: config.data.clone(),
        name: config.names[0].clone(),
    };
    let outcome = runtime.block_on(async {
        let signals = Signals::new()
            .map_err(|error| Failure::refused(format!("Signals cannot be awaited: {error}.")))?;
        let server = Server::start(config, passphrase)
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

    #[test]
    fn flags_go_before_the_file() {
        let (mut file, mistakes) =
            ConfigFile::parse("names = ['a']\n[gateway]\nlisten = 'nonsense'\n[health]");
        let flags = Flags {
            data: None,
            upstream: Some("http://b:1".into()),
            names: vec!["c".into()],
            trust_domain: None,
            gateway_listen: Some(([127, 0, 0, 1], 0).into()),
            enrollment_listen: None,
            health_listen: Some(([127, 0, 0, 1], 0).into()),
        };
        assert!(flags.write_into(&mut file).is_ok());
        let config = check::judge(&"test", file, mistakes, Purpose::Up);
        let config = config.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(config.names, ["c"]);
        let gateway = config.gateway.expect("up runs it");
        assert_eq!(gateway.listen, [SocketAddr::from(([127, 0, 0, 1], 0))]);
        assert_eq!(gateway.routes.len(), 1);
    }
}
