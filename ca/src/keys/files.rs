//! Key files: encrypted or not, readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
