//! Header maps on their way through: whatever stood in them, afterwards each identity header has exactly our value,
//! no other spelling of one is there, nothing that is about one connection passes on, and a trace context only in one reading.
//!
//! The input is lines of `name: value`.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use gateway::fuzzing::{
    Caller, clean_request, clean_request_trailers, clean_response, clean_response_trailers,
    identity_names, pass_trace_context,
};
use gateway::{IdentityHeader, Route};
use http::{HeaderMap, HeaderName, HeaderValue};
use keybound_fuzz::seeds;
use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};

fuzz_target!(init: {
    seeds::write_if_asked(first_inputs);
    caller();
}, |lines: &[u8]| {
    let sent = read(lines);
    request(&sent);
    trailers(&sent);
    response(&sent);
    trace(&sent);
});

fn read(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

fn request(sent: &HeaderMap) {
    let mut map = sent.clone();
    let disguised = sent.keys().any(|name| is_disguised(name.as_str()));
    if !clean_request(&mut map) {
        assert!(disguised || lists(sent).any(|item| item.is_none_or(is_disguised)));
        return;
    }
    assert!(!disguised, "another spelling passed");
    let wants_trailers = map.contains_key("te");
    for (name, value) in &map {
        match name.as_str() {
            "te" => assert_eq!(value, "trailers"),
            "connection" => assert!(wants_trailers && value == "te"),
            "trailer" => assert!(!is_identity(&fold(value.to_str().expect("a name")))),
            "cookie" => {}
            other => {
                assert!(!HOP_BY_HOP.contains(&other), "{other}");
                assert!(!is_identity(&fold(other)), "{other}");
                // What passes is what was sent, in its order.
                assert!(map.get_all(name).iter().eq(sent.get_all(name)), "{other}");
                let named = lists_of(sent, "connection")
                    .flatten()
                    .any(|item| item.eq_ignore_ascii_case(other));
                assert!(
                    !named || matches!(other, "host" | "content-length"),
                    "{other}"
                );
            }
        }
    }
    assert!(map.get_all("te").iter().count() <= 1 && map.get_all("cookie").iter().count() <= 1);
    for name in sent.keys() {
        let about_the_connection = HOP_BY_HOP.contains(&name.as_str())
            || matches!(name.as_str(), "te" | "trailer" | "connection" | "expect")
            || lists_of(sent, "connection")
                .flatten()
                .any(|item| item.eq_ignore_ascii_case(name.as_str()));
        assert!(
            map.contains_key(name) || about_the_connection || is_identity(&fold(name.as_str())),
            "{name} was lost"
        );
    }
    let before = map.clone();
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let id = HeaderValue::from_static("our-request-id");
    let host = HeaderValue::from_static("a.example");
    assert!(caller().0.identify(&mut map, &id, address, &host));
    for (name, value) in [
        ("x-device-id", "thermostat-7"),
        ("client-cert", caller().1.as_str()),
        ("x-request-id", "our-request-id"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "a.example"),
        ("host", "a.example"),
    ] {
        let values: Vec<&HeaderValue> = map.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
        map.remove(name);
    }
    let mut before = before;
    before.remove("host");
    assert_eq!(map, before, "identify sets more than it says");
}

fn trailers(sent: &HeaderMap) {
    let mut map = sent.clone();
    let disguised = sent.keys().any(|name| is_disguised(name.as_str()));
    assert_eq!(clean_request_trailers(&mut map), !disguised);
    if !disguised {
        trailers_are_clean(&map);
    }
    let mut map = sent.clone();
    clean_response_trailers(&mut map);
    trailers_are_clean(&map);
}

fn trailers_are_clean(map: &HeaderMap) {
    for name in map.keys().map(HeaderName::as_str) {
        assert!(
            !is_identity(&fold(name)) && !HOP_BY_HOP.contains(&name),
            "{name}"
        );
        assert!(
            !matches!(name, "te" | "connection" | "trailer" | "content-length"),
            "{name}"
        );
        assert!(!is_disguised(name), "{name}");
    }
}

fn response(sent: &HeaderMap) {
    let mut map = sent.clone();
    clean_response(&mut map);
    for name in map.keys().map(HeaderName::as_str) {
        assert!(
            !is_identity(&fold(name)) && !HOP_BY_HOP.contains(&name),
            "{name}"
        );
        assert!(!matches!(name, "te" | "connection"), "{name}");
        assert!(!is_disguised(name), "{name}");
    }
}

/// The grammar of W3C Trace Context once more, by parts.
fn trace(sent: &HeaderMap) {
    let mut map = sent.clone();
    let found = pass_trace_context(&mut map);
    let values: Vec<_> = sent.get_all("traceparent").iter().collect();
    let parent = match values[..] {
        // Of a newer version, what follows may have any bytes.
        [one] => traceparent(&String::from_utf8_lossy(one.as_bytes())),
        _ => None,
    };
    let ids = |text: &String| {
        let part = |range: std::ops::Range<usize>| &text[range];
        (
            u128::from_str_radix(part(3..35), 16).expect("digits"),
            u64::from_str_radix(part(36..52), 16).expect("digits"),
        )
    };
    assert_eq!(found, parent.as_ref().map(ids));
    let passed: Vec<_> = map.get_all("traceparent").iter().collect();
    match &parent {
        Some(parent) => assert_eq!(passed, [parent.as_str()]),
        None => assert!(passed.is_empty() && !map.contains_key("tracestate")),
    }
    if map.contains_key("tracestate") {
        // Whole or not at all, and nobody reads another list in it.
        let state: Vec<_> = map.get_all("tracestate").iter().collect();
        assert!(
            state
                .iter()
                .eq(&sent.get_all("tracestate").iter().collect::<Vec<_>>())
        );
        let text = |value: &&HeaderValue| value.to_str().expect("ASCII").to_owned();
        let whole = state.iter().map(text).collect::<Vec<_>>().join(",");
        assert!(whole.len() <= 512);
        let members = whole
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty());
        let members: Vec<_> = members
            .map(|one| one.split_once('=').expect("a pair"))
            .collect();
        let keys: std::collections::BTreeSet<_> = members.iter().map(|(key, _)| *key).collect();
        assert!(keys.len() == members.len() && members.len() <= 32);
        for (key, value) in members {
            assert!(!key.is_empty() && !value.is_empty() && !value.contains('='));
            let legal =
                |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
            assert!(key.bytes().all(legal) && key.matches('@').count() <= 1);
        }
    }
}

/// What is passed on of a `traceparent`.
fn traceparent(value: &str) -> Option<String> {
    let parts: Vec<_> = value.split('-').collect();
    let digits = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
    };
    let [version, trace, span, flags, more @ ..] = &parts[..] else {
        return None;
    };
    let sound = digits(version, 2)
        && digits(trace, 32)
        && digits(span, 16)
        && digits(flags, 2)
        && *version != "ff"
        && (more.is_empty() || *version != "00")
        && trace.bytes().any(|byte| byte != b'0')
        && span.bytes().any(|byte| byte != b'0');
    // Of the flags two are known.
    let flags = u8::from_str_radix(flags, 16).ok().filter(|_| sound)? & 3;
    Some(format!("00-{trace}-{span}-{flags:02x}"))
}

/// The items of Connection and Trailer; `None` for those that are no names.
fn lists(map: &HeaderMap) -> impl Iterator<Item = Option<&str>> {
    lists_of(map, "connection").chain(lists_of(map, "trailer"))
}

fn lists_of<'a>(map: &'a HeaderMap, list: &'a str) -> impl Iterator<Item = Option<&'a str>> {
    map.get_all(list)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|item| std::str::from_utf8(item.trim_ascii()).ok())
        .filter(|item| item.is_none_or(|item| !item.is_empty()))
        .map(|item| item.filter(|item| HeaderName::from_bytes(item.as_bytes()).is_ok()))
}

/// How a server that maps headers to variables sees a name: everything but letters and digits is the same.
fn fold(name: &str) -> String {
    let fold = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    name.chars().map(fold).collect()
}

fn is_identity(folded: &str) -> bool {
    let (families, names) = identity_names();
    families.iter().any(|family| folded.starts_with(family)) || names.contains(&folded)
}

fn is_disguised(name: &str) -> bool {
    let folded = fold(name);
    let framing = [
        "connection",
        "content-length",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    folded != name.to_ascii_lowercase()
        && (is_identity(&folded) || framing.contains(&folded.as_str()))
}

const HOP_BY_HOP: &[&str] = &[
    "transfer-encoding",
    "upgrade",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "http2-settings",
];

/// A device, and the value of its Client-Cert.
fn caller() -> &'static (Caller, String) {
    // A caller keeps what it was told for its own thread.
    thread_local!(static CALLER: &'static (Caller, String) = Box::leak(Box::new(make_caller())));
    CALLER.with(|caller| *caller)
}

fn make_caller() -> (Caller, String) {
    use base64::Engine as _;
    let mut params = CertificateParams::default();
    let uri = "spiffe://keybound.local/device/thermostat-7";
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(vec![1].into());
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let route = Route {
        host: Some("a.example".into()),
        path: "/".into(),
        upstream: gateway::Upstream::of(vec!["http://127.0.0.1:1".parse().expect("an address")]),
        identity: vec![IdentityHeader::DeviceId, IdentityHeader::ClientCert],
        policy: gateway::RoutePolicy::default(),
    };
    let encoded = base64::engine::general_purpose::STANDARD.encode(certificate.der());
    let caller = Caller::new(certificate.der(), route).expect("one route");
    (caller, format!(":{encoded}:"))
}

fn first_inputs() -> Vec<Vec<u8>> {
    let (families, names) = identity_names();
    let every: String = families
        .iter()
        .map(|family| format!("{family}x: a\n"))
        .chain(names.iter().map(|name| format!("{name}: b\n")))
        .collect();
    vec![
        b"host: a.example\naccept: */*\ncookie: a=1\ncookie: b=2\nuser-agent: x\n".to_vec(),
        b"connection: keep-alive, x-a\nx-a: 1\nkeep-alive: 5\nte: trailers\ntrailer: digest, x-device-id\n".to_vec(),
        b"transfer-encoding: chunked\ncontent-length: 5\nexpect: 100-continue\nupgrade: websocket\nproxy-connection: x\n".to_vec(),
        b"x_device_id: forged\n".to_vec(),
        b"X-Device-Id: forged\nx-forwarded-for: 1\nX.Forwarded.For: 2\n".to_vec(),
        b"connection: x_device_id\ntrailer: client.cert\nconnection: a b\n".to_vec(),
        every.clone().into_bytes(),
        every.replace('-', "_").into_bytes(),
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ntracestate: a=1,b@c=2\ntracestate: d=3\n".to_vec(),
        b"traceparent: cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-what\ntracestate: a=1,a=2\n".to_vec(),
    ]
}
