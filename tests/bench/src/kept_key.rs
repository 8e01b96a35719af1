//! X25519 (RFC 7748, section 5) with one key for all handshakes. What a device's own key costs is not measured, and a crowd of
//! devices has more processors than the one that this load generator has.

use std::sync::LazyLock;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved};

#[derive(Debug)]
pub(crate) struct KeptKey;

/// The key and its public half.
static KEY: LazyLock<(PrivateKey, Vec<u8>)> = LazyLock::new(|| {
    let key = PrivateKey::generate(&X25519).expect("random numbers");
    let public = key.compute_public_key().expect("it has one");
    let public = public.as_ref().to_vec();
    (key, public)
});

impl SupportedKxGroup for KeptKey {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for KeptKey {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = UnparsedPublicKey::new(&X25519, peer);
        let refused = Error::from(PeerMisbehaved::InvalidKeyShare);
        agree(&KEY.0, peer, refused, |secret| {
            Ok(SharedSecret::from(secret))
        })
    }

    fn pub_key(&self) -> &[u8] {
        &KEY.1
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
