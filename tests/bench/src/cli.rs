//! What can be written on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Load for gateways; tests/bench/run uses it.
#[derive(Parser)]
#[command(name = "keybound-bench", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make keys and signing requests for `keybound sign --dir`
    SigningRequests(SigningRequests),
    /// Issue to devices, and revoke some, in the data directory of a server that does not run
    Fleet(Fleet),
    /// Answer requests over HTTP/1.1 until standard input ends
    Upstream(Upstream),
    /// Carry bytes after a delay until standard input ends
    Relay(Relay),
    /// Send one request with every check made, and print what the upstream was told
    Probe(Probe),
    /// A connection with a full handshake for each request
    Handshakes(Handshakes),
    /// Requests over kept HTTP/1.1 connections
    Requests(Requests),
    /// Requests over streams of HTTP/2 connections
    Streams(Streams),
    /// Large answers over kept connections
    Downloads(Transfers),
    /// Large requests over kept connections
    Uploads(Transfers),
    /// Connections that are held after a request each
    Idle(Idle),
    /// Handshakes at a given rate, whether they are answered or not
    Flood(Flood),
    /// The time to the first byte of an answer through a relay
    RoundTrips(RoundTrips),
}

#[derive(Args)]
pub(crate) struct SigningRequests {
    /// Where: a file ID.csr and a file ID.key for each device
    pub(crate) folder: PathBuf,
    /// How many
    pub(crate) count: usize,
}

#[derive(Args)]
pub(crate) struct Fleet {
    /// The server's data directory
    pub(crate) data: PathBuf,
    /// How many certificates to issue
    #[arg(long)]
    pub(crate) devices: usize,
    /// How many of these devices to revoke
    #[arg(long, default_value_t = 0)]
    pub(crate) revoked: usize,
}

#[derive(Args)]
pub(crate) struct Upstream {
    /// Where
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
}

#[derive(Args)]
pub(crate) struct Relay {
    /// To whom
    pub(crate) to: SocketAddr,
    /// How long a byte is under way, in milliseconds
    #[arg(long, default_value = "50", value_parser = milliseconds)]
    pub(crate) delay: Duration,
}

/// Whom to speak with, and as whom.
#[derive(Args)]
pub(crate) struct Peer {
    /// The gateway
    #[arg(long)]
    pub(crate) gateway: SocketAddr,
    /// Its name
    #[arg(long, default_value = "localhost")]
    pub(crate) name: String,
    /// The folder with the devices' keys, ID.key
    #[arg(long)]
    pub(crate) keys: PathBuf,
    /// The folder with the devices' certificates, ID.pem
    #[arg(long)]
    pub(crate) certificates: PathBuf,
    /// How many devices to be; left out: all
    #[arg(long)]
    pub(crate) devices: Option<usize>,
    /// The group of the key exchange
    #[arg(long, value_enum, default_value_t = KeyExchange::X25519)]
    pub(crate) group: KeyExchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyExchange {
    /// X25519 alone
    X25519,
    /// X25519 with one key for all handshakes
    Kept,
    /// X25519MLKEM768 alone
    Mlkem,
    /// What the TLS library offers
    Default,
}

/// How long, and when.
#[derive(Args)]
pub(crate) struct Span {
    /// How long to send
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Print `ready` when everything is prepared, and wait for a line on standard input
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Args)]
pub(crate) struct Probe {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// The certificates that vouch for the gateway
    #[arg(long)]
    pub(crate) roots: PathBuf,
}

#[derive(Args)]
pub(crate) struct Handshakes {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) span: Span,
    /// How many at a time
    #[arg(long, default_value_t = 16)]
    pub(crate) at_once: usize,
    /// Handshakes before it is ready
    #[arg(long, default_value_t = 200)]
    pub(crate) warm: usize,
    /// Each device once and no more
    #[arg(long)]
    pub(crate) once: bool,
    /// Resume sessions with tickets
    #[arg(long)]
    pub(crate) resume: bool,
}

#[derive(Args)]
pub(crate) struct Requests {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) span: Span,
    /// How many connections
    #[arg(long, default_value_t = 32)]
    pub(crate) connections: usize,
    /// A request on each connection every so many milliseconds; left out: as soon as the last was answered
    #[arg(long, value_parser = milliseconds)]
    pub(crate) every: Option<Duration>,
}

#[derive(Args)]
pub(crate) struct Streams {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) span: Span,
    /// How many connections
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// How many requests at a time on each
    #[arg(long, default_value_t = 32)]
    pub(crate) streams: usize,
}

#[derive(Args)]
pub(crate) struct Transfers {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) span: Span,
    /// How many connections
    #[arg(long, default_value_t = 2)]
    pub(crate) connections: usize,
    /// How many bytes each time
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) length: u64,
}

#[derive(Args)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// How many connections, one for each device
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: usize,
    /// HTTP/2
    #[arg(long)]
    pub(crate) http2: bool,
}

#[derive(Args)]
pub(crate) struct Flood {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) span: Span,
    /// Connections begun per second
    #[arg(long)]
    pub(crate) rate: f64,
    /// How long each waits for its answer, in milliseconds
    #[arg(long, default_value = "3000", value_parser = milliseconds)]
    pub(crate) patience: Duration,
}

#[derive(Args)]
pub(crate) struct RoundTrips {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// How long a byte is under way, in milliseconds
    #[arg(long, default_value = "50", value_parser = milliseconds)]
    pub(crate) delay: Duration,
    /// A name of the gateway with which clients need no certificate
    #[arg(long)]
    pub(crate) anonymous_name: Option<String>,
    /// Connections of each kind
    #[arg(long, default_value_t = 5)]
    pub(crate) count: usize,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).map_err(|error| error.to_string())
}
