//! The command line: its grammar and its help.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::admin::api::DeviceStatus;
use crate::config::DEFAULT_DATA;

/// A device identity gateway: mutual TLS, an embedded CA and instant revocation in one process.
///
/// `keybound up` runs everything. The other commands talk to the running server over the Unix socket in its
/// data directory; only root and the user that runs the server may.
#[derive(Debug, Parser)]
#[command(name = "keybound", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The server's data directory [default: ./keybound-data]
    #[arg(long, global = true, value_name = "DIR", env = "KEYBOUND_DATA")]
    pub(crate) data: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Where the server's files are.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| DEFAULT_DATA.into())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process, and make what is missing.
    ///
    /// Makes the CA in the data directory on first start, then listens for devices (gateway and enrollment), for
    /// health checks and for the other commands. Without routes and --upstream, a small built-in upstream shows what
    /// it receives.
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArguments),

    /// Run the roles that a configuration file names.
    #[command(after_help = "Example:\n  keybound serve --config /etc/keybound/keybound.toml")]
    Serve(ServeArguments),

    /// Report every mistake in a configuration file at once; nothing is started.
    #[command(after_help = "Example:\n  keybound check --config keybound.toml")]
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print {"mistakes": [...]} as JSON
        #[arg(long)]
        json: bool,
    },

    /// Have the running server read its configuration file again, without dropping a connection.
    ///
    /// Prints what is different; or every mistake, and then nothing was changed. SIGHUP does the same and tells the log.
    /// Flags of `up` stay in force. Listeners, workers, the data directory, the trust domain and the life of device
    /// certificates need a restart.
    Reload {
        /// Print {"name": ..., "changes": [...]} or {"name": ..., "mistakes": [...]} as JSON
        #[arg(long)]
        json: bool,
    },

    /// Enrollment codes: what a new device needs to get its first certificate.
    #[command(subcommand)]
    Token(TokenCommand),

    /// Sign certificate requests that were brought here, one or a whole folder.
    ///
    /// Of a request nothing reaches the certificate but the public key; the device id is yours to say. Signing the same id
    /// and key again gives the same certificate.
    #[command(after_help = SIGN_EXAMPLES)]
    Sign(SignArguments),

    /// List devices, show one, or stop one.
    #[command(subcommand)]
    Device(DeviceCommand),

    /// Tell why a device, address or request was let through or refused.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// A device id, a certificate's serial, an IP address, or the request id of an answer
        #[arg(value_name = "ID|SERIAL|ADDRESS|REQUEST")]
        query: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Examine what stands around the server.
    #[command(subcommand)]
    Doctor(DoctorCommand),

    /// The CA's certificates and its revocation list.
    #[command(subcommand)]
    Ca(CaCommand),

    /// Print completions for a shell.
    #[command(
        after_help = "Example:\n  keybound completions bash > /etc/bash_completion.d/keybound"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// A configuration file; flags go before it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where requests go, e.g. http://127.0.0.1:8080 [default: a built-in upstream that shows what it received]
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// A host name or IP address by which devices reach this server; repeat it for several, the one for enrollment codes first
    /// [default: localhost, this host's name, 127.0.0.1, ::1]
    #[arg(long = "name", value_name = "HOST")]
    pub(crate) names: Vec<String>,
    /// The trust domain in the devices' identities, fixed on first start [default: keybound.local]
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<String>,
    /// Where devices come in with their certificate [default: 0.0.0.0:8443]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) gateway_listen: Option<SocketAddr>,
    /// Where devices enroll and renew [default: 0.0.0.0:8444]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) enrollment_listen: Option<SocketAddr>,
    /// Where /healthz, /readyz and /metrics are, in plain HTTP [default: 127.0.0.1:8446]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) health_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) process: ProcessArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) process: ProcessArguments,
}

/// What `up` and `serve` share.
#[derive(Debug, Args)]
pub(crate) struct ProcessArguments {
    /// A file whose first line is the passphrase of the CA's keys; KEYBOUND_CA_PASSPHRASE does the same
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// How log lines on standard error look; KEYBOUND_LOG says which there are, e.g. info,decision=debug
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a one-time enrollment code, bound to a device id.
    ///
    /// Prints the code alone, so that it can be handed on. It carries the enrollment server, the CA's fingerprint, the device
    /// id and a secret; it works once, for one key.
    #[command(after_help = TOKEN_EXAMPLES)]
    New(TokenArguments),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("devices").required(true).args(["device", "file"]))]
pub(crate) struct TokenArguments {
    /// The device id
    #[arg(long, value_name = "ID")]
    pub(crate) device: Option<String>,
    /// A file with one device id per line, after an optional first line "id"; prints id,code lines
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How long the code can be used, e.g. 15m, 1h or 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) ttl: String,
    /// Print JSON with the keys code and token
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["csr", "dir"]))]
pub(crate) struct SignArguments {
    /// The device id that the certificate names
    #[arg(long, value_name = "ID", requires = "csr")]
    pub(crate) device: Option<String>,
    /// The certificate request, PKCS #10 in PEM or DER; - reads standard input
    #[arg(long, value_name = "FILE", requires = "device")]
    pub(crate) csr: Option<PathBuf>,
    /// A folder of requests: a file's name without .csr, .pem, .der or .p10 is the device id
    #[arg(long, value_name = "DIR", requires = "out", conflicts_with = "device")]
    pub(crate) dir: Option<PathBuf>,
    /// Where the certificate goes [default: standard output], or the folder for certificates and results.csv
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// List devices.
    List {
        /// Only devices in this status
        #[arg(long, value_name = "STATUS")]
        status: Option<DeviceStatus>,
        /// Only devices in this group
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a device with its certificates and its history.
    Show {
        /// The device id
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Withdraw a device for ever: its certificates, its tokens and its connections, everywhere, at once.
    ///
    /// Waits until every gateway has acknowledged, and says how many connections were closed. Its id is blocked until
    /// `device replace`.
    #[command(
        after_help = "Example:\n  keybound device revoke thermostat-7 --reason 'sold on the flea market'"
    )]
    Revoke(ChangeArguments),
    /// Stop a device until it is restored.
    Suspend(ChangeArguments),
    /// Let a suspended device go on.
    Restore(ChangeArguments),
    /// Put a device into groups, which routes admit, and give it labels, for people.
    ///
    /// In force at once, on open connections with their next request; waits until every gateway has acknowledged. Groups
    /// and labels stay with the id, also when it is replaced.
    #[command(after_help = LABEL_EXAMPLES)]
    Label(LabelArguments),
    /// Withdraw whatever a device still has, free its id, and print an enrollment code for the device that takes its place.
    Replace(ReplaceArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArguments {
    /// The device id
    pub(crate) id: String,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Do not wait for the gateways; the change is durable either way
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("labels").required(true).multiple(true)
    .args(["groups", "no_groups", "labels_set", "no_labels"]))]
pub(crate) struct LabelArguments {
    #[command(flatten)]
    pub(crate) change: ChangeArguments,
    /// A group that the device is in from now on; repeat it for several, 16 at most
    #[arg(long = "group", value_name = "NAME")]
    pub(crate) groups: Vec<String>,
    /// A group that it is in no longer
    #[arg(long = "no-group", value_name = "NAME")]
    pub(crate) no_groups: Vec<String>,
    /// A label; repeat it for several, 16 at most
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels_set: Vec<String>,
    /// A label that goes
    #[arg(long = "no-label", value_name = "KEY")]
    pub(crate) no_labels: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArguments {
    #[command(flatten)]
    pub(crate) change: ChangeArguments,
    /// How long the new code can be used
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) ttl: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DoctorCommand {
    /// Send forged identity headers to an upstream, through the gateway and around it, and tell which are believed.
    ///
    /// Every header that the gateway strips is sent in its own and in odd spellings, alone and together with those of its
    /// dialect, in GET requests. The answers are compared with the one without it: whether they repeat what was forged, and
    /// whether status or body are different. Ask for a path whose answer depends on who asks. Needs no running server of its own.
    #[command(after_help = SPOOF_EXAMPLES)]
    Spoof(SpoofArguments),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("doors").required(true).multiple(true).args(["upstream", "gateway"]))]
pub(crate) struct SpoofArguments {
    /// The upstream, asked directly and without a certificate: http://, https:// or h2c://HOST[:PORT], or unix:/PATH
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// The gateway, asked as the device of the key store: https://HOST[:PORT]
    #[arg(long, value_name = "URL")]
    pub(crate) gateway: Option<String>,
    /// What is asked for
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) path: String,
    /// The host that is asked for [default: the gateway's, or else the upstream's]
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Pretend to be this device [default: invented ones]
    #[arg(long = "as", value_name = "ID")]
    pub(crate) device: Option<String>,
    /// The key store of an honest device
    #[arg(long, value_name = "DIR", default_value = "./keybound-device")]
    pub(crate) keystore: PathBuf,
    /// A certificate instead of the key store's
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// The gateway's root certificates instead of the key store's
    #[arg(long, value_name = "FILE")]
    pub(crate) roots: Option<PathBuf>,
    /// Print JSON: each header in each spelling, and what came of it
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Print the root certificate in PEM.
    #[command(after_help = "Example:\n  keybound ca root > roots.pem")]
    Root {
        /// Print JSON: all three CA certificates with their SHA-256
        #[arg(long)]
        json: bool,
    },
    /// Print the certificate revocation list in PEM.
    #[command(after_help = "Example:\n  keybound ca crl | openssl crl -noout -text")]
    Crl {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed
  2  the command line makes no sense
  3  committed, but not every gateway has acknowledged";

const UP_EXAMPLES: &str = "\
Examples:
  keybound up
  keybound up --upstream http://127.0.0.1:8080 --name devices.example.com";

const TOKEN_EXAMPLES: &str = "\
Examples:
  keybound token new --device thermostat-7
  keybound-device enroll \"$(keybound token new --device thermostat-7)\"
  keybound token new --file ids.csv --ttl 7d > codes.csv";

const SIGN_EXAMPLES: &str = "\
Examples:
  keybound sign --device thermostat-7 --csr thermostat-7.csr > thermostat-7.pem
  keybound sign --dir requests --out certificates

A folder can be signed again after an interruption: what has its certificate is left alone. The folder of results
gets ID.pem for each device and results.csv with a line for each request.";

const LABEL_EXAMPLES: &str = "\
Examples:
  keybound device label thermostat-7 --group blue --label site='Berlin, hall 3'
  keybound device label thermostat-7 --no-group blue --no-label site
  keybound device list --group blue

Groups and the keys of labels have 1-64 characters of a-z 0-9 . _ - and start with a letter or a digit.";

const SPOOF_EXAMPLES: &str = "\
Examples:
  keybound doctor spoof --upstream http://10.0.0.5:8080 --path /whoami
  keybound doctor spoof --upstream unix:/run/orders.sock --gateway https://devices.example.com:8443

Exit codes:
  0  nothing forged was believed
  1  something was; it is listed
  2  who was to be asked did not answer";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  keybound explain thermostat-7
  keybound explain 192.0.2.7
  keybound explain 3f1c0a5be2d94c7a8b6e1d20f4a79c55";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }
}
