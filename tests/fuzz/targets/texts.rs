//! Texts that people and peers give: enrollment codes, names, serials, fingerprints, hosts, paths, upstream addresses.
//! What is accepted prints as itself and fits a second grammar; what it was folded to is folded no further.
#![no_main]

use gateway::UpstreamAddress;
use gateway::fuzzing::{asked_host, host, host_name, most_eager_reading};
use http::{HeaderMap, HeaderValue, Method, Uri, header::HOST};
use identity::{
    DeviceId, EnrollmentCode, Fingerprint, Name, Serial, ServerAddress, SpiffeId, Token,
    TrustDomain,
};
use keybound_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(first_inputs), |text: &str| {
    code(text);
    server(text);
    names(text);
    hosts(text);
    path(text);
});

fn code(text: &str) {
    let Ok(code) = text.parse::<EnrollmentCode>() else {
        return;
    };
    let printed = code.expose();
    let again: EnrollmentCode = printed.parse().expect("what is printed can be read");
    assert_eq!(again, code);
    // Letters of the server and of the token may come in upper case; nothing else has two spellings.
    assert!(printed.eq_ignore_ascii_case(text.trim()));
    let server = code.server.to_string();
    // Whoever names a server or a device by the token has told it already.
    let token = code.token.expose();
    let named = server.contains(&token) || code.device.as_str().contains(&token);
    assert!(
        named || !format!("{code:?}").contains(&token),
        "a secret in a debug print"
    );
    for position in 0..printed.len() {
        let cut = &printed[..position];
        assert!(
            cut.parse::<EnrollmentCode>().is_err(),
            "half a code was taken: {cut}"
        );
    }
}

/// The grammar once more, written as a filter: what is accepted is no longer, and has no other characters.
fn server(text: &str) {
    let Ok(address) = text.parse::<ServerAddress>() else {
        return;
    };
    let printed = address.to_string();
    assert_eq!(printed.parse(), Ok(address.clone()));
    assert_eq!(printed, printed.to_ascii_lowercase());
    let (host, port) = text.rsplit_once(':').expect("host:port");
    assert_eq!(port, address.port().to_string());
    assert!(printed.ends_with(&format!(":{port}")) && port != "0");
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_address = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = bare.is_none() && host.len() <= 253 && host.split('.').all(label);
    assert!(is_address || is_name, "{host:?}");
    // Only an address has more than one spelling.
    assert!(is_address || printed.eq_ignore_ascii_case(text));
}

fn names(text: &str) {
    let legal = |text: &str| {
        let mut bytes = text.bytes();
        (1..=64).contains(&text.len())
            && bytes
                .next()
                .is_some_and(|byte| byte.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    assert_eq!(Name::parse(text).is_ok(), legal(text));
    match DeviceId::parse(text) {
        Ok(id) => {
            assert!(legal(text) && id.as_str() == text && id.to_string() == text);
            assert_eq!(
                DeviceId::parse(&id.folded()).map(|id| id.folded()),
                Ok(id.folded())
            );
            let quoted = serde_json::to_string(&id).expect("JSON");
            assert_eq!(serde_json::from_str::<DeviceId>(&quoted).ok(), Some(id));
            HeaderValue::from_str(text).expect("a header's value");
        }
        Err(_) => assert!(!legal(text)),
    }
    let domain = |text: &str| {
        (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    };
    assert_eq!(TrustDomain::parse(text).is_ok(), domain(text));
    let parts: Vec<&str> = text.split('/').collect();
    let is_spiffe = matches!(parts[..], ["spiffe:", "", authority, kind, name]
        if domain(authority) && legal(name) && ["device", "gateway", "operator", "station"].contains(&kind));
    match SpiffeId::parse(text) {
        Ok(id) => assert!(is_spiffe && id.to_string() == text),
        Err(_) => assert!(!is_spiffe),
    }
    if let Ok(serial) = text.parse::<Serial>() {
        assert_eq!(serial.to_string().parse(), Ok(serial));
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        assert_eq!(
            format!("{digits:0>32}").to_ascii_lowercase(),
            serial.to_string()
        );
    }
    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.expose(), text.to_ascii_lowercase());
    }
}

fn hosts(text: &str) {
    if let Some(normal) = host_name(text) {
        assert!(is_normal_host(&normal), "{normal:?}");
        assert_eq!(
            host_name(&normal).as_deref(),
            Some(normal.as_str()),
            "folded twice"
        );
    }
    if let Some(normal) = host(text) {
        assert!(is_normal_host(&normal), "{normal:?}");
        assert_eq!(host_name(&normal).as_deref(), Some(normal.as_str()));
        assert!(!text.contains(['@', '/', '?', '#', ' ', ',']));
        // A second reader: the URI parser of the HTTP library.
        if let Ok(uri) = Uri::try_from(format!("https://{text}/")) {
            let theirs = uri
                .host()
                .expect("there is one")
                .trim_start_matches('[')
                .trim_end_matches(']');
            assert_eq!(host_name(theirs), Some(normal.clone()), "{theirs:?}");
            let asked = asked_host(&Method::GET, &uri, &HeaderMap::new());
            assert_eq!(asked, Some(normal.clone()));
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            HOST,
            HeaderValue::from_str(text).expect("a host is a header's value"),
        );
        assert_eq!(
            asked_host(&Method::GET, &Uri::from_static("/"), &headers),
            Some(normal)
        );
    }
    if let Ok(address) = text.parse::<UpstreamAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address.clone()));
        match address {
            UpstreamAddress::Tcp { host, port, .. } => {
                assert!(is_normal_host(&host) && port != 0);
            }
            UpstreamAddress::Unix(path) => assert!(path.starts_with('/') && path.len() <= 107),
        }
    }
}

fn is_normal_host(host: &str) -> bool {
    let address = host
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.to_string() == host);
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    address || host.len() <= 253 && host.split('.').all(label)
}

fn path(text: &str) {
    let Some(reading) = most_eager_reading(text) else {
        return;
    };
    assert!(text.starts_with('/') && text.bytes().all(|byte| matches!(byte, 0x21..=0x7e)));
    assert!(reading.starts_with('/') && !reading.contains("//"));
    assert!(!reading.contains(['\\', ';']) && !reading.chars().any(char::is_control));
    assert!(
        reading
            .split('/')
            .all(|segment| segment != "." && segment != "..")
    );
    assert!(reading.split('/').count() <= text.split('/').count());
    // Where there is nothing to decode, the reading is the path.
    if !text.contains(['%', ';']) && !text.contains("//") {
        assert_eq!(reading, text);
    }
    // A server that decodes, then strips, then merges reads the same.
    let mut eager = String::new();
    for segment in text.split('/') {
        let mut decoded = Vec::new();
        let mut rest = segment.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte == b'%' {
                let digits = std::str::from_utf8(&after[..2]).expect("two digits were checked");
                decoded.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
                rest = &after[2..];
            } else {
                decoded.push(*byte);
            }
        }
        let decoded = String::from_utf8_lossy(&decoded).into_owned();
        eager.push('/');
        eager.push_str(decoded.split(';').next().unwrap_or_default());
    }
    while eager.contains("//") {
        eager = eager.replace("//", "/");
    }
    assert_eq!(eager.trim_end_matches('/'), reading.trim_end_matches('/'));
}

fn first_inputs() -> Vec<Vec<u8>> {
    let code = EnrollmentCode {
        server: "gateway.example:8444".parse().expect("legal"),
        device: DeviceId::parse("thermostat-7").expect("legal"),
        token: Token::new([0xab; 16]),
        root: Fingerprint::of(b"root"),
    };
    [
        code.expose(),
        code.expose().replace("gateway.example", "[::1]"),
        code.expose().replace(":8444", ":+8444"),
        code.expose().replace(":8444", ":65536"),
        code.expose()
            .replace("gateway.example", &format!("a{}", "[".repeat(900))),
        "[2001:DB8:0::1]:8444".into(),
        "Thermostat-7.b_2".into(),
        "spiffe://keybound.local/device/thermostat-7".into(),
        "spiffe://a-b_c.d/operator/x".into(),
        "0A:ff:00".into(),
        Fingerprint::of(b"a").to_string(),
        Token::new([0x1c; 16]).expose(),
        "API.example.com.:8443".into(),
        "[0:0:0:0:0:ffff:127.0.0.1]:80".into(),
        "user@a:80".into(),
        "http://10.0.0.5:8080/".into(),
        "http://[::1]".into(),
        "/v1/a.b/...".into(),
        "/%76%31//x;a=b/%e4%bd%a0".into(),
        "/a/%2e%2e/b".into(),
        "/..;x/%2f".into(),
    ]
    .map(String::into_bytes)
    .to_vec()
}
