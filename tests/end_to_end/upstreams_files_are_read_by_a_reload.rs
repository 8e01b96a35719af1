//! Roots towards an upstream, and the certificate that it is shown, are replaced by a reload; one that finds the same
//! files says so.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair};

use crate::harness::anchor::{is_told, readiness};
use crate::harness::{Server, Setup, text};
use crate::nginx_is_an_upstream_over_tls_http2_and_a_socket::certificates;
use crate::nginx_receives_what_the_device_sent::Nginx;

/// A certificate of nobody's, with a quarter of its life left.
fn ageing(folder: &Path) {
    let mut params = CertificateParams::new(["gateway.internal".to_owned()]).unwrap();
    let day = std::time::Duration::from_secs(86_400);
    let now = SystemTime::now();
    params.not_before = (now - 30 * day).into();
    params.not_after = (now + 10 * day).into();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(folder.join("own.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("own.key"), key.serialize_pem()).unwrap();
}

#[test]
fn roots_and_certificate_are_those_of_the_last_reload() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    certificates(folder, "services", &["orders.internal"]);
    certificates(folder, "gateways", &["gateway.internal"]);
    certificates(folder, "strangers", &["stranger.internal"]);
    let at = folder.display();
    let nginx = Nginx::start_with(folder, |port, _| {
        format!(
            "server {{
               listen 127.0.0.1:{port} ssl;
               ssl_certificate {at}/orders.internal.pem; ssl_certificate_key {at}/orders.internal.key;
               ssl_client_certificate {at}/gateways.pem; ssl_verify_client on;
               location / {{ return 200 \"$http_x_device_id|$ssl_client_s_dn\"; }}
             }}"
        )
    });
    let copy = |from: &str, to: &str| {
        fs::copy(folder.join(from), folder.join(to)).unwrap();
    };
    copy("strangers.pem", "roots.pem");
    ageing(folder);
    let file = folder.join("keybound.toml");
    let configuration = format!(
        "[[gateway.upstream]]\nname = 'orders'\nservers = ['https://127.0.0.1:{}']\nserver_name = 'orders.internal'\n\
         roots = '{at}/roots.pem'\ncertificate = '{at}/own.pem'\nkey = '{at}/own.key'\n\
         [[gateway.route]]\nupstream = 'orders'\n",
        nginx.port
    );
    fs::write(&file, configuration).unwrap();
    let setup = Setup::default().argument("--config");
    let server = Server::start(setup.argument(file.to_str().unwrap()));
    let device = server.device("thermostat-7");
    let ask = || {
        let url = server.url("/");
        let output = device.curl(&server, &["--write-out", "|%{http_code}", &url]);
        text(&output.stdout)
    };
    let untrusted = |heard: &str| heard.contains("upstream-untrusted") && heard.ends_with("|502");
    let same = || {
        let told = server.run(&["reload"]);
        assert!(told.contains("nothing is different"), "{told}");
    };
    let changed = || {
        let told = server.run(&["reload"]);
        let words = "1 change\n  route any host / changed";
        assert!(told.contains(words), "{told}");
    };
    assert!(untrusted(&ask()));
    let words = "The certificate that the upstream orders is shown ends soon";
    assert!(is_told(&server, words));
    same();

    copy("services.pem", "roots.pem");
    assert!(untrusted(&ask()), "the files are looked at by a reload");
    changed();
    // nginx says by itself that it does not know who asks.
    let heard = ask();
    assert!(heard.ends_with("|400"), "{heard}");

    copy("gateway.internal.pem", "own.pem");
    copy("gateway.internal.key", "own.key");
    changed();
    assert_eq!(ask(), "thermostat-7|CN=gateway.internal|200");
    assert_eq!(readiness(&server)["degraded"], false);
    same();
    assert_eq!(ask(), "thermostat-7|CN=gateway.internal|200");

    copy("strangers.pem", "roots.pem");
    changed();
    // Nor is a connection used that was made with other roots.
    assert!(untrusted(&ask()));
}
