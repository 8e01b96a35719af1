//! Spellings of header names that some servers take for the same name.

use serde::Serialize;

/// How the name of a header is written. Servers fold some of these into the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Spelling {
    /// `x-device-id`
    Exact,
    /// `x_device_id`, the same to CGI, WSGI and PHP
    Underscores,
    /// `x.device.id`, the same to PHP
    Dots,
    /// `x-device_id`
    LastUnderscore,
}

impl Spelling {
    pub(crate) const ALL: [Self; 4] = [
        Self::Exact,
        Self::Underscores,
        Self::Dots,
        Self::LastUnderscore,
    ];

    /// A name in this spelling, if that is one of its own.
    pub(super) fn of(self, name: &str) -> Option<String> {
        let spelled = match self {
            Self::Exact => return Some(name.to_owned()),
            Self::Underscores => name.replace('-', "_"),
            Self::Dots => name.replace('-', "."),
            Self::LastUnderscore => {
                let (head, tail) = name.rsplit_once('-')?;
                // With one hyphen it would be the second spelling.
                head.contains('-').then(|| format!("{head}_{tail}"))?
            }
        };
        (spelled != name).then_some(spelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        let check = |name: &str, expected: [Option<&str>; 4]| {
            let spelled = Spelling::ALL.map(|spelling| spelling.of(name));
            assert_eq!(spelled.each_ref().map(Option::as_deref), expected);
        };
        check(
            "x-device-id",
            [
                Some("x-device-id"),
                Some("x_device_id"),
                Some("x.device.id"),
                Some("x-device_id"),
            ],
        );
        check(
            "client-cert",
            [
                Some("client-cert"),
                Some("client_cert"),
                Some("client.cert"),
                None,
            ],
        );
        check("forwarded", [Some("forwarded"), None, None, None]);
    }
}
