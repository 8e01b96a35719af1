//! The route is decided by the very bytes that are forwarded, and no other reading of them leads elsewhere.

use gateway::{IdentityHeader, Route, RoutePolicy, RouteTable, Snapshot, TcpRouteTable, Upstream};

use crate::client::Client;
use crate::echo::{Echo, Event};
use crate::frames::{Frames, Outcome};
use crate::random::{Random, figure, is_long};
use crate::session::Lane;

const PARTS: &[&str] = &[
    "admin",
    "admin/",
    "/admin",
    "%61dmin",
    "adm%69n",
    "%41dmin",
    "ADMIN",
    "adminx",
    "xadmin",
    "admin;a=b",
    "admin;",
    ";admin",
    "admin%3b",
    "admin%3f",
    "admin%23",
    "admin%20",
    "admin%09",
    "admin.",
    "admin%00",
    "admin%2f",
    "admin%5c",
    "admin\\",
    "admin%",
    "admin%2",
    "%c1%a1dmin",
    "%e0%81%a1dmin",
    "%f0%80%81%a1dmin",
    "admin%c0%af",
    "%c0%ae%c0%ae",
    "%ef%bc%8e",
    "%u0061dmin",
    "%2561dmin",
    "/",
    "//",
    "///",
    "%2f",
    "%2F",
    "%5c",
    "\\",
    ".",
    "..",
    "...",
    "%2e",
    "%2e%2e",
    "%2E.",
    "..;",
    "..;a",
    ".;",
    ".%00",
    "%252e%252e",
    "%252f",
    "a",
    "b",
    "?",
    "?/admin/",
    "?/../admin/",
    "#",
    "#/admin/",
    "%23",
    "*",
    "~",
    "|",
    "\"",
    "<",
    "%7f",
    "%0a",
    "%80",
    "%e4",
];

#[tokio::test]
async fn no_path_reaches_an_upstream_that_is_not_its_own() {
    let lane = Lane::start().await;
    let admin = Echo::start().await;
    let route = |path: &str, echo: &Echo| Route {
        host: None,
        path: path.to_owned(),
        upstream: Upstream::of(vec![
            format!("http://{}", echo.address)
                .parse()
                .expect("an upstream"),
        ]),
        identity: vec![IdentityHeader::DeviceId],
        policy: RoutePolicy::default(),
    };
    lane.rig.gateway.publish(Snapshot {
        routes: RouteTable::new(vec![route("/", &lane.echo), route("/admin/", &admin)])
            .expect("routes"),
        tcp_routes: TcpRouteTable::default(),
        server_names: vec!["api.test".into()],
        without_sni: vec![],
    });
    let mut random = Random::new(36);
    let mut h1 = Client::connect(&lane.rig, &lane.device).await;
    let mut h2 = Frames::connect(&lane).await;
    let (mut to_main, mut to_admin) = (0, 0);
    let count = if is_long() { 20_000 } else { 2_000 };
    for at in 0..count {
        let mut target = String::from("/");
        for _ in 0..=random.below(5) {
            target.push_str(random.one_of::<&str>(PARTS));
            if random.below(2) == 0 {
                target.push('/');
            }
        }
        if at % 2 == 0 {
            h1.send(&format!("GET {target} HTTP/1.1\r\nHost: api.test\r\n\r\n"))
                .await;
            let answer = h1
                .answer()
                .await
                .unwrap_or_else(|error| panic!("{error}: {target}"));
            assert!(answer.status() < 500, "{answer:?} to {target}");
            if answer.head.contains("connection: close") {
                h1 = Client::connect(&lane.rig, &lane.device).await;
            }
        } else {
            let fields = [
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", "api.test"),
                (":path", target.as_str()),
            ];
            if matches!(h2.ask(&fields, None, &[]).await, Outcome::Gone(_)) || at % 1_000 == 999 {
                h2 = Frames::connect(&lane).await;
            }
        }
        for (echo, is_admin) in [(&lane.echo, false), (&admin, true)] {
            for event in echo.take() {
                let Event::Request(message) = event else {
                    panic!("{event:?} from {target}")
                };
                // A fragment is no part of a request; only HTTP/2 can carry one this far.
                let whole = target.split('#').next().expect("a beginning");
                assert!(
                    message.target == target || at % 2 == 1 && message.target == whole,
                    "{message:?} from {target}"
                );
                let path = message.target.split('?').next().expect("a path");
                assert_eq!(path.starts_with("/admin/"), is_admin, "{message:?}");
                assert_eq!(
                    reading(path).starts_with("/admin/"),
                    is_admin,
                    "{message:?}"
                );
                *(if is_admin {
                    &mut to_admin
                } else {
                    &mut to_main
                }) += 1;
            }
        }
    }
    figure("generated paths", count);
    figure(
        "of which forwarded, to either upstream",
        format!("{to_main}, {to_admin}"),
    );
    assert!(
        to_main > count / 50 && to_admin > count / 100,
        "{to_main} {to_admin}"
    );
    lane.assert_sound();
}

/// The path as a careless server reads it: decoded, overlong characters too, without parameters, with the
/// dots resolved and the slashes merged.
fn reading(path: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let digits = (*byte == b'%').then(|| rest.get(..2)).flatten();
        let escaped = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(escaped) => {
                decoded.push(escaped);
                rest = &rest[2..];
            }
            None => decoded.push(*byte),
        }
    }
    let text = overlong(&decoded).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split([';', '\0']).next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    let slash = if text.ends_with('/') { "/" } else { "" };
    format!("/{}{slash}", segments.join("/"))
}

/// UTF-8 decoded without asking whether the shortest form was used.
fn overlong(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut bytes = bytes.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let (mut code, more) = match byte {
            0..=0x7f => (u32::from(byte), 0),
            0xc0..=0xdf => (u32::from(byte & 0x1f), 1),
            0xe0..=0xef => (u32::from(byte & 0x0f), 2),
            0xf0..=0xf7 => (u32::from(byte & 0x07), 3),
            _ => (0xfffd, 0),
        };
        for _ in 0..more {
            match bytes.next_if(|byte| byte & 0xc0 == 0x80) {
                Some(byte) => code = code << 6 | u32::from(byte & 0x3f),
                None => code = 0xfffd,
            }
        }
        text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
    }
    text
}
