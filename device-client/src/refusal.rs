//! What a server says when it refuses, made fit for a terminal.

use std::fmt;

use http::{HeaderMap, StatusCode, header};
use identity::Problem;

/// A refusal by a Keybound server (RFC 9457), or by some other server, of which then only the status is known.
///
/// The texts come from the network: control characters are replaced, and they are cut to a bounded length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable code, e.g. `revoked`; `None` if the body is no problem document.
    pub code: Option<String>,
    /// The kind of problem in a few words.
    pub title: Option<String>,
    /// What happened and what to do about it.
    pub detail: Option<String>,
    /// What to give to `keybound explain`.
    pub request_id: Option<String>,
}

impl Refusal {
    /// Reads a refusal from an answer's head and the beginning of its body.
    pub(crate) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let is_problem = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|value| value.trim().eq_ignore_ascii_case(Problem::MEDIA_TYPE));
        let problem = is_problem
            .then(|| serde_json::from_slice::<Problem>(body).ok())
            .flatten();
        match problem {
            Some(problem) => Self {
                status,
                code: Some(printable(&problem.code)),
                title: Some(printable(&problem.title)),
                detail: Some(printable(&problem.detail)),
                request_id: problem.request_id.as_deref().map(printable),
            },
            None => Self {
                status,
                code: None,
                title: None,
                detail: None,
                request_id: None,
            },
        }
    }

    /// Whether the refusal has this code.
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(title), Some(code)) = (&self.title, &self.code) else {
            return write!(f, "HTTP {}", self.status);
        };
        write!(f, "{title} ({code}, HTTP {})", self.status.as_u16())?;
        if let Some(detail) = &self.detail {
            write!(f, ". {detail}")?;
        }
        if let Some(id) = &self.request_id {
            write!(
                f,
                " Request {id}; the operator sees more: keybound explain {id}"
            )?;
        }
        Ok(())
    }
}

/// What `Proxy-Status` (RFC 9209) says of a refusal by the gateway itself: the code in its details.
///
/// `None` if the answer is the service's own. Only the form that the gateway sends is understood.
pub(crate) fn code_of_gateway(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all("proxy-status").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let mut parameters = value.to_str().ok()?.split(';').map(str::trim);
    if parameters.next() != Some("keybound") {
        return None;
    }
    parameters
        .filter_map(|parameter| parameter.strip_prefix("details="))
        .next()
        .map(|details| printable(details.trim_matches('"')))
}

fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

const MAX_TEXT: usize = 1000;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(media_type: &'static str, body: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        Refusal::read(StatusCode::FORBIDDEN, &headers, body).to_string()
    }

    #[test]
    fn problems_and_other_answers() {
        let mut problem = Problem::new(
            403,
            "revoked",
            "The device is revoked",
            "Ask \u{1b}[31mhim.",
        );
        problem.request_id = Some("abc".into());
        assert_eq!(
            read(
                "application/problem+json; charset=utf-8",
                &problem.to_json()
            ),
            "The device is revoked (revoked, HTTP 403). Ask \u{fffd}[31mhim. \
             Request abc; the operator sees more: keybound explain abc"
        );
        assert_eq!(read("text/html", &problem.to_json()), "HTTP 403 Forbidden");
        assert_eq!(read("application/problem+json", b"{"), "HTTP 403 Forbidden");
    }

    #[test]
    fn the_gateways_own_refusals() {
        let code = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("proxy-status", HeaderValue::from_static(value));
            }
            code_of_gateway(&headers)
        };
        let ours = "keybound; error=http_request_denied; details=\"retired\"";
        assert_eq!(code(&[ours]), Some("retired".into()));
        assert_eq!(code(&[ours, ours]), None);
        assert_eq!(code(&["keybound2; details=\"retired\""]), None);
        assert_eq!(code(&["keybound; error=x"]), None);
        assert_eq!(code(&[]), None);
    }
}
