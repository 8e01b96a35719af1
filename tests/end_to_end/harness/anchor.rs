//! Anchors of other CAs in a configuration, servers with them, and what health says.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::upstream::Upstream;
use super::{Server, Setup, succeed, text};

pub const SOON: Duration = Duration::from_secs(20);

pub fn readiness(server: &Server) -> serde_json::Value {
    let url = format!("http://{}/readyz", server.health());
    let body = succeed(Command::new("curl").args(["--silent", &url]));
    serde_json::from_str(&body).unwrap()
}

pub fn metrics(server: &Server) -> String {
    let url = format!("http://{}/metrics", server.health());
    succeed(Command::new("curl").args(["--silent", &url]))
}

pub fn is_told(server: &Server, words: &str) -> bool {
    let readiness = readiness(server);
    readiness["degraded"] == true && readiness["reasons"].to_string().contains(words)
}

/// Whole or not at all.
pub fn put(path: &Path, content: &[u8]) {
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, content).unwrap();
    fs::rename(unfinished, path).unwrap();
}

pub fn start(directory: tempfile::TempDir, upstream: &Upstream, anchors: &str) -> Server {
    configure(directory.path(), upstream, anchors);
    again(directory)
}

/// Writes the configuration of a server with these anchors.
pub fn configure(directory: &Path, upstream: &Upstream, anchors: &str) {
    let path = directory.join("c.toml");
    let routes = format!(
        "names = ['localhost']\n[gateway]\n[[gateway.route]]\nupstream = 'http://{}'\nidentity = ['device-id', 'client-cert', 'xfcc']\n",
        upstream.address
    );
    fs::write(path, routes + anchors).unwrap();
}

/// A server with the configuration that is in its directory.
pub fn start_as_configured(directory: tempfile::TempDir, setup: Setup) -> Server {
    let path = directory.path().join("c.toml").display().to_string();
    Server::start_in(directory, setup.argument("--config").argument(path))
}

pub fn anchor(name: &str, certificates: &Path, crl: &str, id_from: &str) -> String {
    format!(
        "[[gateway.anchor]]\nname = '{name}'\ncertificates = '{}'\ncrl = {crl}\nid_from = {id_from}\n",
        certificates.display()
    )
}

pub fn ok() -> (u16, String) {
    (200, String::new())
}

pub fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// What a small HTTP server answers to everything.
pub async fn serve(answer: Arc<Mutex<Vec<u8>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.lock().unwrap().clone();
            tokio::spawn(async move {
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    port
}

/// An answer of 200 with this list.
pub fn whole(list: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", list.len());
    [head.as_bytes(), list].concat()
}

pub const MISSING: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// The same server again, with its configuration as it is in its directory now.
pub fn again(directory: tempfile::TempDir) -> Server {
    start_as_configured(directory, Setup::default())
}

/// Why it does not start again.
pub fn refused_start(directory: &Path) -> String {
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_keybound"), "--data", "data", "up"])
        .args(["--config", "c.toml"])
        .args(["--gateway-listen", "127.0.0.1:0"])
        .args(["--enrollment-listen", "127.0.0.1:0"])
        .args(["--health-listen", "127.0.0.1:0"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    told
}
