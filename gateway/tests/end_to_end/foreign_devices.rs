//! Devices of other CAs: identified under their anchor's name, judged by its lists, and never taken for ours.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gateway::tls::HandshakeFault;
use gateway::{
    ClientMode, Code, ForeignAnchor, Outcome, Rate, RateLimit, RateScope, Revocation, RoutePolicy,
    TcpRoute, TcpRouteTable,
};
use identity::labels::Group;
use identity::{CaCertificate, IdRule, Name, RevocationList, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::authority::{Authority, Fields, Identity, tlv};
use crate::client::{Client, Verdict, config, config_of_chain, handshake, verdict, verdict_http2};
use crate::rig::{Rig, routes_of, snapshot};

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate whose subject is this common name alone, and which names nothing else.
pub(crate) fn called(ca: &Authority, name: &str, serial: u64) -> Identity {
    called_with(ca, name, serial, |_| {})
}

fn called_with(
    ca: &Authority,
    name: &str,
    serial: u64,
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    ca.client("urn:unused", serial, |params| {
        params.subject_alt_names = vec![];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial.into());
        change(params);
    })
}

fn read(ca: &Authority) -> CaCertificate {
    CaCertificate::read(&ca.certificate).expect("an anchor")
}

/// A list that is good for a day, or ended an hour ago.
pub(crate) fn list(
    ca: &Authority,
    number: u64,
    revoked: &[u64],
    is_stale: bool,
) -> Arc<RevocationList> {
    let now = SystemTime::now();
    let end = if is_stale { now - DAY / 24 } else { now + DAY };
    let der = ca.list(number, revoked, now - 2 * DAY, end);
    let now = Timestamp(
        now.duration_since(SystemTime::UNIX_EPOCH)
            .expect("after it")
            .as_secs(),
    );
    Arc::new(RevocationList::read(&der, &[read(ca)], now).expect("a list"))
}

pub(crate) fn anchor(
    name: &str,
    ca: &Authority,
    list: Option<Arc<RevocationList>>,
) -> ForeignAnchor {
    ForeignAnchor {
        name: Name::parse(name).expect("legal"),
        id_from: IdRule::CommonName,
        authorities: vec![read(ca)],
        revocation: list.map_or(Revocation::NotChecked, |list| Revocation::Lists(vec![list])),
    }
}

/// Refused at HTTP in both versions, and nothing reaches the upstream.
async fn refused(rig: &mut Rig, what: &str, device: &Identity, status: u16, code: Code) {
    let expected = Verdict::Answer(status, Some(code.as_str().to_owned()));
    let got = verdict(rig, config(rig, Some(device), "http/1.1")).await;
    assert_eq!(got, expected, "{what}");
    assert_eq!(verdict_http2(rig, device).await, expected, "{what}");
    for _ in 0..2 {
        assert_eq!(rig.next_outcome().await, Outcome::Refused(code), "{what}");
    }
    assert_eq!(rig.upstream.take(), "", "{what}");
}

/// Forwarded in both versions under this name and no other.
async fn forwarded(rig: &mut Rig, device: &Identity, name: &str) {
    let got = verdict(rig, config(rig, Some(device), "http/1.1")).await;
    assert_eq!(got, Verdict::Answer(200, None), "{name}");
    assert_eq!(verdict_http2(rig, device).await, Verdict::Answer(200, None));
    for _ in 0..2 {
        let record = rig.next_record().await;
        assert_eq!(record.outcome, Outcome::Forwarded);
        let device = record.device.as_ref().map(ToString::to_string);
        assert_eq!(device.as_deref(), Some(name));
    }
    let seen = rig.upstream.take();
    assert_eq!(seen.matches("x-device-id: ").count(), 2, "{seen}");
    let header = format!("x-device-id: {name}\r\n");
    assert_eq!(seen.matches(&header).count(), 2, "{seen}");
}

async fn stranger(rig: &mut Rig, what: &str, device: &Identity, chain: &[&Authority]) {
    let mut presented = vec![device.certificate.clone()];
    presented.extend(chain.iter().map(|ca| ca.certificate.clone()));
    let config = config_of_chain(rig, Some((presented, device.key())), "http/1.1");
    let unknown = Verdict::Alert(AlertDescription::UnknownCA);
    assert_eq!(verdict(rig, config).await, unknown, "{what}");
    let fault = Outcome::HandshakeRefused(HandshakeFault::UnknownIssuer);
    assert_eq!(rig.next_outcome().await, fault, "{what}");
    assert_eq!(rig.upstream.take(), "", "{what}");
}

#[tokio::test]
async fn each_anchor_has_devices_of_its_own_and_none_of_ours() {
    let mut rig = Rig::start().await;
    let (factory, depot) = (Authority::named("Factory CA"), Authority::named("Depot CA"));
    let ours = rig.device("pump", 1).await;
    let (pump, namesake) = (called(&factory, "pump", 5), called(&depot, "pump", 5));
    stranger(&mut rig, "before it is believed", &pump, &[]).await;
    rig.believe(&[
        anchor("factory", &factory, Some(list(&factory, 1, &[9], false))),
        anchor("depot", &depot, None),
    ]);
    forwarded(&mut rig, &pump, "factory:pump").await;
    forwarded(&mut rig, &namesake, "depot:pump").await;
    forwarded(&mut rig, &ours, "pump").await;
    // The registry hears of its own devices alone.
    assert_eq!(
        rig.sightings.recv().await.expect("one").device.as_str(),
        "pump"
    );
    while let Ok(sighting) = rig.sightings.try_recv() {
        assert_eq!(sighting.device.as_str(), "pump");
    }
    // Every form of identity is about the certificate that was shown.
    let mut client = Client::connect(&rig, &pump).await;
    assert_eq!(client.get("/as/all", "").await.status(), 200);
    let seen = rig.upstream.take();
    assert!(seen.contains("x-device-id: factory:pump\r\n"), "{seen}");
    assert!(
        seen.contains("CN=pump") && seen.contains("client-cert: :"),
        "{seen}"
    );
    rig.next_record().await;

    // Whoever has an anchor's name is not believed for it.
    let pretender = Authority::named("Factory CA");
    let forged = called(&pretender, "pump", 5);
    let config = config(&rig, Some(&forged), "http/1.1");
    assert!(matches!(verdict(&rig, config).await, Verdict::Alert(_)));
    let fault = Outcome::HandshakeRefused(HandshakeFault::BadSignature);
    assert_eq!(rig.next_outcome().await, fault);
    stranger(
        &mut rig,
        "nobody's",
        &called(&Authority::named("X"), "pump", 5),
        &[],
    )
    .await;
}

#[tokio::test]
async fn nobody_elses_ca_can_name_a_device_of_ours() {
    let mut rig = Rig::start().await;
    let ours = rig.device("a", 1).await;
    let factory = Authority::named("Factory CA");
    // A CA below it that has the name of ours, and the names of our devices.
    let double = factory.subordinate("Device CA");
    let spiffe_id = "spiffe://keybound.test/device/a";
    let by_uri = |prefix: &str| ForeignAnchor {
        id_from: IdRule::UriSan {
            prefix: prefix.into(),
        },
        ..anchor("factory", &factory, None)
    };
    let forgery = double.client(spiffe_id, 1, |_| {});
    let direct = factory.client(spiffe_id, 1, |_| {});
    let chain = |rig: &Rig| {
        let chain = vec![forgery.certificate.clone(), double.certificate.clone()];
        config_of_chain(rig, Some((chain, forgery.key())), "http/1.1")
    };
    rig.believe(&[by_uri("urn:factory:")]);
    let invalid = Verdict::Answer(403, Some("identity-invalid".into()));
    assert_eq!(verdict(&rig, chain(&rig)).await, invalid);
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::IdentityInvalid)
    );
    refused(
        &mut rig,
        "ours by name",
        &direct,
        403,
        Code::IdentityInvalid,
    )
    .await;
    forwarded(&mut rig, &ours, "a").await;
    // Even where the anchor's rule reads such names, they are its devices'.
    rig.believe(&[by_uri("spiffe://keybound.test/device/")]);
    assert_eq!(verdict(&rig, chain(&rig)).await, Verdict::Answer(200, None));
    let seen = rig.upstream.take();
    assert!(seen.contains("x-device-id: factory:a\r\n"), "{seen}");
    rig.next_record().await;
    forwarded(&mut rig, &direct, "factory:a").await;
    forwarded(&mut rig, &ours, "a").await;
    // What ours has certified is never read by another's rule, whatever else came with it.
    let unnamed = rig.authority.client("urn:factory:x", 2, |_| {});
    rig.believe(&[by_uri("urn:factory:")]);
    let sent = vec![unnamed.certificate.clone(), factory.certificate.clone()];
    let config = config_of_chain(&rig, Some((sent, unnamed.key())), "http/1.1");
    assert_eq!(verdict(&rig, config).await, invalid);
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::IdentityInvalid)
    );
    assert_eq!(rig.upstream.take(), "");
}

#[tokio::test]
async fn names_that_are_no_ids_name_nobody() {
    let mut rig = Rig::start().await;
    let factory = Authority::named("Factory CA");
    rig.believe(&[anchor("factory", &factory, None)]);
    let long = "x".repeat(65);
    for name in [
        "",
        "a\r\nX-Device-Id: admin",
        "a\0",
        "\u{430}dmin",
        "a b",
        "admin:a",
        "a/../b",
        "-a",
        &long,
    ] {
        let device = called(&factory, name, 5);
        refused(&mut rig, name, &device, 403, Code::IdentityInvalid).await;
    }
    let attribute = |name: &str| {
        tlv(
            0x30,
            &[tlv(6, &[0x55, 4, 3]), tlv(0x0c, name.as_bytes())].concat(),
        )
    };
    let two_names = |fields: &mut Fields| {
        let parts = [tlv(0x31, &attribute("a")), tlv(0x31, &attribute("b"))];
        fields.subject = tlv(0x30, &parts.concat());
    };
    let in_one_part = |fields: &mut Fields| {
        let both = [attribute("a"), attribute("b")].concat();
        fields.subject = tlv(0x30, &tlv(0x31, &both));
    };
    let two = factory.rebuilt("a", 5, two_names);
    refused(
        &mut rig,
        "two common names",
        &two,
        403,
        Code::IdentityInvalid,
    )
    .await;
    let shared = factory.rebuilt("a", 5, in_one_part);
    refused(&mut rig, "in one part", &shared, 403, Code::IdentityInvalid).await;
    let of_server = called_with(&factory, "a", 5, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    refused(
        &mut rig,
        "a server's",
        &of_server,
        403,
        Code::IdentityInvalid,
    )
    .await;
    // Exactly one name of the type, whatever else there is.
    rig.believe(&[ForeignAnchor {
        id_from: IdRule::DnsSan,
        ..anchor("factory", &factory, None)
    }]);
    let named = |names: &[&str]| {
        called_with(&factory, "x", 5, |params| {
            let name = |name: &&str| SanType::DnsName((*name).try_into().expect("ASCII"));
            params.subject_alt_names = names.iter().map(name).collect();
        })
    };
    forwarded(&mut rig, &named(&["a.example"]), "factory:a.example").await;
    for names in [
        &["a.example", "b.example"][..],
        &["A.example"],
        &["*.example"],
        &[],
    ] {
        let device = named(names);
        refused(
            &mut rig,
            &format!("{names:?}"),
            &device,
            403,
            Code::IdentityInvalid,
        )
        .await;
    }
}

#[tokio::test]
async fn the_calendar_is_explained_and_strangers_get_the_alert() {
    let mut rig = Rig::start().await;
    let factory = Authority::named("Factory CA");
    rig.believe(&[anchor(
        "factory",
        &factory,
        Some(list(&factory, 1, &[], false)),
    )]);
    let now = SystemTime::now();
    let between = |ca: &Authority, from: SystemTime, until: SystemTime| {
        called_with(ca, "pump", 5, |params| {
            (params.not_before, params.not_after) = (from.into(), until.into());
        })
    };
    let expired = between(&factory, now - 2 * DAY, now - DAY);
    refused(&mut rig, "expired", &expired, 403, Code::Expired).await;
    let early = between(&factory, now + DAY, now + 2 * DAY);
    refused(&mut rig, "early", &early, 403, Code::NotYetValid).await;
    let nobody = between(&Authority::named("X"), now - 2 * DAY, now - DAY);
    stranger(&mut rig, "an expired stranger", &nobody, &[]).await;

    // Below a CA that was sent along nobody knows what was revoked.
    let below = factory.subordinate("Line 3");
    let device = called(&below, "pump", 5);
    let chain = |rig: &Rig| {
        let sent = vec![device.certificate.clone(), below.certificate.clone()];
        config_of_chain(rig, Some((sent, device.key())), "http/1.1")
    };
    let missing = Verdict::Answer(403, Some("crl-missing".into()));
    assert_eq!(verdict(&rig, chain(&rig)).await, missing);
    rig.next_record().await;
    rig.believe(&[anchor("factory", &factory, None)]);
    assert_eq!(verdict(&rig, chain(&rig)).await, Verdict::Answer(200, None));
    rig.next_record().await;
    rig.upstream.take();
    stranger(&mut rig, "without the CA between", &device, &[]).await;
    // A CA that is for servers only makes no clients, and neither does one that the anchor's path length leaves no room for.
    let of_servers = factory.subordinate_with("Web CA", |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let device = called(&of_servers, "pump", 5);
    stranger(&mut rig, "below a CA of servers", &device, &[&of_servers]).await;
    let last = factory.subordinate_with("Line CA", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    });
    rig.believe(&[anchor("line", &last, None)]);
    forwarded(&mut rig, &called(&last, "pump", 5), "line:pump").await;
    let below = last.subordinate("Shift CA");
    let device = called(&below, "pump", 5);
    stranger(&mut rig, "one CA too many", &device, &[&below]).await;

    rig.believe(&[anchor(
        "factory",
        &factory,
        Some(list(&factory, 1, &[], true)),
    )]);
    refused(
        &mut rig,
        "stale",
        &called(&factory, "pump", 5),
        503,
        Code::CrlStale,
    )
    .await;
}

#[tokio::test]
async fn a_list_that_names_it_ends_every_connection_of_a_device_and_no_other() {
    const UPGRADE: &str =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let mut rig = Rig::start().await;
    let factory = Authority::named("Factory CA");
    let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut routes = snapshot(&[&format!("http://{}", rig.upstream.address)]);
    routes.tcp_routes = TcpRouteTable::new(vec![TcpRoute {
        host: "mqtt.test".into(),
        upstreams: vec![
            format!("tcp://{}", broker.local_addr().expect("bound"))
                .parse()
                .expect("legal"),
        ],
        announce: true,
        alpn: vec!["mqtt".into()],
    }])
    .expect("routes");
    rig.publish(routes);
    let believing = |number, revoked: &[u64]| {
        [anchor(
            "factory",
            &factory,
            Some(list(&factory, number, revoked, false)),
        )]
    };
    rig.believe(&believing(1, &[]));
    let (pump, fan) = (called(&factory, "pump", 5), called(&factory, "fan", 6));
    let mut idle = Client::connect(&rig, &pump).await;
    assert_eq!(idle.get("/", "").await.status(), 200);
    let mut download = Client::connect(&rig, &pump).await;
    assert_eq!(download.get("/slow", "").await.status(), 200);
    let mut socket = Client::connect(&rig, &pump).await;
    assert_eq!(socket.get("/ws", UPGRADE).await.status(), 101);
    let mqtt = config(&rig, Some(&pump), "mqtt");
    let mut stream = handshake(&rig, mqtt, "mqtt.test")
        .await
        .expect("a handshake");
    stream.write_all(b"hello").await.expect("sent");
    let (mut accepted, _) = broker.accept().await.expect("a stream");
    let mut told = vec![0; 1024];
    let length = accepted.read(&mut told).await.expect("a header");
    let name = b"\x22\x00\x0cfactory:pump";
    assert!(told[..length].windows(name.len()).any(|part| part == name));
    let mut other = Client::connect(&rig, &fan).await;
    assert_eq!(other.get("/", "").await.status(), 200);

    assert_eq!(rig.believe(&believing(2, &[5])), 4);
    assert!(idle.ends().await && download.ends().await && socket.ends().await);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut rest));
    let _ = ended.await.expect("the stream's end");
    assert_eq!(other.get("/", "").await.status(), 200);
    rig.upstream.take();
    while rig.records.try_recv().is_ok() {}
    refused(&mut rig, "revoked", &pump, 403, Code::Revoked).await;

    // An anchor that goes, and one that calls them otherwise.
    assert!(rig.believe(&[anchor("plant", &factory, None)]) >= 1);
    assert!(other.ends().await);
    let mut other = Client::connect(&rig, &fan).await;
    assert_eq!(other.get("/", "").await.status(), 200);
    assert!(rig.believe(&[]) >= 1);
    assert!(other.ends().await);
}

#[tokio::test]
async fn routes_and_limits_hold_for_them_too() {
    let mut rig = Rig::start().await;
    let factory = Authority::named("Factory CA");
    rig.believe(&[anchor("factory", &factory, None)]);
    let client = |client| RoutePolicy {
        client,
        ..RoutePolicy::default()
    };
    let one = std::num::NonZeroU32::MIN;
    let rate = Rate::new(one, std::num::NonZeroU32::new(3600).expect("not zero"), one);
    let rarely = RoutePolicy {
        rate: Some(RateLimit {
            rate: rate.expect("a rate"),
            scope: RateScope::Route,
        }),
        ..RoutePolicy::default()
    };
    let grouped = RoutePolicy {
        groups: Some(vec![Group::parse("blue").expect("legal")]),
        ..RoutePolicy::default()
    };
    rig.publish(routes_of(
        &rig.upstream,
        &[
            (None, "/", RoutePolicy::default()),
            (None, "/blue", grouped),
            (None, "/request", client(ClientMode::Request)),
            (None, "/open", client(ClientMode::Anonymous)),
            (None, "/rarely", rarely),
        ],
    ));
    let (pump, again) = (called(&factory, "pump", 5), called(&factory, "pump", 6));
    let ours = rig.device("pump", 1).await;
    let mut client = Client::connect(&rig, &pump).await;
    assert_eq!(
        client.get("/blue", "").await.refusal(),
        (403, "group-not-allowed".into())
    );
    assert_eq!(client.get("/request", "").await.status(), 200);
    assert!(
        rig.upstream
            .take()
            .contains("x-device-id: factory:pump\r\n")
    );
    assert_eq!(client.get("/open", "").await.status(), 200);
    assert!(!rig.upstream.take().contains("factory:pump"));
    // One device with two certificates; ours of the same id is another one.
    assert_eq!(client.get("/rarely", "").await.status(), 200);
    let mut second = Client::connect(&rig, &again).await;
    assert_eq!(second.get("/rarely", "").await.refusal().1, "rate-limited");
    let mut own = Client::connect(&rig, &ours).await;
    assert_eq!(own.get("/rarely", "").await.status(), 200);
}
