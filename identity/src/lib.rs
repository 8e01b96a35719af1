//! What a device's name, certificate identity, serial, status and the feed's messages *are*.
//!
//! Values only: nothing here reads a clock, a file, a socket or a random source. Whatever two parts of
//! Keybound must agree on has its one parser and its one printer in this crate.

pub mod ca_certificate;
pub mod certificate;
pub mod chain;
pub mod description;
pub mod device_name;
mod element;
pub mod enrollment_code;
pub mod feed;
pub mod fingerprint;
pub mod foreign;
pub mod labels;
pub mod name;
pub mod problem;
pub mod revocation_list;
pub mod serial;
pub mod server_address;
pub mod server_certificate;
pub mod spiffe;
pub mod status;
pub mod timestamp;

pub use ca_certificate::{CaCertificate, CaFault};
pub use certificate::{Leaf, ReadError};
pub use device_name::{CertificateSerial, DeviceName};
pub use enrollment_code::{EnrollmentCode, Token};
pub use fingerprint::Fingerprint;
pub use foreign::{ForeignId, ForeignLeaf, ForeignSerial, IdRule, refuse_names_of};
pub use labels::{DeviceLabels, Group, LabelChange, LabelValue, Tag};
pub use name::{DeviceId, Name, NameError};
pub use problem::Problem;
pub use revocation_list::{CrlFault, RevocationList};
pub use serial::{Index, Serial, SerialKey};
pub use server_address::ServerAddress;
pub use spiffe::{Identity, Kind, SpiffeId, TrustDomain};
pub use status::{Class, Status};
pub use timestamp::Timestamp;
