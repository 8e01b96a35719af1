//! Which trace a request belongs to: the device's, one that the gateway begins, or none.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::exchange::{Telemetry, TraceMode};
use crate::pure::trace_context::{Parent, TraceContext, is_tracestate};
use crate::random;

/// What a trace is told of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Never 0.
    pub trace_id: u128,
    /// The gateway's span, if it is to be exported.
    pub span_id: Option<u64>,
    /// The span that the device named as the one it asks from.
    pub parent: Option<u64>,
}

impl Trace {
    /// Of a stream, in which nobody says to which trace it belongs: one that begins here; `None` if its span is not to be
    /// exported.
    pub(crate) fn of_stream(telemetry: &Telemetry) -> Option<Self> {
        let plan = Plan::of(&HeaderMap::new(), telemetry);
        plan.trace.filter(|trace| trace.span_id.is_some())
    }
}

/// What becomes of a request's trace context.
#[derive(Debug)]
pub(crate) struct Plan {
    trace: Option<Trace>,
    parent: Sent,
    /// Whether `tracestate` is passed on.
    keeps_state: bool,
}

/// What is sent as `traceparent`.
#[derive(Debug)]
enum Sent {
    /// What came.
    Same,
    Nothing,
    Another(TraceContext),
}

impl Plan {
    /// Decides it from what came. What is malformed is as if it had not come.
    pub(crate) fn of(headers: &HeaderMap, telemetry: &Telemetry) -> Self {
        let came = match telemetry.trace {
            TraceMode::Pass => parent(headers),
            TraceMode::Restart | TraceMode::Off => None,
        };
        let sample = telemetry
            .sample
            .filter(|_| telemetry.trace != TraceMode::Off);
        // Whoever chose the trace id does not choose whether it is exported.
        let dice = sample.map(|sample| (sample, Dice::roll()));
        let exported =
            dice.filter(|(sample, dice)| u64::from(dice.chance) < sample.of_4_294_967_296());
        let sampled = |flags: u8| flags & TraceContext::RANDOM | TraceContext::SAMPLED;
        let (context, sent) = match (came, exported, dice) {
            // The device's trace, with the gateway's span in between.
            (Some(Parent { context, .. }), Some((_, dice)), _) => {
                let ours = TraceContext {
                    span_id: dice.span_id,
                    flags: sampled(context.flags),
                    ..context
                };
                (ours, Sent::Another(ours))
            }
            (Some(Parent { context, is_newer }), None, _) => {
                let flags = context.flags & (TraceContext::RANDOM | TraceContext::SAMPLED);
                let known = TraceContext { flags, ..context };
                let sent = if is_newer || known != context {
                    Sent::Another(known)
                } else {
                    Sent::Same
                };
                (context, sent)
            }
            // A trace that begins here; whoever goes on with it knows whether it is exported.
            (None, _, Some((_, dice))) => {
                let ours = TraceContext {
                    trace_id: dice.trace_id,
                    span_id: dice.span_id,
                    flags: if exported.is_some() {
                        sampled(TraceContext::RANDOM)
                    } else {
                        TraceContext::RANDOM
                    },
                };
                (ours, Sent::Another(ours))
            }
            (None, _, None) => {
                return Self {
                    trace: None,
                    parent: Sent::Nothing,
                    keeps_state: false,
                };
            }
        };
        Self {
            trace: Some(Trace {
                trace_id: context.trace_id,
                span_id: exported.map(|_| context.span_id),
                parent: came.map(|parent| parent.context.span_id),
            }),
            parent: sent,
            keeps_state: came.is_some() && has_sound_state(headers),
        }
    }

    /// What is told of it.
    pub(crate) fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// Whether the gateway's span is to be exported.
    pub(crate) fn is_exported(&self) -> bool {
        self.trace.is_some_and(|trace| trace.span_id.is_some())
    }

    /// Puts it into the headers for the upstream.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        match &self.parent {
            Sent::Same => {}
            Sent::Nothing => {
                headers.remove(TRACEPARENT);
            }
            Sent::Another(context) => {
                let value = HeaderValue::try_from(context.print())
                    .expect("hexadecimal digits and hyphens are legal characters");
                headers.insert(TRACEPARENT, value);
            }
        }
        if !self.keeps_state {
            headers.remove(TRACESTATE);
        }
    }
}

/// The one `traceparent` that came, if it is one.
fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    match values.next() {
        None => Parent::parse(value.as_bytes()),
        Some(_) => None,
    }
}

fn has_sound_state(headers: &HeaderMap) -> bool {
    is_tracestate(
        headers
            .get_all(TRACESTATE)
            .iter()
            .map(HeaderValue::as_bytes),
    )
}

/// Random numbers for one request.
#[derive(Clone, Copy)]
struct Dice {
    trace_id: u128,
    span_id: u64,
    chance: u32,
}

impl Dice {
    fn roll() -> Self {
        let random: [u8; 28] = random::bytes();
        let (trace_id, rest) = random.split_first_chunk().expect("28 are more than 16");
        let (span_id, rest) = rest.split_first_chunk().expect("12 are more than 8");
        let chance = rest.first_chunk().expect("4 are left");
        Self {
            // 0 is none.
            trace_id: u128::from_be_bytes(*trace_id).max(1),
            span_id: u64::from_be_bytes(*span_id).max(1),
            chance: u32::from_be_bytes(*chance),
        }
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Sample;

    const CAME: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const TRACE_ID: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN_ID: u64 = 0xb7ad_6b71_6920_3331;

    /// What is told, and what is sent as `traceparent` and `tracestate`.
    fn check(
        trace: TraceMode,
        sample: Option<f64>,
        came: &[(&'static str, &str)],
    ) -> (Option<Trace>, Option<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        for (name, value) in came {
            headers.append(*name, value.parse().expect("a value"));
        }
        let telemetry = Telemetry {
            exchanges: false,
            trace,
            sample: sample.and_then(Sample::new),
        };
        let plan = Plan::of(&headers, &telemetry);
        plan.apply(&mut headers);
        assert!(headers.get_all(TRACEPARENT).iter().count() <= 1);
        let text = |name| {
            let value: &HeaderValue = headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        (plan.trace(), text(TRACEPARENT), text(TRACESTATE))
    }

    #[test]
    fn without_export_a_sound_context_is_passed_on_as_it_is() {
        let came = [("traceparent", CAME), ("tracestate", "a=1")];
        let trace = Trace {
            trace_id: TRACE_ID,
            span_id: None,
            parent: Some(SPAN_ID),
        };
        let (told, parent, state) = check(TraceMode::Pass, None, &came);
        assert_eq!(told, Some(trace));
        assert_eq!(
            (parent.as_deref(), state.as_deref()),
            (Some(CAME), Some("a=1"))
        );
        // What is not understood is not passed on.
        let newer = format!("01{}-more", &CAME[2..]);
        let (told, parent, _) = check(TraceMode::Pass, None, &[("traceparent", &newer)]);
        assert_eq!((told, parent.as_deref()), (Some(trace), Some(CAME)));
        let flags = CAME.replace("-01", "-f9");
        let (_, parent, _) = check(TraceMode::Pass, None, &[("traceparent", &flags)]);
        assert_eq!(parent.as_deref(), Some(CAME));
        let came = [("traceparent", CAME), ("tracestate", "a=1,a=2")];
        let (_, parent, state) = check(TraceMode::Pass, None, &came);
        assert_eq!((parent.as_deref(), state), (Some(CAME), None));
    }

    #[test]
    fn what_is_malformed_or_not_believed_is_gone() {
        let upper = CAME.to_uppercase();
        for (mode, came) in [
            (
                TraceMode::Pass,
                &[("traceparent", upper.as_str()), ("tracestate", "a=1")][..],
            ),
            (
                TraceMode::Pass,
                &[("traceparent", CAME), ("traceparent", CAME)],
            ),
            (TraceMode::Pass, &[("tracestate", "a=1")]),
            (
                TraceMode::Restart,
                &[("traceparent", CAME), ("tracestate", "a=1")],
            ),
            (
                TraceMode::Off,
                &[("traceparent", CAME), ("tracestate", "a=1")],
            ),
        ] {
            assert_eq!(
                check(mode, None, came),
                (None, None, None),
                "{mode:?} {came:?}"
            );
        }
        let off = check(TraceMode::Off, Some(1.0), &[("traceparent", CAME)]);
        assert_eq!(off, (None, None, None));
    }

    #[test]
    fn with_export_the_gateways_span_is_the_parent() {
        let came = [
            ("traceparent", &CAME.replace("-01", "-02")[..]),
            ("tracestate", "a=1"),
        ];
        let (told, parent, state) = check(TraceMode::Pass, Some(1.0), &came);
        let told = told.expect("a trace");
        let span_id = told.span_id.expect("a span");
        assert_eq!((told.trace_id, told.parent), (TRACE_ID, Some(SPAN_ID)));
        assert_ne!(span_id, SPAN_ID);
        let expected = format!("00-{TRACE_ID:032x}-{span_id:016x}-03");
        assert_eq!((parent, state.as_deref()), (Some(expected), Some("a=1")));
        // Not sampled: nobody looks for a span that is not there.
        let came = [("traceparent", CAME)];
        let (told, parent, _) = check(TraceMode::Pass, Some(0.0), &came);
        assert_eq!(told.and_then(|told| told.span_id), None);
        assert_eq!(parent.as_deref(), Some(CAME));
        // A new trace, whatever came.
        for sample in [0.0, 1.0] {
            let (told, parent, state) = check(TraceMode::Restart, Some(sample), &came);
            let told = told.expect("a trace");
            assert_ne!(told.trace_id, TRACE_ID);
            assert_eq!((told.parent, state), (None, None));
            let parent = parent.expect("sent");
            let flags = if sample == 0.0 { "-02" } else { "-03" };
            assert!(
                parent.contains(&format!("{:032x}", told.trace_id)),
                "{parent}"
            );
            assert!(parent.ends_with(flags), "{parent}");
            assert_eq!(told.span_id.is_some(), sample > 0.0);
        }
    }
}
