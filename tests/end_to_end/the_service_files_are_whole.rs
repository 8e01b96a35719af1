//! The units and the container file in `config/`: they name what there is, and give away no privilege.

use std::path::Path;

use crate::harness::text;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `Key=value` by section, in order; every line is one of these, a comment, a section or blank.
fn unit(name: &str) -> Vec<(String, String, String)> {
    let content = std::fs::read_to_string(root().join("config/systemd").join(name)).unwrap();
    let mut section = String::new();
    let mut settings = Vec::new();
    for line in content.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.strip_suffix(']').expect(line).to_owned();
        } else if !line.is_empty() && !line.starts_with('#') {
            let (key, value) = line.split_once('=').expect(line);
            assert!(
                !section.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric()),
                "{name}: {line}"
            );
            settings.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    settings
}

fn has(settings: &[(String, String, String)], section: &str, key: &str, value: &str) {
    assert!(
        settings
            .iter()
            .any(|(s, k, v)| (s.as_str(), k.as_str(), v.as_str()) == (section, key, value)),
        "[{section}] {key}={value} is missing"
    );
}

#[test]
fn units() {
    let service = unit("keybound.service");
    for (key, value) in [
        ("Type", "notify"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("SystemCallFilter", "@system-service"),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
        ("User", "keybound"),
    ] {
        has(&service, "Service", key, value);
    }
    let socket = unit("keybound.socket");
    has(&socket, "Socket", "FileDescriptorName", "gateway");
    has(&socket, "Socket", "Service", "keybound.service");
    has(&service, "Unit", "Requires", "keybound.socket");
    // What is started and reloaded is a command line of this program.
    for wanted in ["ExecStart", "ExecReload"] {
        let (_, _, line) = service.iter().find(|(_, key, _)| key == wanted).unwrap();
        let mut words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.remove(0), "/usr/bin/keybound");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_keybound"))
            .args(words)
            .arg("--help")
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    }
    // It ends within 30 s, which the service manager has to wait for.
    has(&service, "Service", "TimeoutStopSec", "40s");
}

#[test]
fn systemd_reads_them() {
    // The program has to exist where the unit says; any will do.
    let directory = tempfile::tempdir().unwrap();
    for name in ["keybound.service", "keybound.socket"] {
        let content = std::fs::read_to_string(root().join("config/systemd").join(name)).unwrap();
        let content = content.replace("/usr/bin/keybound", "/bin/true");
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    let analyze = |arguments: &[&str]| {
        let output = std::process::Command::new("systemd-analyze")
            .args(arguments)
            .args(["keybound.service", "keybound.socket"].map(|name| directory.path().join(name)))
            .output()
            .expect("tests/run installs systemd");
        assert!(
            output.status.success(),
            "{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stderr)
    };
    let told = analyze(&["verify"]);
    assert!(!told.contains("keybound"), "{told}");
    let output = std::process::Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager", "--threshold=20"])
        .arg(directory.path().join("keybound.service"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "too exposed:\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn the_container_file() {
    let content = std::fs::read_to_string(root().join("config/Containerfile")).unwrap();
    let stages: Vec<&str> = content.split("\nFROM ").skip(1).collect();
    assert_eq!(stages.len(), 2);
    let copies = content.lines().filter(|line| line.starts_with("COPY "));
    let mut copied = 0;
    for line in copies.filter(|line| !line.contains("--from=")) {
        let mut words: Vec<&str> = line.split(' ').skip(1).collect();
        words.pop();
        for path in words {
            assert!(root().join(path).exists(), "{line}");
            copied += 1;
        }
    }
    assert!(copied >= 8);
    // Every member of the workspace is there to be built.
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    for member in manifest["workspace"]["members"].as_array().unwrap() {
        let folder = member.as_str().unwrap().split('/').next().unwrap();
        assert!(
            content.contains(&format!("COPY {folder} ./{folder}\n")),
            "{folder}"
        );
    }
    // What runs is nobody's shell and nobody's root.
    let last = stages[1];
    assert!(last.contains("\nUSER 65532:65532\n") && !last.contains("\nRUN "));
    assert!(last.contains("\nENTRYPOINT [\"/usr/bin/keybound\"]\n"));
    let command = "CMD [\"serve\", \"--config\", \"/etc/keybound/keybound.toml\"]";
    assert!(last.contains(command));
}
