//! Where the id of a device of another CA stands is its anchor's rule: a common name, a URI, a DNS name, or a line of a table.
//! The CAs are OpenSSL's. A certificate that the rule names nobody by is refused, whatever else it says.

use std::fs;

use crate::harness::anchor::{SOON, anchor, ok, put, readiness, refused, start};
use crate::harness::pki::{Client, Pki};
use crate::harness::upstream::Upstream;
use crate::harness::{Server, eventually};

/// As OpenSSL prints it, with colons.
fn fingerprint(ca: &Pki, client: &Client) -> String {
    let certificate = client.certificate.display().to_string();
    let arguments = ["x509", "-noout", "-fingerprint", "-sha256", "-in"];
    let printed = ca.openssl(&[&arguments[..], &[&certificate]].concat());
    printed.trim().rsplit_once('=').unwrap().1.to_owned()
}

/// What the upstream is told of who asks.
fn told(server: &Server, upstream: &Upstream, client: &Client) -> String {
    upstream.forget();
    assert_eq!(client.asks(server, "/"), ok());
    let seen = upstream.received();
    let ids: Vec<_> = (seen.lines())
        .filter_map(|line| line.strip_prefix("x-device-id: "))
        .collect();
    assert_eq!(ids.len(), 1, "{seen}");
    ids[0].trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_name_or_in_a_table_and_nowhere_else() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let names = ["by-cn", "by-uri", "by-dns", "by-table"];
    let [by_cn, by_uri, by_dns, by_table] = names.map(|name| Pki::new(&path, name));
    let crl = |ca: &Pki| ca.path("current.crl");
    for ca in [&by_cn, &by_uri, &by_dns, &by_table] {
        put(&crl(ca), &ca.list(&[]));
    }
    let with = |ca: &Pki, subject: &str, names: &str| {
        let names = format!("subjectAltName={names}");
        ca.client_with(subject, &["-addext", &names])
    };
    let listed = with(&by_table, "/CN=somebody", "DNS:somebody.example");
    // All that the other rules ask for.
    let unlisted = with(
        &by_table,
        "/CN=pump",
        "DNS:pump.example,URI:urn:factory:pump",
    );
    let (line, other) = (
        format!("{},pump-4\n", fingerprint(&by_table, &listed)),
        format!("{},pump-5\n", fingerprint(&by_table, &unlisted)),
    );
    let table = path.join("ids.csv");
    fs::write(&table, format!("fingerprint,id\n{line}")).unwrap();
    let anchors: String = [
        (&by_cn, "'cn'".to_owned()),
        (&by_uri, "'uri-san'\nuri_prefix = 'urn:factory:'".to_owned()),
        (&by_dns, "'dns-san'".to_owned()),
        (&by_table, format!("'table'\ntable = '{}'", table.display())),
    ]
    .iter()
    .zip(names)
    .map(|((ca, rule), name)| {
        let place = format!("'{}'", crl(ca).display());
        anchor(name, &ca.path("ca.pem"), &place, rule)
    })
    .collect();
    let server = start(directory, &upstream, &anchors);
    assert_eq!(readiness(&server)["degraded"], false, "{}", server.log());

    let accepted = [
        (
            &by_cn,
            with(&by_cn, "/O=Factory/CN=pump-1", "DNS:other.example"),
            "by-cn:pump-1",
        ),
        (
            &by_uri,
            with(
                &by_uri,
                "/CN=other",
                "URI:urn:factory:pump-2,DNS:other.example",
            ),
            "by-uri:pump-2",
        ),
        (
            &by_dns,
            with(
                &by_dns,
                "/CN=other",
                "DNS:pump-3.example,URI:urn:factory:other",
            ),
            "by-dns:pump-3.example",
        ),
        (&by_table, listed, "by-table:pump-4"),
    ];
    for (_, client, id) in &accepted {
        assert_eq!(told(&server, &upstream, client), *id);
        let explained = server.run(&["explain", id]);
        assert!(explained.contains("forwarded"), "{explained}");
    }

    upstream.forget();
    let nobody = [
        with(
            &by_cn,
            "/O=Factory",
            "DNS:pump.example,URI:urn:factory:pump",
        ),
        with(&by_cn, "/CN=pump-1/CN=pump-2", "DNS:pump.example"),
        with(&by_uri, "/CN=pump", "DNS:pump.example"),
        with(&by_uri, "/CN=pump", "URI:urn:depot:pump"),
        with(
            &by_uri,
            "/CN=pump",
            "URI:urn:factory:pump,URI:urn:factory:fan",
        ),
        by_dns.client("/CN=pump"),
        with(&by_dns, "/CN=pump", "URI:urn:factory:pump"),
        with(&by_dns, "/CN=pump", "DNS:pump.example,DNS:fan.example"),
        with(&by_dns, "/CN=pump", "DNS:*.example"),
        with(&by_dns, "/CN=pump", "DNS:Pump.example"),
    ];
    let invalid = refused(403, "identity-invalid");
    for (number, client) in nobody.iter().chain([&unlisted]).enumerate() {
        assert_eq!(client.asks(&server, "/"), invalid, "{number}");
    }
    assert_eq!(upstream.received(), "");

    // A line more is in force with a reload, and a line less, too.
    fs::write(&table, &other).unwrap();
    server.run(&["reload"]);
    assert_eq!(told(&server, &upstream, &unlisted), "by-table:pump-5");
    let [.., (_, listed, _)] = &accepted;
    assert_eq!(listed.asks(&server, "/"), invalid);
    fs::write(&table, line + &other).unwrap();
    server.run(&["reload"]);

    for (ca, client, id) in &accepted {
        assert_eq!(told(&server, &upstream, client), *id);
        ca.revoke(&client.certificate);
        put(&crl(ca), &ca.list(&[]));
        eventually(SOON, "its revocation", || {
            client.asks(&server, "/") == refused(403, "revoked")
        });
    }
}
