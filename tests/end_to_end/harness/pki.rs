//! Somebody else's CA, run with OpenSSL as people run it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Server, succeed, text};

/// A CA with its database, in a folder of its own.
pub struct Pki {
    pub folder: PathBuf,
    issued: Cell<u32>,
}

/// A certificate in a PEM file, with its key beside it.
pub struct Client {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    /// A root in `directory`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let pki = Self::folder(directory, name);
        pki.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "3650",
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        pki
    }

    /// Another certificate of this CA, by itself and for the same key, that holds from one time to another
    /// (`YYYYMMDDHHMMSSZ`).
    pub fn certify_itself(&self, name: &str, begin: &str, end: &str, out: &str) {
        let subject = format!("/CN={name}");
        let request = [
            "req",
            "-new",
            "-key",
            "ca.key",
            "-out",
            "again.csr",
            "-subj",
        ];
        self.openssl(&[&request[..], &[&subject]].concat());
        let sign = ["ca", "-selfsign", "-batch", "-config", "ca.cnf", "-notext"];
        let what = ["-extensions", "authority", "-in", "again.csr", "-out", out];
        let when = ["-startdate", begin, "-enddate", end];
        self.openssl(&[&sign[..], &what, &when].concat());
    }

    /// A CA below this one.
    pub fn below(&self, directory: &Path, name: &str) -> Self {
        let pki = Self::folder(directory, name);
        pki.request("ca", &format!("/CN={name}"), &[]);
        let csr = pki.path("ca.csr").display().to_string();
        let out = pki.path("ca.pem").display().to_string();
        self.openssl(&[
            "ca",
            "-batch",
            "-config",
            "ca.cnf",
            "-notext",
            "-extensions",
            "authority",
            "-in",
            &csr,
            "-out",
            &out,
        ]);
        pki
    }

    fn folder(directory: &Path, name: &str) -> Self {
        let folder = directory.join(name.replace(' ', "-"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ca.cnf"), CONFIGURATION).unwrap();
        fs::write(folder.join("index.txt"), "").unwrap();
        fs::write(folder.join("crlnumber"), "01\n").unwrap();
        Self {
            folder,
            issued: Cell::new(0),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A certificate for a TLS client.
    pub fn client(&self, subject: &str) -> Client {
        self.client_with(subject, &[])
    }

    /// The same with more in the request, such as `-addext subjectAltName=…`.
    pub fn client_with(&self, subject: &str, more: &[&str]) -> Client {
        self.issued.set(self.issued.get() + 1);
        let name = format!("client-{}", self.issued.get());
        self.request(&name, subject, more);
        let (csr, out) = (format!("{name}.csr"), format!("{name}.pem"));
        self.openssl(&[
            "ca", "-batch", "-config", "ca.cnf", "-notext", "-in", &csr, "-out", &out,
        ]);
        Client {
            certificate: self.path(&out),
            key: self.path(&format!("{name}.key")),
        }
    }

    pub fn revoke(&self, certificate: &Path) {
        let certificate = certificate.display().to_string();
        self.openssl(&["ca", "-config", "ca.cnf", "-revoke", &certificate]);
    }

    /// A new list of what was revoked, in PEM. `more` are arguments of `openssl ca -gencrl`.
    pub fn list(&self, more: &[&str]) -> Vec<u8> {
        let arguments = ["ca", "-config", "ca.cnf", "-gencrl", "-out", "made.crl"];
        self.openssl(&[&arguments[..], more].concat());
        fs::read(self.path("made.crl")).unwrap()
    }

    pub fn openssl(&self, arguments: &[&str]) -> String {
        succeed(
            Command::new("openssl")
                .current_dir(&self.folder)
                .args(arguments),
        )
    }

    fn request(&self, name: &str, subject: &str, more: &[&str]) {
        let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
        let arguments = [
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-utf8",
            "-keyout",
            &key,
            "-out",
            &csr,
            "-subj",
            subject,
        ];
        self.openssl(&[&arguments[..], more].concat());
    }
}

impl Client {
    /// curl with this certificate.
    pub fn curl(&self, server: &Server, arguments: &[&str]) -> Output {
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20"])
            .arg("--cacert")
            .arg(server.root_file())
            .arg("--key")
            .arg(&self.key)
            .arg("--cert")
            .arg(&self.certificate)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The status that a request is answered with, and the code if the gateway refuses it.
    pub fn asks(&self, server: &Server, path: &str) -> (u16, String) {
        let output = self.curl(
            server,
            &["--write-out", "\n%{http_code}", &server.url(path)],
        );
        let printed = text(&output.stdout);
        let (body, status) = printed.rsplit_once('\n').unwrap();
        let code = super::enrollment::code_of(body);
        (status.parse().unwrap(), code)
    }

    /// For a connection of one's own.
    pub fn identity(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(&self.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        (chain.map(Result::unwrap).collect(), key)
    }

    pub fn serial(&self) -> String {
        let certificate = self.certificate.display().to_string();
        let printed = succeed(Command::new("openssl").args([
            "x509",
            "-noout",
            "-serial",
            "-in",
            &certificate,
        ]));
        printed.trim().trim_start_matches("serial=").to_owned()
    }
}

const CONFIGURATION: &str = "
[ca]
default_ca = this
[this]
database = index.txt
crlnumber = crlnumber
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 30
default_crl_days = 7
policy = anything
copy_extensions = copy
unique_subject = no
rand_serial = yes
x509_extensions = client
string_mask = utf8only
[anything]
organizationName = optional
commonName = optional
[client]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
[delta]
2.5.29.27 = critical,DER:02:01:01
[about_devices]
issuingDistributionPoint = critical,@devices
[about_cas]
issuingDistributionPoint = critical,@cas
[devices]
onlyuser = TRUE
[cas]
onlyCA = TRUE
";
