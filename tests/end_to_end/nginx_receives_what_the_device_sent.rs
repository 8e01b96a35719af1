//! A real service behind the gateway: nginx, with bodies in both directions.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use crate::harness::{Server, Setup, eventually, text};

pub(crate) struct Nginx {
    child: Child,
    pub(crate) port: u16,
}

impl Nginx {
    fn start(directory: &Path) -> Self {
        Self::start_with(directory, |port, root| {
            format!(
                "server {{
                   listen 127.0.0.1:{port};
                   location /who {{ return 200 \"$http_x_device_id|$http_client_cert|$http_host\\n\"; }}
                   location /uploads/ {{ root {root}; dav_methods PUT; }}
                 }}"
            )
        })
    }

    /// With the servers that are made of a free port and nginx's own folder; one of them listens there.
    pub(crate) fn start_with(directory: &Path, servers: impl FnOnce(u16, &str) -> String) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = directory.join("nginx");
        std::fs::create_dir_all(folder.join("uploads")).unwrap();
        let root = folder.display().to_string();
        let servers = servers(port, &root);
        let configuration = format!(
            "daemon off; pid {root}/pid; error_log {root}/error.log; user root;
             worker_processes 1;
             events {{ worker_connections 512; }}
             http {{
               access_log off; client_max_body_size 0; keepalive_timeout 60s;
               client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
               fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
               {servers}
             }}"
        );
        std::fs::write(folder.join("nginx.conf"), configuration).unwrap();
        let child = Command::new("nginx")
            .env(
                "PATH",
                format!("{}:/usr/sbin", std::env::var("PATH").unwrap()),
            )
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .spawn()
            .unwrap();
        let nginx = Self { child, port };
        eventually(Duration::from_secs(5), "nginx listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        let _ = self.child.wait();
    }
}

#[test]
fn identity_and_bodies_arrive_over_both_versions_of_http() {
    let directory = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(directory.path());
    let configuration = directory.path().join("keybound.toml");
    std::fs::write(
        &configuration,
        format!(
            "[[gateway.route]]\npath = \"/\"\nupstream = [\"http://127.0.0.1:{}\"]\nclient = \"require\"\n\
             identity = [\"device-id\", \"client-cert\"]\n",
            nginx.port
        ),
    )
    .unwrap();
    let server = Server::start(
        Setup::default()
            .argument("--config")
            .argument(configuration.to_str().unwrap()),
    );
    let device = server.device("thermostat-7");

    let megabytes = directory.path().join("megabytes");
    let mut file = std::fs::File::create(&megabytes).unwrap();
    for number in 0..1_000_000_u64 {
        file.write_all(&number.to_be_bytes()).unwrap();
    }
    drop(file);
    for version in ["--http1.1", "--http2"] {
        let who = device.curl(&server, &[version, &server.url("/who")]);
        let who = text(&who.stdout);
        let parts: Vec<_> = who.trim().split('|').collect();
        assert_eq!(parts[0], "thermostat-7", "{who}");
        assert_eq!(parts[2], format!("localhost:{}", server.gateway().port()));
        assert_eq!(parts[1], client_cert(&device), "RFC 9440, section 2.2");

        let url = server.url(&format!("/uploads/{}", &version[2..]));
        let up = device.curl(
            &server,
            &[
                version,
                "--fail",
                "--upload-file",
                megabytes.to_str().unwrap(),
                &url,
            ],
        );
        assert!(up.status.success(), "{}", text(&up.stderr));
        let down = device.curl(&server, &[version, "--fail", &url]);
        assert!(
            down.stdout == std::fs::read(&megabytes).unwrap(),
            "the body came back different"
        );

        // From a stream of unknown length: chunked in HTTP/1.1, and in HTTP/2 without content-length.
        let url = server.url(&format!("/uploads/stream-{}", &version[2..]));
        let input = std::fs::File::open(&megabytes).unwrap();
        let up = device.curl_with_input(&server, &[version, "--fail", "-T", "-", &url], input);
        assert!(up.status.success(), "{}", text(&up.stderr));
        let down = device.curl(&server, &[version, "--fail", &url]);
        assert!(
            down.stdout == std::fs::read(&megabytes).unwrap(),
            "the streamed body came back different"
        );
    }
}

/// The device's certificate as RFC 9440 wants it in a header.
fn client_cert(device: &crate::harness::Device) -> String {
    use base64::Engine as _;
    let pem = std::fs::read(device.certificate_file()).unwrap();
    let der = pem::parse(pem).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der.contents());
    format!(":{text}:")
}
