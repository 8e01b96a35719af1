//! Keys and signing requests of devices that do not exist.

use std::fs;

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use crate::cli::SigningRequests;

/// Writes a P-256 key and a request for each device, unless they are there.
pub(crate) fn run(options: &SigningRequests) -> anyhow::Result<Value> {
    fs::create_dir_all(&options.folder)?;
    let mut made = 0;
    for number in 0..options.count {
        let id = device_id(number);
        let request = options.folder.join(format!("{id}.csr"));
        if request.exists() {
            continue;
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::default();
        parameters
            .distinguished_name
            .push(DnType::CommonName, id.as_str());
        let csr = parameters.serialize_request(&key)?.pem()?;
        fs::write(
            options.folder.join(format!("{id}.key")),
            key.serialize_pem(),
        )?;
        fs::write(&request, csr).with_context(|| request.display().to_string())?;
        made += 1;
    }
    Ok(json!({ "requests": options.count, "made": made }))
}

/// The id of a device.
pub(crate) fn device_id(number: usize) -> String {
    format!("bench-{number:06}")
}
