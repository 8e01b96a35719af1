//! The acceptor: from a TCP connection to a finished handshake, or the reason why not. With its policy, because
//! what a policy says and what a handshake does with it are one subject.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use identity::chain::Anchors;
use identity::{Fingerprint, Kind};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, DistinguishedName, Error, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::chain_cache::{ChainCache, ChainKey, Issuer};
use super::fault::HandshakeFault;
use super::handshakes::{Handshakes, Place};
use super::stream::{Connection, TlsStream, receive};
use super::verifier::Verifier;
use super::{LINGER, discard};
use crate::pure::foreign::Voucher;
use crate::pure::host::Host;
use crate::shared::now;

/// What a listener asks of handshakes.
#[derive(Debug)]
pub struct AcceptorOptions {
    /// Whom it believes, and what it shows.
    pub policy: Policy,
    /// The kinds of identity that are accepted.
    pub kinds: &'static [Kind],
    /// The versions of TLS that are spoken.
    pub versions: Versions,
    /// The application protocols, most wanted first.
    pub alpn: Vec<Vec<u8>>,
    /// How long a whole handshake may take.
    pub deadline: Duration,
    /// How many handshakes may run at a time.
    pub max_handshakes: usize,
}

/// Whom a listener believes, and what it shows; replaced as a whole.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Chooses the server's certificate.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// The CAs whose certificates are believed.
    pub anchors: Anchors,
    /// CAs of others, whose certificates are believed where none of ours vouches for one.
    pub foreign: Option<Anchors>,
    /// The subjects of these CAs, told to clients so that they choose the right certificate.
    pub hints: Vec<DistinguishedName>,
    /// Whether a client must have a certificate; also said to clients that ask for no server name.
    pub clients: Clients,
    /// The same, by server name: in lower case, without a dot at its end; `*.` stands for one label.
    pub clients_by_name: HashMap<String, Clients>,
    /// Server names under which other application protocols are spoken, most wanted first; none of them is agreed on
    /// if there are none. In lower case, without a dot at the end.
    pub alpn_by_name: HashMap<String, Vec<Vec<u8>>>,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.3 alone.
    Tls13,
    /// TLS 1.2 too, for clients that never learned better.
    Tls12AndTls13,
}

/// Whether clients must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Without one, the handshake fails.
    Required,
    /// Without one, the handshake succeeds and nobody is identified.
    Optional,
    /// The same, and with one that no anchor vouches for, too: it is told by [`Accepted::untrusted`].
    Any,
}

/// Finishes handshakes for one kind of listener.
pub struct Acceptor {
    configs: ArcSwap<Configs>,
    fixed: Fixed,
    deadline: Duration,
    handshakes: Handshakes,
}

/// What stays as it is when the policy is replaced.
struct Fixed {
    kinds: &'static [Kind],
    versions: Versions,
    alpn: Vec<Vec<u8>>,
}

/// A policy as the TLS library wants it.
struct Configs {
    required: Suited,
    optional: Suited,
    any: Suited,
    /// The judge of those whom `any` let pass.
    verifier: Arc<Verifier>,
    /// What all of them found out.
    proven: Arc<ChainCache>,
    /// Those that they believe.
    anchors: Anchors,
    foreign: Option<Anchors>,
    /// For names with protocols of their own, where a certificate is always required.
    by_name: HashMap<String, Suited>,
    clients: Clients,
    clients_by_name: HashMap<String, Clients>,
}

/// The same policy for clients with and without hardware for AES.
struct Suited {
    aes: Arc<ServerConfig>,
    chacha: Arc<ServerConfig>,
}

/// A policy for one acceptor, ready to be put in force.
pub struct Prepared(Arc<Configs>);

/// A handshake of which the ClientHello came.
pub(crate) struct Greeted<'a> {
    acceptor: &'a Acceptor,
    place: Place<'a>,
    deadline: Instant,
    tcp: TcpStream,
    hello: Box<rustls::server::Accepted>,
    /// The ClientHello as it came, and what came after it.
    received: Vec<u8>,
}

/// A finished handshake.
#[derive(Debug)]
pub struct Accepted {
    /// The encrypted connection.
    pub stream: TlsStream,
    /// What the client proved, if it has a certificate that an anchor vouches for.
    pub client: Option<Client>,
    /// The client has a certificate that was let pass although no anchor vouches for it: why.
    pub untrusted: Option<HandshakeFault>,
    /// The server name that the client asked for (RFC 6066, section 3), in lower case.
    pub server_name: Option<String>,
    /// The application protocol that was agreed on.
    pub alpn: Option<Vec<u8>>,
}

/// A client's certificate, and who vouches for it.
#[derive(Debug)]
pub struct Client {
    /// The certificate whose key the client proved to hold, and for which an anchor vouches. Its validity,
    /// usages and status are not judged yet.
    pub certificate: CertificateDer<'static>,
    /// What the client sent beside its certificate: anything.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// The anchors that vouch for it: ours, or those of others.
    pub anchors: Anchors,
    /// Which one of others does; none if one of ours does.
    pub foreign: Option<Voucher>,
}

impl Acceptor {
    /// Fails if the crypto provider cannot speak these versions of TLS.
    pub fn new(options: AcceptorOptions) -> Result<Self, Error> {
        let fixed = Fixed {
            kinds: options.kinds,
            versions: options.versions,
            alpn: options.alpn,
        };
        Ok(Self {
            configs: ArcSwap::from_pointee(Configs::new(options.policy, &fixed)?),
            fixed,
            deadline: options.deadline,
            handshakes: Handshakes::new(options.max_handshakes),
        })
    }

    /// Puts another policy in force, for handshakes that begin from now on; an error leaves the old one.
    pub fn replace(&self, policy: Policy) -> Result<(), Error> {
        self.publish(self.prepare(policy)?);
        Ok(())
    }

    /// A policy that [`Self::publish`] puts in force, which cannot fail any more.
    pub fn prepare(&self, policy: Policy) -> Result<Prepared, Error> {
        Configs::new(policy, &self.fixed).map(|configs| Prepared(Arc::new(configs)))
    }

    /// Puts a policy in force, for handshakes that begin from now on.
    pub fn publish(&self, policy: Prepared) {
        self.configs.store(policy.0);
    }

    /// Waits until one more handshake displaces none that has only just begun.
    pub(crate) async fn has_room(&self) {
        self.handshakes.room().await;
    }

    /// Finishes the handshake on a connection, or ends the connection.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Accepted, HandshakeFault> {
        self.greet(tcp).await?.finish().await
    }

    /// Waits for the whole ClientHello, however it was cut: the name in it chooses what is asked of the client. Costs next to
    /// nothing.
    pub(crate) async fn greet(&self, mut tcp: TcpStream) -> Result<Greeted<'_>, HandshakeFault> {
        let place = self.handshakes.enter();
        let deadline = Instant::now() + self.deadline;
        // Boxed, like what follows, so that connections do not carry the room for it all their lives.
        let greeting = Box::pin(client_hello(&mut tcp));
        match within(deadline, &place, greeting).await? {
            Ok((hello, received)) => {
                place.begin();
                Ok(Greeted {
                    acceptor: self,
                    place,
                    deadline,
                    tcp,
                    hello,
                    received,
                })
            }
            Err(error) => {
                drop(place);
                close_after_alert(tcp).await;
                Err(HandshakeFault::from_io(&error))
            }
        }
    }
}

impl Greeted<'_> {
    /// Finishes the handshake, which costs nearly all that a handshake costs, or ends the connection.
    pub(crate) async fn finish(self) -> Result<Accepted, HandshakeFault> {
        let Self {
            acceptor,
            place,
            deadline,
            tcp,
            hello,
            received,
        } = self;
        let configs = acceptor.configs.load_full();
        let asked = hello.client_hello();
        let server_name = asked.server_name().map(str::to_ascii_lowercase);
        let (suited, clients) = configs.choose(asked.server_name());
        let config = suited.for_client(asked.cipher_suites());
        drop(hello);
        let mut connection = Connection::new(tcp, config, received)
            .map_err(|error| HandshakeFault::from_tls(&error))?;
        let outcome = within(deadline, &place, Box::pin(connection.handshake())).await?;
        drop(place);
        if let Err(error) = outcome {
            close_after_alert(connection.into_tcp()).await;
            return Err(HandshakeFault::from_io(&error));
        }
        let session = connection.session();
        let untrusted = match clients {
            Clients::Required | Clients::Optional => None,
            Clients::Any => configs.untrusted(session.peer_certificates()),
        };
        let client = match session.peer_certificates() {
            Some([certificate, others @ ..]) if untrusted.is_none() => {
                Some(configs.client(certificate, others)?)
            }
            Some(_) | None => None,
        };
        let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
        Ok(Accepted {
            stream: connection.into_stream(),
            client,
            untrusted,
            server_name,
            alpn,
        })
    }
}

/// Receives the whole ClientHello, and returns it with the bytes that it came in. A peer that sends something else was sent
/// the alert, if that could leave at once.
async fn client_hello(tcp: &mut TcpStream) -> io::Result<(Box<rustls::server::Accepted>, Vec<u8>)> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut received = Vec::new();
    loop {
        let accepted = receive(tcp, |mut piece| {
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(piece);
            while !piece.is_empty() {
                acceptor.read_tls(&mut piece)?;
                let accepted = acceptor.accept();
                if !matches!(accepted, Ok(None)) {
                    return Ok(accepted);
                }
            }
            Ok(Ok(None))
        })
        .await?;
        match accepted {
            Ok(None) => {}
            Ok(Some(hello)) => {
                received.shrink_to_fit();
                return Ok((Box::new(hello), received));
            }
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                let _ = tcp.try_write(&bytes);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

/// Takes a step of a handshake, until its deadline or until its place is needed.
async fn within<T>(
    deadline: Instant,
    place: &Place<'_>,
    step: impl Future<Output = T>,
) -> Result<T, HandshakeFault> {
    tokio::select! {
        biased;
        // First, so that nothing more is computed for it.
        () = place.displaced() => Err(HandshakeFault::Displaced),
        done = timeout_at(deadline, step) => done.map_err(|_| HandshakeFault::Timeout),
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Configs {
    fn new(policy: Policy, fixed: &Fixed) -> Result<Self, Error> {
        let provider = Arc::new(provider(is_aes_128));
        let chacha = Arc::new(self::provider(is_chacha));
        let proven = Arc::new(ChainCache::new());
        let verifier = |clients| Verifier {
            anchors: policy.anchors.clone(),
            foreign: policy.foreign.clone(),
            hints: policy.hints.clone(),
            clients,
            kinds: fixed.kinds,
            provider: Arc::clone(&provider),
            proven: Arc::clone(&proven),
        };
        let config = |clients, alpn: &[Vec<u8>], provider: &Arc<CryptoProvider>| {
            let versions: &[&SupportedProtocolVersion] = match fixed.versions {
                Versions::Tls13 => &[&TLS13],
                Versions::Tls12AndTls13 => &[&TLS13, &TLS12],
            };
            let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
                .with_protocol_versions(versions)?
                .with_client_cert_verifier(Arc::new(verifier(clients)))
                .with_cert_resolver(Arc::clone(&policy.certificate));
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config.max_early_data_size = 0;
            config.alpn_protocols = alpn.to_vec();
            config.ignore_client_order = true;
            Ok::<_, Error>(Arc::new(config))
        };
        let suited = |clients, alpn: &[Vec<u8>]| {
            Ok::<_, Error>(Suited {
                aes: config(clients, alpn, &provider)?,
                chacha: config(clients, alpn, &chacha)?,
            })
        };
        Ok(Self {
            anchors: policy.anchors.clone(),
            foreign: policy.foreign.clone(),
            required: suited(Clients::Required, &fixed.alpn)?,
            optional: suited(Clients::Optional, &fixed.alpn)?,
            any: suited(Clients::Any, &fixed.alpn)?,
            verifier: Arc::new(verifier(Clients::Required)),
            proven: Arc::clone(&proven),
            by_name: (policy.alpn_by_name.iter())
                .map(|(name, alpn)| Ok((name.clone(), suited(Clients::Required, alpn)?)))
                .collect::<Result<_, Error>>()?,
            clients: policy.clients,
            clients_by_name: policy.clients_by_name,
        })
    }

    /// Who vouches for a certificate that the verifier let pass; it has no way to tell.
    fn client(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<Client, HandshakeFault> {
        let client = |foreign, anchors: &Anchors| Client {
            certificate: certificate.clone().into_owned(),
            intermediates: others.iter().map(|one| one.clone().into_owned()).collect(),
            anchors: anchors.clone(),
            foreign,
        };
        let Some(foreign) = &self.foreign else {
            return Ok(client(None, &self.anchors));
        };
        let key = ChainKey::of(certificate, others);
        let voucher = match self.proven.issuer(&key) {
            Some(Issuer::Ours) => return Ok(client(None, &self.anchors)),
            Some(Issuer::Foreign(anchor)) => voucher(foreign, anchor, true),
            // There is another CA between them, or so many devices came meanwhile that this one was forgotten.
            None => {
                let now = now();
                if self.anchors.verify(certificate, others, now).is_ok() {
                    return Ok(client(None, &self.anchors));
                }
                let path = foreign.verify(certificate, others, now).ok();
                path.and_then(|path| voucher(foreign, path.anchor, path.intermediate.is_none()))
            }
        };
        match voucher {
            Some(voucher) => Ok(client(Some(voucher), foreign)),
            // A CA between them has expired in the meantime.
            None => Err(HandshakeFault::UnknownIssuer),
        }
    }

    fn choose(&self, server_name: Option<&str>) -> (&Suited, Clients) {
        if !self.by_name.is_empty()
            && let Some(Ok(host)) = server_name.map(Host::from_name)
            && let Some(config) = self.by_name.get(host.as_str())
        {
            return (config, Clients::Required);
        }
        let clients = self.clients_of(server_name);
        let config = match clients {
            Clients::Required => &self.required,
            Clients::Optional => &self.optional,
            Clients::Any => &self.any,
        };
        (config, clients)
    }

    /// Why no anchor vouches for what a client presented: the handshake let it pass and tells nobody.
    fn untrusted(&self, presented: Option<&[CertificateDer<'_>]>) -> Option<HandshakeFault> {
        let (leaf, intermediates) = presented?.split_first()?;
        let judged = self.verifier.judge(leaf, intermediates, UnixTime::now());
        judged.err().map(|error| HandshakeFault::from_tls(&error))
    }

    fn clients_of(&self, server_name: Option<&str>) -> Clients {
        if self.clients_by_name.is_empty() {
            return self.clients;
        }
        let Some(Ok(host)) = server_name.map(Host::from_name) else {
            return self.clients;
        };
        let exact = self.clients_by_name.get(host.as_str());
        let found = exact.or_else(|| {
            let (_, parent) = host.as_str().split_once('.')?;
            self.clients_by_name.get(&format!("*.{parent}"))
        });
        found.copied().unwrap_or(self.clients)
    }
}

fn voucher(foreign: &Anchors, anchor: usize, is_issuer: bool) -> Option<Voucher> {
    Some(Voucher {
        authority: Fingerprint::of(foreign.certificate(anchor)?),
        is_issuer,
    })
}

impl Suited {
    /// A client without hardware for AES says so by wanting ChaCha20 most. Of AES, most clients want 256 bits first, which
    /// protect nothing better here and make every handshake pay for SHA-384.
    fn for_client(&self, wanted: &[CipherSuite]) -> Arc<ServerConfig> {
        let suites = &self.chacha.crypto_provider().cipher_suites;
        let is_known = |wanted: &&CipherSuite| suites.iter().any(|suite| suite.suite() == **wanted);
        let most = wanted.iter().find(is_known);
        Arc::clone(if most.copied().is_some_and(is_chacha) {
            &self.chacha
        } else {
            &self.aes
        })
    }
}

fn is_chacha(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// aws-lc-rs with the key exchanges that a device may use, and some cipher suites before the others.
fn provider(is_preferred: fn(CipherSuite) -> bool) -> CryptoProvider {
    let mut cipher_suites = aws_lc_rs::DEFAULT_CIPHER_SUITES.to_vec();
    // Those of TLS 1.3 stay first.
    cipher_suites.sort_by_key(|suite| (suite.tls13().is_none(), !is_preferred(suite.suite())));
    CryptoProvider {
        cipher_suites,
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Lets the alert arrive: closing a socket with unread bytes would reset it, and the alert would be lost.
async fn close_after_alert(mut tcp: TcpStream) {
    let drained = async {
        tcp.shutdown().await?;
        discard(&tcp, MAX_DISCARDED).await
    };
    // However it ends, the connection is closed now.
    let _ = tokio::time::timeout(LINGER, drained).await;
}

const MAX_DISCARDED: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::super::ServerCertificate;
    use super::*;

    fn check(configs: &Configs, server_name: Option<&str>, expected: Clients) {
        assert_eq!(configs.clients_of(server_name), expected, "{server_name:?}");
        let (chosen, clients) = configs.choose(server_name);
        assert_eq!(clients, expected, "{server_name:?}");
        let strict = std::ptr::eq(chosen, &raw const configs.required);
        assert_eq!(strict, expected == Clients::Required, "{server_name:?}");
        let lenient = std::ptr::eq(chosen, &raw const configs.any);
        assert_eq!(lenient, expected == Clients::Any, "{server_name:?}");
    }

    #[test]
    fn the_server_name_says_whether_a_certificate_is_needed() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(vec!["a.test".into()])
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        let der = certificate.der().clone();
        let fixed = Fixed {
            kinds: &[Kind::Device],
            versions: Versions::Tls13,
            alpn: vec![],
        };
        let policy = Policy {
            anchors: Anchors::new(std::slice::from_ref(&der)).expect("an anchor"),
            foreign: None,
            hints: vec![],
            clients: Clients::Required,
            alpn_by_name: HashMap::from([("mqtt.test".to_owned(), vec![b"mqtt".to_vec()])]),
            clients_by_name: HashMap::from([
                ("open.test".to_owned(), Clients::Optional),
                ("*.wild.test".to_owned(), Clients::Optional),
                ("reported.test".to_owned(), Clients::Any),
                ("closed.wild.test".to_owned(), Clients::Required),
            ]),
            certificate: Arc::new(
                ServerCertificate::new(
                    vec![der],
                    key.serialize_der().try_into().expect("a key in PKCS #8"),
                )
                .expect("a certificate with its key"),
            ),
        };
        let configs = Configs::new(policy, &fixed).expect("a policy");
        check(&configs, Some("open.test"), Clients::Optional);
        check(&configs, Some("OPEN.test"), Clients::Optional);
        check(&configs, Some("a.wild.test"), Clients::Optional);
        check(&configs, Some("reported.test"), Clients::Any);
        check(&configs, Some("closed.wild.test"), Clients::Required);
        check(&configs, Some("a.b.wild.test"), Clients::Required);
        check(&configs, Some("wild.test"), Clients::Required);
        check(&configs, Some("other.test"), Clients::Required);
        check(&configs, None, Clients::Required);
        let alpn = |name| configs.choose(Some(name)).0.aes.alpn_protocols.clone();
        assert_eq!(alpn("MQTT.test"), [b"mqtt"]);
        assert!(alpn("other.test").is_empty());

        let suite = |wanted: &[u16]| {
            let wanted: Vec<_> = wanted
                .iter()
                .map(|suite| CipherSuite::from(*suite))
                .collect();
            configs
                .required
                .for_client(&wanted)
                .crypto_provider()
                .cipher_suites[0]
                .suite()
        };
        // GREASE, AES-256, ChaCha20, AES-128 (RFC 8701, section 2; RFC 8446, appendix B.4).
        assert_eq!(
            suite(&[0x1a1a, 0x1302, 0x1303, 0x1301]),
            CipherSuite::TLS13_AES_128_GCM_SHA256
        );
        assert_eq!(
            suite(&[0x1a1a, 0x1303, 0x1301]),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        );
        assert_eq!(suite(&[]), CipherSuite::TLS13_AES_128_GCM_SHA256);
    }

    #[tokio::test]
    async fn nothing_more_is_computed_for_whoever_made_room() {
        let handshakes = Handshakes::new(1);
        let first = handshakes.enter();
        let _second = handshakes.enter();
        let deadline = Instant::now() + Duration::from_secs(10);
        let step = async { panic!("a step was taken") };
        let ended: Result<(), _> = within(deadline, &first, step).await;
        assert!(matches!(ended, Err(HandshakeFault::Displaced)));
    }
}
