//! SIGTERM under load: what has begun is finished, what has not never begins, and the process ends in time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::rig::{Key, Right, Target, certificate_in, est_request, is_cut_short, read_reply};
use crate::harness::{Device, Server, Setup, figure, text};

/// Of the long answer.
const LENGTH: usize = 4_000_000;

fn content() -> Vec<u8> {
    (0..LENGTH)
        .map(|place| (place * 31 / 7 % 251) as u8)
        .collect()
}

/// `/long` takes about two seconds to send; anything else is answered at once.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let content = content();
        while let Ok((mut stream, _)) = listener.accept() {
            let content = content.clone();
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                loop {
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut byte) {
                            Ok(1) => head.push(byte[0]),
                            _ => return,
                        }
                    }
                    let long = head.starts_with(b"GET /long");
                    // More than all the buffers on the way hold.
                    let endless = head.starts_with(b"GET /endless");
                    head.clear();
                    let all;
                    let body = match (long, endless) {
                        (true, _) => &content[..],
                        (false, true) => {
                            all = content.repeat(20);
                            &all
                        }
                        (false, false) => b"ok",
                    };
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                    for part in body.chunks(LENGTH / 100) {
                        if stream.write_all(part).is_err() {
                            return;
                        }
                        if long {
                            sleep(Duration::from_millis(20));
                        }
                    }
                }
            });
        }
    });
    address
}

/// What curl got: its exit code, the status, and the body.
fn curl(
    device: &Device,
    server: &Server,
    http: &str,
    url: &str,
    file: &str,
) -> std::process::Child {
    std::process::Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "30",
            http,
            "--write-out",
            "%{http_version} %{http_code}",
        ])
        .arg("--cacert")
        .arg(server.path("root.pem"))
        .arg("--key")
        .arg(device.key_file())
        .arg("--cert")
        .arg(device.certificate_file())
        .args(["--output", file, url])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// A thread's requests until nobody answers: how many were answered.
fn until_refused(ends: &AtomicBool, mut ask: impl FnMut() -> std::io::Result<u16>) -> usize {
    let mut answered = 0;
    loop {
        match ask() {
            Ok(status) => {
                assert_eq!(status, 200);
                answered += 1;
            }
            Err(error) => {
                assert!(!is_cut_short(&error), "{error}");
                if ends.load(Ordering::Relaxed) {
                    return answered;
                }
            }
        }
    }
}

#[test]
fn with_downloads_requests_and_enrollments_under_way() {
    let server = Server::start(Setup::upstream(upstream()));
    let target = Target::of(&server);
    let device = server.device("curl");
    let key = Key::new("raw");
    let token = target.token("raw").unwrap();
    let certificate = certificate_in(&target.est(&key, Right::Token(&token)).unwrap());
    let (long, files) = (server.url("/long"), tempfile::tempdir().unwrap());
    let downloads: Vec<_> = (0..8)
        .map(|number| {
            let http = if number % 2 == 0 {
                "--http1.1"
            } else {
                "--http2"
            };
            let file = files.path().join(number.to_string());
            let child = curl(&device, &server, http, &long, file.to_str().unwrap());
            (child, file, http)
        })
        .collect();
    let ends = AtomicBool::new(false);
    let enrolled = AtomicUsize::new(0);
    let (gateway, enrollment) = (server.gateway(), server.enrollment());
    std::thread::scope(|scope| {
        let requests: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| until_refused(&ends, || Ok(target.get(&key, &certificate)?.status)))
            })
            .collect();
        let enrollments = scope.spawn(|| {
            until_refused(&ends, || {
                let number = enrolled.fetch_add(1, Ordering::Relaxed);
                let key = Key::new(&format!("new-{number}"));
                let token = target.token(&key.id)?;
                Ok(target.est(&key, Right::Token(&token))?.status)
            })
        });
        // One request for a certificate has arrived by half.
        let late = Key::new("late");
        let token = target.token("late").unwrap();
        let mut half = target.tls(enrollment, None).unwrap();
        let request = est_request(&late, Right::Token(&token));
        let (first, rest) = request.split_at(request.len() - 100);
        half.write_all(first).unwrap();
        half.flush().unwrap();
        // Every download has begun.
        sleep(Duration::from_millis(900));
        let started = Instant::now();
        let stopping = scope.spawn(|| server.stop());
        sleep(Duration::from_millis(300));
        ends.store(true, Ordering::Relaxed);
        // Downloads go on, and nobody else comes in.
        assert!(!stopping.is_finished());
        for address in [gateway, enrollment] {
            let refused = TcpStream::connect(address);
            assert!(refused.is_err(), "{address} still listens");
        }
        // What had begun to arrive is answered.
        half.write_all(rest).unwrap();
        half.flush().unwrap();
        let reply = read_reply(&mut half).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        let content = content();
        for (child, file, http) in downloads {
            let output = child.wait_with_output().unwrap();
            let said = text(&output.stdout);
            let version = if http == "--http2" {
                "2 200"
            } else {
                "1.1 200"
            };
            assert!(output.status.success(), "{http}: {} {said}", output.status);
            assert_eq!(said, version);
            assert!(
                std::fs::read(file).unwrap() == content,
                "{http}: another content"
            );
        }
        let directory = stopping.join().unwrap();
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(15), "{elapsed:?} to end");
        let answered: usize = requests
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum();
        let enrolled = enrollments.join().unwrap();
        assert!(answered > 2 && enrolled > 0, "{answered} {enrolled}");
        figure(
            "SIGTERM: downloads complete, requests, enrollments, time to end",
            format!("8, {answered}, {enrolled}, {elapsed:?}"),
        );
        drop(directory);
    });
}

#[test]
fn even_if_somebody_never_finishes() {
    let server = Server::start(Setup::upstream(upstream()));
    let target = Target::of(&server);
    let key = Key::new("slow");
    let token = target.token("slow").unwrap();
    let certificate = certificate_in(&target.est(&key, Right::Token(&token)).unwrap());
    // It reads nothing of an answer; another sends half a request for a certificate.
    let mut download = target
        .tls(server.gateway(), Some((&key, &certificate)))
        .unwrap();
    download
        .write_all(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    download.flush().unwrap();
    let mut upload = target.tls(server.enrollment(), None).unwrap();
    upload
        .write_all(b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\nMII")
        .unwrap();
    upload.flush().unwrap();
    sleep(Duration::from_millis(300));
    let started = Instant::now();
    server.stop();
    let elapsed = started.elapsed();
    assert!(
        elapsed > Duration::from_secs(20),
        "it was waited for: {elapsed:?}"
    );
    assert!(elapsed <= Duration::from_secs(30), "{elapsed:?} to end");
    figure(
        "SIGTERM with a client that never reads: time to end",
        format!("{elapsed:?}"),
    );
}
