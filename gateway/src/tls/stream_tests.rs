use std::io::{Read as _, Write as _};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion,
    Tls12CipherSuite,
};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Both ends of a connection before its handshake.
struct Ends {
    client: TcpStream,
    server: TcpStream,
    wants: Arc<ClientConfig>,
    gives: Arc<ServerConfig>,
}

async fn ends(version: &'static SupportedProtocolVersion, largest_record: Option<usize>) -> Ends {
    ends_of(version, largest_record, X25519).await
}

/// The client has a share of X25519 ready (RFC 8446, section 4.2.8); the server takes one group.
async fn ends_of(
    version: &'static SupportedProtocolVersion,
    largest_record: Option<usize>,
    taken: &'static dyn SupportedKxGroup,
) -> Ends {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = |kx_groups| {
        Arc::new(CryptoProvider {
            kx_groups,
            ..aws_lc_rs::default_provider()
        })
    };
    let mut wants = ClientConfig::builder_with_provider(provider(vec![X25519, SECP256R1]))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    wants.max_fragment_size = largest_record;
    let gives = ServerConfig::builder_with_provider(provider(vec![taken]))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate with its key");
    let (client, server) = pair().await;
    Ends {
        client,
        server,
        wants: Arc::new(wants),
        gives: Arc::new(gives),
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("connected"), server.expect("accepted").0)
}

/// The server's end, which begins with what has come of the ClientHello.
async fn serve(mut tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
    let received = receive(&mut tcp, |piece| Ok(piece.to_vec())).await?;
    let mut connection = Connection::new(tcp, config, received).expect("a configuration");
    connection.handshake().await?;
    Ok(connection.into_stream())
}

/// A client that sends when it is told to.
struct Client {
    tcp: TcpStream,
    tls: ClientConnection,
}

impl Client {
    fn new(tcp: TcpStream, wants: Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("a.test").expect("a name");
        let tls = ClientConnection::new(wants, name).expect("a configuration");
        Self { tcp, tls }
    }

    /// What it would send now.
    fn ready(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("memory");
        }
        bytes
    }

    async fn send(&mut self) {
        let bytes = self.ready();
        self.tcp.write_all(&bytes).await.expect("sent");
    }

    /// Receives once.
    async fn receive(&mut self) -> Result<(), Error> {
        let mut piece = [0; 4096];
        let length = self.tcp.read(&mut piece).await.expect("received");
        let mut piece = &piece[..length];
        assert!(!piece.is_empty(), "the server has gone");
        while !piece.is_empty() {
            self.tls.read_tls(&mut piece).expect("room");
            self.tls.process_new_packets()?;
        }
        Ok(())
    }

    async fn handshake(&mut self) {
        self.send().await;
        while self.tls.is_handshaking() {
            self.receive().await.expect("a handshake");
            self.send().await;
        }
    }

    async fn read(&mut self, wanted: usize) -> Vec<u8> {
        let mut read = vec![0; wanted];
        let mut have = 0;
        while have < wanted {
            match self.tls.reader().read(&mut read[have..]) {
                Ok(length) => have += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.receive().await.expect("records");
                }
                Err(error) => panic!("{error}"),
            }
        }
        read
    }
}

async fn connected(version: &'static SupportedProtocolVersion) -> (Client, TlsStream) {
    let ends = ends(version, None).await;
    let mut client = Client::new(ends.client, ends.wants);
    let ((), server) = tokio::join!(client.handshake(), serve(ends.server, ends.gives));
    (client, server.expect("a handshake"))
}

fn has_no_memory(stream: &TlsStream) {
    let Connection {
        incoming,
        plain,
        outgoing,
        ..
    } = &*stream.0;
    let memory = [incoming.capacity(), plain.capacity(), outgoing.capacity()];
    assert_eq!(memory, [0; 3]);
}

async fn check_order(version: &'static SupportedProtocolVersion) {
    let (mut client, mut server) = connected(version).await;
    has_no_memory(&server);
    let sent: Vec<u8> = (0..500_000_u32).map(|n| (n / 7) as u8).collect();
    let talking = async {
        let mut echoed = Vec::new();
        let (mut left, mut lengths) = (&sent[..], (1..40_000).step_by(6_007).cycle());
        while !left.is_empty() {
            let length = lengths.next().expect("endless").min(left.len());
            if version == &TLS13 {
                client.tls.refresh_traffic_keys().expect("new keys");
            }
            client
                .tls
                .writer()
                .write_all(&left[..length])
                .expect("room");
            client.send().await;
            left = &left[length..];
            echoed.extend(client.read(length).await);
        }
        client.tls.send_close_notify();
        client.send().await;
        echoed
    };
    let echoing = async {
        let mut piece = vec![0; 20_000];
        for length in (1..20_000).step_by(613).cycle() {
            let read = server.read(&mut piece[..length]).await.expect("read");
            if read == 0 {
                return;
            }
            let mut left = &piece[..read];
            while !left.is_empty() {
                let (one, others) = left.split_at(left.len() / 3);
                let (two, three) = others.split_at(others.len().min(5_000));
                let slices = [one, &[], two, three].map(io::IoSlice::new);
                let written = server.write_vectored(&slices).await.expect("written");
                left = &left[written..];
            }
            server.flush().await.expect("sent");
        }
    };
    let (echoed, ()) = tokio::join!(talking, echoing);
    assert!(echoed == sent);
    has_no_memory(&server);
    // The other direction is still open.
    server.write_all(b"goodbye").await.expect("written");
    server.shutdown().await.expect("sent");
    assert_eq!(client.read(7).await, b"goodbye");
    let late = server
        .write(b"more")
        .await
        .expect_err("it said that it was the end");
    assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn bytes_come_in_order_however_they_are_cut() {
    check_order(&TLS13).await;
    check_order(&TLS12).await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_stops_the_writer_and_loses_nothing() {
    let (mut client, mut server) = connected(&TLS13).await;
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n / 5) as u8).collect();
    let writing = async {
        server.write_all(&sent).await.expect("written");
        server.flush().await.expect("sent");
    };
    let reading = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.read(sent.len()).await
    };
    let ((), read) = tokio::join!(writing, reading);
    assert!(read == sent);
    has_no_memory(&server);
}

#[tokio::test]
async fn a_client_hello_may_come_in_many_records_and_pieces() {
    let ends = ends(&TLS13, Some(37)).await;
    let mut client = Client::new(ends.client, ends.wants);
    client.tcp.set_nodelay(true).expect("an option");
    let trickling = async {
        for byte in client.ready() {
            client.tcp.write_all(&[byte]).await.expect("sent");
            tokio::task::yield_now().await;
        }
        client.handshake().await;
    };
    let ((), server) = tokio::join!(trickling, serve(ends.server, ends.gives));
    let mut server = server.expect("a handshake");
    has_no_memory(&server);
    client.tls.writer().write_all(b"hello").expect("room");
    client.send().await;
    let mut read = [0; 5];
    server.read_exact(&mut read).await.expect("read");
    assert_eq!(&read, b"hello");
}

#[tokio::test]
async fn something_is_sent_while_half_a_record_waits() {
    let (mut client, mut server) = connected(&TLS13).await;
    client.tls.writer().write_all(b"question").expect("room");
    let record = client.ready();
    let (half, other) = record.split_at(11);
    client.tcp.write_all(half).await.expect("sent");
    let mut read = [0; 8];
    let early = tokio::time::timeout(Duration::from_millis(100), server.read(&mut read)).await;
    assert!(early.is_err(), "half a record says nothing");
    server.write_all(b"answer").await.expect("written");
    assert_eq!(client.read(6).await, b"answer");
    client.tcp.write_all(other).await.expect("sent");
    server.read_exact(&mut read).await.expect("read");
    assert_eq!(&read, b"question");
    has_no_memory(&server);
}

#[tokio::test]
async fn an_end_that_was_not_announced_is_an_error() {
    let (mut client, mut server) = connected(&TLS13).await;
    client.tcp.shutdown().await.expect("ended");
    let cut = server.read(&mut [0; 8]).await.expect_err("nobody said it");
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_came_before_a_forged_record_is_read_and_nothing_after_it() {
    let (mut client, mut server) = connected(&TLS13).await;
    client.tls.writer().write_all(b"genuine").expect("room");
    let mut bytes = client.ready();
    // Application data (RFC 8446, section 5.2) that no key made.
    bytes.extend([23, 3, 3, 0, 20]);
    bytes.extend([0; 20]);
    client.tls.writer().write_all(b"late").expect("room");
    bytes.extend(client.ready());
    client.tcp.write_all(&bytes).await.expect("sent");
    let mut read = [0; 64];
    assert_eq!(server.read(&mut read).await.expect("read"), 7);
    let forged = server.read(&mut read).await.expect_err("forged");
    let cause = forged.get_ref().and_then(|cause| cause.downcast_ref());
    assert_eq!(cause, Some(&Error::DecryptError));
    let later = tokio::time::timeout(Duration::from_secs(5), server.read(&mut read)).await;
    let later = later.expect("at once").expect_err("it has ended");
    assert_eq!(later.kind(), io::ErrorKind::InvalidData);
    let answer = server.write(b"answer").await.expect_err("it has ended");
    assert_eq!(answer.kind(), io::ErrorKind::BrokenPipe);
    let told = client.receive().await.expect_err("an alert");
    let alert = rustls::AlertDescription::BadRecordMac;
    assert_eq!(told, Error::AlertReceived(alert));
}

#[tokio::test]
async fn a_message_without_an_end_is_not_kept() {
    let Ends {
        mut client,
        server,
        gives,
        ..
    } = ends(&TLS13, None).await;
    let flooding = async {
        // A ClientHello of the greatest length (RFC 8446, section 4), in records of 16 KiB.
        let mut record = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
        record.resize(5 + 0x4000, 0);
        for _ in 0..8 {
            if client.write_all(&record).await.is_err() {
                break;
            }
            record[5..9].fill(0);
        }
    };
    let (refused, ()) = tokio::join!(serve(server, gives), flooding);
    let refused = refused.expect_err("too long");
    let cause = refused.get_ref().and_then(|cause| cause.downcast_ref());
    assert_eq!(
        cause,
        Some(&Error::from(InvalidMessage::HandshakePayloadTooLarge))
    );
}

#[tokio::test]
async fn nothing_is_kept_of_what_comes_after_the_last_word() {
    let (mut client, mut server) = connected(&TLS13).await;
    client.tls.send_close_notify();
    let mut bytes = client.ready();
    bytes.extend([23; 4000]);
    client.tcp.write_all(&bytes).await.expect("sent");
    assert_eq!(server.read(&mut [0; 8]).await.expect("read"), 0);
    has_no_memory(&server);
    server.write_all(b"answer").await.expect("written");
    assert_eq!(client.read(6).await, b"answer");
}

#[tokio::test]
async fn early_data_that_nobody_takes_does_no_harm() {
    let ends = ends(&TLS13, None).await;
    let mut wants = Arc::unwrap_or_clone(ends.wants);
    wants.enable_early_data = true;
    let wants = Arc::new(wants);
    let mut takes = ServerConfig::clone(&ends.gives);
    takes.max_early_data_size = 16 * 1024;
    let mut client = Client::new(ends.client, Arc::clone(&wants));
    let serving = serve(ends.server, Arc::new(takes));
    let ((), server) = tokio::join!(client.handshake(), serving);
    server
        .expect("a handshake")
        .write_all(b"!")
        .await
        .expect("written");
    // The tickets come before it.
    client.read(1).await;

    let mut refuses = Arc::unwrap_or_clone(ends.gives);
    refuses.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    let (tcp, server) = pair().await;
    let mut client = Client::new(tcp, wants);
    let mut early = client.tls.early_data().expect("it has a ticket");
    early.write_all(&[b'e'; 7_000]).expect("room");
    let ((), server) = tokio::join!(client.handshake(), serve(server, Arc::new(refuses)));
    let mut server = server.expect("a handshake");
    assert!(!client.tls.is_early_data_accepted());
    client.tls.writer().write_all(b"late").expect("room");
    client.send().await;
    let mut read = [0; 4];
    server.read_exact(&mut read).await.expect("read");
    assert_eq!(&read, b"late");
}

#[tokio::test]
async fn a_client_may_be_asked_for_another_group() {
    let ends = ends_of(&TLS13, None, SECP256R1).await;
    let mut client = Client::new(ends.client, ends.wants);
    let ((), server) = tokio::join!(client.handshake(), serve(ends.server, ends.gives));
    let mut server = server.expect("a handshake");
    let kind = server.session().handshake_kind();
    assert_eq!(kind, Some(rustls::HandshakeKind::FullWithHelloRetryRequest));
    client.tls.writer().write_all(b"hello").expect("room");
    client.send().await;
    let mut read = [0; 5];
    server.read_exact(&mut read).await.expect("read");
    assert_eq!(&read, b"hello");
    has_no_memory(&server);
}

#[tokio::test]
async fn when_the_keys_are_used_up_what_was_encrypted_comes_before_the_farewell() {
    let ends = ends(&TLS12, None).await;
    // Of the suites of TLS 1.2 one, which may protect a few records alone (RFC 8446, section 5.5).
    let SupportedCipherSuite::Tls12(whole) = TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 else {
        panic!("it is of TLS 1.2");
    };
    let limited: &'static _ = Box::leak(Box::new(Tls12CipherSuite {
        common: CipherSuiteCommon {
            suite: whole.common.suite,
            hash_provider: whole.common.hash_provider,
            confidentiality_limit: 4,
        },
        prf_provider: whole.prf_provider,
        kx: whole.kx,
        sign: whole.sign,
        aead_alg: whole.aead_alg,
    }));
    let provider = CryptoProvider {
        cipher_suites: vec![SupportedCipherSuite::Tls12(limited)],
        ..aws_lc_rs::default_provider()
    };
    let gives = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .expect("a version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&ends.gives.cert_resolver));
    let mut client = Client::new(ends.client, ends.wants);
    let serving = serve(ends.server, Arc::new(gives));
    let ((), server) = tokio::join!(client.handshake(), serving);
    let mut server = server.expect("a handshake");
    let pieces: Vec<Vec<u8>> = (0..8).map(|n| vec![n; LARGE]).collect();
    let slices: Vec<_> = pieces.iter().map(|piece| io::IoSlice::new(piece)).collect();
    let used_up = server
        .write_vectored(&slices)
        .await
        .expect_err("too many records");
    assert_eq!(used_up.kind(), io::ErrorKind::BrokenPipe);
    server.shutdown().await.expect("sent");
    let mut read = Vec::new();
    loop {
        match client.tls.reader().read_to_end(&mut read) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                client.receive().await.expect("records in their order");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!read.is_empty() && read.len() < 8 * LARGE);
    let expected = pieces.concat();
    assert!(read == expected[..read.len()]);
}
