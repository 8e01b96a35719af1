//! The server's own certificate: made by the infrastructure CA, replaced in time without a restart.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use ca::{Authority, IssueError};
use gateway::tls::{ServerCertificate, ServerCertificateFault};
use identity::certificate::{Parsed, Validity};
use identity::{Name, Timestamp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use crate::metrics::Metrics;
use crate::{clock, files};

/// Makes and replaces the certificate.
pub(crate) struct Renewal {
    authority: Arc<Authority>,
    /// In the certificate's SPIFFE ID.
    gateway: Name,
    names: Vec<String>,
    file: PathBuf,
    metrics: Metrics,
}

/// Why there is no server certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{} cannot be written: {error}", .file.display())]
    Write { file: PathBuf, error: io::Error },
    #[error("the random source failed")]
    Random,
    #[error("the server certificate cannot be issued: {0}")]
    Issue(#[from] IssueError),
    #[error("the server certificate cannot be used: {0}")]
    Use(#[from] ServerCertificateFault),
}

/// Chain and key, as they are kept: in one file, so that they can only change together.
struct Stored {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    validity: Validity,
}

impl Renewal {
    pub(crate) fn new(
        authority: Arc<Authority>,
        gateway: Name,
        names: Vec<String>,
        data: &Path,
        metrics: Metrics,
    ) -> Self {
        Self {
            authority,
            gateway,
            names,
            file: data.join("gateway").join("server.pem"),
            metrics,
        }
    }

    /// The certificate of the last run if it still serves, else a new one; and when to replace it.
    pub(crate) async fn start(&self) -> Result<(Arc<ServerCertificate>, Timestamp), Fault> {
        let now = clock::now();
        // One of the future was made while the clock was wrong.
        let serves =
            |stored: &Stored| stored.validity.not_before <= now && now < due(stored.validity);
        // One that cannot be used is replaced; it is not worth refusing to start.
        let kept = self.load().filter(serves).and_then(|stored| {
            let due = self.announce(&stored);
            let certificate = ServerCertificate::new(stored.chain, stored.key).ok()?;
            Some((certificate, due))
        });
        let (certificate, due) = match kept {
            Some(kept) => kept,
            None => {
                let stored = self.issue().await?;
                let due = self.announce(&stored);
                (ServerCertificate::new(stored.chain, stored.key)?, due)
            }
        };
        Ok((Arc::new(certificate), due))
    }

    /// Replaces the certificate whenever it is due. A failure leaves the old one in force and is tried again.
    pub(crate) async fn run(
        &self,
        certificate: &ServerCertificate,
        mut due: Timestamp,
        shutdown: CancellationToken,
    ) {
        loop {
            // At most an hour at a time, because clocks are set.
            let pause = due.since(clock::now()).clamp(RETRY_AFTER, LOOK_EVERY);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
            if clock::now() < due {
                continue;
            }
            match self.replace(certificate).await {
                Ok(next) => due = next,
                Err(error) => {
                    tracing::error!(%error, "the server certificate cannot be replaced; the old one stays");
                }
            }
        }
    }

    async fn replace(&self, certificate: &ServerCertificate) -> Result<Timestamp, Fault> {
        let stored = self.issue().await?;
        let due = self.announce(&stored);
        certificate.replace(stored.chain, stored.key)?;
        Ok(due)
    }

    fn announce(&self, stored: &Stored) -> Timestamp {
        self.metrics
            .server_certificate_not_after
            .set(stored.validity.not_after.0);
        due(stored.validity)
    }

    /// A new key and its certificate, kept before they are used.
    async fn issue(&self) -> Result<Stored, Fault> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|_| Fault::Random)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
        let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key)
            .map_err(ServerCertificateFault::Unusable)?;
        let spki = signing
            .public_key()
            .expect("an ECDSA key knows its public half");
        let issued = self
            .authority
            .issue_server_certificate(&self.gateway, &self.names, &spki)
            .await?;
        let chain = [
            issued.der,
            self.authority.infrastructure_ca().der().to_vec(),
        ];
        let mut text = Zeroizing::new(pem_of("PRIVATE KEY", pkcs8.to_vec()));
        for certificate in &chain {
            text.push_str(&pem_of("CERTIFICATE", certificate.clone()));
        }
        self.keep(text.as_bytes()).map_err(|error| Fault::Write {
            file: self.file.clone(),
            error,
        })?;
        tracing::info!(
            serial = %issued.serial,
            names = self.names.join(", "),
            not_after = clock::rfc3339(issued.not_after),
            "a server certificate was issued"
        );
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let validity = Parsed::from_der(&chain[0])
            .map(|parsed| parsed.validity())
            .map_err(|_| ServerCertificateFault::Empty)?;
        Ok(Stored {
            chain,
            key,
            validity,
        })
    }

    fn keep(&self, content: &[u8]) -> io::Result<()> {
        if let Some(directory) = self.file.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        files::write_atomically(&self.file, content, 0o600)
    }

    /// What is kept, if it is whole, of this CA, for exactly these names, and its key nobody else's to read.
    fn load(&self) -> Option<Stored> {
        if fs::metadata(&self.file).ok()?.mode() & 0o077 != 0 {
            return None;
        }
        let text = Zeroizing::new(files::read_at_most(&self.file, LONGEST_FILE).ok()?);
        let mut key = None;
        let mut chain = Vec::new();
        for part in pem::parse_many(text.as_slice()).ok()? {
            match part.tag() {
                "PRIVATE KEY" => {
                    key = Some(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
                        part.into_contents(),
                    )));
                }
                "CERTIFICATE" => chain.push(CertificateDer::from(part.into_contents())),
                _ => return None,
            }
        }
        let [certificate, issuer] = chain.as_slice() else {
            return None;
        };
        if issuer != self.authority.infrastructure_ca().der() {
            return None;
        }
        let mut names = names_of(certificate)?;
        let mut wanted = self.names.clone();
        names.sort();
        wanted.sort();
        let validity = Parsed::from_der(certificate).ok()?.validity();
        (names == wanted).then_some(Stored {
            chain,
            key: key?,
            validity,
        })
    }
}

/// A certificate is replaced when two thirds of its life are over.
fn due(validity: Validity) -> Timestamp {
    let life = validity.not_after.since(validity.not_before);
    validity.not_before.plus(life * 2 / 3)
}

/// The DNS names and IP addresses that a certificate is for.
fn names_of(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, x509) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = x509.subject_alternative_name().ok()??;
    let names = names.value.general_names.iter().filter_map(|name| {
        if let GeneralName::DNSName(name) = name {
            Some((*name).to_owned())
        } else if let GeneralName::IPAddress(bytes) = name {
            address(bytes).map(|address| address.to_string())
        } else {
            None
        }
    });
    Some(names.collect())
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

fn pem_of(tag: &str, contents: Vec<u8>) -> String {
    pem::encode_config(
        &pem::Pem::new(tag, contents),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

const LONGEST_FILE: usize = 64 * 1024;
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
const RETRY_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_at_two_thirds() {
        let validity = Validity {
            not_before: Timestamp(1_000),
            not_after: Timestamp(1_090),
        };
        assert_eq!(due(validity), Timestamp(1_060));
    }
}
