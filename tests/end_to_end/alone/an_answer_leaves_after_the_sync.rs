//! Seen by strace: the log of the registry is written and synced between the arrival of a request and the
//! departure of its answer. A kill cannot show this; only a power failure could.

use std::io;

use serde_json::json;

use super::rig::{Key, Right, Strace, Target, certificate_in};
use crate::harness::{Server, Setup, figure};

/// Where in `log` the request arrived and its answer left, by what stands in the lines.
fn window<'l>(log: &'l [String], socket: &str, request: &str) -> &'l [String] {
    let on_socket = |line: &&String| line.contains(socket);
    let is_write = |line: &str| {
        ["sendto(", "write(", "writev(", "sendmsg("]
            .iter()
            .any(|call| line.contains(call))
    };
    let answer = log
        .iter()
        .rposition(|line| on_socket(&line) && is_write(line))
        .expect("the answer left");
    let arrived = log[..answer]
        .iter()
        .rposition(|line| {
            on_socket(&line)
                && !is_write(line)
                && line.contains(request)
                && !line.ends_with("(Resource temporarily unavailable)")
        })
        .expect("the request arrived");
    &log[arrived..answer]
}

/// Whether the last write to the log was synced, completely, within the window.
fn is_synced(window: &[String]) -> Result<(), String> {
    let wal = |line: &String| line.contains("registry.sqlite-wal>");
    let written = window
        .iter()
        .rposition(|line| line.contains("pwrite64(") && wal(line))
        .ok_or("nothing was written to the log")?;
    let sync = window[written..]
        .iter()
        .position(|line| is_sync(line) && wal(line))
        .ok_or("the log was not synced")?;
    let sync = &window[written + sync..];
    let thread = sync[0].split(' ').next().unwrap();
    let done = sync[0].ends_with("= 0")
        || sync.iter().any(|line| {
            line.starts_with(&format!("{thread} "))
                && line.contains("sync resumed")
                && line.ends_with("= 0")
        });
    done.then_some(())
        .ok_or_else(|| "the sync had not ended".to_owned())
}

/// Which of the two it is depends on how SQLite was built.
fn is_sync(line: &str) -> bool {
    line.contains("fsync(") || line.contains("fdatasync(")
}

fn check(log: &[String], socket: &str, request: &str) {
    let window = window(log, socket, request);
    assert_eq!(is_synced(window), Ok(()), "{window:#?}");
    // What this test would say of a registry that does not sync.
    let careless: Vec<_> = window
        .iter()
        .filter(|line| !is_sync(line))
        .cloned()
        .collect();
    assert_eq!(is_synced(&careless), Err("the log was not synced".into()));
}

const CALLS: &str =
    "trace=read,readv,recvfrom,write,writev,sendto,sendmsg,pwrite64,fsync,fdatasync";

#[test]
fn of_an_enrollment_a_renewal_and_a_revocation() {
    let server = Server::start(Setup::default());
    let target = Target::of(&server);
    // It leases the indexes.
    let other = Key::new("other");
    let token = target.token("other").unwrap();
    assert_eq!(
        target.est(&other, Right::Token(&token)).unwrap().status,
        200
    );

    let first = Key::new("device");
    let token = target.token("device").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let strace = Strace::attach(&server, &[CALLS]);
    // The connections stay open until the log is complete: their ends would be seen as well.
    let mut stream = target.tls(server.enrollment(), None).unwrap();
    let reply = target
        .est_over(&mut stream, &first, Right::Token(&token))
        .unwrap();
    let certificate = certificate_in(&reply);
    check(&strace.end(), &socket(&stream.sock), "");

    let next = Key::new("device");
    let strace = Strace::attach(&server, &[CALLS]);
    let mut stream = target
        .tls(server.enrollment(), Some((&first, &certificate)))
        .unwrap();
    let right = Right::Certificate(&first, &certificate);
    assert_eq!(
        target.est_over(&mut stream, &next, right).unwrap().status,
        200
    );
    check(&strace.end(), &socket(&stream.sock), "");

    let strace = Strace::attach(&server, &[CALLS]);
    let asked = json!({ "reason": null, "wait": true });
    let reply = target
        .admin("POST", "/v1/devices/device/revoke", &asked)
        .unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    let log = strace.end();
    let request = log
        .iter()
        .find(|line| line.contains("POST /v1/devices/device/"))
        .unwrap();
    // `5<UNIX-STREAM:[1->2,"…/admin.sock"]>`
    let socket = &request[request.find("<UNIX").unwrap()..request.find(']').unwrap()];
    let until_answer = log
        .iter()
        .position(|line| line.contains("HTTP/1.1 200"))
        .unwrap();
    check(&log[..=until_answer], socket, "POST");
    figure(
        "sync before the answer, by strace",
        "enrollment, renewal, revocation",
    );
}

fn socket(tcp: &std::net::TcpStream) -> String {
    let peer = |address: io::Result<std::net::SocketAddr>| address.unwrap().to_string();
    format!("{}->{}", peer(tcp.peer_addr()), peer(tcp.local_addr()))
}
