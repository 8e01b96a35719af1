//! A real server as an upstream in every way: TLS with a certificate of its own CA, which insists on the gateway's; HTTP/2
//! and HTTP/1.1 over it; and a Unix socket.

use std::io::Write as _;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::harness::{Server, Setup, text};
use crate::nginx_receives_what_the_device_sent::Nginx;

/// Writes a CA, and a certificate with its key for each of the names.
pub(crate) fn certificates(folder: &Path, ca: &str, names: &[&str]) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, ca);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join(format!("{ca}.pem")), certificate.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for name in names {
        let mut params = CertificateParams::new([(*name).to_owned()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, *name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn identity_and_bodies_arrive_in_every_way() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    certificates(folder, "services", &["orders.internal"]);
    certificates(folder, "gateways", &["gateway.internal"]);
    certificates(folder, "strangers", &["stranger.internal"]);
    let at = folder.display();
    let nginx = Nginx::start_with(folder, |port, root| {
        let locations = format!(
            "location / {{ return 200 \"$http_x_device_id|$server_protocol|$host|$ssl_client_s_dn\"; }}
             location /uploads/ {{ root {root}; dav_methods PUT; }}"
        );
        format!(
            "server {{
               listen 127.0.0.1:{port} ssl http2;
               ssl_certificate {at}/orders.internal.pem; ssl_certificate_key {at}/orders.internal.key;
               ssl_client_certificate {at}/gateways.pem; ssl_verify_client on;
               {locations}
             }}
             server {{ listen unix:{root}/socket; {locations} }}"
        )
    });
    let port = nginx.port;
    let servers =
        format!("servers = [\"https://127.0.0.1:{port}\"]\nroots = \"{at}/services.pem\"");
    let named = format!("{servers}\nserver_name = \"orders.internal\"");
    let gateways =
        format!("certificate = \"{at}/gateway.internal.pem\"\nkey = \"{at}/gateway.internal.key\"");
    let strangers = format!(
        "certificate = \"{at}/stranger.internal.pem\"\nkey = \"{at}/stranger.internal.key\""
    );
    let upstreams = [
        ("h2", format!("{named}\n{gateways}")),
        ("http1", format!("{named}\n{gateways}\nhttp2 = \"never\"")),
        ("socket", format!("servers = [\"unix:{at}/nginx/socket\"]")),
        ("anonymous", named.clone()),
        ("stranger", format!("{named}\n{strangers}")),
        ("misnamed", format!("{servers}\n{gateways}")),
    ];
    let mut configuration = String::new();
    for (name, lines) in &upstreams {
        configuration.push_str(&format!(
            "[[gateway.upstream]]\nname = \"{name}\"\n{lines}\n\n[[gateway.route]]\npath = \"/{name}\"\nupstream = \"{name}\"\n\n"
        ));
    }
    // The same file, wherever it goes to.
    for (name, path) in [
        ("h2", "/uploads/h2"),
        ("http1", "/uploads/http1"),
        ("socket", "/uploads/socket"),
    ] {
        configuration.push_str(&format!(
            "[[gateway.route]]\npath = \"{path}\"\nupstream = \"{name}\"\n\n"
        ));
    }
    let file = folder.join("keybound.toml");
    std::fs::write(&file, configuration).unwrap();
    let server = Server::start(
        Setup::default()
            .argument("--config")
            .argument(file.to_str().unwrap()),
    );
    let device = server.device("thermostat-7");
    let ask = |path: &str| {
        let output = device.curl(
            &server,
            &["--write-out", "|%{http_code}", &server.url(path)],
        );
        text(&output.stdout)
    };
    assert_eq!(
        ask("/h2"),
        "thermostat-7|HTTP/2.0|localhost|CN=gateway.internal|200"
    );
    assert_eq!(
        ask("/http1"),
        "thermostat-7|HTTP/1.1|localhost|CN=gateway.internal|200"
    );
    assert_eq!(ask("/socket"), "thermostat-7|HTTP/1.1|localhost||200");
    // nginx says by itself what it misses.
    for refused in ["/anonymous", "/stranger"] {
        let heard = ask(refused);
        assert!(
            heard.ends_with("|400") && !heard.contains("thermostat-7"),
            "{heard}"
        );
    }
    let heard = ask("/misnamed");
    assert!(
        heard.contains("upstream-untrusted") && heard.ends_with("|502"),
        "{heard}"
    );

    let megabytes = folder.join("megabytes");
    let mut made = std::fs::File::create(&megabytes).unwrap();
    for number in 0..500_000_u64 {
        made.write_all(&number.to_be_bytes()).unwrap();
    }
    drop(made);
    for name in ["h2", "http1", "socket"] {
        let url = server.url(&format!("/uploads/{name}"));
        let up = device.curl(
            &server,
            &["--fail", "--upload-file", megabytes.to_str().unwrap(), &url],
        );
        assert!(up.status.success(), "{name}: {}", text(&up.stderr));
        let down = device.curl(&server, &["--fail", &url]);
        assert!(
            down.stdout == std::fs::read(&megabytes).unwrap(),
            "{name}: the body came back different"
        );
    }
}
