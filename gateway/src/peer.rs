//! Who is at the other end: read once per connection, from the certificate that the handshake proved.

use std::net::SocketAddr;
use std::sync::Arc;

use identity::certificate::Validity;
use identity::spiffe::Identity;
use identity::status::{FingerprintKey, KeyedFingerprint};
use identity::{
    CertificateSerial, DeviceId, DeviceName, Fingerprint, Index, ReadError, Serial, SerialKey,
};

use crate::foreign::Foreign;
use crate::presented::{Evidence, Presented};

use crate::connections::Holder;
use crate::pure::foreign::Lineage;
use crate::rate_limits::network;
use crate::tls::HandshakeFault;

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// The server name that it asked for in the handshake.
    pub(crate) server_name: Option<String>,
    /// What it proved.
    pub(crate) credential: Credential,
}

/// What a peer proved to hold the key of.
#[derive(Debug)]
pub(crate) enum Credential {
    /// A certificate that bears our CA's signature and names a device.
    Issued(Issued),
    /// A certificate that another CA vouches for, and which names a device by its rule.
    Foreign(Foreign),
    /// A certificate that bears an anchor's signature and breaks a rule.
    Unreadable(ReadError),
    /// A certificate that no anchor vouches for, which only some server names let pass; and why.
    Untrusted(HandshakeFault),
    /// Nothing: there is no certificate, which only some server names allow.
    Anonymous,
}

/// A device's certificate, and what depends on it alone.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) device: DeviceId,
    pub(crate) serial: Serial,
    pub(crate) index: Index,
    pub(crate) validity: Validity,
    pub(crate) certificate: Fingerprint,
    pub(crate) tbs: Fingerprint,
    /// What the status word must hold for the word to be about this certificate.
    pub(crate) fingerprint: KeyedFingerprint,
    /// What upstreams may be told.
    pub(crate) presented: Box<Presented>,
}

/// A device, by whoever's word.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Device<'a> {
    /// By our registry's.
    Issued(&'a Issued),
    /// By another CA's.
    Foreign(&'a Foreign),
}

impl<'a> Device<'a> {
    /// What it is called.
    pub(crate) fn name(self) -> DeviceName {
        match self {
            Self::Issued(issued) => issued.device.clone().into(),
            Self::Foreign(foreign) => foreign.lineage.id().clone().into(),
        }
    }

    /// What upstreams may be told of it.
    pub(crate) fn presented(self) -> &'a Presented {
        match self {
            Self::Issued(issued) => &issued.presented,
            Self::Foreign(foreign) => &foreign.presented,
        }
    }

    /// When its certificate holds.
    pub(crate) fn validity(self) -> Validity {
        match self {
            Self::Issued(issued) => issued.validity,
            Self::Foreign(foreign) => foreign.validity,
        }
    }

    fn serial(self) -> CertificateSerial {
        match self {
            Self::Issued(issued) => issued.serial.into(),
            Self::Foreign(foreign) => foreign.lineage.serial().into(),
        }
    }
}

impl Credential {
    /// Reads a certificate of ours, whose chain and possession are proven.
    pub(crate) fn read(
        evidence: Evidence,
        serial_key: &SerialKey,
        fingerprint_key: &FingerprintKey,
    ) -> Self {
        let leaf = match identity::certificate::Parsed::from_der(&evidence.certificate)
            .and_then(|parsed| parsed.leaf())
        {
            Ok(leaf) => leaf,
            Err(error) => return Self::Unreadable(error),
        };
        let device = match &leaf.spiffe_id.identity {
            Identity::Device(device) => device.clone(),
            // The handshake refuses these kinds; a device's name is all that a request could carry.
            Identity::Gateway(_) | Identity::Operator(_) | Identity::Station(_) => {
                return Self::Unreadable(ReadError::NoName);
            }
        };
        Self::Issued(Issued {
            presented: Box::new(Presented::new(
                device.as_str(),
                &leaf.spiffe_id.to_string(),
                &leaf.serial.to_string(),
                leaf.validity.not_after,
                evidence,
            )),
            index: serial_key.open(&leaf.serial),
            serial: leaf.serial,
            validity: leaf.validity,
            fingerprint: fingerprint_key.of(&leaf.certificate),
            certificate: leaf.certificate,
            tbs: leaf.tbs,
            device,
        })
    }
}

impl Peer {
    /// Whose connections this one is counted with.
    pub(crate) fn holder(&self) -> Holder {
        match &self.credential {
            Credential::Issued(issued) => Holder::Certificate(issued.index),
            Credential::Foreign(foreign) => Holder::Foreign(foreign.lineage.certificate()),
            Credential::Unreadable(_) => Holder::Nameless,
            Credential::Untrusted(_) | Credential::Anonymous => {
                Holder::Address(network(self.address.ip()))
            }
        }
    }

    /// The certificate, if it is ours and names a device.
    pub(crate) fn issued(&self) -> Option<&Issued> {
        match self.device()? {
            Device::Issued(issued) => Some(issued),
            Device::Foreign(_) => None,
        }
    }

    /// The device that the certificate names. Whether it may do anything is another question.
    pub(crate) fn device(&self) -> Option<Device<'_>> {
        match &self.credential {
            Credential::Issued(issued) => Some(Device::Issued(issued)),
            Credential::Foreign(foreign) => Some(Device::Foreign(foreign)),
            Credential::Unreadable(_) | Credential::Untrusted(_) | Credential::Anonymous => None,
        }
    }

    /// By what a device of another CA stands or falls.
    pub(crate) fn lineage(&self) -> Option<Arc<Lineage>> {
        match &self.credential {
            Credential::Foreign(foreign) => Some(Arc::clone(&foreign.lineage)),
            Credential::Issued(_)
            | Credential::Unreadable(_)
            | Credential::Untrusted(_)
            | Credential::Anonymous => None,
        }
    }

    /// What the device is called.
    pub(crate) fn name(&self) -> Option<DeviceName> {
        self.device().map(Device::name)
    }

    /// The serial of the device's certificate.
    pub(crate) fn serial(&self) -> Option<CertificateSerial> {
        self.device().map(Device::serial)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use identity::Timestamp;

    use super::*;

    /// A peer with device id `a`, for the tests of decisions.
    pub(crate) fn peer(validity: (u64, u64), server_name: Option<&str>) -> Peer {
        let certificate = Fingerprint::of(b"certificate");
        Peer {
            address: ([192, 0, 2, 1], 1).into(),
            server_name: server_name.map(str::to_owned),
            credential: Credential::Issued(Issued {
                device: DeviceId::parse("a").expect("legal"),
                serial: "01".parse().expect("hexadecimal"),
                index: Index(1),
                validity: Validity {
                    not_before: Timestamp(validity.0),
                    not_after: Timestamp(validity.1),
                },
                certificate,
                tbs: Fingerprint::of(b"tbs"),
                fingerprint: FingerprintKey::new(&[0; 32]).of(&certificate),
                presented: Box::new(crate::presented::tests::presented("a", validity.1)),
            }),
        }
    }
}
