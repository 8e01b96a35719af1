//! A server's certificate that another CA made: read from PEM, and judged before it serves anybody.

use identity::Fingerprint;
use identity::certificate::{Parsed, Validity};
use identity::server_certificate::ServerLeafFault;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::server_certificate::{Certified, ServerCertificateFault};

/// A certificate with its chain and key, and what has to be known of it.
#[derive(Clone, Debug)]
pub struct NamedCertificate {
    /// Its DNS names in lower case, in its order; never empty. The first label may be `*`.
    pub names: Vec<String>,
    /// When it holds. A certificate serves whether it does or not: clients judge that.
    pub validity: Validity,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// What serves handshakes.
    pub certified: Certified,
}

/// Why two files are no certificate and key that can serve.
#[derive(Debug, thiserror::Error)]
pub enum NamedCertificateFault {
    /// A section of the certificate file is broken, perhaps cut off.
    #[error("it is damaged: a section in PEM is cut off, or is not base64")]
    CertificatePem(rustls_pki_types::pem::Error),
    /// The certificate file has no certificate.
    #[error("it has no certificate in PEM")]
    NoCertificate,
    /// The first certificate is none for a server.
    #[error("its first certificate cannot serve: {0}")]
    Leaf(#[from] ServerLeafFault),
    /// A section of the key file is broken, perhaps cut off.
    #[error("it is damaged: a section in PEM is cut off, or is not base64")]
    KeyPem(rustls_pki_types::pem::Error),
    /// The key file has no key.
    #[error("it has no private key in PEM; one that is encrypted cannot be used")]
    NoKey,
    /// The key is not that of the certificate.
    #[error("its key is not that of the certificate, or of no use: {0}")]
    Key(#[from] ServerCertificateFault),
}

impl NamedCertificateFault {
    /// Whether the key's file is at fault, rather than the certificate's.
    pub fn concerns_key(&self) -> bool {
        match self {
            Self::CertificatePem(_) | Self::NoCertificate | Self::Leaf(_) => false,
            Self::KeyPem(_) | Self::NoKey | Self::Key(_) => true,
        }
    }
}

impl NamedCertificate {
    /// Reads a chain, the server's certificate first, and its key (PKCS #8, PKCS #1 or SEC 1).
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, NamedCertificateFault> {
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(NamedCertificateFault::CertificatePem)?;
        let leaf = chain.first().ok_or(NamedCertificateFault::NoCertificate)?;
        let parsed = Parsed::from_der(leaf).map_err(ServerLeafFault::Unreadable)?;
        let names = parsed.server_leaf()?.dns;
        let (validity, fingerprint) = (parsed.validity(), Fingerprint::of(leaf));
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|fault| {
            if matches!(fault, rustls_pki_types::pem::Error::NoItemsFound) {
                NamedCertificateFault::NoKey
            } else {
                NamedCertificateFault::KeyPem(fault)
            }
        })?;
        Ok(Self {
            names,
            validity,
            fingerprint,
            certified: Certified::new(chain, key)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_that_serves() {
        let (certificate, key) = made(&["API.example.com", "*.example.com", "127.0.0.1"]);
        let (other, _) = made(&["issuer"]);
        let chain = format!("Somebody's notes\n{certificate}{other}");
        let named = NamedCertificate::from_pem(chain.as_bytes(), key.as_bytes()).expect("serves");
        assert_eq!(named.names, ["api.example.com", "*.example.com"]);
    }

    #[test]
    fn pairs_that_do_not() {
        let check = |certificate: &str, key: &str, words: &str, concerns_key| {
            let fault = NamedCertificate::from_pem(certificate.as_bytes(), key.as_bytes())
                .expect_err("it cannot serve");
            assert!(fault.to_string().contains(words), "{fault}");
            assert_eq!(fault.concerns_key(), concerns_key, "{fault}");
        };
        let (certificate, key) = made(&["a.example"]);
        let (nameless, its_key) = made(&["127.0.0.1"]);
        let half = |text: &str| text[..text.len() / 2].to_owned();
        check("", &key, "no certificate", false);
        check("nonsense", &key, "no certificate", false);
        check(&half(&certificate), &key, "damaged", false);
        let whole_and_half = certificate.clone() + &half(&certificate);
        check(&whole_and_half, &key, "damaged", false);
        check(&nameless, &its_key, "no DNS name", false);
        check(&key, &key, "no certificate", false);
        check(&certificate, "", "no private key", true);
        check(&certificate, &certificate, "no private key", true);
        check(&certificate, &half(&key), "damaged", true);
        check(&certificate, &its_key, "not that of the certificate", true);
    }
}
