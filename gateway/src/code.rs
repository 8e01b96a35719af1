//! The stable codes by which programs tell refusals apart.

use serde::Serialize;

/// The stable codes of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "&'static str")]
#[expect(
    missing_docs,
    reason = "each code is the name in lower case; `refusal` says what it means"
)]
pub enum Code {
    IdentityInvalid,
    NotYetValid,
    Expired,
    Unregistered,
    Retired,
    Suspended,
    Quarantined,
    Restricted,
    Revoked,
    RegistryStale,
    HostMismatch,
    NoRoute,
    CertificateRequired,
    CertificateUntrusted,
    GroupNotAllowed,
    WebsocketNotAllowed,
    AssertionInvalid,
    AnchorRemoved,
    AnchorExpired,
    CrlMissing,
    CrlStale,
    PathRefused,
    MethodRefused,
    HostRefused,
    HeaderRefused,
    IdentityHeaderSpelling,
    MalformedRequest,
    HeadTooLarge,
    BodyTooLarge,
    RequestTimeout,
    AnswerNotRead,
    TooManyFrames,
    TooManyRequests,
    RateLimited,
    Overloaded,
    UpstreamUnreachable,
    UpstreamUntrusted,
    UpstreamTimeout,
    UpstreamInvalid,
    InternalError,
}

impl Code {
    /// Every code, in the order of their declaration.
    pub const ALL: [Self; 40] = [
        Self::IdentityInvalid,
        Self::NotYetValid,
        Self::Expired,
        Self::Unregistered,
        Self::Retired,
        Self::Suspended,
        Self::Quarantined,
        Self::Restricted,
        Self::Revoked,
        Self::RegistryStale,
        Self::HostMismatch,
        Self::NoRoute,
        Self::CertificateRequired,
        Self::CertificateUntrusted,
        Self::GroupNotAllowed,
        Self::WebsocketNotAllowed,
        Self::AssertionInvalid,
        Self::AnchorRemoved,
        Self::AnchorExpired,
        Self::CrlMissing,
        Self::CrlStale,
        Self::PathRefused,
        Self::MethodRefused,
        Self::HostRefused,
        Self::HeaderRefused,
        Self::IdentityHeaderSpelling,
        Self::MalformedRequest,
        Self::HeadTooLarge,
        Self::BodyTooLarge,
        Self::RequestTimeout,
        Self::AnswerNotRead,
        Self::TooManyFrames,
        Self::TooManyRequests,
        Self::RateLimited,
        Self::Overloaded,
        Self::UpstreamUnreachable,
        Self::UpstreamUntrusted,
        Self::UpstreamTimeout,
        Self::UpstreamInvalid,
        Self::InternalError,
    ];

    /// The code as it is sent, counted and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityInvalid => "identity-invalid",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::Unregistered => "unregistered",
            Self::Retired => "retired",
            Self::Suspended => "suspended",
            Self::Quarantined => "quarantined",
            Self::Restricted => "restricted",
            Self::Revoked => "revoked",
            Self::RegistryStale => "registry-stale",
            Self::HostMismatch => "host-mismatch",
            Self::NoRoute => "no-route",
            Self::CertificateRequired => "certificate-required",
            Self::CertificateUntrusted => "certificate-untrusted",
            Self::GroupNotAllowed => "group-not-allowed",
            Self::WebsocketNotAllowed => "websocket-not-allowed",
            Self::AssertionInvalid => "assertion-invalid",
            Self::AnchorRemoved => "anchor-removed",
            Self::AnchorExpired => "anchor-expired",
            Self::CrlMissing => "crl-missing",
            Self::CrlStale => "crl-stale",
            Self::PathRefused => "path-refused",
            Self::MethodRefused => "method-refused",
            Self::HostRefused => "host-refused",
            Self::HeaderRefused => "header-refused",
            Self::IdentityHeaderSpelling => "identity-header-spelling",
            Self::MalformedRequest => "malformed-request",
            Self::HeadTooLarge => "head-too-large",
            Self::BodyTooLarge => "body-too-large",
            Self::RequestTimeout => "request-timeout",
            Self::AnswerNotRead => "answer-not-read",
            Self::TooManyFrames => "too-many-frames",
            Self::TooManyRequests => "too-many-requests",
            Self::RateLimited => "rate-limited",
            Self::Overloaded => "overloaded",
            Self::UpstreamUnreachable => "upstream-unreachable",
            Self::UpstreamUntrusted => "upstream-untrusted",
            Self::UpstreamTimeout => "upstream-timeout",
            Self::UpstreamInvalid => "upstream-invalid",
            Self::InternalError => "internal-error",
        }
    }
}

impl From<Code> for &'static str {
    fn from(code: Code) -> Self {
        code.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once() {
        for (position, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, position);
        }
    }
}
