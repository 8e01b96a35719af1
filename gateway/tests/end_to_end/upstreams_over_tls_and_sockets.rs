//! What holds for an upstream in the clear holds for one over TLS and over a Unix socket; and over TLS, nothing is sent
//! to whoever cannot show the right certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gateway::{Http2, Upstream, UpstreamTls};
use rcgen::CertificateParams;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Identity};
use crate::bad_answers::{answer, bad_answers};
use crate::client::Client;
use crate::hostile::{Hostile, routes, routes_to};
use crate::rig::Rig;
use crate::upstreams_answer_badly::{Heard, ask, each_answer, late_second_answers};

/// TLS as a server speaks it; with `clients`, it insists on a certificate that they issued.
pub(crate) fn acceptor(
    server: &Identity,
    clients: Option<&Authority>,
    alpn: &[&str],
) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.clone()).expect("a root");
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let mut config = builder
        .with_single_cert(vec![server.certificate.clone()], server.key())
        .expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) fn tls_to(
    hostile: &Hostile,
    roots: &Authority,
    identity: Option<&Identity>,
    server_name: Option<&str>,
) -> Arc<Upstream> {
    let tls = UpstreamTls::new(
        std::slice::from_ref(&roots.certificate),
        identity.map(|one| (vec![one.certificate.clone()], one.key())),
        server_name,
        Http2::Auto,
    );
    Arc::new(Upstream {
        tls: Some(tls.expect("TLS")),
        ..Upstream::clone(&Upstream::of(vec![hostile.address.clone()]))
    })
}

#[tokio::test]
async fn over_tls_each_answer_is_one_answer_or_none() {
    let mut rig = Rig::start().await;
    let authority = Authority::named("Upstream CA");
    let hostile = Hostile::over_tls(acceptor(&authority.server(), None, &[])).await;
    let upstream = tls_to(&hostile, &authority, None, None);
    rig.gateway
        .publish(routes_to(upstream, rig.upstream.address));
    let device = rig.device("a", 1).await;
    each_answer(&rig, &hostile, &device, bad_answers()).await;
    late_second_answers(&rig, &hostile, &device).await;
}

#[tokio::test]
async fn over_a_unix_socket_each_answer_is_one_answer_or_none() {
    let mut rig = Rig::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let hostile = Hostile::over_unix(path.to_str().expect("UTF-8"));
    rig.gateway
        .publish(routes(hostile.address.clone(), rig.upstream.address));
    let device = rig.device("a", 1).await;
    let mut cases = bad_answers();
    // A Unix socket has no reset; the end of a body without length is its end.
    cases.retain(|case| case.name != "reset-without-length");
    each_answer(&rig, &hostile, &device, cases).await;
    late_second_answers(&rig, &hostile, &device).await;
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_that_is_not_the_one_that_is_meant() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let (authority, other) = (
        Authority::named("Upstream CA"),
        Authority::named("Other CA"),
    );
    type Change = fn(&mut CertificateParams);
    let servers: [(&str, Change, Option<&str>, bool); 6] = [
        ("good", |_| {}, None, true),
        ("good-by-name", |_| {}, Some("api.test"), true),
        ("another-name", |_| {}, Some("elsewhere.test"), false),
        (
            "another-address",
            |params| params.subject_alt_names.truncate(3),
            None,
            false,
        ),
        (
            "expired",
            |params| {
                let hour = Duration::from_secs(3_600);
                params.not_before = (SystemTime::now() - 2 * hour).into();
                params.not_after = (SystemTime::now() - hour).into();
            },
            None,
            false,
        ),
        (
            "for-clients",
            |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            },
            None,
            false,
        ),
    ];
    for (name, change, server_name, passes) in servers {
        for (roots, trusted) in [(&authority, true), (&other, false)] {
            let server = authority.server_with(change);
            let hostile = Hostile::over_tls(acceptor(&server, None, &[])).await;
            let upstream = tls_to(&hostile, roots, None, server_name);
            rig.gateway
                .publish(routes_to(upstream, rig.upstream.address));
            let mut client = Client::connect(&rig, &device).await;
            let heard = ask(&mut client, "GET", "/asked").await;
            if passes && trusted {
                assert_eq!(heard, answer(200, "/asked"), "{name}");
            } else {
                let untrusted = Heard::Refused(502, "upstream-untrusted".into());
                assert_eq!(heard, untrusted, "{name} trusted: {trusted}");
                assert!(hostile.seen("/asked").is_empty(), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn what_speaks_no_tls_is_told_from_what_cannot_be_trusted() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let authority = Authority::named("Upstream CA");
    let plain = rig.upstream.address;
    let mut upstream = Upstream::clone(&Upstream::of(vec![
        format!("https://{plain}").parse().expect("an upstream"),
    ]));
    let roots = std::slice::from_ref(&authority.certificate);
    upstream.tls = UpstreamTls::new(roots, None, None, Http2::Auto).ok();
    rig.gateway.publish(routes_to(Arc::new(upstream), plain));
    let mut client = Client::connect(&rig, &device).await;
    let heard = ask(&mut client, "GET", "/").await;
    let unreachable = ["upstream-unreachable", "upstream-timeout"];
    assert!(
        matches!(&heard, Heard::Refused(502 | 504, code) if unreachable.contains(&code.as_str())),
        "{heard:?}"
    );
}

#[tokio::test]
async fn an_upstream_may_insist_on_the_gateways_certificate() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let (authority, clients) = (
        Authority::named("Upstream CA"),
        Authority::named("Client CA"),
    );
    let gateway = clients.device("gateway", 7);
    let stranger = Authority::named("Client CA").device("gateway", 7);
    let server = acceptor(&authority.server(), Some(&clients), &[]);
    for (identity, passes) in [
        (Some(&gateway), true),
        (Some(&stranger), false),
        (None, false),
    ] {
        let hostile = Hostile::over_tls(server.clone()).await;
        let upstream = tls_to(&hostile, &authority, identity, None);
        rig.gateway
            .publish(routes_to(upstream, rig.upstream.address));
        let mut client = Client::connect(&rig, &device).await;
        let heard = ask(&mut client, "GET", "/asked").await;
        if passes {
            assert_eq!(heard, answer(200, "/asked"));
        } else {
            assert_eq!(heard, Heard::Refused(502, "upstream-unreachable".into()));
            assert!(hostile.seen("/asked").is_empty());
        }
    }
}
