//! Refusals of EST, as the peer and the audit record get them.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use identity::{DeviceId, Problem};

use super::{Answer, Decision, Operation};
use crate::issuance::IssueError;

/// A refusal on its way to the peer and to the audit record.
pub(super) struct Refused(Box<Problem>);

impl Refused {
    pub(super) fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(status, code, title, detail)))
    }

    pub(super) fn credentials(detail: impl Into<String>) -> Self {
        Self::new(
            401,
            "credentials-required",
            "Credentials are required",
            detail,
        )
    }

    pub(super) fn unknown_operation(path: &str) -> Self {
        let path: String = path.chars().take(100).collect();
        Self::new(
            404,
            "unknown-operation",
            "There is no such operation",
            format!(
                "{path:?} is none of /.well-known/est/cacerts, csrattrs, simpleenroll and simplereenroll."
            ),
        )
    }

    pub(super) fn method(operation: Operation) -> Self {
        Self::new(
            405,
            "method-not-allowed",
            "The method is not allowed",
            format!("{} wants {}.", operation.name(), operation.method()),
        )
    }

    pub(super) fn internal() -> Self {
        Self::new(
            500,
            "internal",
            "The answer cannot be encoded",
            "The server's log says more.",
        )
    }

    pub(super) fn answer(self, operation: &'static str, device: Option<DeviceId>) -> Answer {
        let Self(problem) = self;
        let problem = *problem;
        let mut response = Response::new(Bytes::from(problem.to_json()));
        *response.status_mut() =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(Problem::MEDIA_TYPE),
        );
        match problem.status {
            401 => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"enrollment\", charset=\"UTF-8\""),
                );
            }
            405 => {
                let allowed = if operation.starts_with("simple") {
                    "POST"
                } else {
                    "GET"
                };
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            503 => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            }
            _ => {}
        }
        Answer {
            response,
            decision: Decision {
                operation,
                device,
                index: None,
                outcome: problem.code,
                detail: Some(problem.detail),
            },
        }
    }
}

impl From<IssueError> for Refused {
    fn from(error: IssueError) -> Self {
        Self(Box::new(error.problem()))
    }
}
