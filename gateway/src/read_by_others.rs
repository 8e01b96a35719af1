//! What the dialects say, read by others: nginx and Envoy write their own headers for the same certificates, and
//! parsers that are not ours (`tests/peers/`) read these. The certificates are made by hand, for no library makes such.
//! Long, because the odd certificates and all their readers share one table.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use rustls_pki_types::CertificateDer;

use crate::pure::dialects::{Dialect, Field, Inexpressible, Proven, fields};
use crate::pure::identity_names::preset;

const DIALECTS: [Dialect; Dialect::COUNT] = [
    Dialect::ClientCert,
    Dialect::ClientCertChain,
    Dialect::Xfcc,
    Dialect::Nginx,
    Dialect::Traefik,
    Dialect::AwsAlb,
    Dialect::Cloudflare,
];

/// An attribute: its type, and the tag and content of its value.
type Attribute = (&'static [u64], u8, Vec<u8>);

struct Case {
    name: &'static str,
    subject: Vec<Vec<Attribute>>,
    /// Context tags and contents of subjectAltName.
    names: Vec<(u8, Vec<u8>)>,
    serial: Vec<u8>,
    /// The dialects that cannot tell it, and why.
    refused: Vec<(Dialect, Inexpressible)>,
    /// Whether the parsers of `tests/peers/` do not read it.
    broken: bool,
}

fn case(name: &'static str, subject: Vec<Vec<Attribute>>, names: &[(u8, &[u8])]) -> Case {
    Case {
        name,
        subject,
        names: names
            .iter()
            .map(|(tag, content)| (*tag, content.to_vec()))
            .collect(),
        serial: vec![1, 2, 3],
        refused: vec![],
        broken: false,
    }
}

fn rdn(kind: &'static [u64], value: &str) -> Vec<Attribute> {
    vec![(kind, UTF8, value.as_bytes().to_vec())]
}

fn corpus() -> Vec<Case> {
    use Dialect::{Traefik, Xfcc};
    use Inexpressible::{Character, Several, Text};
    let spiffe: (u8, &[u8]) = (URI, b"spiffe://keybound.local/device/thermostat-7");
    let wide: Vec<u8> = "Ωmega, Ltd"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    let universal: Vec<u8> = "🐎"
        .chars()
        .flat_map(|c| u32::from(c).to_be_bytes())
        .collect();
    vec![
        case("ours", vec![rdn(CN, "thermostat-7")], &[spiffe]),
        case(
            "ordinary",
            vec![
                vec![(COUNTRY, PRINTABLE, b"CZ".to_vec())],
                rdn(STATE, "Praha"),
                rdn(LOCALITY, "Praha 1"),
                rdn(ORGANIZATION, "Acme (Prague) s.r.o."),
                rdn(UNIT, "Sensors"),
                rdn(UNIT, "Indoor"),
                rdn(SERIAL_NUMBER, "SN-00/17"),
                vec![(EMAIL, IA5, b"ops@acme.example".to_vec())],
                vec![(DOMAIN, IA5, b"acme".to_vec())],
                rdn(CN, "sensor 17"),
            ],
            &[
                spiffe,
                (DNS, b"sensor-17.acme.example"),
                (URI, b"urn:dev:mac:0024befffe804ff1"),
                (MAIL, b"ops@acme.example"),
                (IP, &[10, 0, 0, 17]),
                (
                    IP,
                    &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                ),
                (DNS, b"*.acme.example"),
            ],
        ),
        Case {
            refused: vec![(Traefik, Character)],
            ..case(
                "separators in a name",
                vec![
                    rdn(ORGANIZATION, "Acme, \"Inc.\"; <x>+y=z\\"),
                    rdn(CN, "device-1, CN=device-2"),
                ],
                &[spiffe],
            )
        },
        Case {
            refused: vec![(Traefik, Character)],
            ..case(
                "a name that ends the header's value",
                vec![rdn(CN, "a\";URI=\"urn:dev:admin")],
                &[spiffe],
            )
        },
        case(
            "letters of the world",
            vec![rdn(CN, "Žluťoučký kůň 🐎"), rdn(ORGANIZATION, "株式会社")],
            &[spiffe],
        ),
        Case {
            refused: vec![(Traefik, Character)],
            ..case(
                "wide string types",
                vec![vec![(CN, BMP, wide)], vec![(UNIT, UNIVERSAL, universal)]],
                &[],
            )
        },
        Case {
            broken: true,
            ..case(
                "Latin-1",
                vec![vec![(ORGANIZATION, TELETEX, b"Caf\xe9".to_vec())]],
                &[],
            )
        },
        case(
            "spaces and number signs",
            vec![
                rdn(CN, " #x "),
                rdn(ORGANIZATION, "#y"),
                rdn(UNIT, " "),
                rdn(UNIT, "a  b"),
            ],
            &[spiffe],
        ),
        Case {
            refused: vec![(Traefik, Several)],
            ..case(
                "several attributes in one place",
                vec![
                    vec![
                        (CN, UTF8, b"b".to_vec()),
                        (SERIAL_NUMBER, PRINTABLE, b"1".to_vec()),
                    ],
                    rdn(CN, "a"),
                ],
                &[spiffe],
            )
        },
        Case {
            refused: vec![(Traefik, Character)],
            ..case(
                "control characters",
                vec![rdn(CN, "device-1\0.evil\r\nX-Device-Id: admin\x7f")],
                &[spiffe],
            )
        },
        case(
            "attributes that nobody knows",
            vec![
                vec![(&[1, 3, 6, 1, 4, 1, 99_999, 1], UTF8, b"x, y".to_vec())],
                rdn(CN, "a"),
            ],
            &[],
        ),
        Case {
            broken: true,
            ..case(
                "a value that is no text",
                vec![
                    vec![(&[2, 5, 4, 45], BIT_STRING, vec![0, 0xa5])],
                    rdn(CN, "a"),
                ],
                &[],
            )
        },
        Case {
            refused: vec![
                (Xfcc, Text),
                (Dialect::Nginx, Text),
                (Traefik, Text),
                (Dialect::AwsAlb, Text),
            ],
            broken: true,
            ..case(
                "not the UTF-8 that it says it is",
                vec![vec![(CN, UTF8, b"\xff\xfea".to_vec())]],
                &[],
            )
        },
        case("no subject", vec![], &[spiffe]),
        Case {
            refused: vec![(Traefik, Character)],
            ..case(
                "alternative names with separators",
                vec![],
                &[
                    (URI, b"urn:dev:1;URI=\"urn:dev:admin\",By=x"),
                    (DNS, b"a\",Hash=\"0"),
                ],
            )
        },
        Case {
            refused: vec![(Traefik, Character), (Xfcc, Character)],
            ..case("a backslash", vec![], &[(URI, b"urn:dev:1\\")])
        },
        Case {
            refused: vec![(Traefik, Character), (Xfcc, Character)],
            ..case(
                "a line's end",
                vec![],
                &[(URI, b"urn:dev:1\r\nX-Device-Id: a")],
            )
        },
        Case {
            refused: vec![(Traefik, Character), (Xfcc, Character)],
            ..case("a NUL", vec![], &[(DNS, b"a.example\0.evil")])
        },
        Case {
            serial: [&[0, 0xff][..], &[0xee; 18]].concat(),
            ..case("a long serial number", vec![rdn(CN, "a")], &[spiffe])
        },
        Case {
            serial: vec![0x0a],
            ..case("a short serial number", vec![rdn(CN, "a")], &[spiffe])
        },
        Case {
            serial: vec![0],
            broken: true,
            ..case("serial number zero", vec![rdn(CN, "a")], &[spiffe])
        },
        Case {
            serial: vec![0x80, 1],
            refused: vec![
                (Dialect::Nginx, Inexpressible::Serial),
                (Traefik, Inexpressible::Serial),
                (Dialect::AwsAlb, Inexpressible::Serial),
            ],
            broken: true,
            ..case("a negative serial number", vec![rdn(CN, "a")], &[spiffe])
        },
    ]
}

/// A corpus with its certificates, and who certified them.
struct Fleet {
    key: KeyPair,
    root: CertificateDer<'static>,
    issuer: CertificateDer<'static>,
    devices: Vec<(Case, CertificateDer<'static>)>,
}

impl Fleet {
    fn new() -> Self {
        let (root_key, issuer_key) = (key(), key());
        let root_name = name(&[rdn(CN, "Root")]);
        let issuer_name = name(&[
            vec![(COUNTRY, PRINTABLE, b"DE".to_vec())],
            rdn(ORGANIZATION, "Müller & Söhne"),
            rdn(CN, "Device CA"),
        ]);
        let ca = [CA_CONSTRAINTS, CA_USAGE].concat();
        let root = certificate((&root_name, &root_key), &root_name, &root_key, &[1], &ca);
        let issuer = certificate(
            (&root_name, &root_key),
            &issuer_name,
            &issuer_key,
            &[2],
            &ca,
        );
        let key = key();
        let devices = corpus()
            .into_iter()
            .map(|case| {
                let mut extensions = CLIENT_USAGE.to_vec();
                if !case.names.is_empty() {
                    let names: Vec<u8> = case
                        .names
                        .iter()
                        .flat_map(|(tag, content)| tlv(*tag, content))
                        .collect();
                    let value = tlv(0x04, &tlv(0x30, &names));
                    let extension = [tlv(0x06, &[0x55, 0x1d, 0x11]), value].concat();
                    extensions.extend(tlv(0x30, &extension));
                }
                let by = (issuer_name.as_slice(), &issuer_key);
                let subject = name(&case.subject);
                let leaf = certificate(by, &subject, &key, &case.serial, &extensions);
                (case, leaf)
            })
            .collect();
        Self {
            key,
            root,
            issuer,
            devices,
        }
    }

    fn told(
        &self,
        leaf: &CertificateDer<'_>,
        dialect: Dialect,
    ) -> Result<Vec<Field>, Inexpressible> {
        let issuers = std::slice::from_ref(&self.issuer);
        fields(dialect, Proven { leaf, issuers })
    }
}

#[test]
fn each_dialect_says_all_or_nothing() {
    let fleet = Fleet::new();
    let mut set = Vec::new();
    for (case, leaf) in &fleet.devices {
        for dialect in DIALECTS {
            let refused = case.refused.iter().find(|(one, _)| *one == dialect);
            match (fleet.told(leaf, dialect), refused) {
                (Ok(fields), None) => {
                    assert!(fields.iter().all(|(_, value)| value.is_sensitive()));
                    set.extend(fields.into_iter().map(|(name, _)| name.to_string()));
                }
                (told, refused) => assert_eq!(
                    told.map(|_| ()).err(),
                    refused.map(|(_, fault)| *fault),
                    "{}: {dialect:?}",
                    case.name
                ),
            }
        }
    }
    set.sort();
    set.dedup();
    let mut names = preset::NAMES.to_vec();
    // These are no dialects of certificates.
    let others = [
        preset::DEVICE_ID,
        preset::DEVICE_ASSERTION,
        preset::DEVICE_VIA,
    ];
    names.retain(|name| !others.contains(name));
    names.sort_unstable();
    assert_eq!(set, names);
}

#[test]
fn a_chain_without_a_certificate_is_no_header() {
    let fleet = Fleet::new();
    let proven = Proven {
        leaf: &fleet.root,
        issuers: &[],
    };
    let told = fields(Dialect::ClientCertChain, proven).expect("a certificate");
    let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [preset::CLIENT_CERT]);
}

#[test]
fn other_parsers_read_the_certificate_from_every_header() {
    let fleet = Fleet::new();
    let mut expected = 0;
    let mut cases = Vec::new();
    for (case, leaf) in fleet.devices.iter().filter(|(case, _)| !case.broken) {
        let told = DIALECTS
            .iter()
            .filter_map(|dialect| fleet.told(leaf, *dialect).ok())
            .flatten();
        let headers: serde_json::Map<_, _> = told
            .map(|(name, value)| {
                let value = value.to_str().expect("visible ASCII");
                (name.to_string(), value.into())
            })
            .collect();
        expected += headers.len();
        cases.push(serde_json::json!({
            "name": case.name,
            "leaf": STANDARD.encode(leaf),
            "issuers": [STANDARD.encode(&fleet.issuer)],
            "headers": headers,
        }));
    }
    let mut python = Command::new(peer("python"))
        .arg("-W")
        .arg("ignore")
        .arg(root().join("tests/peers/read_identity_headers.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(INSTALLED);
    let input = serde_json::Value::from(cases).to_string();
    python
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("written");
    let output = python.wait_with_output().expect("ended");
    assert!(output.status.success());
    let read = String::from_utf8_lossy(&output.stdout);
    assert_eq!(read.trim(), expected.to_string());
}

#[test]
fn nginx_says_the_same_byte_for_byte() {
    let fleet = Fleet::new();
    let directory = tempfile::tempdir().expect("a directory");
    let files = Files::write(&fleet, directory.path());
    let folder = directory.path().display();
    let configuration = format!(
        "daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
         events {{ worker_connections 64; }}
         http {{
           access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
           fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
           server {{
             listen 127.0.0.1:{port} ssl; ssl_certificate {server}; ssl_certificate_key {key};
             ssl_client_certificate {root}; ssl_verify_client on; ssl_verify_depth 3;
             return 200 \"$ssl_client_verify\\n$ssl_client_s_dn\\n$ssl_client_i_dn\\n$ssl_client_serial\\n$ssl_client_fingerprint\\n$ssl_client_escaped_cert\";
           }}
         }}",
        port = files.port,
        server = files.path("server.pem"),
        key = files.path("key.pem"),
        root = files.path("root.pem"),
    );
    let path = files.path("nginx.conf");
    fs::write(&path, configuration).expect("written");
    let nginx = Peer::start(
        Command::new("nginx")
            .env("PATH", path_with_sbin())
            .args(["-c", &path]),
        files.port,
    );
    for (case, leaf) in &fleet.devices {
        let Ok(told) = fleet.told(leaf, Dialect::Nginx) else {
            continue;
        };
        let ours: Vec<_> = told
            .iter()
            .map(|(_, value)| value.to_str().expect("visible ASCII"))
            .collect();
        let theirs = files.get(leaf, &fleet.issuer, "/");
        let theirs: Vec<_> = theirs.split('\n').collect();
        assert_eq!(ours, theirs, "{}", case.name);
    }
    drop(nginx);
}

#[test]
fn envoy_says_the_same_with_fewer_quotation_marks() {
    let fleet = Fleet::new();
    let directory = tempfile::tempdir().expect("a directory");
    let files = Files::write(&fleet, directory.path());
    let configuration = ENVOY
        .replace("PORT", &files.port.to_string())
        .replace("SERVER", &files.path("server.pem"))
        .replace("KEY", &files.path("key.pem"))
        .replace("ROOT", &files.path("root.pem"));
    let path = files.path("envoy.yaml");
    fs::write(&path, configuration).expect("written");
    let envoy = Peer::start(
        Command::new(peer("envoy"))
            .args(["-c", &path, "--disable-hot-restart", "--concurrency", "1"])
            .args(["--log-level", "error"]),
        files.port,
    );
    let mut compared = 0;
    for (case, leaf) in &fleet.devices {
        // Of the others, Envoy writes what only some can read.
        if !["ours", "ordinary", "no subject", "a long serial number"].contains(&case.name) {
            continue;
        }
        let told = fleet.told(leaf, Dialect::Xfcc).expect("expressible");
        let ours = told[0].1.to_str().expect("visible ASCII");
        let fewer: Vec<_> = ours
            .split(';')
            .map(|field| match field.split_once('=') {
                Some((key @ ("Hash" | "URI" | "DNS"), value)) => {
                    format!("{key}={}", value.trim_matches('"'))
                }
                Some(_) | None => field.to_owned(),
            })
            .collect();
        let theirs = files.get(leaf, &fleet.issuer, "/");
        assert_eq!(fewer.join(";"), theirs, "{}", case.name);
        compared += 1;
    }
    assert_eq!(compared, 4);
    drop(envoy);
}

const ENVOY: &str = r#"
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: PORT } }
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificates:
            - { certificate_chain: { filename: "SERVER" }, private_key: { filename: "KEY" } }
            validation_context: { trusted_ca: { filename: "ROOT" } }
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          forward_client_cert_details: SANITIZE_SET
          set_current_client_cert_details: { cert: true, chain: true, subject: true, uri: true, dns: true }
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: "/" }
                direct_response: { status: 200 }
                response_headers_to_add:
                - header: { key: x-seen, value: "%REQ(x-forwarded-client-cert)%" }
"#;

/// The files that the servers and curl need.
struct Files {
    folder: PathBuf,
    port: u16,
}

impl Files {
    fn write(fleet: &Fleet, folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let files = Self {
            folder: folder.to_owned(),
            port: listener.local_addr().expect("bound").port(),
        };
        let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .expect("a name")
            .self_signed(&fleet.key)
            .expect("a certificate");
        fs::write(files.path("server.pem"), pem(server.der())).expect("written");
        fs::write(files.path("root.pem"), pem(&fleet.root)).expect("written");
        fs::write(files.path("key.pem"), fleet.key.serialize_pem()).expect("written");
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The body of an answer, or of Envoy's the header in which it says what it would forward.
    fn get(&self, leaf: &[u8], issuer: &[u8], path: &str) -> String {
        let chain = [pem(leaf), pem(issuer)].concat();
        fs::write(self.path("device.pem"), chain).expect("written");
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--insecure",
                "--include",
                "--http1.1",
            ])
            .args(["--max-time", "10", "--cert", &self.path("device.pem")])
            .args(["--key", &self.path("key.pem")])
            .arg(format!("https://127.0.0.1:{}{path}", self.port))
            .output()
            .expect("curl");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 200 "),
            "{answer} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        match head
            .split("\r\n")
            .find_map(|line| line.strip_prefix("x-seen: "))
        {
            Some(seen) => seen.to_owned(),
            None => body.to_owned(),
        }
    }
}

/// A server that ends with its value.
struct Peer(Child);

impl Peer {
    fn start(command: &mut Command, port: u16) -> Self {
        let mut peer = Self(command.spawn().expect(INSTALLED));
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(peer.0.try_wait().expect("a child"), None, "it ended");
            assert!(Instant::now() < deadline, "nobody listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Gently, because nginx has children of its own.
        let _ = Command::new("kill")
            .args(["-TERM", &self.0.id().to_string()])
            .status();
        let _ = self.0.wait();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
}

fn peer(name: &str) -> PathBuf {
    root().join("target/peers/bin").join(name)
}

fn path_with_sbin() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

const INSTALLED: &str = "installed by tests/run (tests/peers/install)";

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<_> = encoded
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// A certificate for `key`, issued by a name with its key.
fn certificate(
    by: (&[u8], &KeyPair),
    subject: &[u8],
    key: &KeyPair,
    serial: &[u8],
    extensions: &[u8],
) -> CertificateDer<'static> {
    let validity = [tlv(0x17, b"200101000000Z"), tlv(0x17, b"491231235959Z")].concat();
    let tbs = [
        &[0xa0, 3, 2, 1, 2][..],
        &tlv(0x02, serial),
        ECDSA_WITH_SHA256,
        by.0,
        &tlv(0x30, &validity),
        subject,
        &key.subject_public_key_info(),
        &tlv(0xa3, &tlv(0x30, extensions)),
    ]
    .concat();
    let tbs = tlv(0x30, &tbs);
    let mut signature = vec![0];
    signature.extend(by.1.sign(&tbs).expect("a signature"));
    let whole = [&tbs[..], ECDSA_WITH_SHA256, &tlv(0x03, &signature)].concat();
    tlv(0x30, &whole).into()
}

fn name(rdns: &[Vec<Attribute>]) -> Vec<u8> {
    let rdns: Vec<u8> = rdns
        .iter()
        .flat_map(|rdn| {
            let attributes: Vec<u8> = rdn
                .iter()
                .flat_map(|(kind, tag, content)| {
                    tlv(0x30, &[tlv(0x06, &oid(kind)), tlv(*tag, content)].concat())
                })
                .collect();
            tlv(0x31, &attributes)
        })
        .collect();
    tlv(0x30, &rdns)
}

fn oid(arcs: &[u64]) -> Vec<u8> {
    let first = [arcs[0] * 40 + arcs[1]];
    let mut content = Vec::new();
    for arc in first.iter().chain(&arcs[2..]) {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    content
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let header: &[u8] = match content.len() {
        0..=0x7f => &[tag, low],
        0x80..=0xff => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [header, content].concat()
}

const CN: &[u64] = &[2, 5, 4, 3];
const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];
const COUNTRY: &[u64] = &[2, 5, 4, 6];
const LOCALITY: &[u64] = &[2, 5, 4, 7];
const STATE: &[u64] = &[2, 5, 4, 8];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const UNIT: &[u64] = &[2, 5, 4, 11];
const EMAIL: &[u64] = &[1, 2, 840, 113_549, 1, 9, 1];
const DOMAIN: &[u64] = &[0, 9, 2342, 19_200_300, 100, 1, 25];

const BIT_STRING: u8 = 3;
const UTF8: u8 = 12;
const PRINTABLE: u8 = 19;
const TELETEX: u8 = 20;
const IA5: u8 = 22;
const UNIVERSAL: u8 = 28;
const BMP: u8 = 30;

const MAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;

const ECDSA_WITH_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// basicConstraints, critical: cA.
const CA_CONSTRAINTS: &[u8] = &[
    0x30, 15, 6, 3, 0x55, 0x1d, 19, 1, 1, 0xff, 4, 5, 0x30, 3, 1, 1, 0xff,
];
/// keyUsage, critical: keyCertSign.
const CA_USAGE: &[u8] = &[0x30, 14, 6, 3, 0x55, 0x1d, 15, 1, 1, 0xff, 4, 4, 3, 2, 2, 4];
/// extKeyUsage: clientAuth.
const CLIENT_USAGE: &[u8] = &[
    0x30, 19, 6, 3, 0x55, 0x1d, 37, 4, 12, 0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2,
];
