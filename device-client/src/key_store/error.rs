//! Why a key store cannot be used: what happened, where, and what to do next.

use std::io;
use std::path::PathBuf;

use identity::ReadError;

use crate::trust::RootsError;

/// Why a key store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No store, or none in which an enrollment was begun.
    #[error("there is no key store in {}; enroll the device first: keybound-device enroll CODE", .directory.display())]
    Absent {
        /// The folder.
        directory: PathBuf,
    },
    /// A folder, or a file, with other things in it.
    #[error("{} exists and is not a key store; name another folder with --keystore", .directory.display())]
    NotAStore {
        /// The folder.
        directory: PathBuf,
    },
    /// An enrollment was begun, and no certificate has come.
    #[error("the key store {} holds no certificate yet; finish the enrollment: keybound-device enroll CODE", .directory.display())]
    NotEnrolled {
        /// The folder.
        directory: PathBuf,
    },
    /// Others can read the private key.
    #[error("the private key {path} can be read by others (mode {mode:04o}); if nobody has, close it: chmod 600 {path}; else revoke the device", path = .path.display())]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others can change what is in the folder.
    #[error("the folder {path} can be written by others (mode {mode:04o}); close it: chmod 700 {path}", path = .path.display())]
    Writable {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process is changing the store.
    #[error("another process is changing the key store {}; wait until it has finished, then try again", .directory.display())]
    Locked {
        /// The folder.
        directory: PathBuf,
    },
    /// Something stands where the store's own link belongs.
    #[error("{} is not the link that belongs there; move it away", .path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// `current` leads to no complete generation.
    #[error("{} does not lead to a key and a certificate; the store was changed by hand: restore it, or enroll into another one", .path.display())]
    Incomplete {
        /// The link.
        path: PathBuf,
    },
    /// No P-256 key in PKCS #8.
    #[error("{} is not a P-256 private key in PEM (PKCS #8); the store was changed by hand: restore it, or enroll into another one", .path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
    },
    /// None, or more than one.
    #[error("{} is not exactly one certificate in PEM", .path.display())]
    NotOneCertificate {
        /// The certificate's file.
        path: PathBuf,
    },
    /// A certificate that is no device's.
    #[error("the certificate {} is refused: {fault}", .path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// The rule that it breaks.
        fault: ReadError,
    },
    /// The certificate is for another key than the one beside it.
    #[error("{} is for another key than the key.pem beside it; the store was changed by hand: restore it, or enroll into another one", .path.display())]
    Mismatch {
        /// The certificate's file.
        path: PathBuf,
    },
    /// The roots cannot be used.
    #[error("the trusted roots {} cannot be used: {fault}", .path.display())]
    Roots {
        /// Their file.
        path: PathBuf,
        /// What is wrong with them.
        fault: RootsError,
    },
    /// `store.json` cannot be read.
    #[error("{} cannot be read: {source}", .path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A file is longer than it can rightly be.
    #[error("{} has more than {limit} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// No key could be made.
    #[error("no key could be made: the system's cryptography failed")]
    Generate,
    /// The system refused a file operation.
    #[error("{} could not be {operation}: {source}", .path.display())]
    Io {
        /// What was to be done with the file.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
