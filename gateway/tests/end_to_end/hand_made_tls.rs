//! A TLS 1.3 client whose every message is the test's own: a library would not send what tests need
//! (RFC 8446; X25519, AES-128-GCM, SHA-256 and ECDSA with P-256, nothing else).

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use rcgen::{KeyPair, SigningKey as _};

use crate::authority::Identity;

/// A connection whose client Hello was answered.
pub(crate) struct HandMade {
    pub(crate) tcp: TcpStream,
    transcript: Vec<u8>,
    read: Keys,
    write: Keys,
    handshake_write: Vec<u8>,
    application_write: Vec<u8>,
    /// Bytes of handshake messages and of the stream that were read and not asked for yet.
    received: Vec<u8>,
    /// How many handshake messages came after the handshake.
    pub(crate) key_updates: usize,
}

struct Keys {
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A fatal alert, by its number.
    Alert(u8),
    /// Nothing was said.
    Closed,
    /// The first line of an answer.
    Answer(String),
}

/// What a ClientHello may say besides what it must.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hello {
    /// Names in the server_name extension, each with its type; none at all without any.
    pub(crate) names: Vec<(u8, Vec<u8>)>,
    /// Whole extensions, the last ones of the message.
    pub(crate) extensions: Vec<u8>,
    /// Bytes per record, and whether each record is a segment of its own.
    pub(crate) fragments: Option<(usize, bool)>,
}

pub(crate) const CERTIFICATE: u8 = 11;
pub(crate) const CERTIFICATE_VERIFY: u8 = 15;
pub(crate) const KEY_UPDATE: u8 = 24;
const FINISHED: u8 = 20;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

pub(crate) const ECDSA_P256_SHA256: u16 = 0x0403;

impl Hello {
    pub(crate) fn to(name: &str) -> Self {
        Self {
            names: vec![(0, name.as_bytes().to_vec())],
            ..Self::default()
        }
    }

    fn message(&self, share: &[u8]) -> Vec<u8> {
        let mut extensions = Vec::new();
        if !self.names.is_empty() {
            let names: Vec<_> = self
                .names
                .iter()
                .flat_map(|(kind, name)| [vec![*kind], sized(2, name)].concat())
                .collect();
            extensions.extend(extension(0, &sized(2, &names)));
        }
        extensions.extend(extension(10, &sized(2, &[0, 0x1d])));
        extensions.extend(extension(13, &sized(2, &ECDSA_P256_SHA256.to_be_bytes())));
        extensions.extend(extension(16, &sized(2, &sized(1, b"http/1.1"))));
        extensions.extend(extension(43, &sized(1, &[3, 4])));
        let entry = [vec![0, 0x1d], sized(2, share)].concat();
        extensions.extend(extension(51, &sized(2, &entry)));
        extensions.extend(&self.extensions);
        let body = [
            vec![3, 3],
            vec![7; 32],
            sized(1, &[9; 32]),
            sized(2, &[0x13, 0x01]),
            sized(1, &[0]),
            sized(2, &extensions),
        ];
        message(1, &body.concat())
    }
}

impl HandMade {
    /// Says hello and reads the server's flight; an alert or the end instead is the error.
    pub(crate) fn connect(address: SocketAddr, hello: &Hello) -> Result<Self, End> {
        let mut tcp = TcpStream::connect(address).expect("a connection");
        tcp.set_nodelay(true).expect("a socket");
        tcp.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a socket");
        let random = SystemRandom::new();
        let private = EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
        let share = private.compute_public_key().expect("a key");
        let hello_message = hello.message(share.as_ref());
        let (size, apart) = hello.fragments.unwrap_or((16_384, false));
        let mut records = Vec::new();
        for part in hello_message.chunks(size) {
            let record = [vec![HANDSHAKE, 3, 1], sized(2, part)].concat();
            if apart {
                for byte in record {
                    if tcp.write_all(&[byte]).is_err() {
                        break;
                    }
                }
            } else {
                records.extend(record);
            }
        }
        let _ = tcp.write_all(&records);
        let server_hello = loop {
            let (kind, body) = read_raw(&mut tcp).map_err(|_| End::Closed)?;
            match kind {
                HANDSHAKE => break body,
                ALERT => return Err(End::Alert(body[1])),
                CHANGE_CIPHER_SPEC => {}
                other => panic!("a record of type {other}"),
            }
        };
        let transcript = [hello_message, server_hello.clone()].concat();
        let public = server_share(&server_hello);
        let public = UnparsedPublicKey::new(&X25519, public);
        let shared = agree_ephemeral(private, public, (), |secret| Ok(secret.to_vec()));
        let shared = shared.expect("a secret");

        let early = extract(&[0; 32], &[0; 32]);
        let handshake = extract(&derive(&early, b"derived", &hash(b"")), &shared);
        let so_far = hash(&transcript);
        let handshake_write = derive(&handshake, b"c hs traffic", &so_far);
        let mut client = Self {
            tcp,
            transcript,
            read: Keys::new(derive(&handshake, b"s hs traffic", &so_far)),
            write: Keys::new(handshake_write.clone()),
            handshake_write,
            application_write: Vec::new(),
            received: Vec::new(),
            key_updates: 0,
        };
        client.read_flight()?;
        let master = extract(&derive(&handshake, b"derived", &hash(b"")), &[0; 32]);
        let so_far = hash(&client.transcript);
        client.application_write = derive(&master, b"c ap traffic", &so_far);
        client.read = Keys::new(derive(&master, b"s ap traffic", &so_far));
        Ok(client)
    }

    /// Reads up to the server's Finished.
    fn read_flight(&mut self) -> Result<(), End> {
        loop {
            while self.received.len() >= 4 {
                let length = number(&self.received[1..4]);
                if self.received.len() < 4 + length {
                    break;
                }
                let rest = self.received.split_off(4 + length);
                let message = std::mem::replace(&mut self.received, rest);
                self.transcript.extend(&message);
                if message[0] == FINISHED {
                    assert_eq!(self.received, b"");
                    return Ok(());
                }
            }
            let (kind, body) = self.read_record().map_err(|_| End::Closed)?;
            match kind {
                HANDSHAKE => self.received.extend(body),
                ALERT => return Err(End::Alert(body[1])),
                other => panic!("a record of type {other}"),
            }
        }
    }

    /// A chain of certificates.
    pub(crate) fn certificate(&self, chain: &[&Identity]) -> Vec<u8> {
        let entries: Vec<_> = chain
            .iter()
            .flat_map(|one| [sized(3, &one.certificate), vec![0, 0]].concat())
            .collect();
        message(CERTIFICATE, &[sized(1, b""), sized(3, &entries)].concat())
    }

    /// The proof that this connection is the holder's of `key`.
    pub(crate) fn certificate_verify(&self, key: &KeyPair) -> Vec<u8> {
        self.certificate_verify_as(key, ECDSA_P256_SHA256, "client")
    }

    pub(crate) fn certificate_verify_as(&self, key: &KeyPair, scheme: u16, side: &str) -> Vec<u8> {
        let context = format!("TLS 1.3, {side} CertificateVerify\0");
        let signed = [vec![0x20; 64], context.into_bytes(), hash(&self.transcript)];
        let signature = key.sign(&signed.concat()).expect("a signature");
        let body = [scheme.to_be_bytes().to_vec(), sized(2, &signature)];
        message(CERTIFICATE_VERIFY, &body.concat())
    }

    pub(crate) fn finished(&self) -> Vec<u8> {
        let key = expand(&self.handshake_write, b"finished", b"", 32);
        message(FINISHED, &mac(&key, &hash(&self.transcript)))
    }

    /// Sends a handshake message, which becomes part of the transcript.
    pub(crate) fn send(&mut self, message: &[u8]) {
        self.send_in_pieces(message, message.len());
    }

    pub(crate) fn send_in_pieces(&mut self, message: &[u8], size: usize) {
        self.transcript.extend(message);
        for part in message.chunks(size) {
            self.send_record(HANDSHAKE, part);
        }
    }

    /// From now on as after the client's Finished.
    pub(crate) fn begin(&mut self) {
        self.write = Keys::new(self.application_write.clone());
    }

    /// Certificate, proof and Finished, as an honest client sends them.
    pub(crate) fn authenticate(&mut self, device: &Identity) {
        let key = device.key_pair();
        self.send(&self.certificate(&[device]));
        self.send(&self.certificate_verify(&key));
        self.send(&self.finished());
        self.begin();
    }

    /// A record under the current keys. What the peer does not want any more is lost.
    pub(crate) fn send_record(&mut self, kind: u8, content: &[u8]) {
        let record = self.write.seal(kind, content);
        let _ = self.tcp.write_all(&record);
    }

    /// A KeyUpdate (RFC 8446, section 4.6.3), and the new keys.
    pub(crate) fn key_update(&mut self, requested: bool) -> bool {
        let update = message(KEY_UPDATE, &[u8::from(requested)]);
        let record = self.write.seal(HANDSHAKE, &update);
        self.write = self.write.next();
        self.tcp.write_all(&record).is_ok()
    }

    /// So many KeyUpdates, each with an empty record after it, to be sent at once.
    pub(crate) fn key_updates_and_nothing(&mut self, rounds: usize) -> Vec<u8> {
        let mut records = Vec::new();
        for _ in 0..rounds {
            records.extend(self.write.seal(HANDSHAKE, &message(KEY_UPDATE, &[0])));
            self.write = self.write.next();
            records.extend(self.write.seal(APPLICATION_DATA, b""));
        }
        records
    }

    /// Sends records that are ready. What the peer does not want any more is lost.
    pub(crate) fn send_raw(&mut self, records: &[u8]) {
        let _ = self.tcp.write_all(records);
    }

    pub(crate) fn request(&mut self, host: &str) {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.send_record(APPLICATION_DATA, request.as_bytes());
    }

    /// Reads the next answer, or the end of the connection.
    pub(crate) fn end(&mut self) -> End {
        let mut answer = Vec::new();
        loop {
            match self.read_record() {
                Err(_) => return End::Closed,
                Ok((ALERT, alert)) if alert[1] == 0 => return End::Closed,
                Ok((ALERT, alert)) => return End::Alert(alert[1]),
                Ok((HANDSHAKE, message)) if message[0] == KEY_UPDATE => {
                    self.key_updates += 1;
                    self.read = self.read.next();
                }
                Ok((APPLICATION_DATA, bytes)) => {
                    answer.extend(bytes);
                    let text = String::from_utf8_lossy(&answer).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let lower = head.to_ascii_lowercase();
                    let length = lower.split("content-length: ").nth(1);
                    let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
                    if body.len() >= length.unwrap_or(0) {
                        let code = body.split("\"code\":\"").nth(1);
                        let code = code.and_then(|rest| rest.split('"').next());
                        let status = head[9..12].to_owned();
                        return End::Answer(match code {
                            Some(code) => format!("{status} {code}"),
                            None => status,
                        });
                    }
                }
                Ok((kind, body)) => panic!("a record of type {kind}: {body:x?}"),
            }
        }
    }

    fn read_record(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let (kind, body) = read_raw(&mut self.tcp)?;
            match kind {
                CHANGE_CIPHER_SPEC => {}
                APPLICATION_DATA => return Ok(self.read.open(body)),
                _ => return Ok((kind, body)),
            }
        }
    }
}

impl Keys {
    fn new(secret: Vec<u8>) -> Self {
        let key = expand(&secret, b"key", b"", 16);
        Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).expect("a key")),
            iv: expand(&secret, b"iv", b"", 12),
            sequence: 0,
            secret,
        }
    }

    fn next(&self) -> Self {
        Self::new(expand(&self.secret, b"traffic upd", b"", 32))
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce: [u8; 12] = self.iv.as_slice().try_into().expect("12 bytes");
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut sealed = [content, &[kind]].concat();
        let length = u16::try_from(sealed.len() + 16).expect("a record");
        let header = [vec![APPLICATION_DATA, 3, 3], length.to_be_bytes().to_vec()].concat();
        let nonce = self.nonce();
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(&header), &mut sealed)
            .expect("sealed");
        [header, sealed].concat()
    }

    fn open(&mut self, mut body: Vec<u8>) -> (u8, Vec<u8>) {
        let length = u16::try_from(body.len()).expect("a record");
        let header = [vec![APPLICATION_DATA, 3, 3], length.to_be_bytes().to_vec()].concat();
        let nonce = self.nonce();
        let opened = self.key.open_in_place(nonce, Aad::from(&header), &mut body);
        let mut content = opened.expect("a record under our keys").to_vec();
        while content.last() == Some(&0) {
            content.pop();
        }
        let kind = content.pop().expect("a type");
        (kind, content)
    }
}

/// A handshake message.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [vec![kind], sized(3, body)].concat()
}

pub(crate) fn extension(number: u16, body: &[u8]) -> Vec<u8> {
    [number.to_be_bytes().to_vec(), sized(2, body)].concat()
}

/// Bytes after their length, which takes `width` bytes.
pub(crate) fn sized(width: usize, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().to_be_bytes();
    [&length[length.len() - width..], bytes].concat()
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn read_raw(tcp: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    tcp.read_exact(&mut header)?;
    let mut body = vec![0; number(&header[3..])];
    tcp.read_exact(&mut body)?;
    Ok((header[0], body))
}

/// The server's X25519 share.
fn server_share(hello: &[u8]) -> &[u8] {
    let session = usize::from(hello[38]);
    let mut extensions = &hello[39 + session + 5..];
    while !extensions.is_empty() {
        let length = number(&extensions[2..4]);
        let (one, rest) = extensions.split_at(4 + length);
        if one[..2] == [0, 51] {
            return &one[8..];
        }
        extensions = rest;
    }
    panic!("a share in {hello:x?}");
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

fn mac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, bytes).as_ref().to_vec()
}

/// HKDF-Extract (RFC 5869, section 2.2).
fn extract(salt: &[u8], secret: &[u8]) -> Vec<u8> {
    mac(salt, secret)
}

/// HKDF-Expand-Label (RFC 8446, section 7.1), for at most 32 bytes.
fn expand(secret: &[u8], label: &[u8], context: &[u8], length: u8) -> Vec<u8> {
    let label = [b"tls13 ", label].concat();
    let info = [
        vec![0, length],
        sized(1, &label),
        sized(1, context),
        vec![1],
    ];
    let mut bytes = mac(secret, &info.concat());
    bytes.truncate(usize::from(length));
    bytes
}

/// Derive-Secret, with the hash of the transcript.
fn derive(secret: &[u8], label: &[u8], transcript: &[u8]) -> Vec<u8> {
    expand(secret, label, transcript, 32)
}
