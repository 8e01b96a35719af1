//! The device's side of Keybound: key stores, enrollment, renewal and requests.
//!
//! A device's key is made inside its key store and never leaves it: what the rest of this crate, and
//! whoever uses it, gets to see is [`DeviceKey`], which signs. `keybound-device` is a thin face on this
//! library.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use device_client::{Enrollment, KeyStore, KeyStoreUri, Retry, Schedule};
//!
//! let uri: KeyStoreUri = "file:./keybound-device".parse()?;
//! let code = std::fs::read_to_string("enrollment-code")?;
//! device_client::enroll(&uri, &Enrollment::from_code(&code.parse()?), Retry::default()).await?;
//!
//! let store = KeyStore::open(&uri)?;
//! device_client::renew(&store, Schedule::IfDue, Retry::default()).await?;
//! let asked = device_client::Asked::get("https://gateway.example:8443/hello".parse()?);
//! let mut answer = device_client::request(&store, &asked).await?;
//! while let Some(bytes) = answer.chunk().await? {
//!     println!("{} bytes", bytes.len());
//! }
//! # Ok(())
//! # }
//! ```

mod acceptance;
mod back_off;
mod clock;
mod csr;
mod device_key;
mod enroll;
mod est;
mod exchange;
mod key_store;
mod refusal;
mod renew;
mod request;
mod server_url;
mod status;
mod target;
#[cfg(test)]
#[allow(unreachable_pub, reason = "the tests in tests/ share it")]
mod test_authority;
mod tls;
mod trust;

pub use acceptance::AcceptanceFault;
pub use back_off::Retry;
pub use clock::{now, rfc3339};
pub use csr::CsrFault;
pub use device_key::DeviceKey;
pub use enroll::{EnrollError, Enrolled, Enrollment, Existing, Trust, enroll};
pub use est::{AnswerFault, EstError};
pub use exchange::{ExchangeError, Stage};
pub use key_store::{Credentials, FileKey, KeyStore, KeyStoreUri, Settings, StoreError, UriError};
pub use refusal::Refusal;
pub use renew::{RenewError, Renewal, Schedule, due_at, renew};
pub use request::{Answer, Asked, RequestError, request};
pub use server_url::{UrlError, server_url};
pub use status::{CertificateStatus, State, Status, status};
pub use target::{Target, TargetError};
pub use tls::TlsFault;
pub use trust::{Roots, RootsError};
