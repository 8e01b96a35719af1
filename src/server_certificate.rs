//! The server's own certificate: made by the infrastructure CA, replaced without a restart in time and for other names.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use ca::{Authority, IssueError};
use gateway::tls::{Certified, ServerCertificate, ServerCertificateFault};
use identity::certificate::{Parsed, Validity};
use identity::{Name, Timestamp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::metrics::Metrics;
use crate::{clock, files};

/// Makes and replaces the certificate.
pub(crate) struct Renewal {
    maker: Maker,
    metrics: Metrics,
    certificate: Arc<ServerCertificate>,
    /// Held while a certificate is made, so that one does not take the place of another with newer names.
    current: Mutex<Current>,
}

/// Makes certificates, and keeps the last one.
struct Maker {
    authority: Arc<Authority>,
    /// In the certificate's SPIFFE ID.
    gateway: Name,
    file: PathBuf,
}

/// What the certificate in force is for, and when to replace it.
struct Current {
    names: Vec<String>,
    due: Timestamp,
}

/// A certificate for other names, made and kept, and not yet in force.
pub(crate) struct Renamed<'r> {
    renewal: &'r Renewal,
    current: MutexGuard<'r, Current>,
    names: Vec<String>,
    made: Made,
}

/// A certificate that can serve.
struct Made {
    certified: Certified,
    validity: Validity,
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
    /// The certificate of the last run if it still serves, else a new one.
    pub(crate) async fn start(
        authority: Arc<Authority>,
        gateway: Name,
        names: Vec<String>,
        data: &Path,
        metrics: Metrics,
    ) -> Result<Self, Fault> {
        let maker = Maker {
            authority,
            gateway,
            file: data.join("gateway").join("server.pem"),
        };
        let now = clock::now();
        // One of the future was made while the clock was wrong.
        let serves =
            |stored: &Stored| stored.validity.not_before <= now && now < due(stored.validity);
        // One that cannot be used is replaced; it is not worth refusing to start.
        let kept = maker.load(&names).filter(serves).and_then(|stored| {
            let validity = stored.validity;
            let certificate = ServerCertificate::new(stored.chain, stored.key).ok()?;
            Some((certificate, validity))
        });
        let (certificate, validity) = match kept {
            Some(kept) => kept,
            None => {
                let stored = maker.issue(&names).await?;
                let validity = stored.validity;
                (ServerCertificate::new(stored.chain, stored.key)?, validity)
            }
        };
        let renewal = Self {
            maker,
            metrics,
            certificate: Arc::new(certificate),
            current: Mutex::new(Current {
                names,
                due: due(validity),
            }),
        };
        renewal.announce(&renewal.current.lock().await.names, validity);
        Ok(renewal)
    }

    /// What serves handshakes.
    pub(crate) fn certificate(&self) -> &Arc<ServerCertificate> {
        &self.certificate
    }

    /// Replaces the certificate whenever it is due. A failure leaves the old one in force and is tried again.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        loop {
            let due = self.current.lock().await.due;
            // At most an hour at a time, because clocks are set and names change.
            let pause = due.since(clock::now()).clamp(RETRY_AFTER, LOOK_EVERY);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
            let mut current = self.current.lock().await;
            if clock::now() < current.due {
                continue;
            }
            match self.make(&current.names).await {
                Ok(made) => {
                    current.due = due_of(&made);
                    self.announce(&current.names, made.validity);
                    self.certificate.replace_own(made.certified);
                }
                Err(error) => {
                    tracing::error!(%error, "the server certificate cannot be replaced; the old one stays");
                }
            }
        }
    }

    /// Makes a certificate for other names; [`Renamed::publish`] puts it in force.
    pub(crate) async fn rename(&self, names: Vec<String>) -> Result<Renamed<'_>, Fault> {
        let current = self.current.lock().await;
        let made = self.make(&names).await?;
        Ok(Renamed {
            renewal: self,
            current,
            names,
            made,
        })
    }

    async fn make(&self, names: &[String]) -> Result<Made, Fault> {
        let stored = self.maker.issue(names).await?;
        Ok(Made {
            certified: Certified::new(stored.chain, stored.key)?,
            validity: stored.validity,
        })
    }

    fn announce(&self, names: &[String], validity: Validity) {
        let name = names.first().map_or("", String::as_str);
        self.metrics.own_certificate(name, validity.not_after);
    }
}

impl Renamed<'_> {
    /// Puts the certificate in force.
    pub(crate) fn publish(mut self) {
        self.current.due = due_of(&self.made);
        self.renewal.announce(&self.names, self.made.validity);
        self.current.names = self.names;
        self.renewal.certificate.replace_own(self.made.certified);
    }
}

impl Maker {
    /// A new key and its certificate, kept before they are used.
    async fn issue(&self, names: &[String]) -> Result<Stored, Fault> {
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
            .issue_server_certificate(&self.gateway, names, &spki)
            .await?;
        let chain = [
            issued.der,
            self.authority.infrastructure_ca().der().to_vec(),
        ];
        let mut text = Zeroizing::new(pem_of("PRIVATE KEY", pkcs8.to_vec()));
        for certificate in &chain {
            text.push_str(&pem_of("CERTIFICATE", certificate.clone()));
        }
        self.keep(text).await.map_err(|error| Fault::Write {
            file: self.file.clone(),
            error,
        })?;
        tracing::info!(
            serial = %issued.serial,
            names = names.join(", "),
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

    /// Away from those who must not wait for a disk.
    async fn keep(&self, content: Zeroizing<String>) -> io::Result<()> {
        let file = self.file.clone();
        let writing = tokio::task::spawn_blocking(move || {
            if let Some(directory) = file.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)?;
            }
            files::write_atomically(&file, content.as_bytes(), 0o600)
        });
        writing.await.map_err(io::Error::other)?
    }

    /// What is kept, if it is whole, of this CA, for exactly these names, and its key nobody else's to read.
    fn load(&self, names: &[String]) -> Option<Stored> {
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
        let parsed = Parsed::from_der(certificate).ok()?;
        let has = parsed.server_names().ok()?;
        let addresses = has.addresses.iter().map(ToString::to_string);
        let mut has: Vec<String> = has.dns.into_iter().chain(addresses).collect();
        let mut wanted = names.to_vec();
        has.sort();
        wanted.sort();
        let validity = parsed.validity();
        (has == wanted).then_some(Stored {
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

fn due_of(made: &Made) -> Timestamp {
    due(made.validity)
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
