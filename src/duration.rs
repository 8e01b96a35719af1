//! Lengths of time as people write them: `90s`, `15m`, `24h`, `7d`, `1h30m`.

use std::time::Duration;

/// Parses numbers with a unit each, at least one; a bare number is refused because its unit would be a guess.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text;
    let mut seconds: u64 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| DurationError)?;
        let mut characters = rest[digits..].chars();
        let unit = match characters.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 60 * 60,
            Some('d') => 24 * 60 * 60,
            Some(_) | None => return Err(DurationError),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|part| seconds.checked_add(part))
            .ok_or(DurationError)?;
        rest = characters.as_str();
    }
    if text.is_empty() || seconds > LONGEST.as_secs() {
        return Err(DurationError);
    }
    Ok(Duration::from_secs(seconds))
}

/// A text that is no length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a number and a unit, such as 90s, 15m, 24h or 7d")]
pub(crate) struct DurationError;

/// Ten years: everything here is shorter, and sums of two times stay far from overflow.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        let expected = expected.map(Duration::from_secs).ok_or(DurationError);
        assert_eq!(parse(text), expected, "{text:?}");
    }

    #[test]
    fn lengths_of_time() {
        check("90s", Some(90));
        check("15m", Some(900));
        check("24h", Some(86_400));
        check("7d", Some(604_800));
        check("1h30m", Some(5_400));
        check("0s", Some(0));
        for refused in [
            "",
            "1",
            "h",
            "1 h",
            "-1h",
            "1w",
            "1h3",
            "99999999999999999999s",
            "3651d",
            "1é",
        ] {
            check(refused, None);
        }
    }
}
