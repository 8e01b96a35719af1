//! What commands are told instead of an answer: problem details, as devices get them.

use axum::response::{IntoResponse, Response};
use ca::{ChangeError, Rejection, Unavailable};
use http::{HeaderValue, StatusCode, header};
use identity::Problem;

/// What a command is told instead of an answer.
pub(super) struct Refusal(Box<Problem>);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let media_type = HeaderValue::from_static(Problem::MEDIA_TYPE);
        (
            status,
            [(header::CONTENT_TYPE, media_type)],
            problem.to_json(),
        )
            .into_response()
    }
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        Problem::new(
            503,
            "unavailable",
            "The registry cannot be used",
            sentence(error),
        )
        .into()
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Rejected(rejected) => rejection(&rejected).into(),
            ChangeError::Unavailable(unavailable) => unavailable.into(),
        }
    }
}

/// The one mapping of the registry's rejections to what a command is told.
pub(super) fn rejection(rejected: &Rejection) -> Problem {
    let (status, code, title) = match rejected {
        Rejection::Refused(refusal) => (403, refusal.code(), "The request is refused"),
        Rejection::UnknownDevice(_) => (404, "unknown-device", "There is no such device"),
        Rejection::SpelledDifferently { .. } => (409, "name-mismatch", "The id is taken"),
        Rejection::DeviceRevoked(_) => (409, "revoked", "The device is revoked"),
        Rejection::DeviceSuspended(_) => (409, "suspended", "The device is suspended"),
        Rejection::Labels(_) => (409, "labels-refused", "The groups and labels are refused"),
        Rejection::NoClassLeft => (
            409,
            "too-many-group-sets",
            "There are too many sets of groups",
        ),
    };
    let detail = match rejected {
        // They start with the device's id, which keeps its spelling.
        Rejection::DeviceRevoked(_) | Rejection::DeviceSuspended(_) => format!("{rejected}."),
        Rejection::Refused(_)
        | Rejection::UnknownDevice(_)
        | Rejection::SpelledDifferently { .. }
        | Rejection::Labels(_)
        | Rejection::NoClassLeft => sentence(rejected),
    };
    Problem::new(status, code, title, detail)
}

pub(super) fn bad_request(detail: impl Into<String>) -> Refusal {
    Problem::new(400, "bad-request", "The request is not understood", detail).into()
}

pub(super) fn not_found(code: &str, detail: impl Into<String>) -> Refusal {
    Problem::new(404, code, "There is nothing of that name", detail).into()
}

pub(super) fn internal() -> Refusal {
    Problem::new(
        500,
        "internal",
        "The server failed",
        "The server failed on this request; its log says more.",
    )
    .into()
}

/// An error's words as a sentence: a capital at the start and a full stop at the end.
fn sentence(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => format!(
            "{}{}.",
            first.to_uppercase(),
            characters.as_str().trim_end_matches('.')
        ),
        None => text,
    }
}
