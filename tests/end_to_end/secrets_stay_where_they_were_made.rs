//! Private keys, the serial key and tokens: in no log, no answer, no database and no other file.

use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::harness::{Device, Server, Setup, text};

/// Something that must not be seen, in every form in which it could be.
struct Secret {
    what: String,
    /// The one file that may hold it.
    home: Option<PathBuf>,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn of_bytes(what: String, home: Option<PathBuf>, bytes: &[u8]) -> Self {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let debug: Vec<String> = bytes.iter().map(u8::to_string).collect();
        Self {
            what,
            home,
            forms: vec![
                bytes.to_vec(),
                hex.to_ascii_uppercase().into_bytes(),
                hex.into_bytes(),
                BASE64_STANDARD.encode(bytes).into_bytes(),
                debug.join(", ").into_bytes(),
            ],
        }
    }

    /// As it is, and within the Base64 of anything longer, such as an Authorization header.
    fn of_token(token: &str) -> Self {
        let mut forms = vec![token.as_bytes().to_vec()];
        for before in 0..3 {
            let longer = [vec![b' '; before].as_slice(), token.as_bytes()].concat();
            let encoded = BASE64_STANDARD.encode(longer);
            // The first and the last four characters depend on what stands around it.
            forms.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
        }
        Self {
            what: "a token".into(),
            home: None,
            forms,
        }
    }

    /// The scalar of a P-256 key (RFC 5915, section 3), and the lines of its PEM.
    fn of_key_file(file: &Path) -> Self {
        let content = std::fs::read(file).unwrap();
        let part = pem::parse_many(&content)
            .unwrap()
            .into_iter()
            .find(|part| part.tag() == "PRIVATE KEY")
            .unwrap();
        let der = part.contents();
        let version_and_length = [0x02, 0x01, 0x01, 0x04, 0x20];
        let at = der
            .windows(5)
            .position(|window| window == version_and_length)
            .unwrap();
        let name = file.display().to_string();
        let home = Some(file.canonicalize().unwrap());
        let mut secret = Self::of_bytes(name, home, &der[at + 5..at + 37]);
        secret.forms.extend(
            text(&content)
                .lines()
                .skip_while(|line| !line.contains("PRIVATE KEY"))
                .skip(1)
                .take_while(|line| !line.starts_with("-----"))
                .map(|line| line.as_bytes().to_vec()),
        );
        secret
    }

    fn is_in(&self, content: &[u8]) -> bool {
        self.forms.iter().any(|form| {
            content
                .windows(form.len())
                .any(|window| window == form.as_slice())
        })
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            found.push(entry.path());
        }
    }
    found
}

fn token_of(code: &str) -> String {
    code.trim().split('~').nth(3).unwrap().to_owned()
}

#[test]
fn secrets_stay_where_they_were_made() {
    let server = Server::start(Setup::default().environment("KEYBOUND_LOG", "trace"));
    let code = server.run(&["token", "new", "--device", "a"]);
    let unused = server.run(&["token", "new", "--device", "b"]);
    let device = Device {
        store: server.path("store"),
    };
    let url = server.url("/");
    let mut said = vec![
        device.run(&["enroll", code.trim()]),
        device.run(&["request", &url]),
        device.run(&["renew"]),
        device.run(&["request", &url]),
        device.run(&["status", "--json"]),
        server.run(&["device", "show", "a", "--json"]),
        server.run(&["device", "revoke", "a", "--json"]),
        server.run(&["explain", "a", "--json"]),
        server.run(&["ca", "root"]),
    ];
    for path in ["metrics", ".well-known/jwks.json"] {
        let public = std::process::Command::new("curl")
            .args(["--silent", &format!("http://{}/{path}", server.health())])
            .output()
            .unwrap();
        said.push(text(&public.stdout));
    }

    let data = server.path("data");
    let mut secrets: Vec<Secret> = ["root", "device-ca", "infrastructure-ca"]
        .map(|name| data.join("ca").join(name).with_extension("key"))
        .into_iter()
        .chain([
            data.join("gateway/server.pem"),
            data.join("gateway/assertion-key.pem"),
            device.key_file(),
        ])
        .map(|file| Secret::of_key_file(&file))
        .collect();
    let serial_key = data.join("ca/serial.key");
    let digits = std::fs::read_to_string(&serial_key).unwrap();
    let bytes: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    secrets.push(Secret::of_bytes(
        "the serial key".into(),
        Some(serial_key.canonicalize().unwrap()),
        &bytes,
    ));
    for code in [&code, &unused] {
        secrets.push(Secret::of_token(&token_of(code)));
    }

    let log = server.log();
    assert!(log.contains("decision"), "the log says everything:\n{log}");
    let mut looked_at: Vec<(PathBuf, Vec<u8>)> = files(&server.path(""))
        .into_iter()
        .map(|file| {
            let content = std::fs::read(&file).unwrap();
            (file.canonicalize().unwrap(), content)
        })
        .collect();
    for said in said {
        looked_at.push(("an answer".into(), said.into_bytes()));
    }
    for secret in &secrets {
        let found: Vec<&PathBuf> = looked_at
            .iter()
            .filter(|(_, content)| secret.is_in(content))
            .map(|(file, _)| file)
            .collect();
        assert_eq!(
            found,
            secret.home.iter().collect::<Vec<_>>(),
            "{} was found",
            secret.what
        );
        if let Some(home) = &secret.home {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(home).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} is readable by others", secret.what);
        }
    }
}
