//! Rules of the house that no compiler checks.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn dependencies(manifest: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join(manifest)).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section))
        .flat_map(|section| section.as_table().unwrap().keys().cloned())
        .collect()
}

#[test]
fn arrows_go_one_way() {
    for (manifest, forbidden) in [
        (
            "identity/Cargo.toml",
            &[
                "ca",
                "gateway",
                "device-client",
                "keybound",
                "tokio",
                "hyper",
            ][..],
        ),
        (
            "ca/Cargo.toml",
            &["gateway", "device-client", "keybound", "hyper"],
        ),
        ("gateway/Cargo.toml", &["ca", "device-client", "keybound"]),
        ("device-client/Cargo.toml", &["ca", "gateway", "keybound"]),
    ] {
        let found = dependencies(manifest);
        for name in forbidden {
            assert!(
                !found.iter().any(|dependency| dependency == name),
                "{manifest} names {name}"
            );
        }
    }
}

#[test]
fn decisions_read_no_clock_file_socket_or_random_source() {
    for folder in ["identity/src", "ca/src/pure", "gateway/src/pure"] {
        for file in sources(&root().join(folder)) {
            let text = std::fs::read_to_string(&file).unwrap();
            for forbidden in [
                "SystemTime::now",
                "Instant::now",
                "std::fs",
                "std::net::Tcp",
                "tokio::",
                "std::env",
                "rand::fill",
                "tracing::",
                ".await",
            ] {
                assert!(
                    !text.contains(forbidden),
                    "{} has {forbidden}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn the_documents_name_files_that_exist() {
    for document in ["ARCHITECTURE.md", "SECURITY.md", "README.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        let named = text.split('`').skip(1).step_by(2).filter(|code| {
            code.contains("/src/") || code.starts_with("src/") || code.starts_with("tests/")
        });
        for path in named {
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.contains("authorize.rs") && text.contains("remove_identity"));
}

#[test]
fn no_private_key_is_in_the_tree_that_ships() {
    let certs = root().join("certs");
    for entry in std::fs::read_dir(certs).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read(&path).unwrap();
        assert!(
            !String::from_utf8_lossy(&text).contains("PRIVATE KEY"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn no_function_gives_a_private_key_away() {
    for folder in ["ca/src", "device-client/src", "gateway/src", "src"] {
        for file in sources(&root().join(folder)) {
            if file.ends_with("test_authority.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            for signature in text.split("fn ").skip(1) {
                let signature = signature.split(['{', ';']).next().unwrap_or_default();
                let Some((_, returns)) = signature.split_once("->") else {
                    continue;
                };
                let key = ["KeyPair", "PrivateKey", "Pkcs8", "new_key_pem"]
                    .iter()
                    .any(|kind| returns.contains(kind));
                let name = signature.split(['(', '<']).next().unwrap_or_default();
                let public = text
                    .lines()
                    .any(|line| line.contains(&format!("fn {name}")) && line.contains("pub "));
                assert!(!(key && public), "{}: {name}", file.display());
            }
        }
    }
}
