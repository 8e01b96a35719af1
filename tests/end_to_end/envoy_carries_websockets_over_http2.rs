//! WebSockets over HTTP/2 with another implementation of RFC 8441 on both sides: Envoy asks Keybound for them as a device,
//! and is asked by Keybound as an upstream. Their messages are made and read by tungstenite.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::upstream::Upstream;
use crate::harness::{Device, Running, Server, Setup, eventually, free_port, text};

/// A listener that takes WebSockets and passes them on.
fn listener(port: u16, codec: &str, cluster: &str) -> String {
    format!(
        r#"{{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": {port}}}}},
            "filter_chains": [{{"filters": [{{"name": "http", "typed_config": {{
              "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
              "stat_prefix": "{cluster}", "codec_type": "{codec}", "http2_protocol_options": {{"allow_connect": true}},
              "upgrade_configs": [{{"upgrade_type": "websocket"}}], "delayed_close_timeout": "0.1s",
              "route_config": {{"virtual_hosts": [{{"name": "all", "domains": ["*"], "routes": [
                {{"match": {{"prefix": "/"}}, "route": {{"cluster": "{cluster}", "timeout": "0s"}}}}]}}]}},
              "http_filters": [{{"name": "router", "typed_config": {{
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}]}}}}]}}]}}"#
    )
}

fn cluster(name: &str, port: u16, more: &str) -> String {
    format!(
        r#"{{"name": "{name}", "load_assignment": {{"cluster_name": "{name}", "endpoints": [{{"lb_endpoints": [{{"endpoint":
            {{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": {port}}}}}}}}}]}}]}}{more}}}"#
    )
}

fn start(folder: &Path, name: &str, port: u16, listener: &str, cluster: &str) -> Running {
    let file = folder.join(name).with_extension("json");
    let configuration = format!(
        r#"{{"static_resources": {{"listeners": [{listener}], "clusters": [{cluster}]}}}}"#
    );
    std::fs::write(&file, configuration).unwrap();
    let log = folder.join(name).with_extension("log");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let child = Command::new(root.join("target/peers/bin/envoy"))
        .arg("-c")
        .arg(&file)
        .args([
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .expect("installed by tests/run (tests/peers/install)");
    let envoy = Running(child);
    eventually(Duration::from_secs(20), "Envoy listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    envoy
}

/// In front of Keybound: HTTP/1.1 comes in, HTTP/2 with the device's certificate goes out.
fn before(folder: &Path, server: &Server, device: &Device) -> (Running, u16) {
    let port = free_port();
    let (root, certificate, key) = (
        server.root_file(),
        device.certificate_file(),
        device.key_file(),
    );
    let more = format!(
        r#", "typed_extension_protocol_options": {{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {{
             "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
             "explicit_http_config": {{"http2_protocol_options": {{"allow_connect": true}}}}}}}},
           "transport_socket": {{"name": "tls", "typed_config": {{
             "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
             "sni": "localhost", "common_tls_context": {{
               "tls_params": {{"tls_maximum_protocol_version": "TLSv1_3"}},
               "tls_certificates": [{{"certificate_chain": {{"filename": "{}"}}, "private_key": {{"filename": "{}"}}}}],
               "validation_context": {{"trusted_ca": {{"filename": "{}"}}}}}}}}}}"#,
        certificate.display(),
        key.display(),
        root.display()
    );
    let listener = listener(port, "HTTP1", "keybound");
    let cluster = cluster("keybound", server.gateway().port(), &more);
    (start(folder, "before", port, &listener, &cluster), port)
}

/// Behind Keybound: HTTP/2 comes in, HTTP/1.1 goes out.
fn behind(folder: &Path, upstream: &Upstream) -> (Running, u16) {
    let port = free_port();
    let listener = listener(port, "HTTP2", "sockets");
    let cluster = cluster("sockets", upstream.address.port(), "");
    (start(folder, "behind", port, &listener, &cluster), port)
}

async fn open(port: u16, path: &str) -> Result<WebSocketStream<TcpStream>, Error> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let url = format!("ws://localhost{path}");
    let (socket, _) = tokio_tungstenite::client_async(url, tcp).await?;
    Ok(socket)
}

async fn echo(socket: &mut WebSocketStream<TcpStream>, message: Message) {
    socket.send(message.clone()).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap() == message);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_device_and_to_an_upstream() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let upstream = Upstream::start().await;
    let (_behind, http2) = behind(folder, &upstream);
    let configuration = folder.join("keybound.toml");
    std::fs::write(
        &configuration,
        format!(
            "[[gateway.route]]\npath = \"/\"\nupstream = \"http://{}\"\n\
             [[gateway.route]]\nhost = \"127.0.0.1\"\npath = \"/\"\nupstream = \"h2c://127.0.0.1:{http2}\"\n",
            upstream.address
        ),
    )
    .unwrap();
    let configuration = configuration.to_str().unwrap();
    let server = Server::start(
        Setup::default()
            .argument("--config")
            .argument(configuration),
    );
    let device = server.device("thermostat-7");
    let (_before, port) = before(folder, &server, &device);

    // Extended CONNECT comes in, an upgrade goes out.
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = open(port, "/socket").await.unwrap();
        echo(&mut socket, Message::text("hello")).await;
        sockets.push(socket);
    }
    let received = upstream.received();
    assert_eq!(
        received
            .matches("\r\nx-device-id: thermostat-7\r\n")
            .count(),
        3
    );
    let large = Message::binary(vec![7; 1_000_000]);
    echo(&mut sockets[0], large).await;
    // What is no WebSocket is none for Envoy, either.
    assert!(matches!(open(port, "/plain").await, Err(Error::Http(_))));
    sockets[1].close(None).await.unwrap();
    while let Some(Ok(_)) = sockets[1].next().await {}

    // An upgrade comes in, an extended CONNECT goes out.
    let config = crate::harness::client::config(&server, &device, &["http/1.1"]);
    let tls = crate::harness::client::connect_as("127.0.0.1", server.gateway(), config);
    let tls = tls.await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://127.0.0.1/socket", tls)
        .await
        .unwrap();
    socket.send(Message::text("over two hops")).await.unwrap();
    let back = socket.next().await.unwrap().unwrap();
    assert_eq!(back, Message::text("over two hops"));

    // All of it ends with the device.
    let receipt = server.json(&["device", "revoke", "thermostat-7", "--json"]);
    assert!(
        receipt["receipt"]["closed"].as_u64() >= Some(2),
        "{receipt}"
    );
    let ended = async {
        while let Some(Ok(_)) = socket.next().await {}
        for socket in [0, 2] {
            while let Some(Ok(_)) = sockets[socket].next().await {}
        }
    };
    // Envoy takes its time to pass that on.
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .expect("the end");
    assert!(matches!(open(port, "/socket").await, Err(Error::Http(_))));
    let log = std::fs::read(folder.join("before.log")).unwrap();
    assert!(!text(&log).contains("critical"), "{}", text(&log));
}
