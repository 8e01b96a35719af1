//! Handshakes that break off at every byte, and chains that are made to cost: afterwards the server is as it was, and
//! each cost next to nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, SignatureScheme};

use super::process::open_connections;
use crate::harness::client::config;
use crate::harness::{Device, Server, Setup, count, eventually, figure};

/// How a peer leaves.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    Reset,
    Close,
    HalfClose,
    CloseNotify,
}

/// A handshake of which only the first `sent` bytes are sent.
fn broken_off(server: &Server, config: &Arc<ClientConfig>, sent: usize, leaving: Leaving) {
    let mut tcp = TcpStream::connect(server.gateway()).unwrap();
    tcp.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut left = sent;
    'sending: while left > 0 {
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight).unwrap();
        }
        let length = flight.len().min(left);
        if tcp.write_all(&flight[..length]).is_err() {
            break;
        }
        left -= length;
        if length < flight.len() || !tls.is_handshaking() {
            break;
        }
        while !tls.wants_write() && tls.is_handshaking() {
            match tls.read_tls(&mut tcp) {
                Ok(1..) if tls.process_new_packets().is_ok() => {}
                _ => break 'sending,
            }
        }
    }
    match leaving {
        Leaving::Reset => socket2::SockRef::from(&tcp)
            .set_linger(Some(Duration::ZERO))
            .unwrap(),
        Leaving::Close => {}
        Leaving::HalfClose => {
            let _gone = tcp.shutdown(std::net::Shutdown::Write);
            let _whatever = tcp.read(&mut [0; 4096]);
        }
        Leaving::CloseNotify => {
            tls.send_close_notify();
            let mut goodbye = Vec::new();
            tls.write_tls(&mut goodbye).unwrap();
            let _gone = tcp.write_all(&goodbye);
        }
    }
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.process()))
        .unwrap()
        .count()
}

/// Resident memory, in KiB.
fn memory(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The processor time of the gateway's threads, in microseconds.
fn gateway_time(server: &Server) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process())).unwrap();
    tasks
        .map(|task| task.unwrap().path())
        .filter(|task| {
            std::fs::read_to_string(task.join("comm"))
                .is_ok_and(|name| name.starts_with("gateway-"))
        })
        .map(|task| {
            let text = std::fs::read_to_string(task.join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000
        })
        .sum()
}

#[test]
fn at_every_byte_and_in_every_way() {
    let server = Server::start(Setup::default());
    let device = server.device("a");
    let config = Arc::new(config(&server, &device, &["http/1.1"]));
    // The hello, and the client's flight: certificate, proof and Finished.
    let longest = 3_000;
    let round = |rounds: usize| {
        for number in 0..rounds {
            let ways = [
                Leaving::Reset,
                Leaving::Close,
                Leaving::HalfClose,
                Leaving::CloseNotify,
            ];
            // Every length comes, the first and the last bytes of a flight as well as the middle, and in the long run
            // every length in every way.
            let sent = number * 7 % longest;
            let way = ways[(number + number / longest) % ways.len()];
            broken_off(&server, &config, sent, way);
        }
    };
    let at_rest = || {
        eventually(Duration::from_secs(15), "every connection is gone", || {
            open_connections(&server) == 0
        });
        (descriptors(&server), memory(&server))
    };
    round(200);
    let (before, memory_before) = at_rest();
    let rounds = count(1_000, 20_000);
    round(rounds);
    let (after, memory_after) = at_rest();
    assert!(after <= before + 2, "{before} descriptors, then {after}");
    let grown = memory_after.saturating_sub(memory_before);
    // Each leaves a decision behind, for `explain`, until 65,536 later ones have come.
    let decisions = rounds * 600 / 1024;
    assert!(
        grown < 8 * 1024 + decisions,
        "{memory_before} KiB, then {memory_after}"
    );
    figure("handshakes broken off", rounds);
    figure("memory after them, more than before (KiB)", grown);
    device.run(&["request", &server.url("/")]);
}

#[derive(Debug)]
struct Presented(Arc<CertifiedKey>);

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The processor time that the gateway takes for a handshake with this chain, in microseconds.
fn cost(server: &Server, device: &Device, chain: &[CertificateDer<'static>]) -> u64 {
    let key = PrivateKeyDer::from_pem_file(device.key_file()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let mut config = config(server, device, &["http/1.1"]);
    config.client_auth_cert_resolver =
        Arc::new(Presented(Arc::new(CertifiedKey::new(chain.to_vec(), key))));
    let config = Arc::new(config);
    let before = gateway_time(server);
    const HANDSHAKES: u64 = 100;
    for _ in 0..HANDSHAKES {
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut tcp = TcpStream::connect(server.gateway()).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let _refused =
            stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let _refused = stream.read(&mut [0; 4096]);
    }
    (gateway_time(server) - before) / HANDSHAKES
}

#[test]
fn chains_that_are_made_to_cost() {
    let server = Server::start(Setup::default());
    let device = server.device("a");
    let leaf = CertificateDer::from_pem_file(device.certificate_file()).unwrap();
    let ca = CertificateDer::from_pem_file(server.path("data/ca/device-ca.pem")).unwrap();
    let names = b"\x86\x01a".repeat(20_000);
    let honest = cost(&server, &device, std::slice::from_ref(&leaf));
    figure(
        "processor time of an honest handshake and request (us)",
        honest,
    );
    let chain = |others: Vec<CertificateDer<'static>>| [vec![leaf.clone()], others].concat();
    for (what, chain) in [
        ("50 certificates", chain(vec![ca.clone(); 50])),
        (
            "three of 20 KB",
            chain(vec![CertificateDer::from(vec![0x30; 20_000]); 3]),
        ),
        (
            "more than 64 KB",
            chain(vec![CertificateDer::from(vec![0x30; 16_000]); 5]),
        ),
        (
            "60 KB of names",
            vec![CertificateDer::from([&leaf[..], &names].concat())],
        ),
        (
            "two leaves and the CA",
            chain(vec![leaf.clone(), ca.clone()]),
        ),
    ] {
        let cost = cost(&server, &device, &chain);
        figure(
            &format!("processor time of a handshake with {what} (us)"),
            cost,
        );
        assert!(cost < 5_000, "{what} costs {cost} us");
    }
}
