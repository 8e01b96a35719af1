//! The commands: arguments in, the library does it, sentences out.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use clap::CommandFactory;
use clap_complete::Shell;
use device_client::{
    Answer, Asked, CertificateStatus, Enrolled, Enrollment, Existing, KeyStore, KeyStoreUri,
    Renewal, Retry, Roots, Schedule, Status, Trust, now, rfc3339,
};
use http::Method;
use identity::Token;
use zeroize::Zeroizing;

use crate::cli::{self, Arguments};
use crate::failure::Failure;

pub(crate) async fn enroll(
    keystore: &KeyStoreUri,
    arguments: cli::Enroll,
) -> Result<ExitCode, Failure> {
    let json = arguments.json;
    let enrollment = enrollment(arguments)?;
    let Enrolled { store, .. } =
        device_client::enroll(keystore, &enrollment, Retry::default()).await?;
    let status = device_client::status(&store)?;
    if json {
        return show_json(&status);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{} is enrolled.", status.device)?;
    show_certificate(&mut out, &status)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn renew(
    keystore: &KeyStoreUri,
    arguments: cli::Renew,
) -> Result<ExitCode, Failure> {
    let store = KeyStore::open(keystore)?;
    let schedule = match arguments.if_due {
        true => Schedule::IfDue,
        false => Schedule::Now,
    };
    let renewal = device_client::renew(&store, schedule, Retry::default()).await?;
    let status = device_client::status(&store)?;
    if arguments.json {
        return show_json(&status);
    }
    let mut out = io::stdout().lock();
    match renewal {
        Renewal::Renewed(_) => {
            writeln!(out, "{} has a new key and certificate.", status.device)?;
            show_certificate(&mut out, &status)?;
        }
        Renewal::NotDue { due_at } => {
            writeln!(out, "Nothing to do: renewal is due on {}.", rfc3339(due_at))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn status(keystore: &KeyStoreUri, arguments: cli::Status) -> Result<ExitCode, Failure> {
    let status = device_client::status(&KeyStore::open(keystore)?)?;
    if arguments.json {
        return show_json(&status);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "Device       {}", status.device)?;
    writeln!(out, "State        {}", status.state.as_str())?;
    if status.pending {
        writeln!(
            out,
            "Unfinished   a key waits for its certificate; run the same command again"
        )?;
    }
    if let Some(certificate) = &status.certificate {
        writeln!(out, "Name         {}", certificate.spiffe_id)?;
        writeln!(out, "Serial       {}", certificate.serial)?;
    }
    show_certificate(&mut out, &status)?;
    writeln!(out, "Enrollment   {}", status.server)?;
    match &status.gateway {
        Some(gateway) => writeln!(out, "Gateway      {gateway}")?,
        None => writeln!(
            out,
            "Gateway      none yet; the first request to a URL is remembered"
        )?,
    }
    for root in &status.roots {
        writeln!(out, "Trusts       root with SHA-256 {root}")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn request(
    keystore: &KeyStoreUri,
    arguments: cli::Request,
) -> Result<ExitCode, Failure> {
    let include = arguments.include;
    let asked = asked(arguments)?;
    let store = KeyStore::open(keystore)?;
    let mut answer = device_client::request(&store, &asked).await?;
    if let Err(error) = &answer.remembered {
        writeln!(
            io::stderr(),
            "keybound-device: the gateway was not remembered: {error}"
        )?;
    }
    if include {
        show_head(&answer)?;
    }
    let beginning = show_body(&mut answer).await?;
    let status = answer.status();
    if status.as_u16() < 400 {
        return Ok(ExitCode::SUCCESS);
    }
    let (gateway, refusal) = (answer.gateway(), answer.refusal(&beginning));
    match answer.is_refused_by_gateway() {
        true => writeln!(
            io::stderr(),
            "keybound-device: {gateway} refused: {refusal}"
        )?,
        false => writeln!(
            io::stderr(),
            "keybound-device: the service behind {gateway} answered: {refusal}"
        )?,
    }
    Ok(ExitCode::from(1))
}

pub(crate) fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "keybound-device", &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}

fn enrollment(arguments: cli::Enroll) -> Result<Enrollment, Failure> {
    let cli::Enroll {
        code,
        server,
        roots,
        device,
        token_file,
        replace,
        json: _,
    } = arguments;
    let existing = match replace {
        true => Existing::Replace,
        false => Existing::Keep,
    };
    let enrollment = match code {
        Some(code) => {
            let code = match code.as_str() {
                "-" => read_text(Path::new("-"))?,
                _ => Zeroizing::new(code),
            };
            let code = code.parse().map_err(Failure::Code)?;
            Enrollment::from_code(&code)
        }
        None => {
            let (Some(server), Some(roots), Some(device), Some(token_file)) =
                (server, roots, device, token_file)
            else {
                return Err(Failure::Flags);
            };
            let pem = read_text(&roots)?;
            let roots = Roots::from_pem(pem.as_bytes(), now())
                .map_err(|fault| Failure::Roots { path: roots, fault })?;
            let token: Token = read_text(&token_file)?
                .trim()
                .parse()
                .map_err(|_| Failure::Token { path: token_file })?;
            Enrollment {
                server,
                device,
                token,
                trust: Trust::Roots(roots),
                existing,
            }
        }
    };
    Ok(Enrollment {
        existing,
        ..enrollment
    })
}

fn asked(arguments: cli::Request) -> Result<Asked, Failure> {
    let mut asked = Asked::get(arguments.url);
    if let Some(data) = arguments.data {
        let body = match data.strip_prefix('@') {
            Some(path) => read(Path::new(path), MAX_BODY)?.to_vec(),
            None => data.into_bytes(),
        };
        asked = asked.with_method(Method::POST).with_body(Bytes::from(body));
    }
    if let Some(method) = arguments.request {
        asked = asked.with_method(method);
    }
    for (name, value) in arguments.header {
        asked = asked
            .with_header(name.clone(), value)
            .ok_or(Failure::Header { name })?;
    }
    Ok(asked)
}

fn show_certificate(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let Some(certificate) = &status.certificate else {
        return Ok(());
    };
    let CertificateStatus {
        not_before,
        not_after,
        renewal_due_at,
        ..
    } = certificate;
    writeln!(
        out,
        "Valid        {} to {}",
        rfc3339(*not_before),
        rfc3339(*not_after)
    )?;
    writeln!(
        out,
        "Renewal      due on {}: keybound-device renew --if-due",
        rfc3339(*renewal_due_at)
    )?;
    writeln!(out, "Key store    {}", status.keystore)
}

fn show_json(status: &Status) -> Result<ExitCode, Failure> {
    let json = serde_json::to_string_pretty(status)
        .expect("names, numbers and times always have a JSON form");
    writeln!(io::stdout(), "{json}")?;
    Ok(ExitCode::SUCCESS)
}

fn show_head(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{:?} {}\r\n", answer.version(), answer.status())?;
    for (name, value) in answer.headers() {
        write!(out, "{name}: ")?;
        out.write_all(value.as_bytes())?;
        out.write_all(b"\r\n")?;
    }
    out.write_all(b"\r\n")
}

/// Writes the body out as it comes; its beginning, to explain a refusal by.
async fn show_body(answer: &mut Answer) -> Result<Vec<u8>, Failure> {
    let mut beginning = Vec::new();
    let mut ends_line = true;
    while let Some(bytes) = answer.chunk().await? {
        let mut out = io::stdout().lock();
        out.write_all(&bytes)?;
        out.flush()?;
        let room = MAX_REFUSAL.saturating_sub(beginning.len());
        beginning.extend_from_slice(&bytes[..bytes.len().min(room)]);
        ends_line = bytes.last().is_none_or(|last| *last == b'\n');
    }
    if !ends_line && io::stdout().is_terminal() {
        writeln!(io::stdout())?;
    }
    Ok(beginning)
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = read(path, MAX_TEXT)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Failure::NotText {
            path: path.to_owned(),
        }),
    }
}

/// Reads a file; `-` is standard input.
fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    let result = if path == Path::new("-") {
        io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
    };
    let read = result.map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })?;
    if u64::try_from(read).is_ok_and(|read| read > limit) {
        return Err(Failure::TooLong {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

/// Codes, tokens and roots.
const MAX_TEXT: u64 = 64 * 1024;
const MAX_BODY: u64 = 64 * 1024 * 1024;
const MAX_REFUSAL: usize = 64 * 1024;
