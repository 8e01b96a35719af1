//! The key that device assertions are signed with: made at the first start, and kept in the data directory.
//!
//! Unlike the server's certificate it is not replaced when it is damaged: back ends trust this very key, and whoever
//! damaged its file may have read it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use gateway::{AssertionSigner, SignerFault};
use zeroize::Zeroizing;

use crate::files;

/// Why there is no key for assertions.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{} cannot be read or written: {error}", .file.display())]
    File { file: PathBuf, error: io::Error },
    #[error("{} can be read or written by others (mode {mode:o}), who could sign as this gateway; delete it, and a new key is made", .file.display())]
    OpenToOthers { file: PathBuf, mode: u32 },
    #[error("{} is damaged: {fault}; put it back from a backup, or delete it, and a new key is made", .file.display())]
    Damaged { file: PathBuf, fault: Damage },
    #[error("the random source failed")]
    Random,
}

/// What is wrong with the file of a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it is not one private key in PEM")]
    NotPem,
    #[error("{0}")]
    Key(#[from] SignerFault),
}

/// The signer with the key of the data directory, which is made if there is none. `issuer` is the claim `iss`.
pub(crate) fn signer(data: &Path, issuer: String) -> Result<AssertionSigner, Fault> {
    let file = data.join("gateway").join("assertion-key.pem");
    let file_fault = |error| Fault::File {
        file: file.clone(),
        error,
    };
    match fs::symlink_metadata(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(&file, &file_fault)?;
        }
        Err(error) => return Err(file_fault(error)),
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            let mode = metadata.mode() & 0o7777;
            return Err(Fault::OpenToOthers { file, mode });
        }
        Ok(_) => {}
    }
    let text = Zeroizing::new(files::read_at_most(&file, LONGEST_FILE).map_err(&file_fault)?);
    let damaged = |fault| Fault::Damaged {
        file: file.clone(),
        fault,
    };
    let key = match pem::parse_many(text.as_slice()) {
        Ok(mut parts) if parts.len() == 1 && parts[0].tag() == TAG => {
            Zeroizing::new(parts.swap_remove(0).into_contents())
        }
        Ok(_) | Err(_) => return Err(damaged(Damage::NotPem)),
    };
    AssertionSigner::from_pkcs8(&key, issuer).map_err(|fault| damaged(fault.into()))
}

fn make(file: &Path, fault: &impl Fn(io::Error) -> Fault) -> Result<(), Fault> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| Fault::Random)?;
    let key = pem::Pem::new(TAG, key.as_ref());
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let text = Zeroizing::new(pem::encode_config(&key, lines));
    if let Some(directory) = file.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(fault)?;
    }
    files::write_atomically(file, text.as_bytes(), 0o600).map_err(fault)
}

const TAG: &str = "PRIVATE KEY";
const LONGEST_FILE: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn key_set(data: &Path) -> Result<String, Fault> {
        signer(data, "issuer".into()).map(|signer| signer.key_set())
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let data = tempfile::tempdir().expect("a directory");
        let made = key_set(data.path()).expect("a key");
        assert_eq!(key_set(data.path()).expect("the key"), made);
        let file = data.path().join("gateway/assertion-key.pem");
        let mode = fs::metadata(&file).expect("the file").mode() & 0o7777;
        assert_eq!(mode, 0o600);
        fs::remove_file(&file).expect("deleted");
        assert_ne!(key_set(data.path()).expect("a new key"), made);
    }

    #[test]
    fn a_file_that_is_not_as_it_was_left_is_refused() {
        let data = tempfile::tempdir().expect("a directory");
        key_set(data.path()).expect("a key");
        let file = data.path().join("gateway/assertion-key.pem");
        let whole = fs::read_to_string(&file).expect("the key");
        let set = |text: &str| {
            fs::write(&file, text).expect("written");
            key_set(data.path())
        };
        assert!(matches!(set(""), Err(Fault::Damaged { .. })));
        assert!(matches!(set(&whole[..90]), Err(Fault::Damaged { .. })));
        assert!(matches!(set(&whole.repeat(2)), Err(Fault::Damaged { .. })));
        let certificate = whole.replace(TAG, "CERTIFICATE");
        assert!(matches!(set(&certificate), Err(Fault::Damaged { .. })));
        assert!(matches!(set(&"x".repeat(5_000)), Err(Fault::File { .. })));
        assert!(set(&whole).is_ok());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("changed");
        assert!(matches!(
            key_set(data.path()),
            Err(Fault::OpenToOthers { mode: 0o640, .. })
        ));
    }
}
