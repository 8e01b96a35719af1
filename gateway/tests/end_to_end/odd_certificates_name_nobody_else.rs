//! Certificates that no honest CA issues: each is refused under one code, or names exactly its own device.

use gateway::tls::HandshakeFault;
use gateway::{Code, Outcome};
use identity::Status;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls::AlertDescription;

use crate::authority::{
    Authority, BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE, Fields, Identity, KEY_USAGE,
    SUBJECT_ALT_NAME, children, tlv,
};
use crate::client::{Verdict, config, config_of_chain, verdict, verdict_http2};
use crate::rig::Rig;

/// Refused in the handshake, with nothing at the upstream; counted and recorded under the fault.
async fn refused(
    rig: &mut Rig,
    what: &str,
    chain: Vec<&Authority>,
    device: &Identity,
    alert: AlertDescription,
    fault: HandshakeFault,
) {
    for alpn in ["http/1.1", "h2"] {
        let before = counted(rig, "handshakes", "outcome", fault.as_str());
        let mut presented = vec![device.certificate.clone()];
        presented.extend(chain.iter().map(|ca| ca.certificate.clone()));
        let config = config_of_chain(rig, Some((presented, device.key())), alpn);
        assert_eq!(verdict(rig, config).await, Verdict::Alert(alert), "{what}");
        let outcome = Outcome::HandshakeRefused(fault);
        assert_eq!(rig.next_outcome().await, outcome, "{what}");
        let after = counted(rig, "handshakes", "outcome", fault.as_str());
        assert_eq!(after, before + 1, "{what}");
    }
    assert_eq!(rig.upstream.take(), "", "{what}");
}

/// Refused at HTTP in both versions, with nothing at the upstream; counted and recorded under the code.
async fn explained(rig: &mut Rig, what: &str, device: &Identity, code: Code) {
    let before = counted(rig, "refusals", "code", code.as_str());
    let expected = Verdict::Answer(403, Some(code.as_str().to_owned()));
    let got = verdict(rig, config(rig, Some(device), "http/1.1")).await;
    assert_eq!(got, expected, "{what}");
    assert_eq!(verdict_http2(rig, device).await, expected, "{what}");
    for _ in 0..2 {
        assert_eq!(rig.next_outcome().await, Outcome::Refused(code), "{what}");
    }
    let after = counted(rig, "refusals", "code", code.as_str());
    assert_eq!(after, before + 2, "{what}");
    assert_eq!(rig.upstream.take(), "", "{what}");
}

/// Forwarded as `id`, and as nobody else.
async fn forwarded(rig: &mut Rig, what: &str, device: &Identity, id: &str) {
    let got = verdict(rig, config(rig, Some(device), "http/1.1")).await;
    assert_eq!(got, Verdict::Answer(200, None), "{what}");
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded, "{what}");
    let mut seen = rig.upstream.take();
    let got = verdict_http2(rig, device).await;
    assert_eq!(got, Verdict::Answer(200, None), "{what}");
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded, "{what}");
    seen.push_str(&rig.upstream.take());
    let identities: Vec<_> = seen
        .lines()
        .filter(|line| line.contains("device"))
        .collect();
    let expected = format!("x-device-id: {id}");
    assert_eq!(identities, [&expected; 2], "{what}");
}

fn counted(rig: &Rig, family: &str, label: &str, value: &str) -> u64 {
    rig.metric(&format!("{family}_total{{{label}=\"{value}\"}}"))
        .parse()
        .expect("a count")
}

fn general_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let names: Vec<_> = names.iter().map(|(tag, name)| tlv(*tag, name)).collect();
    tlv(0x30, &names.concat())
}

const URI: u8 = 0x86;
const DNS: u8 = 0x82;
const EMAIL: u8 = 0x81;
const OURS: &[u8] = b"spiffe://keybound.test/device/victim";

#[tokio::test]
async fn strangers_are_told_apart_by_their_alerts() {
    use AlertDescription as A;
    use HandshakeFault as F;
    let mut rig = Rig::start().await;
    let victim = rig.device("victim", 1).await;
    let foreign = Authority::named("Somebody else's CA");
    let pretender = Authority::new();
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let web = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
    };

    let device = foreign.device("victim", 1);
    refused(
        &mut rig,
        "foreign",
        vec![],
        &device,
        A::UnknownCA,
        F::UnknownIssuer,
    )
    .await;
    refused(
        &mut rig,
        "with its CA",
        vec![&foreign],
        &device,
        A::UnknownCA,
        F::UnknownIssuer,
    )
    .await;
    let device = foreign.device_with("victim", 1, past);
    refused(
        &mut rig,
        "foreign, expired",
        vec![],
        &device,
        A::UnknownCA,
        F::UnknownIssuer,
    )
    .await;
    for (what, device) in [
        ("same name", pretender.device("victim", 1)),
        (
            "same name, expired",
            pretender.device_with("victim", 1, past),
        ),
        ("same name, web", pretender.device_with("victim", 1, web)),
    ] {
        let (alert, fault) = (A::CertificateUnknown, F::BadSignature);
        refused(&mut rig, what, vec![], &device, alert, fault).await;
        refused(&mut rig, what, vec![&pretender], &device, alert, fault).await;
    }
    // Self-made, expired, with the issuer's name and key identifier of the real one: nobody is told "expired".
    let aki = [0x55, 0x1d, 0x23];
    let real = children(&children(&victim.certificate)[0])[3].clone();
    let self_made = pretender.rebuilt("victim", 1, |fields| {
        fields.issuer = real;
        fields.replace(&aki, false, &tlv(0x30, &tlv(0x80, &[7; 20])));
        let time = |text: &[u8]| tlv(0x17, text);
        fields.validity = tlv(
            0x30,
            &[time(b"200101000000Z"), time(b"210101000000Z")].concat(),
        );
    });
    refused(
        &mut rig,
        "self-made",
        vec![],
        &self_made,
        A::CertificateUnknown,
        F::BadSignature,
    )
    .await;
    // A device is no CA, also if its certificate is as good as any.
    let usurper = Authority::usurper("victim", &victim);
    let device = usurper.device("other", 2);
    refused(
        &mut rig,
        "signed by a device",
        vec![&usurper],
        &device,
        A::UnknownCA,
        F::UnknownIssuer,
    )
    .await;
    // Our CA's own certificate, and one that claims to be a CA's.
    let ca = rig.authority.rebuilt("victim", 1, |fields| {
        fields.replace(BASIC_CONSTRAINTS, true, &tlv(0x30, &tlv(0x01, &[0xff])));
    });
    let (alert, fault) = (A::UnsupportedCertificate, F::BadCertificate);
    refused(&mut rig, "CA:TRUE", vec![], &ca, alert, fault).await;
    let critical = rig.authority.rebuilt("victim", 1, |fields| {
        fields.extend(&[0x2a, 0x03, 0x04], true, &[5, 0]);
    });
    let (alert, fault) = (A::BadCertificate, F::BadCertificate);
    refused(
        &mut rig,
        "unknown critical extension",
        vec![],
        &critical,
        alert,
        fault,
    )
    .await;
    for kind in ["gateway", "operator", "station"] {
        let other =
            rig.authority
                .client(&format!("spiffe://keybound.test/{kind}/victim"), 1, |_| {});
        rig.set(&other, Status::Active).await;
        refused(
            &mut rig,
            kind,
            vec![],
            &other,
            A::AccessDenied,
            F::KindNotAccepted,
        )
        .await;
    }
    rig.set(&victim, Status::Active).await;
    forwarded(&mut rig, "the victim itself", &victim, "victim").await;
}

/// What is done to the fields of a good certificate.
type Alteration = fn(&mut Fields);

#[tokio::test]
async fn wrong_usages_are_explained() {
    let mut rig = Rig::start().await;
    let usages: [(&str, Alteration); 10] = [
        ("no EKU", |f| f.remove(EXTENDED_KEY_USAGE)),
        ("anyExtendedKeyUsage", |f| {
            let any = tlv(0x06, &[0x55, 0x1d, 0x25, 0x00]);
            f.replace(EXTENDED_KEY_USAGE, false, &tlv(0x30, &any));
        }),
        ("emailProtection", |f| {
            let email = tlv(0x06, &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x04]);
            f.replace(EXTENDED_KEY_USAGE, true, &tlv(0x30, &email));
        }),
        ("no KU", |f| f.remove(KEY_USAGE)),
        ("an empty KU", |f| {
            f.replace(KEY_USAGE, true, &[0x03, 0x01, 0x00])
        }),
        ("keyAgreement", |f| {
            f.replace(KEY_USAGE, true, &[0x03, 0x02, 0x03, 0x08])
        }),
        ("keyCertSign alone", |f| {
            f.replace(KEY_USAGE, true, &[0x03, 0x02, 0x02, 0x04])
        }),
        ("the right to sign certificates", |f| {
            f.replace(KEY_USAGE, true, &[0x03, 0x02, 0x02, 0x84])
        }),
        ("a path length", |f| {
            f.replace(BASIC_CONSTRAINTS, true, &[0x30, 3, 2, 1, 0])
        }),
        ("KU that is no bit string", |f| {
            f.replace(KEY_USAGE, true, &[0x04, 0x01, 0x80])
        }),
    ];
    for (index, (what, change)) in (1..).zip(usages) {
        let device = rig.authority.rebuilt("a", index, change);
        rig.set(&device, Status::Active).await;
        explained(&mut rig, what, &device, Code::IdentityInvalid).await;
    }
    let nothing = rig.authority.rebuilt("a", 99, |fields| {
        fields.replace(EXTENDED_KEY_USAGE, false, &tlv(0x30, &[]));
    });
    rig.set(&nothing, Status::Active).await;
    // Seen before the signature is, so it may be anybody's.
    let (alert, fault) = (
        AlertDescription::BadCertificate,
        HandshakeFault::BadCertificate,
    );
    refused(&mut rig, "an empty EKU", vec![], &nothing, alert, fault).await;
    let both = rig.authority.device_with("both", 100, |params| {
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.key_usages.push(KeyUsagePurpose::KeyAgreement);
    });
    rig.set(&both, Status::Active).await;
    forwarded(&mut rig, "more usages than needed", &both, "both").await;
}

#[tokio::test]
async fn odd_names_are_nobodys() {
    let mut rig = Rig::start().await;
    let victim = rig.device("victim", 1).await;
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for (what, names) in [
        (
            "two URIs",
            vec![
                (URI, OURS),
                (URI, b"spiffe://keybound.test/device/b".as_slice()),
            ],
        ),
        ("the same URI twice", vec![(URI, OURS), (URI, OURS)]),
        (
            "URI, DNS and email",
            vec![(URI, OURS), (DNS, b"victim"), (EMAIL, b"victim@a.test")],
        ),
        (
            "DNS then URI",
            vec![(DNS, b"victim".as_slice()), (URI, OURS)],
        ),
        ("the URI as a DNS name", vec![(DNS, OURS)]),
        ("the URI as an email address", vec![(EMAIL, OURS)]),
        ("the id as a DNS name", vec![(DNS, b"victim")]),
        ("an address", vec![(0x87, &[127, 0, 0, 1])]),
        ("a registered id", vec![(0x88, &[0x2a, 3])]),
        ("an empty URI", vec![(URI, b"")]),
        ("a URI in parts", vec![(0xa6, OURS)]),
        ("no names", vec![]),
    ] {
        cases.push((what.to_owned(), general_names(&names)));
    }
    let other = tlv(
        0xa0,
        &[tlv(0x06, &[0x2a, 3]), tlv(0xa0, &tlv(0x0c, OURS))].concat(),
    );
    cases.push(("otherName".to_owned(), tlv(0x30, &other)));
    for id in [
        "victim\0",
        "victim\0.evil",
        "\0victim",
        "victim\r\nX-Device-Id: victim",
        "victim\r",
        "victim\n",
        "\"victim\"",
        "victim;URI=x",
        "victim,victim",
        "victim%00",
        "victim%2e",
        "vic%74im",
        "victim ",
        " victim",
        "victim/",
        "/victim",
        "victim/../victim",
        "victim?x",
        "victim#x",
        "victim\\",
        "vіctim",
        "victim\u{200b}",
        "ｖictim",
        "victim\u{301}",
        "",
        "-victim",
        ".victim",
        "vic*im",
        "victim:1",
        "victim@x",
        "\u{7f}",
        "(victim)",
        "victim=",
        "<victim>",
        "victim\t",
        "vi\u{0}ctim",
        "víctim",
    ] {
        let uri = format!("spiffe://keybound.test/device/{id}");
        cases.push((format!("{id:?}"), general_names(&[(URI, uri.as_bytes())])));
    }
    for uri in [
        "spiffe://keybound.test/Device/victim",
        "SPIFFE://keybound.test/device/victim",
        "spiffe://KEYBOUND.test/device/victim",
        "spiffe://keybound.test//device/victim",
        "spiffe://keybound.test/device//victim",
        "spiffe:/keybound.test/device/victim",
        "spiffe://a@keybound.test/device/victim",
        "spiffe://keybound.test:443/device/victim",
        "spiffe:///device/victim",
        "https://keybound.test/device/victim",
        "urn:device:victim",
        "victim",
        " spiffe://keybound.test/device/victim",
        "spiffe://keybound.test/device/victim\0",
        "spiffe://keybound.test/robot/victim",
        "spiffe://keybound.test/device",
        "urn:dev:1;URI=spiffe://keybound.test/device/victim,By=x",
    ] {
        cases.push((uri.to_owned(), general_names(&[(URI, uri.as_bytes())])));
    }
    let too_long = format!("spiffe://keybound.test/device/{}", "v".repeat(65));
    cases.push((
        too_long.clone(),
        general_names(&[(URI, too_long.as_bytes())]),
    ));
    // Latin-1, which is neither ASCII nor UTF-8.
    let latin: &[u8] = b"spiffe://keybound.test/device/v\xedctim";
    cases.push(("Latin-1".to_owned(), general_names(&[(URI, latin)])));
    let count = cases.len();
    for (what, names) in cases {
        let device = rig.authority.rebuilt("victim", 2, |fields| {
            fields.replace(SUBJECT_ALT_NAME, false, &names);
        });
        // As if the registry knew it: even so it is nobody's.
        rig.set(&device, Status::Active).await;
        explained(&mut rig, &what, &device, Code::IdentityInvalid).await;
    }
    let nameless = rig
        .authority
        .rebuilt("victim", 2, |f| f.remove(SUBJECT_ALT_NAME));
    rig.set(&nameless, Status::Active).await;
    explained(&mut rig, "no SAN", &nameless, Code::IdentityInvalid).await;
    let twice = rig.authority.rebuilt("victim", 2, |fields| {
        let names = general_names(&[(URI, b"spiffe://keybound.test/device/b")]);
        fields.extend(SUBJECT_ALT_NAME, false, &names);
    });
    rig.set(&twice, Status::Active).await;
    refused(
        &mut rig,
        "two SAN extensions",
        vec![],
        &twice,
        AlertDescription::BadCertificate,
        HandshakeFault::BadCertificate,
    )
    .await;
    println!("figure: odd subjectAltNames tried: {}", count + 2);
    forwarded(&mut rig, "the victim itself", &victim, "victim").await;
}

#[tokio::test]
async fn a_subject_names_nobody() {
    let mut rig = Rig::start().await;
    let attribute = |oid: &[u8], tag: u8, value: &[u8]| {
        tlv(
            0x31,
            &tlv(0x30, &[tlv(0x06, oid), tlv(tag, value)].concat()),
        )
    };
    const CN: &[u8] = &[0x55, 4, 3];
    const OU: &[u8] = &[0x55, 4, 11];
    let bmp: Vec<u8> = "victim".bytes().flat_map(|byte| [0, byte]).collect();
    let common_names: [(&str, u8, &[u8]); 9] = [
        ("another's id", 0x0c, b"victim"),
        ("NUL", 0x0c, b"a\0.victim"),
        ("CRLF", 0x0c, b"a\r\nX-Device-Id: victim"),
        (
            "quotes",
            0x0c,
            b"a\";URI=\"spiffe://keybound.test/device/victim",
        ),
        ("commas", 0x0c, b"a, CN=victim"),
        ("BMPString", 0x1e, &bmp),
        ("T61String", 0x14, b"v\xedctim"),
        ("not UTF-8", 0x0c, b"\xff\xfe"),
        ("nothing", 0x0c, b""),
    ];
    let mut subjects: Vec<(&str, Vec<u8>)> = common_names
        .iter()
        .map(|(what, tag, value)| (*what, tlv(0x30, &attribute(CN, *tag, value))))
        .collect();
    let two = [attribute(CN, 0x0c, b"a"), attribute(CN, 0x0c, b"victim")].concat();
    subjects.push(("two common names", tlv(0x30, &two)));
    let in_one = [
        tlv(0x30, &[tlv(0x06, CN), tlv(0x0c, b"a")].concat()),
        tlv(0x30, &[tlv(0x06, CN), tlv(0x0c, b"victim")].concat()),
    ];
    subjects.push(("two in one RDN", tlv(0x30, &tlv(0x31, &in_one.concat()))));
    subjects.push(("no RDN", tlv(0x30, &[])));
    subjects.push((
        "100 units",
        tlv(0x30, &attribute(OU, 0x0c, b"victim").repeat(100)),
    ));
    for (index, (what, subject)) in (2..).zip(subjects) {
        let device = rig
            .authority
            .rebuilt("a", index, |fields| fields.subject = subject);
        rig.set(&device, Status::Active).await;
        forwarded(&mut rig, what, &device, "a").await;
    }
}

#[tokio::test]
async fn what_the_registry_does_not_know_is_unregistered() {
    let mut rig = Rig::start().await;
    let device = rig.device("victim", 1).await;
    let malleated = Authority::malleated(&device);
    assert_ne!(malleated.certificate, device.certificate);
    explained(&mut rig, "malleated", &malleated, Code::Unregistered).await;
    // The same serial and name, another key.
    let twin = rig.authority.device("victim", 1);
    explained(&mut rig, "another key", &twin, Code::Unregistered).await;
    for id in ["Victim", "VICTIM"] {
        let other = rig.authority.device(id, 1);
        explained(&mut rig, id, &other, Code::Unregistered).await;
    }
    let domain = "spiffe://other.test/device/victim";
    let other = rig.authority.client(domain, 1, |_| {});
    explained(&mut rig, "another trust domain", &other, Code::Unregistered).await;
    let never = rig.authority.device("victim", 77);
    explained(&mut rig, "an index nobody has", &never, Code::Unregistered).await;
    let zero = rig
        .authority
        .rebuilt("victim", 1, |fields| fields.serial = tlv(0x02, &[0]));
    explained(&mut rig, "serial zero", &zero, Code::Unregistered).await;
    let padded = [&[0], &[1; 15][..]].concat();
    for content in [&[0x80][..], &[0x7f; 17], &padded] {
        let odd = rig
            .authority
            .rebuilt("victim", 1, |fields| fields.serial = tlv(0x02, content));
        rig.set(&odd, Status::Active).await;
        explained(&mut rig, "an odd serial", &odd, Code::IdentityInvalid).await;
    }
    rig.set(&device, Status::Active).await;
    assert_eq!(rig.upstream.take(), "");
    forwarded(&mut rig, "the victim itself", &device, "victim").await;
    // A subordinate of our CA is believed as far as a signature goes, and no further.
    let subordinate = rig.authority.subordinate("Subordinate CA");
    let device = subordinate.device("victim", 1);
    let chain = vec![device.certificate.clone(), subordinate.certificate.clone()];
    let config = config_of_chain(&rig, Some((chain, device.key())), "http/1.1");
    let expected = Verdict::Answer(403, Some("unregistered".into()));
    assert_eq!(verdict(&rig, config).await, expected);
    assert_eq!(rig.upstream.take(), "");
}
