//! Key files: encrypted or not, readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfo, LineEnding, PrivateKeyInfo};
use zeroize::Zeroizing;

use super::{KeyFault, fill_random};

/// PBES2 with scrypt and AES-256-CBC (RFC 8018), as OpenSSL reads it.
pub(super) fn encrypt(der: &[u8], passphrase: &Zeroizing<String>) -> Option<Zeroizing<String>> {
    let mut salt = [0; 16];
    let mut iv = [0; 16];
    fill_random(&mut salt);
    fill_random(&mut iv);
    // 16 MiB and 5 passes: the most that OpenSSL, with its limit of 32 MiB, can still open.
    let cost = pkcs8::pkcs5::scrypt::Params::new(14, 8, 5, 32).ok()?;
    let parameters = pbes2::Parameters::scrypt_aes256cbc(cost, &salt, &iv).ok()?;
    PrivateKeyInfo::try_from(der)
        .ok()?
        .encrypt_with_params(parameters, passphrase.as_bytes())
        .ok()?
        .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
        .ok()
}

/// The PKCS #8 DER of a key file; `Err(None)` if it is damaged.
pub(super) fn decrypt(
    text: &[u8],
    passphrase: Option<&Zeroizing<String>>,
) -> Result<Zeroizing<Vec<u8>>, Option<KeyFault>> {
    let parsed = pem::parse(text).map_err(|_| None)?;
    let tag = parsed.tag().to_owned();
    let contents = Zeroizing::new(parsed.into_contents());
    match tag.as_str() {
        "PRIVATE KEY" if passphrase.is_some() => Err(Some(KeyFault::NotEncrypted)),
        "PRIVATE KEY" => Ok(contents),
        "ENCRYPTED PRIVATE KEY" => {
            let passphrase = passphrase.ok_or(Some(KeyFault::PassphraseMissing))?;
            let encrypted =
                EncryptedPrivateKeyInfo::try_from(contents.as_slice()).map_err(|_| None)?;
            let document = encrypted
                .decrypt(passphrase.as_bytes())
                .map_err(|_| Some(KeyFault::PassphraseWrong))?;
            Ok(Zeroizing::new(document.as_bytes().to_vec()))
        }
        _ => Err(None),
    }
}

/// Reads a file of ours; `Damaged` if it is longer than any of them, which is found out without reading it all.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    read_open(path).and_then(|(file, _)| read_all(path, file))
}

/// Reads a key, which nobody but its owner may be able to read or change.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    let (file, mode) = read_open(path)?;
    if mode & 0o077 != 0 {
        return Err(KeyFault::OpenToOthers {
            file: path.display().to_string(),
            mode: mode & 0o7777,
        });
    }
    read_all(path, file)
}

fn read_open(path: &Path) -> Result<(File, u32), KeyFault> {
    let open = || {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode();
        Ok((file, mode))
    };
    open().map_err(|error| unreadable(path, error))
}

fn read_all(path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    // Room for all of it, so that no copy of a key is left behind by growing.
    let mut content = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|error| unreadable(path, error))?;
    if content.len() > LONGEST {
        return Err(KeyFault::Damaged {
            file: path.display().to_string(),
        });
    }
    Ok(content)
}

fn unreadable(path: &Path, error: io::Error) -> KeyFault {
    KeyFault::Read {
        file: path.display().to_string(),
        error,
    }
}

/// Writes a file that does not exist yet, readable by its owner only, and waits until it is on the disk.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Longer than any key or certificate of a CA.
const LONGEST: usize = 16 * 1024;
