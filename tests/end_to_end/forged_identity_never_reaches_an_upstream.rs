//! What the upstream reads about a device is the gateway's word, over HTTP/1.1 and HTTP/2.

use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, text};

#[tokio::test(flavor = "multi_thread")]
async fn forged_headers_are_replaced_and_odd_spellings_refused() {
    let upstream = Upstream::start().await;
    let server = Server::start(Setup::upstream(upstream.address));
    let device = server.device("honest");
    let url = server.url("/");
    for version in ["--http1.1", "--http2"] {
        upstream.forget();
        let answer = device.curl(
            &server,
            &[
                version,
                "-H",
                "X-Device-Id: admin",
                "-H",
                "x-device-id: root",
                "-H",
                "Client-Cert: :AAAA:",
                "-H",
                "X-Forwarded-Client-Cert: By=admin",
                "-H",
                "X-SSL-Client-Verify: SUCCESS",
                "-H",
                "X-Forwarded-For: 10.0.0.1",
                "-H",
                "Forwarded: for=10.0.0.1",
                &url,
            ],
        );
        assert_eq!(text(&answer.stdout), "ok\n", "{}", text(&answer.stderr));
        let received = upstream.received().to_ascii_lowercase();
        assert_eq!(received.matches("x-device-id:").count(), 1, "{received}");
        assert!(received.contains("x-device-id: honest\r\n"), "{received}");
        assert!(
            received.contains("x-forwarded-for: 127.0.0.1\r\n"),
            "{received}"
        );
        for forged in ["admin", "root", "client-cert:", "x-ssl-client", "10.0.0.1"] {
            assert!(!received.contains(forged), "{forged:?} is in\n{received}");
        }

        upstream.forget();
        for spelling in [
            "X_Device_Id",
            "x-device_id",
            "X.Device.Id",
            "X_SSL_Client_Verify",
        ] {
            let answer = device.curl(
                &server,
                &[
                    version,
                    "--include",
                    "-H",
                    &format!("{spelling}: admin"),
                    &url,
                ],
            );
            let head = text(&answer.stdout);
            assert!(
                head.lines().next().unwrap().contains(" 400"),
                "{spelling}: {head}"
            );
        }
        assert_eq!(upstream.received(), "");
    }
    // Naming the header in Connection does not remove it.
    let answer = device.curl(
        &server,
        &[
            "--http1.1",
            "-H",
            "Connection: x-device-id, x-request-id",
            &url,
        ],
    );
    assert_eq!(text(&answer.stdout), "ok\n");
    assert!(
        upstream
            .received()
            .to_ascii_lowercase()
            .contains("x-device-id: honest\r\n")
    );
}
