//! The certificate authority: registry, journal, issuance, EST and publication.
//!
//! A certificate leaves only through [`Authority`], and only after the registry has durably recorded it.
//! Of a device's request nothing reaches its certificate but the public key.

mod authority;
mod clock;
mod crl;
mod directory_lock;
pub mod est;
#[cfg(fuzzing)]
pub mod fuzzing;
mod issuance;
mod keys;
mod pure;
mod registry;

pub use authority::{Authority, ChangeError, OpenError, Options, TokenError};
pub use clock::{SetBack as ClockSetBack, now, set_back as clock_set_back};
pub use crl::SignedCrl;
pub use issuance::{IssueError, Issued};
pub use keys::{CaCertificate, KeyFault};
pub use pure::csr::{CsrFault, VerifiedCsr};
pub use pure::enroll::{Refusal, Standing};
pub use pure::journal::{Action, Actor, Entry as JournalEntry, Labelled};
pub use pure::key_policy::{KeyFault as DeviceKeyFault, PublicKey};
pub use registry::{
    CertificateRecord, Change, DeviceFilter, DevicePage, DeviceRecord, DeviceSummary, Registry,
    RegistryFault, Rejection, Unavailable,
};
