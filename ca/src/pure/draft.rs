//! Certificates before they are signed: built from the grant and the profile, from nothing else.

use std::net::IpAddr;
use std::time::Duration;

use identity::{DeviceId, Identity, Index, Name, Serial, SpiffeId, Timestamp, TrustDomain};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::enroll::Grant;
use super::key_policy::PublicKey;

/// What distinguishes one certificate from the next of the same profile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Particulars {
    /// The registry index, from a leased range.
    pub(crate) index: Index,
    /// The serial that hides it.
    pub(crate) serial: Serial,
    /// The time of issuance.
    pub(crate) now: Timestamp,
    /// How long the certificate is to live.
    pub(crate) life: Duration,
    /// When the issuer's own certificate ends: nothing that it signs lives longer.
    pub(crate) issuer_not_after: Timestamp,
}

/// An unsigned certificate. Signing consumes it, so that it is signed once.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) params: CertificateParams,
    pub(crate) key: PublicKey,
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) index: Index,
    pub(crate) serial: Serial,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Draft {
    /// The device profile of DESIGN: one URI SAN, `CN=<id>`, clientAuth, digitalSignature.
    pub(crate) fn of_device(
        grant: Grant,
        trust_domain: &TrustDomain,
        particulars: Particulars,
    ) -> Result<Self, DraftFault> {
        let device: DeviceId = grant.device().clone();
        let key = grant.key().clone();
        let spiffe_id = SpiffeId {
            trust_domain: trust_domain.clone(),
            identity: Identity::Device(device),
        };
        Self::new(
            key,
            spiffe_id,
            vec![ExtendedKeyUsagePurpose::ClientAuth],
            vec![],
            particulars,
        )
    }

    /// The profile of a gateway's own certificate: its DNS names and addresses, serverAuth and clientAuth.
    pub(crate) fn of_server(
        key: PublicKey,
        name: &Name,
        names: &[String],
        trust_domain: &TrustDomain,
        particulars: Particulars,
    ) -> Result<Self, DraftFault> {
        if names.is_empty() {
            return Err(DraftFault::NoNames);
        }
        let alternatives = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => name
                    .as_str()
                    .try_into()
                    .map(SanType::DnsName)
                    .map_err(|_| DraftFault::Name),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let spiffe_id = SpiffeId {
            trust_domain: trust_domain.clone(),
            identity: Identity::Gateway(name.clone()),
        };
        let usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Self::new(key, spiffe_id, usages, alternatives, particulars)
    }

    fn new(
        key: PublicKey,
        spiffe_id: SpiffeId,
        usages: Vec<ExtendedKeyUsagePurpose>,
        mut alternatives: Vec<SanType>,
        particulars: Particulars,
    ) -> Result<Self, DraftFault> {
        let not_before = particulars.now.minus(BACKDATED_BY);
        let not_after = particulars
            .now
            .plus(particulars.life)
            .min(particulars.issuer_not_after);
        if not_after.since(particulars.now) < SHORTEST_LIFE {
            return Err(DraftFault::IssuerEnds);
        }
        let uri = spiffe_id.to_string();
        alternatives.insert(
            0,
            SanType::URI(uri.as_str().try_into().map_err(|_| DraftFault::Name)?),
        );
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, spiffe_id.identity.name());
        params.subject_alt_names = alternatives;
        params.serial_number = Some(SerialNumber::from_slice(particulars.serial.as_bytes()));
        params.not_before = date(not_before)?;
        params.not_after = date(not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        Ok(Self {
            params,
            key,
            spiffe_id,
            index: particulars.index,
            serial: particulars.serial,
            not_before,
            not_after,
        })
    }
}

/// Why no certificate can be drafted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DraftFault {
    /// The issuing CA's own certificate ends too soon.
    #[error("the issuing CA's certificate ends within the hour; renew the CA before issuing")]
    IssuerEnds,
    /// A server certificate without names.
    #[error("the server certificate would have no names; give at least one --name")]
    NoNames,
    /// A name that no certificate can carry.
    #[error("a name is neither an IP address nor a DNS name in ASCII")]
    Name,
    /// A date beyond what a certificate can carry.
    #[error("a date lies beyond the year 9999; check the system's clock")]
    Date,
}

pub(crate) fn date(time: Timestamp) -> Result<OffsetDateTime, DraftFault> {
    i64::try_from(time.0)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(DraftFault::Date)
}

/// Devices' clocks are behind; so far they may be.
const BACKDATED_BY: Duration = Duration::from_secs(5 * 60);

/// A certificate that ends sooner would strand its device.
const SHORTEST_LIFE: Duration = Duration::from_secs(60 * 60);
