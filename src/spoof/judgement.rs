//! What an answer says about who was believed: a comparison with the answer to the same request without the forged header.

use serde::Serialize;

/// An answer, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) status: u16,
    /// The values of all header fields, a line each.
    pub(super) fields: String,
    /// The beginning of the body.
    pub(super) body: Vec<u8>,
    /// The code of a refusal by a Keybound in front of the upstream.
    pub(super) refusal: Option<String>,
}

/// What came of a forged header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Effect {
    /// The answer is the one without it.
    #[serde(rename = "no-effect")]
    Nothing,
    /// The answer repeats what it said.
    Reflected,
    /// Another status or body than without it.
    ChangedTheAnswer,
    /// The gateway refused the request.
    RefusedByTheGateway,
    /// Whoever answers refused the request as malformed or too large.
    RefusedAsMalformed,
}

impl Effect {
    /// As people read it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Nothing => "no effect",
            Self::Reflected => "reflected",
            Self::ChangedTheAnswer => "changed the answer",
            Self::RefusedByTheGateway => "refused by the gateway",
            Self::RefusedAsMalformed => "refused as malformed",
        }
    }
}

/// Compares an answer with the one `without` the forged header. `traces` are texts that only the forgery has in it. Bodies are
/// compared only where they are `steady`, that is the same from one request to the next.
pub(super) fn judge(heard: &Heard, without: &Heard, traces: &[String], steady: bool) -> Effect {
    if heard.refusal.is_some() {
        return Effect::RefusedByTheGateway;
    }
    let reflected = |trace: &String| occurrences(heard, trace) > occurrences(without, trace);
    if traces.iter().any(reflected) {
        return Effect::Reflected;
    }
    if heard.status != without.status {
        return if MALFORMED.contains(&heard.status) {
            Effect::RefusedAsMalformed
        } else {
            Effect::ChangedTheAnswer
        };
    }
    if steady && heard.body != without.body {
        return Effect::ChangedTheAnswer;
    }
    Effect::Nothing
}

/// Whether an effect means that the word of a stranger was taken. A back end that repeats where a request came from takes it for
/// links and logs; it believes it if it decides by it.
pub(super) fn believed(effect: Effect, circumstance: bool, heard: &Heard, without: &Heard) -> bool {
    match effect {
        Effect::Reflected => !circumstance || let_in(heard, without),
        Effect::ChangedTheAnswer => !circumstance || heard.status != without.status,
        Effect::Nothing | Effect::RefusedByTheGateway | Effect::RefusedAsMalformed => false,
    }
}

/// Refused without the header, and not with it.
fn let_in(heard: &Heard, without: &Heard) -> bool {
    without.status >= 400 && heard.status < 400
}

fn occurrences(heard: &Heard, trace: &str) -> usize {
    let count = |text: &[u8]| {
        text.windows(trace.len())
            .filter(|window| *window == trace.as_bytes())
            .count()
    };
    count(heard.fields.as_bytes()) + count(&heard.body)
}

/// Bad Request, Payload and Header Fields Too Large, and nginx's own word for the latter.
const MALFORMED: [u16; 4] = [400, 413, 431, 494];

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(status: u16, body: &str) -> Heard {
        Heard {
            status,
            fields: "text/plain\n".to_owned(),
            body: body.as_bytes().to_vec(),
            refusal: None,
        }
    }

    #[test]
    fn effects() {
        let check = |with: Heard, without: Heard, steady, expected| {
            let traces = ["spoof-1".to_owned()];
            assert_eq!(judge(&with, &without, &traces, steady), expected);
        };
        let ok = || heard(200, "ok");
        check(ok(), ok(), true, Effect::Nothing);
        check(heard(200, "hi spoof-1"), ok(), true, Effect::Reflected);
        check(heard(200, "hi spoof-1"), ok(), false, Effect::Reflected);
        // Who is there anyway is not put there by the forgery.
        let there = || heard(200, "spoof-1 was here");
        check(there(), there(), true, Effect::Nothing);
        check(heard(200, "other"), ok(), true, Effect::ChangedTheAnswer);
        check(heard(200, "other"), ok(), false, Effect::Nothing);
        check(ok(), heard(403, "ok"), true, Effect::ChangedTheAnswer);
        check(heard(403, "ok"), ok(), true, Effect::ChangedTheAnswer);
        check(heard(500, "ok"), ok(), true, Effect::ChangedTheAnswer);
        check(heard(400, "no"), ok(), true, Effect::RefusedAsMalformed);
        let mut field = ok();
        field.fields = "/login?for=spoof-1\n".to_owned();
        check(field, ok(), true, Effect::Reflected);
        let mut refused = heard(400, "spoof-1");
        refused.refusal = Some("identity-header-spelling".to_owned());
        check(refused, ok(), true, Effect::RefusedByTheGateway);
    }

    #[test]
    fn what_counts_as_believed() {
        let (open, shut) = (heard(200, "ok"), heard(403, "no"));
        assert!(believed(Effect::Reflected, false, &open, &open));
        assert!(!believed(Effect::Reflected, true, &open, &open));
        assert!(believed(Effect::Reflected, true, &open, &shut));
        assert!(believed(Effect::ChangedTheAnswer, true, &open, &shut));
        assert!(!believed(Effect::ChangedTheAnswer, true, &open, &open));
        assert!(believed(Effect::ChangedTheAnswer, false, &open, &open));
        assert!(!believed(Effect::RefusedByTheGateway, false, &shut, &open));
        assert!(!believed(Effect::RefusedAsMalformed, false, &shut, &open));
    }
}
