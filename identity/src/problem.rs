//! Refusals as people and programs read them: RFC 9457 problem details.

use serde::{Deserialize, Serialize};

/// The body of a refusal, `application/problem+json` (RFC 9457, section 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI reference that names the kind of problem: `urn:keybound:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status code.
    pub status: u16,
    /// The kind of problem in a few words.
    pub title: String,
    /// What happened this time and what to do about it.
    pub detail: String,
    /// The stable code that programs compare.
    pub code: String,
    /// The request's id, to be given to `keybound explain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// The media type of the JSON form.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// A problem of the kind that `code` names.
    pub fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:keybound:{code}"),
            status,
            title: title.to_owned(),
            detail: detail.into(),
            code: code.to_owned(),
            request_id: None,
        }
    }

    /// The JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always have a JSON form")
    }
}
