use std::fs;

use super::super::file::ConfigFile;
use super::super::{Config, Purpose, check};

const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1","use":"sig","alg":"ES256",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("keys.json"), KEYS).expect("written");
        fs::write(folder.path().join("bad.json"), "{\"keys\":[]}").expect("written");
        Self(folder)
    }

    /// Judges a file in which `@` stands for the folder.
    fn judge(&self, source: &str) -> Result<Config, Vec<String>> {
        let folder = self.0.path().display().to_string();
        let (file, mistakes) = ConfigFile::parse(&source.replace('@', &folder));
        check(file, Purpose::Serve, Some("Gate-1"), mistakes).map_err(|mistakes| {
            let texts = mistakes.iter().map(ToString::to_string);
            texts.map(|text| text.replace(&folder, "@")).collect()
        })
    }
}

const GATEWAY: &str = "[ca]\n[[gateway.trusted_gateway]]\nname = 'edge'\ndevice = 'edge-1'\n\
    issuer = 'spiffe://edge.example/gateway/gateway-1'\naudience = 'https://*/'\nkey_set = '@/keys.json'\n";

#[test]
fn a_route_believes_the_gateways_that_it_names() {
    let files = Files::new();
    let source = format!(
        "{GATEWAY}[[gateway.route]]\nupstream = 'http://b'\nvia = ['edge']\n[[gateway.route]]\npath = '/x'\nupstream = 'http://b'\n"
    );
    let routes = files
        .judge(&source)
        .expect("legal")
        .gateway
        .expect("there")
        .routes;
    let via = &routes[0].policy.via;
    assert_eq!(via.len(), 1);
    assert_eq!(via[0].device.as_str(), "edge-1");
    assert_eq!(via[0].name.as_str(), "edge");
    assert!(routes[1].policy.via.is_empty());
}

#[test]
fn every_mistake_is_told() {
    let files = Files::new();
    let check = |source: &str, expected: &[&str]| {
        let found = files.judge(source).map(|_| ()).expect_err("mistakes");
        for sentence in expected {
            let is_there = found.iter().any(|text| text.contains(sentence));
            assert!(is_there, "{sentence:?} is not in {found:#?}");
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    };
    let route = |keys: &str| format!("{GATEWAY}[[gateway.route]]\nupstream = 'http://b'\n{keys}\n");
    check(
        &route("via = ['other', 'edge', 'edge']"),
        &[
            "no [[gateway.trusted_gateway]] has the name \"other\"",
            "\"edge\" is written twice",
        ],
    );
    check(
        &route("via = ['edge']\nclient = 'anonymous'"),
        &["via asks for a gateway's certificate"],
    );
    check(
        &route("via = ['edge']\nidentity = ['device-id', 'xfcc']"),
        &["\"xfcc\" cannot be told"],
    );
    let table = "[ca]\n[[gateway.route]]\nupstream = 'http://b'\n[[gateway.trusted_gateway]]\n";
    check(
        table,
        &[
            "has no name",
            "has no device",
            "has no issuer",
            "has no audience",
            "has no key_set",
        ],
    );
    let written = GATEWAY.lines().skip(2).collect::<Vec<_>>().join("\n");
    let with = |key: &str, value: &str| {
        let lines = written.lines().map(|line| {
            if line.starts_with(key) {
                format!("{key} = '{value}'")
            } else {
                line.to_owned()
            }
        });
        format!("{table}{}", lines.collect::<Vec<_>>().join("\n"))
    };
    check(&with("name", "a:b"), &["name \"a:b\" is refused"]);
    check(&with("device", "a b"), &["device \"a b\" is refused"]);
    check(&with("issuer", "edge"), &["issuer \"edge\" is refused"]);
    check(
        &with("key_set", "@/none.json"),
        &["@/none.json cannot be read"],
    );
    check(
        &with("key_set", "@/bad.json"),
        &["@/bad.json is refused: it has no P-256 key"],
    );
}

#[test]
fn the_examples_lines_for_it_have_no_mistake() {
    let files = Files::new();
    let example = include_str!("../../config/keybound.toml");
    let lines: Vec<_> = example
        .lines()
        .map(|line| line.strip_prefix("#edge ").unwrap_or(line))
        .map(|line| line.replace("edge-keys.json", "@/keys.json"))
        .collect();
    files.judge(&lines.join("\n")).expect("legal");
}
