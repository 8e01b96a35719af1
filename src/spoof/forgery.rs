//! What somebody would send who pretends to be a device: every header that some back end takes its word for who is
//! calling from, with a value that this back end would understand.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, SerialNumber,
};

/// Header names as they are listed, in lower case: those of [`gateway::identity_header_names`], and those of its families that
/// are known by name.
pub(super) fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = gateway::identity_header_names()
        .chain(MEMBERS.iter().copied())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What a dialect's back ends read together, and one header alone would not convince them.
pub(super) const DIALECTS: &[(&str, &[&str])] = &[
    (
        "nginx",
        &[
            "x-ssl-client-verify",
            "x-ssl-client-s-dn",
            "x-ssl-client-i-dn",
            "x-ssl-client-serial",
            "x-ssl-client-fingerprint",
            "x-ssl-client-cert",
        ],
    ),
    (
        "ingress-nginx",
        &[
            "ssl-client-verify",
            "ssl-client-subject-dn",
            "ssl-client-issuer-dn",
            "ssl-client-cert",
        ],
    ),
    (
        "traefik",
        &[
            "x-forwarded-tls-client-cert",
            "x-forwarded-tls-client-cert-info",
        ],
    ),
    (
        "aws-alb",
        &[
            "x-amzn-mtls-clientcert-serial-number",
            "x-amzn-mtls-clientcert-issuer",
            "x-amzn-mtls-clientcert-subject",
            "x-amzn-mtls-clientcert-validity",
            "x-amzn-mtls-clientcert-leaf",
        ],
    ),
    (
        "cloudfront",
        &[
            "cloudfront-viewer-cert-present",
            "cloudfront-viewer-cert-subject",
            "cloudfront-viewer-cert-issuer",
            "cloudfront-viewer-cert-serial-number",
            "cloudfront-viewer-cert-sha256",
        ],
    ),
    (
        "cloudflare",
        &["cf-client-cert-der-base64", "cf-client-cert-sha256"],
    ),
    ("rfc9440", &["client-cert", "client-cert-chain"]),
];

/// Whether a header says where a request came from or what it is called, and not who sends it. Many back ends repeat these in
/// links and logs, so repeating them proves nothing.
pub(super) fn is_circumstance(name: &str) -> bool {
    CIRCUMSTANCES.contains(&name)
}

/// Somebody who is not there, with a certificate that nobody issued.
pub(super) struct Impostor {
    id: String,
    der: Vec<u8>,
    serial: String,
}

impl Impostor {
    /// `serial` is 16 random bytes. Error: the library can make no certificate.
    pub(super) fn new(id: String, mut serial: [u8; 16]) -> Result<Self, rcgen::Error> {
        // A positive integer of full length.
        serial[0] = serial[0] & 0x7f | 0x40;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(DnType::CommonName, ISSUER);
        let issuer = Issuer::new(authority, KeyPair::generate()?);
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, id.as_str());
        params.subject_alt_names = vec![SanType::URI(spiffe(&id).try_into()?)];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate = params.signed_by(&KeyPair::generate()?, &issuer)?;
        Ok(Self {
            id,
            der: certificate.der().to_vec(),
            serial: hex(&serial),
        })
    }

    /// Texts by which an answer shows that a header of this impostor was read.
    pub(super) fn traces(&self) -> Vec<String> {
        // As long as a line of PEM; the serial number is in it.
        let beginning = &STANDARD.encode(&self.der)[..64];
        let mut traces = vec![
            self.id.clone(),
            self.serial.clone(),
            self.serial.to_ascii_uppercase(),
            self.sha1(),
            self.sha256(),
            beginning.to_owned(),
            percent_encoded(beginning),
            self.unsigned_token(),
        ];
        traces.dedup();
        traces
    }

    /// What a header of this name would say.
    pub(super) fn value(&self, name: &str) -> String {
        let subject = format!("CN={}", self.id);
        let issuer = format!("CN={ISSUER}");
        match name {
            "client-cert" | "client-cert-chain" | "x-client-cert" => {
                format!(":{}:", STANDARD.encode(&self.der))
            }
            "x-forwarded-client-cert" => format!(
                "Hash=\"{}\";Cert=\"{}\";Subject=\"{subject}\";URI=\"{}\"",
                self.sha256(),
                self.escaped_pem(),
                spiffe(&self.id)
            ),
            "x-ssl-client-verify" | "ssl-client-verify" => "SUCCESS".to_owned(),
            "cloudfront-viewer-cert-present" => "true".to_owned(),
            "x-ssl-client-s-dn"
            | "x-ssl-client-dn"
            | "ssl-client-subject-dn"
            | "x-tls-client-subject"
            | "x-amzn-mtls-clientcert-subject"
            | "cloudfront-viewer-cert-subject" => subject,
            "x-ssl-client-i-dn"
            | "ssl-client-issuer-dn"
            | "x-amzn-mtls-clientcert-issuer"
            | "cloudfront-viewer-cert-issuer" => issuer,
            "x-ssl-client-serial"
            | "x-amzn-mtls-clientcert-serial-number"
            | "cloudfront-viewer-cert-serial-number" => self.serial.to_ascii_uppercase(),
            "x-ssl-client-fingerprint" => self.sha1(),
            "cf-client-cert-sha256" | "cloudfront-viewer-cert-sha256" => self.sha256(),
            "x-ssl-client-cert"
            | "ssl-client-cert"
            | "x-tls-client-cert"
            | "x-amzn-mtls-clientcert"
            | "x-amzn-mtls-clientcert-leaf" => self.escaped_pem(),
            "x-forwarded-tls-client-cert" | "cf-client-cert-der-base64" | "x-arr-clientcert" => {
                STANDARD.encode(&self.der)
            }
            "x-forwarded-tls-client-cert-info" => {
                percent_encoded(&format!("Subject=\"{subject}\";Issuer=\"{issuer}\""))
            }
            "x-amzn-mtls-clientcert-validity" => {
                "NotBefore=2020-01-01T00:00:00Z;NotAfter=2099-01-01T00:00:00Z".to_owned()
            }
            "x-device-assertion" | "cf-access-jwt-assertion" => self.unsigned_token(),
            "cf-access-authenticated-user-email" | "x-forwarded-email" => {
                format!("{}@example.com", self.id)
            }
            "l5d-client-id" => format!("{}.serviceaccount.identity.linkerd.cluster.local", self.id),
            // Back ends that admit their own machine take the first of the list.
            "x-forwarded-for" | "x-original-forwarded-for" => format!("127.0.0.1, {ELSEWHERE}"),
            "cf-connecting-ip"
            | "true-client-ip"
            | "x-client-ip"
            | "x-cluster-client-ip"
            | "x-real-ip" => "127.0.0.1".to_owned(),
            "forwarded" => format!("for=127.0.0.1;host={}.example;proto=https", self.id),
            "x-forwarded-proto" => "https".to_owned(),
            "x-forwarded-port" => "443".to_owned(),
            "x-forwarded-host" | "x-forwarded-server" => format!("{}.example", self.id),
            "proxy-status" => format!("{}; error=http_request_denied", self.id),
            _ => self.id.clone(),
        }
    }

    fn sha1(&self) -> String {
        let algorithm = &digest::SHA1_FOR_LEGACY_USE_ONLY;
        hex(digest::digest(algorithm, &self.der).as_ref())
    }

    fn sha256(&self) -> String {
        hex(digest::digest(&digest::SHA256, &self.der).as_ref())
    }

    /// As nginx has it in `$ssl_client_escaped_cert`.
    fn escaped_pem(&self) -> String {
        let pem = pem::Pem::new("CERTIFICATE", self.der.clone());
        let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        percent_encoded(&pem::encode_config(&pem, lines))
    }

    /// A JSON Web Token whose header says that nobody signed it: back ends that let the token choose the algorithm take it.
    fn unsigned_token(&self) -> String {
        let header = serde_json::json!({ "alg": "none", "typ": "JWT" });
        let claims = serde_json::json!({
            "iss": "spiffe://keybound.local/gateway/gateway-1",
            "sub": spiffe(&self.id),
            "device_id": self.id,
            "email": format!("{}@example.com", self.id),
            "nbf": 0,
            "exp": 4_102_444_800_u64,
        });
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        format!("{}.{}.", part(header), part(claims))
    }
}

fn spiffe(id: &str) -> String {
    format!("spiffe://keybound.local/device/{id}")
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Members of the families in the list that back ends are known to read.
const MEMBERS: &[&str] = &[
    "cf-access-authenticated-user-email",
    "cf-access-jwt-assertion",
    "cloudfront-viewer-cert-issuer",
    "cloudfront-viewer-cert-present",
    "cloudfront-viewer-cert-serial-number",
    "cloudfront-viewer-cert-sha256",
    "cloudfront-viewer-cert-subject",
    "ssl-client-cert",
    "ssl-client-issuer-dn",
    "ssl-client-subject-dn",
    "ssl-client-verify",
    "x-amzn-mtls-clientcert",
    "x-arr-clientcert",
    "x-client-cert",
    "x-device-name",
    "x-forwarded-email",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-forwarded-user",
    "x-keybound-device",
    "x-ssl-client-cn",
    "x-ssl-client-dn",
    "x-tls-client-cert",
    "x-tls-client-subject",
];

const CIRCUMSTANCES: &[&str] = &[
    "cf-connecting-ip",
    "forwarded",
    "proxy-status",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-request-id",
];

const ISSUER: &str = "Keybound Device CA";
/// An address of nobody's (RFC 5737).
const ELSEWHERE: &str = "198.51.100.7";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_family_of_the_gateways_list_is_forged() {
        let names = names();
        for name in gateway::identity_header_names() {
            assert!(names.contains(&name), "{name}");
        }
        for family in gateway::identity_header_families() {
            assert!(
                names.iter().any(|name| name.starts_with(family)),
                "{family}"
            );
        }
        let listed = DIALECTS.iter().flat_map(|(_, names)| names.iter());
        for name in listed.chain(CIRCUMSTANCES) {
            assert!(names.contains(name), "{name}");
        }
        for name in names {
            assert!(gateway::is_identity_header(name), "{name}");
        }
    }

    #[test]
    fn every_value_can_stand_in_a_header() {
        let impostor = Impostor::new("spoof-1".into(), [0xff; 16]).expect("made");
        for name in names() {
            let value = impostor.value(name);
            assert!(
                http::HeaderValue::from_str(&value).is_ok(),
                "{name}: {value}"
            );
        }
        assert_eq!(impostor.value("x-device-id"), "spoof-1");
        assert_eq!(impostor.value("x-ssl-client-s-dn"), "CN=spoof-1");
        let pem = impostor.value("x-ssl-client-cert");
        assert!(
            pem.starts_with("-----BEGIN%20CERTIFICATE-----%0AMII"),
            "{pem}"
        );
        let trace = &impostor.traces()[5];
        assert!(impostor.value("client-cert").contains(trace.as_str()));
    }
}
