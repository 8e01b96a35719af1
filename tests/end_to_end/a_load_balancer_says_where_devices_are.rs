//! HAProxy in front of the gateway, which says by the PROXY protocol, version 2, where each device is: believed from the
//! addresses that the configuration names, and from no others.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::anchor::start_as_configured;
use crate::harness::upstream::Upstream;
use crate::harness::{Running, Setup, eventually, free_port, text};

#[tokio::test(flavor = "multi_thread")]
async fn and_is_believed_from_its_own_address_only() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let configuration = format!(
        "names = ['localhost']\n[gateway]\nproxy_protocol_from = ['127.0.0.9']\n[[gateway.route]]\nupstream = 'http://{}'\n",
        upstream.address
    );
    std::fs::write(path.join("c.toml"), configuration).unwrap();
    let server = start_as_configured(directory, Setup::default());
    let device = server.device("pump");
    let (known, unknown) = (free_port(), free_port());
    let gateway = server.gateway().to_string();
    let haproxy = path.join("haproxy.cfg");
    std::fs::write(
        &haproxy,
        format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
             listen known\n bind 127.0.0.1:{known}\n server gateway {gateway} send-proxy-v2 source 127.0.0.9\n\
             listen unknown\n bind 127.0.0.1:{unknown}\n server gateway {gateway} send-proxy-v2\n"
        ),
    )
    .unwrap();
    let search = std::env::var("PATH").unwrap();
    let started = Command::new("haproxy")
        .env("PATH", format!("{search}:/usr/sbin"))
        .args(["-db", "-f"])
        .arg(&haproxy)
        .stdin(Stdio::null())
        .spawn()
        .expect("installed by tests/run");
    let _haproxy = Running(started);
    eventually(Duration::from_secs(10), "HAProxy listens", || {
        std::net::TcpStream::connect(("127.0.0.1", unknown)).is_ok()
    });
    let ask = |port: u16, version: &str| {
        upstream.forget();
        let url = format!("https://localhost:{port}/");
        device.curl(
            &server,
            &[version, "--interface", "127.0.0.2", "--fail", &url],
        )
    };
    for version in ["--http1.1", "--http2"] {
        let output = ask(known, version);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let seen = upstream.received();
        assert!(seen.contains("x-device-id: pump\r\n"), "{seen}");
        assert!(seen.contains("x-forwarded-for: 127.0.0.2\r\n"), "{seen}");
        let explained = server.json(&["explain", "pump", "--json"]).to_string();
        assert!(explained.contains("127.0.0.2"), "{explained}");
        // From elsewhere it is no TLS, whatever it says.
        let output = ask(unknown, version);
        assert!(!output.status.success(), "{}", text(&output.stdout));
        assert_eq!(upstream.received(), "");
        // Nobody else has to say anything.
        let output = ask(server.gateway().port(), version);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}
