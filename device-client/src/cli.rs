//! What can be written on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use device_client::{KeyStoreUri, Target, server_url};
use http::{HeaderName, HeaderValue, Method};
use identity::{DeviceId, ServerAddress};

/// The device's side of Keybound: enroll, renew, and send requests as the device.
#[derive(Parser)]
#[command(
    name = "keybound-device",
    version,
    after_help = "Exit codes: 0 done; 1 refused or failed; 2 wrong usage; \
                  3 the server could not be reached, or TLS failed."
)]
pub(crate) struct Arguments {
    /// The key store: file:FOLDER, or a folder
    #[arg(
        long,
        global = true,
        value_name = "URI",
        env = "KEYBOUND_KEYSTORE",
        default_value = "file:./keybound-device"
    )]
    pub(crate) keystore: KeyStoreUri,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a key and enroll it with a one-time code
    Enroll(Enroll),
    /// Get the next certificate, for a new key
    Renew(Renew),
    /// Show what the key store holds
    Status(Status),
    /// Send a request with the device's certificate
    Request(Request),
    /// Print a script that completes commands in a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    keybound-device enroll \"$CODE\"\n  \
    keybound-device enroll - < code.txt\n  \
    keybound-device enroll --server https://pki.example:8444 --roots root.pem --device thermostat-7 --token-file token.txt\n\n\
    Run it again after a failure: the same key is asked for again, and a lost answer is repeated.")]
pub(crate) struct Enroll {
    /// The code that `keybound token new` printed; - reads it from standard input
    #[arg(required_unless_present = "server", conflicts_with_all = ["server", "roots", "device", "token_file"])]
    // A plain text to clap, which repeats what it refuses: the code is a secret.
    pub(crate) code: Option<String>,
    /// The enrollment server, as https://host:port or host:port
    #[arg(long, value_name = "URL", value_parser = server_url, requires_all = ["roots", "device", "token_file"])]
    pub(crate) server: Option<ServerAddress>,
    /// The root certificates to trust, in PEM
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) roots: Option<PathBuf>,
    /// The device's name
    #[arg(long, value_name = "ID", requires = "server")]
    pub(crate) device: Option<DeviceId>,
    /// A file with the one-time token; - reads standard input
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) token_file: Option<PathBuf>,
    /// Enroll anew although the key store holds a certificate; the old one serves until the new one is there
    #[arg(long)]
    pub(crate) replace: bool,
    /// Print the key store's status as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Renew {
    /// Only when two thirds of the certificate's life are over; otherwise do nothing, successfully
    #[arg(long)]
    pub(crate) if_due: bool,
    /// Print the key store's status as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Status {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    keybound-device request https://gateway.example:8443/hello\n  \
    keybound-device request -X PUT -H 'Content-Type: application/json' -d @state.json /v1/state\n\n\
    The first successful request to a whole URL is remembered: after it, a path is enough.\n\
    The body goes to standard output; why a request was refused, to standard error. Exit 0 below HTTP 400, else 1.")]
pub(crate) struct Request {
    /// The method; GET, or POST with --data
    #[arg(short = 'X', long, value_name = "METHOD", value_parser = method)]
    pub(crate) request: Option<Method>,
    /// A header, as Name: value; may be repeated
    #[arg(short = 'H', long, value_name = "HEADER", value_parser = header)]
    pub(crate) header: Vec<(HeaderName, HeaderValue)>,
    /// The body; @file sends a file as it is, @- standard input
    #[arg(short, long, value_name = "BODY")]
    pub(crate) data: Option<String>,
    /// Print the answer's status and headers before its body
    #[arg(short, long)]
    pub(crate) include: bool,
    /// An https URL, or a path at the remembered gateway
    pub(crate) url: Target,
}

fn method(text: &str) -> Result<Method, &'static str> {
    match text.parse() {
        Ok(Method::CONNECT) => Err("a gateway forwards no CONNECT"),
        Ok(method) => Ok(method),
        Err(_) => Err("it is not an HTTP method"),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let (name, value) = text.split_once(':').ok_or("it is not Name: value")?;
    let name = name.parse().map_err(|_| "its name is not a header name")?;
    let value =
        HeaderValue::from_str(value.trim()).map_err(|_| "its value has illegal characters")?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_excludes_or_needs_what() {
        let check = |line: &str, accepted: bool| {
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert_eq!(parsed.is_ok(), accepted, "{line}");
        };
        let flags = "--server a:1 --roots r --device d --token-file t";
        check("keybound-device enroll -", true);
        check(&format!("keybound-device enroll {flags}"), true);
        check(&format!("keybound-device enroll - {flags}"), false);
        check(
            "keybound-device enroll --server a:1 --roots r --device d",
            false,
        );
        check("keybound-device enroll", false);
        check("keybound-device renew --if-due --keystore ./k", true);
        check("keybound-device status --keystore pkcs11:token=a", false);
        check("keybound-device request -X CONNECT /", false);
        check("keybound-device request -H nonsense /", false);
        check(
            "keybound-device request -i -H A:b -H C:d -d @f /hello",
            true,
        );
        check("keybound-device request http://a/", false);
    }
}
