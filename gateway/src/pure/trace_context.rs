//! W3C Trace Context (Recommendation of 2021-11-23): `traceparent` and `tracestate`, read strictly.

/// A position in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// Never 0.
    pub(crate) trace_id: u128,
    /// Never 0.
    pub(crate) span_id: u64,
    pub(crate) flags: u8,
}

/// A `traceparent` that can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) context: TraceContext,
    /// Whether it is of a version that this file does not know, of which only these parts may be passed on (section 3.2.4).
    pub(crate) is_newer: bool,
}

impl Parent {
    /// Reads the value of a `traceparent` (section 3.2.2); `None` if the trace has to be started again.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let hyphens = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let version = hexadecimal(&known[..2])?;
        let is_newer = version > 0;
        // Of a newer version there may be more, after another hyphen. Version ff is none.
        let well_ended = match rest.first() {
            None => true,
            Some(b'-') => is_newer,
            Some(_) => false,
        };
        let context = TraceContext {
            trace_id: hexadecimal(&known[3..35])?,
            span_id: u64::try_from(hexadecimal(&known[36..52])?).ok()?,
            flags: u8::try_from(hexadecimal(&known[53..])?).ok()?,
        };
        let sound = hyphens
            && well_ended
            && version != 0xff
            && context.trace_id != 0
            && context.span_id != 0;
        sound.then_some(Self { context, is_newer })
    }
}

impl TraceContext {
    /// As a `traceparent` of version 00.
    pub(crate) fn print(&self) -> String {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }

    pub(crate) const SAMPLED: u8 = 1;
    /// That the trace id is random, by the next level of the Recommendation; goes with the trace id.
    pub(crate) const RANDOM: u8 = 2;
}

/// Whether the fields, one after the other, are a `tracestate` that every reader reads alike (section 3.3.1).
pub(crate) fn is_tracestate<'v>(fields: impl Iterator<Item = &'v [u8]>) -> bool {
    let (mut length, mut members) = (0, 0);
    let mut keys: [&[u8]; MAX_MEMBERS] = [b""; MAX_MEMBERS];
    for field in fields {
        length += field.len() + 1;
        for member in field.split(|byte| *byte == b',') {
            let member = member.trim_ascii();
            if member.is_empty() {
                continue;
            }
            let Some(equals) = member.iter().position(|byte| *byte == b'=') else {
                return false;
            };
            let (key, value) = (&member[..equals], &member[equals + 1..]);
            if members == MAX_MEMBERS || !is_key(key) || !is_value(value) || keys.contains(&key) {
                return false;
            }
            keys[members] = key;
            members += 1;
        }
    }
    length <= MAX_STATE + 1
}

/// `simple-key` or `multi-tenant-key`.
fn is_key(key: &[u8]) -> bool {
    let legal = |part: &[u8], longest: usize| {
        part.len() <= longest
            && part
                .iter()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    let letter = |part: &[u8]| part.first().is_some_and(u8::is_ascii_lowercase);
    match key.iter().position(|byte| *byte == b'@') {
        None => letter(key) && legal(key, 256),
        Some(at) => {
            let (tenant, system) = (&key[..at], &key[at + 1..]);
            let begins = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            tenant.first().is_some_and(begins)
                && legal(tenant, 241)
                && letter(system)
                && legal(system, 14)
        }
    }
}

fn is_value(value: &[u8]) -> bool {
    (1..=256).contains(&value.len())
        && value.last() != Some(&b' ')
        && value
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='))
}

/// Lower case alone.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Of version 00, and the part of every other version that is known.
const LENGTH: usize = 55;
const MAX_MEMBERS: usize = 32;
/// What has to be passed on at least; a longer one is none.
const MAX_STATE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

    #[test]
    fn parents() {
        let check = |value: &str, expected: Option<(u8, bool)>| {
            let parent = Parent::parse(value.as_bytes());
            let found = parent.map(|parent| (parent.context.flags, parent.is_newer));
            assert_eq!(found, expected, "{value}");
            if let Some(Parent { context, .. }) = parent {
                assert_eq!(context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
                assert_eq!(context.span_id, 0xb7ad_6b71_6920_3331);
                let printed = context.print();
                assert_eq!(printed[3..52], value[3..52]);
                let again = Parent::parse(printed.as_bytes()).expect("legal");
                assert_eq!((again.context, again.is_newer), (context, false));
            }
        };
        check(&format!("00-{ID}-01"), Some((1, false)));
        check(&format!("00-{ID}-00"), Some((0, false)));
        check(&format!("00-{ID}-ff"), Some((255, false)));
        check(&format!("cc-{ID}-01"), Some((1, true)));
        check(&format!("cc-{ID}-01-what-else"), Some((1, true)));
        for value in [
            "",
            "00",
            &format!("ff-{ID}-01"),
            &format!("00-{ID}-01-"),
            &format!("00-{ID}-01-x"),
            &format!("cc-{ID}-01x"),
            &format!("0-{ID}-01"),
            &format!("000-{ID}-1"),
            &format!("00-{ID}-1"),
            &format!("00-{ID}-0"),
            &format!("00-{ID}-0g"),
            &format!("00_{ID}-01"),
            &format!("00-{ID}_01"),
            &format!("0A-{ID}-01"),
            &format!(" 00-{ID}-01"),
            &format!("00-{ID}-01 "),
            &format!("00-{}-01", ID.to_uppercase()),
            &format!("00-{}-01", ID.replace('-', "_")),
            &format!("00-{}-01", ID.replace('7', "\u{fc}")),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
        ] {
            check(value, None);
        }
    }

    #[test]
    fn states() {
        let check = |fields: &[&str], expected: bool| {
            let fields_read = fields.iter().map(|field| field.as_bytes());
            assert_eq!(is_tracestate(fields_read), expected, "{fields:?}");
        };
        let member =
            |key: usize, value: usize| format!("{}={}", "k".repeat(key), "v".repeat(value));
        check(&[], true);
        check(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], true);
        check(&["a=1", "b=2 3", ""], true);
        check(&["a=1 , \tb=2,,"], true);
        check(&["fw529a3039@dt=FfD", "0t@s=x", "a_-*/0=1"], true);
        check(&[&member(256, 1)], true);
        check(&[&member(1, 256)], true);
        check(&[&member(255, 256)], true);
        let many: Vec<String> = (0..33).map(|number| format!("k{number}=v")).collect();
        check(&[&many[..32].join(",")], true);
        check(&[&many.join(",")], false);
        check(&[&many[..16].join(","), &many[16..].join(",")], false);
        check(&[&member(256, 256)], false);
        check(&[&member(257, 1)], false);
        check(&[&member(1, 257)], false);
        check(&["a=1,a=2"], false);
        check(&["a=1", "a=2"], false);
        for field in [
            "a",
            "=1",
            "a=",
            "A=1",
            "0a=1",
            "a=b=c",
            "a=\u{e9}",
            "a=\t1",
            "a b=1",
            "@a=1",
            "a@=1",
            "a@0=1",
            "a@b@c=1",
            "a@abcdefghijklmno=1",
            "a=1;b=2",
        ] {
            check(&[field], false);
        }
    }
}
