//! Peers that hold connections to the enrollment listener: by their number, or by being slow.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::enrollment::{Client, code_of, enroll_request, metric};
use crate::harness::{Server, Setup, eventually, figure, text};

fn token(server: &Server, device: &str) -> String {
    let token = server.json(&["token", "new", "--device", device, "--json"]);
    token["token"].as_str().unwrap().to_owned()
}

/// Whether the other side has closed it already.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 16];
    let read = stream.read(&mut buffer);
    match tokio::time::timeout(Duration::from_millis(1), read).await {
        Ok(Ok(0) | Err(_)) => true,
        Ok(Ok(_)) | Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_connections_of_one_address_are_not_in_anothers_way() {
    let server = Server::start(Setup::default());
    let (client, token) = (Client::new(&server), token(&server, "a"));
    let mut unfinished = Vec::new();
    for _ in 0..100 {
        let mut stream = client.tls().await.unwrap();
        let part = b"POST /.well-known/est/simpleenroll HTTP/1.1\r\n";
        stream.write_all(part).await.unwrap();
        unfinished.push(stream);
    }
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(client.tcp().await.unwrap());
    }
    let started = Instant::now();
    let answer = client.from("127.0.0.2").enroll("a", &token).await;
    let enrolled_after = started.elapsed();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        enrolled_after < Duration::from_secs(1),
        "{enrolled_after:?}"
    );
    figure(
        "enrolling while another address holds all its connections",
        format!("{enrolled_after:?}"),
    );

    eventually(Duration::from_secs(5), "the surplus is closed", || {
        metric(&server, "outcome=\"too-many-connections\"") >= 72
    });
    let mut closed = 0;
    for stream in &mut silent {
        closed += usize::from(is_closed(stream).await);
    }
    assert_eq!(closed, 72, "128 of 200 are kept");
    let explained = server.run(&["explain", "127.0.0.1"]);
    assert!(explained.contains("too-many-connections"), "{explained}");

    drop((unfinished, silent));
    let mut answer = String::new();
    for _ in 0..50 {
        if let Ok(stream) = client.tls().await {
            drop(stream);
            answer = client.enroll("a", &"0".repeat(32)).await;
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        code_of(&answer),
        "token-invalid",
        "its places are its own again"
    );
}

/// Writes one byte a second, for ever if it may, and reads meanwhile; what was read, and after what time all was over.
async fn dribble(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite,
    bytes: impl Iterator<Item = u8>,
) -> (String, Duration) {
    let started = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut read = Vec::new();
    let write = async {
        for byte in bytes {
            if writing.write_all(&[byte]).await.is_err() || writing.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = write => {}
        _ = reading.read_to_end(&mut read) => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    (text(&read), started.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_has_a_deadline_for_the_whole_not_for_the_next_byte() {
    let server = Server::start(Setup::default());
    let client = Client::new(&server);
    let token = token(&server, "a");
    let request = enroll_request("a", &token, &[b'A'; 4000]);
    let head = request.len() - 4000;
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0; 500]].concat();

    let handshake = async { dribble(client.tcp().await.unwrap(), hello.iter().copied()).await };
    let nothing = async {
        let stream = client.tls().await.unwrap();
        dribble(stream, std::iter::empty()).await
    };
    let slow_head = async {
        let stream = client.tls().await.unwrap();
        let bytes = b"GET /.well-known/est/cacerts HTTP/1.1\r\nhost: localhost\r\nx: ";
        dribble(stream, bytes.iter().copied().chain(std::iter::repeat(b'x'))).await
    };
    let slow_body = async {
        let mut stream = client.tls().await.unwrap();
        stream.write_all(&request[..head]).await.unwrap();
        dribble(stream, request[head..].iter().copied()).await
    };
    // Honest requests, one every few seconds, on a connection that does not end.
    let lasting = async {
        let mut stream = client.tls().await.unwrap();
        let started = Instant::now();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let request = b"GET /.well-known/est/csrattrs HTTP/1.1\r\nhost: localhost\r\n\r\n";
            let written = stream.write_all(request).await;
            let read = stream.read(&mut buffer).await;
            if written.is_err() || !matches!(read, Ok(1..)) {
                return started.elapsed();
            }
            assert!(started.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    };
    let (handshake, nothing, slow_head, slow_body, lasting) =
        tokio::join!(handshake, nothing, slow_head, slow_body, lasting);
    for (what, (_, lasted)) in [
        ("handshake", &handshake),
        ("no request", &nothing),
        ("head", &slow_head),
        ("body", &slow_body),
    ] {
        figure(
            &format!("a slow {what} ends after"),
            format!("{lasted:.1?}"),
        );
        let allowed = Duration::from_secs(9)..Duration::from_secs(20);
        assert!(allowed.contains(lasted), "{what}: {lasted:?}");
    }
    assert!(slow_body.0.starts_with("HTTP/1.1 408 "), "{}", slow_body.0);
    assert_eq!(code_of(&slow_body.0), "request-timeout");
    assert!(slow_body.0.contains("connection: close"), "{}", slow_body.0);
    figure(
        "a connection that asks for ever ends after",
        format!("{lasting:.1?}"),
    );
    assert!(lasting < Duration::from_secs(45), "{lasting:?}");

    assert_eq!(metric(&server, "outcome=\"handshake-timeout\""), 1);
    assert_eq!(metric(&server, "outcome=\"request-timeout\""), 3);
    let explained = server.run(&["explain", "127.0.0.1"]);
    assert!(explained.contains("handshake-timeout"), "{explained}");
    assert!(explained.contains("request-timeout"), "{explained}");
    let answer = client.enroll("a", &token).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 "),
        "the token is there: {answer}"
    );
}
