//! Why keys cannot be made or loaded.

use std::io;

/// Why the CA's keys cannot be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// A file cannot be read.
    #[error("{file} cannot be read: {error}; restore it from a backup")]
    Read {
        /// The file.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// A file cannot be written.
    #[error("the CA's files cannot be written: {0}")]
    Write(#[from] io::Error),
    /// A file does not hold what it should.
    #[error("{file} is damaged; restore it from a backup")]
    Damaged {
        /// The file.
        file: String,
    },
    /// Others than its owner may read or change a key.
    #[error(
        "{file} may be read or changed by others (mode {mode:o}); run chmod 600 on it, and start with a new CA if somebody could have copied it"
    )]
    OpenToOthers {
        /// The file.
        file: String,
        /// Its mode.
        mode: u32,
    },
    /// The key is encrypted.
    #[error("the CA's keys are encrypted; set KEYBOUND_CA_PASSPHRASE")]
    PassphraseMissing,
    /// A passphrase was given, and the key does not need one.
    #[error(
        "KEYBOUND_CA_PASSPHRASE is set, and the CA's keys are not encrypted; unset it, or encrypt each .key file in place \
         with `openssl pkcs8 -topk8 -scrypt`"
    )]
    NotEncrypted,
    /// The passphrase does not open the key.
    #[error("KEYBOUND_CA_PASSPHRASE does not open the CA's keys")]
    PassphraseWrong,
    /// A key is of another certificate.
    #[error("{name}.key does not belong to {name}.pem; put back the files that belong together")]
    Mismatch {
        /// The CA.
        name: String,
    },
    /// A CA was not certified by the root beside it.
    #[error("{name}.pem was not signed by root.pem; put back the files that belong together")]
    OtherRoot {
        /// The CA.
        name: String,
    },
    /// A CA certificate has expired, or is of the future.
    #[error("{name}.pem has expired, or is not valid yet; check the system's clock")]
    NotInItsTime {
        /// The CA.
        name: String,
    },
    /// Signing or encoding failed.
    #[error("a CA certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// A date is out of range.
    #[error("a CA certificate cannot be made: check the system's clock")]
    Date,
}
