//! Certificate signing requests (PKCS #10, RFC 2986): the device's name, its public key, nothing else.

use identity::{DeviceId, SpiffeId};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};

use crate::device_key::DeviceKey;

/// A request in DER, signed by `key`.
///
/// Re-enrollment repeats the names of the current certificate (RFC 7030, section 4.2.2), so it gives the
/// current `spiffe_id`; at the first enrollment the device does not know its trust domain yet.
pub(crate) fn certification_request(
    key: &DeviceKey,
    device: &DeviceId,
    spiffe_id: Option<&SpiffeId>,
) -> Result<Vec<u8>, CsrFault> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, device.as_str());
    if let Some(spiffe_id) = spiffe_id {
        let uri = spiffe_id.to_string().as_str().try_into();
        params.subject_alt_names = vec![SanType::URI(uri.map_err(CsrFault)?)];
    }
    let request = params.serialize_request(key).map_err(CsrFault)?;
    Ok(request.der().to_vec())
}

/// The request could not be made, or the key store did not sign it.
#[derive(Debug, thiserror::Error)]
#[error("the certificate request could not be signed: {0}")]
pub struct CsrFault(rcgen::Error);
