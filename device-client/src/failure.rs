//! Why a command failed, and with which exit code it ends.

use std::io;
use std::path::PathBuf;

use device_client::{EnrollError, RenewError, RequestError, RootsError, StoreError};
use http::HeaderName;
use identity::enrollment_code::CodeError;

/// Why a command failed, in a sentence that says what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Enroll(Box<EnrollError>),
    #[error("{0}")]
    Renew(Box<RenewError>),
    #[error("{0}")]
    Request(Box<RequestError>),
    #[error("the enrollment code is refused: {0}")]
    Code(CodeError),
    #[error("give an enrollment code, or --server, --roots, --device and --token-file together")]
    Flags,
    #[error("the roots {} are refused: {fault}", .path.display())]
    Roots { path: PathBuf, fault: RootsError },
    #[error("{} does not hold a token of 32 hexadecimal digits", .path.display())]
    Token { path: PathBuf },
    #[error("the header {name} is not the caller's to set")]
    Header { name: HeaderName },
    #[error("{} could not be read: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has more than {limit} bytes", .path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error("{} is not text", .path.display())]
    NotText { path: PathBuf },
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
}

impl From<EnrollError> for Failure {
    fn from(error: EnrollError) -> Self {
        Self::Enroll(Box::new(error))
    }
}

impl From<RenewError> for Failure {
    fn from(error: RenewError) -> Self {
        Self::Renew(Box::new(error))
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Request(Box::new(error))
    }
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        let unreachable = match self {
            Self::Enroll(error) => error.is_unreachable(),
            Self::Renew(error) => error.is_unreachable(),
            Self::Request(error) => error.is_unreachable(),
            Self::Store(_)
            | Self::Roots { .. }
            | Self::Token { .. }
            | Self::Read { .. }
            | Self::TooLong { .. }
            | Self::NotText { .. }
            | Self::Output(_) => false,
            Self::Code(_) | Self::Flags | Self::Header { .. } => {
                return WRONG_USAGE;
            }
        };
        if unreachable { NOT_REACHED } else { FAILED }
    }
}

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const NOT_REACHED: u8 = 3;
