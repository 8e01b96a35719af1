//! A route's upstream is told of the device in the dialect that the route names, once, and in no other.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gateway::IdentityHeader;
use identity::{Fingerprint, Index};
use rcgen::{DnType, SanType};

use crate::authority::Authority;
use crate::client::{Client, Verdict, config_of_chain, verdict};
use crate::identity_names::preset;
use crate::rig::Rig;

/// The values of a header in a captured request.
fn values<'a>(captured: &'a str, name: &str) -> Vec<&'a str> {
    captured
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(found, _)| *found == name)
        .map(|(_, value)| value)
        .collect()
}

fn names(form: IdentityHeader) -> &'static [&'static str] {
    match form {
        IdentityHeader::DeviceId => &[preset::DEVICE_ID],
        // This rig's anchor is its own issuer, so there is no chain.
        IdentityHeader::ClientCert | IdentityHeader::ClientCertChain => &[preset::CLIENT_CERT],
        IdentityHeader::Xfcc => &[preset::XFCC],
        IdentityHeader::Nginx => &[
            preset::SSL_VERIFY,
            preset::SSL_S_DN,
            preset::SSL_I_DN,
            preset::SSL_SERIAL,
            preset::SSL_FINGERPRINT,
            preset::SSL_CERT,
        ],
        IdentityHeader::Traefik => &[preset::TRAEFIK_CERT, preset::TRAEFIK_INFO],
        IdentityHeader::AwsAlb => &[
            preset::AMZN_SERIAL,
            preset::AMZN_ISSUER,
            preset::AMZN_SUBJECT,
            preset::AMZN_VALIDITY,
            preset::AMZN_LEAF,
        ],
        IdentityHeader::Cloudflare => &[preset::CF_DER, preset::CF_SHA256],
        IdentityHeader::Assertion => &[preset::DEVICE_ASSERTION],
    }
}

#[tokio::test]
async fn in_the_dialect_of_the_route_and_in_no_other() {
    let mut rig = Rig::start().await;
    let device = rig.device("thermostat-7", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let forged: String = preset::NAMES
        .iter()
        .map(|name| format!("{name}: forged\r\n"))
        .collect();
    for form in IdentityHeader::ALL {
        let path = format!("/as/{}/x", form.as_str());
        for lines in ["", &forged] {
            assert_eq!(client.get(&path, lines).await.status(), 200, "{form:?}");
            let seen = rig.upstream.take();
            assert!(!seen.contains("forged"), "{seen}");
            for name in preset::NAMES {
                let expected = usize::from(names(form).contains(name));
                assert_eq!(values(&seen, name).len(), expected, "{name} in {seen}");
            }
            let value = |name| values(&seen, name)[0];
            match form {
                IdentityHeader::DeviceId => {
                    assert_eq!(value(preset::DEVICE_ID), "thermostat-7");
                }
                IdentityHeader::ClientCert | IdentityHeader::ClientCertChain => {
                    let encoded = STANDARD.encode(&device.certificate);
                    assert_eq!(value(preset::CLIENT_CERT), format!(":{encoded}:"));
                }
                IdentityHeader::Xfcc => {
                    let fingerprint = Fingerprint::of(&device.certificate);
                    let hash = format!("Hash=\"{fingerprint}\";Cert=\"");
                    assert!(value(preset::XFCC).starts_with(&hash), "{seen}");
                    let uri = ";URI=\"spiffe://keybound.test/device/thermostat-7\"";
                    assert!(value(preset::XFCC).ends_with(uri), "{seen}");
                }
                IdentityHeader::Nginx => {
                    assert_eq!(value(preset::SSL_VERIFY), "SUCCESS");
                    assert_eq!(value(preset::SSL_I_DN), "CN=Device CA");
                }
                IdentityHeader::Traefik => {
                    let encoded = STANDARD.encode(&device.certificate);
                    assert_eq!(value(preset::TRAEFIK_CERT), encoded);
                }
                IdentityHeader::AwsAlb => {
                    assert_eq!(value(preset::AMZN_ISSUER), "CN=Device CA");
                }
                IdentityHeader::Cloudflare => {
                    let fingerprint = Fingerprint::of(&device.certificate).to_string();
                    assert_eq!(value(preset::CF_SHA256), fingerprint);
                }
                IdentityHeader::Assertion => {
                    let payload = value(preset::DEVICE_ASSERTION).split('.').nth(1);
                    let payload = URL_SAFE_NO_PAD.decode(payload.expect("three parts"));
                    let claims: serde_json::Value =
                        serde_json::from_slice(&payload.expect("base64url")).expect("JSON");
                    assert_eq!(claims["sub"], "spiffe://keybound.test/device/thermostat-7");
                    assert_eq!(claims["aud"], "https://*/as/assertion");
                    assert_eq!(claims["iss"], "spiffe://keybound.test/gateway/a");
                }
            }
        }
    }
}

/// One assertion serves a connection for a while, and no other connection or route.
#[tokio::test]
async fn an_assertion_belongs_to_its_connection_and_route() {
    let mut rig = Rig::start().await;
    let (one, other) = (rig.device("a", 1).await, rig.device("b", 2).await);
    let mut seen = Vec::new();
    for device in [&one, &other, &one] {
        let mut client = Client::connect(&rig, device).await;
        for path in ["/as/assertion/x", "/as/assertion?y", "/as/all"] {
            assert_eq!(client.get(path, "").await.status(), 200);
            let captured = rig.upstream.take();
            let found = values(&captured, preset::DEVICE_ASSERTION);
            assert_eq!(found.len(), 1, "{captured}");
            seen.push(found[0].to_owned());
        }
    }
    for connection in seen.chunks(3) {
        assert_eq!(connection[0], connection[1]);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6);
}

/// Of what a device sends, only what proves it is passed on.
#[tokio::test]
async fn the_chain_is_the_verified_one() {
    let mut rig = Rig::start().await;
    let middle = rig.authority.subordinate("Middle CA");
    let other = Authority::named("Other CA");
    let device = middle.device("a", 5);
    rig.set(&device, identity::Status::Active).await;
    assert_eq!(device.index, Index(5));
    let own = device.certificate.clone();
    let chain = vec![
        own.clone(),
        other.certificate.clone(),
        middle.certificate.clone(),
        rig.authority.certificate.clone(),
    ];
    let config = config_of_chain(&rig, Some((chain, device.key())), "http/1.1");
    let mut client = Client::with(&rig, config).await;
    let answer = client.get("/as/client-cert-chain", "Client-Cert-Chain: :AA==:\r\n");
    assert_eq!(answer.await.status(), 200);
    let seen = rig.upstream.take();
    let sequence = |der: &[u8]| format!(":{}:", STANDARD.encode(der));
    assert_eq!(values(&seen, preset::CLIENT_CERT), [sequence(&own)]);
    let expected = [sequence(&middle.certificate)];
    assert_eq!(values(&seen, preset::CLIENT_CERT_CHAIN), expected);
}

/// A name that the dialect cannot hold is neither left out nor altered.
#[tokio::test]
async fn what_cannot_be_told_is_refused() {
    let mut rig = Rig::start().await;
    let device = rig.authority.device_with("a", 1, |params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Acme, Inc.");
    });
    rig.set(&device, identity::Status::Active).await;
    let mut client = Client::connect(&rig, &device).await;
    let answer = client.get("/as/traefik", "").await;
    assert_eq!(answer.refusal(), (403, "identity-invalid".into()));
    assert!(answer.body.contains("character"), "{answer:?}");
    assert_eq!(client.get("/as/all", "").await.status(), 403);
    assert_eq!(rig.upstream.take(), "");
    for path in ["/as/nginx", "/as/xfcc", "/as/client-cert"] {
        assert_eq!(client.get(path, "").await.status(), 200, "{path}");
    }
    let seen = rig.upstream.take();
    let subject = values(&seen, preset::SSL_S_DN)[0];
    assert!(subject.contains("O=Acme\\, Inc."), "{subject}");

    // Our own reader refuses such a name before any dialect sees it.
    let two = rig.authority.device_with("b", 2, |params| {
        let name = SanType::DnsName("b\"".try_into().expect("ASCII"));
        params.subject_alt_names.push(name);
    });
    let chain = (vec![two.certificate.clone()], two.key());
    let config = config_of_chain(&rig, Some(chain), "http/1.1");
    let refused = Verdict::Answer(403, Some("identity-invalid".into()));
    assert_eq!(verdict(&rig, config).await, refused);
}
