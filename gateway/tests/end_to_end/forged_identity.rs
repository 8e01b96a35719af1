//! Whatever a device says of itself by headers, the upstream hears only what the gateway says.

use std::collections::BTreeSet;

use crate::client::Client;
use crate::echo::{Event, assert_identified};
use crate::frames::{Frames, Outcome};
use crate::identity_names::{FAMILIES, NAMES, Name, judge, preset};
use crate::session::{DEVICE, Lane};

/// Every name of the list, and of every family a few members.
pub(crate) fn names() -> Vec<String> {
    let members = FAMILIES.iter().flat_map(|family| {
        let family = family.trim_end_matches('-');
        ["-id", "-x-y"].map(|member| format!("{family}{member}"))
    });
    let known = NAMES.iter().chain(preset::NAMES);
    let names = members
        .chain(known.map(|name| (*name).to_owned()))
        .filter(|name| judge(name) == Name::Identity)
        .collect::<BTreeSet<_>>();
    names.into_iter().collect()
}

/// Spellings of a name that are the same name.
fn alike(name: &str) -> Vec<String> {
    let mixed = name.char_indices().map(|(at, c)| {
        if at % 2 == 0 {
            c.to_ascii_uppercase()
        } else {
            c
        }
    });
    vec![name.to_owned(), name.to_ascii_uppercase(), mixed.collect()]
}

/// Spellings that some server takes for the name.
pub(crate) fn disguised(name: &str) -> Vec<String> {
    let mut last = name.to_owned();
    if let Some(at) = name.rfind('-') {
        last.replace_range(at..=at, "_");
    }
    let spellings = [
        name.replace('-', "_"),
        name.replace('-', "."),
        name.replacen('-', "_", 1),
        last,
        name.replacen('-', ".", 1).replace('-', "_"),
        name.to_ascii_uppercase().replace('-', "_"),
        name.replace('-', "~"),
    ];
    let distinct: BTreeSet<_> = spellings
        .into_iter()
        .filter(|s| !s.eq_ignore_ascii_case(name))
        .collect();
    distinct.into_iter().collect()
}

/// The answer to a request with these lines; its upstream request is checked by the session.
async fn ask(lane: &Lane, request: String) -> (u16, String) {
    if request.contains("Upgrade: websocket") {
        return ask_for_upgrade(lane, &request).await;
    }
    let replies = lane.check(request.as_bytes(), false, &[]).await;
    let code = if replies[0].status == 200 {
        String::new()
    } else {
        replies[0].code()
    };
    (replies[0].status, code)
}

/// The same for a request that nothing may follow.
async fn ask_for_upgrade(lane: &Lane, request: &str) -> (u16, String) {
    let mut client = Client::connect(&lane.rig, &lane.device).await;
    client.send(request).await;
    let answer = client.answer().await.expect("an answer");
    assert!(
        client.ends().await,
        "{answer:?} keeps the connection of {request}"
    );
    for event in lane.echo.take() {
        let Event::Request(message) = event else {
            panic!("{event:?} from {request}")
        };
        assert_eq!(answer.status(), 200);
        assert!(message.asks_for_websocket(), "{message:?}");
        assert_identified(&message, DEVICE, &lane.device, request);
    }
    if answer.status() == 200 {
        (200, String::new())
    } else {
        answer.refusal()
    }
}

fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n{lines}\r\n")
}

#[tokio::test]
async fn the_list_is_long_enough_to_be_the_list() {
    let names = names();
    assert!(names.len() >= NAMES.len() + FAMILIES.len(), "{names:?}");
    for family in FAMILIES {
        assert!(
            names.iter().any(|name| name.starts_with(family)),
            "{family}"
        );
    }
}

#[tokio::test]
async fn no_listed_name_passes_in_its_own_spelling() {
    let lane = Lane::start().await;
    for name in names() {
        for alike in alike(&name) {
            let line = format!("{alike}: admin\r\n");
            let empty = format!("{alike}:\r\n");
            let big = format!("{alike}: {}\r\n", "a".repeat(4_096));
            let requests = [
                get("/a", &line),
                format!("GET /a HTTP/1.1\r\n{line}Host: api.test\r\n\r\n"),
                get("/a", &line.repeat(2)),
                get("/a", &format!("{empty}A: b\r\n{line}")),
                get("/a", &empty),
                get("/a", &big),
                get("/cert/a", &line.repeat(3)),
                get("/plain/a", &line),
                get("/cert", &format!("Connection: close, {alike}\r\n{line}")),
                get(
                    "/cert",
                    &format!("{line}Connection: {alike}, {name}\r\nConnection: {alike}\r\n"),
                ),
                get("/a", &format!("Trailer: {alike}\r\n{line}")),
                get(
                    "/a",
                    &format!("Connection: Upgrade, {alike}\r\nUpgrade: websocket\r\n{line}"),
                ),
                format!(
                    "POST /a HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\n{line}Content-Length: 2\r\n\r\nhi"
                ),
                format!(
                    "POST /a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\
                     Trailer: {alike}, Digest\r\n\r\n2\r\nhi\r\n0\r\n{line}Digest: x\r\n{line}\r\n"
                ),
                format!(
                    "POST /a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{line}\r\n"
                ),
            ];
            for request in requests {
                let answer = ask(&lane, request.clone()).await;
                assert_eq!(answer, (200, String::new()), "{request}");
            }
        }
    }
    let huge = get("/a", &format!("X-Device-Id: {}\r\n", "a".repeat(65_536)));
    assert_eq!(ask(&lane, huge).await, (431, "head-too-large".into()));
    lane.assert_sound();
}

#[tokio::test]
async fn no_listed_name_passes_in_another_spelling() {
    let lane = Lane::start().await;
    for name in names() {
        for other in disguised(&name) {
            let line = format!("{other}: admin\r\n");
            let requests = [
                get("/a", &line),
                get("/a", &format!("{name}: a\r\n{line}")),
                get("/cert", &format!("{other}:\r\n{line}")),
                get("/a", &format!("Connection: {other}\r\n")),
                get("/a", &format!("Trailer: {other}\r\n")),
                get(
                    "/a",
                    &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{line}"),
                ),
                format!(
                    "POST /a HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\n{line}Content-Length: 2\r\n\r\nhi"
                ),
                format!(
                    "POST /a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{line}\r\n"
                ),
            ];
            for request in requests {
                let answer = ask(&lane, request.clone()).await;
                assert_eq!(
                    answer,
                    (400, "identity-header-spelling".into()),
                    "{request}"
                );
            }
        }
    }
    lane.assert_sound();
}

#[tokio::test]
async fn http2_hides_no_listed_name_either() {
    let lane = Lane::start().await;
    let mut frames = Frames::connect(&lane).await;
    let head = |path: &'static str, method: &'static str| {
        vec![
            (":method", method),
            (":scheme", "https"),
            (":authority", "api.test"),
            (":path", path),
        ]
    };
    let mut asked = 0;
    for name in names() {
        let name = name.as_str();
        let mut twice = head("/cert/2", "GET");
        twice.extend([(name, "admin"), ("accept", "x"), (name, "")]);
        let mut trailer = head("/a", "POST");
        trailer.push(("trailer", name));
        let exact = [
            (twice, None, vec![]),
            (trailer, Some("hi"), vec![(name, "admin"), (name, "")]),
            (head("/plain", "POST"), Some("hi"), vec![(name, "admin")]),
        ];
        for (fields, body, trailers) in exact {
            let outcome = frames.ask(&fields, body, &trailers).await;
            asked += 1;
            assert!(
                matches!(&outcome, Outcome::Answer(text) if text.starts_with(fields[0].1)),
                "{name}: {outcome:?}"
            );
            let mut events = lane.echo.take();
            // The upstream may hear late of the one before, which was refused for its trailers.
            events.retain(|event| !matches!(event, Event::Partial));
            assert_eq!(events.len(), 1, "{events:?}");
            for event in events {
                let Event::Request(message) = event else {
                    panic!("{event:?}")
                };
                assert_identified(&message, DEVICE, &lane.device, name);
            }
        }
        // HTTP/2 has no upper case.
        for other in disguised(name)
            .into_iter()
            .filter(|other| *other == other.to_ascii_lowercase())
        {
            let mut fields = head("/a", "GET");
            fields.push((&other, "admin"));
            let outcome = frames.ask(&fields, None, &[]).await;
            assert_eq!(
                outcome.code(),
                Some("identity-header-spelling"),
                "{other}: {outcome:?}"
            );
            let outcome = frames
                .ask(&head("/a", "POST"), Some("hi"), &[(&other, "admin")])
                .await;
            assert_eq!(
                outcome.code(),
                Some("identity-header-spelling"),
                "{other}: {outcome:?}"
            );
            asked += 2;
            let events = lane.echo.take();
            assert!(
                !events
                    .iter()
                    .any(|event| matches!(event, Event::Request(_))),
                "{events:?}"
            );
        }
        if asked > 5_000 {
            frames = Frames::connect(&lane).await;
            asked = 0;
        }
    }
    lane.assert_sound();
}

/// What the gateway can say, nobody else may say.
#[tokio::test]
async fn every_header_that_the_gateway_sets_is_listed() {
    let lane = Lane::start().await;
    let mut set = BTreeSet::new();
    for request in [
        get("/cert", ""),
        get("/as/all", ""),
        get("/cert", "TE: trailers\r\n"),
        get("/cert", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        "POST /cert HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
    ] {
        let mut client = Client::connect(&lane.rig, &lane.device).await;
        client.send(&request).await;
        assert_eq!(client.answer().await.expect("an answer").status(), 200);
        for event in lane.echo.take() {
            let Event::Request(message) = event else {
                panic!("{event:?}")
            };
            set.extend(message.fields.into_iter().map(|(name, _)| name));
        }
    }
    let of_the_message = [
        "connection",
        "content-length",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    for name in &set {
        let listed = judge(name) == Name::Identity;
        assert!(listed != of_the_message.contains(&name.as_str()), "{name}");
    }
    // This rig's anchor is its own issuer, and no gateway stands in front of it.
    let others = [preset::CLIENT_CERT_CHAIN, preset::DEVICE_VIA];
    let presets = preset::NAMES.iter().filter(|name| !others.contains(name));
    for name in presets.chain(&["x-request-id", "x-forwarded-for"]) {
        assert!(set.contains(*name), "{name} in {set:?}");
    }
}
