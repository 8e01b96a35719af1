//! Whatever is wrong with a configuration is said at once, by `check`, `serve` and `up` alike; nothing is made.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::text;

const EXAMPLE: &str = include_str!("../../config/keybound.toml");

/// Runs `keybound` in a directory; its exit code and what it said.
fn keybound(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    // Whatever starts by mistake is ended.
    let output = Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_keybound")])
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = text(&[output.stdout, output.stderr].concat());
    (output.status.code(), told)
}

/// `check`, `serve` and `up` refuse the file `c.toml` in the same words, and leave nothing behind; those words.
fn refused_file(directory: &Path) -> String {
    let (code, told) = keybound(directory, &["check", "--config", "c.toml"]);
    assert_eq!(code, Some(1), "{told}");
    let serve = keybound(directory, &["serve", "--config", "c.toml"]);
    assert_eq!(serve, (Some(1), told.clone()));
    let names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "c.toml" && name != "other")
        .collect();
    assert!(names.is_empty(), "{names:?} after {told}");
    told
}

fn refused(content: impl AsRef<[u8]>) -> String {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("c.toml"), content).unwrap();
    refused_file(directory.path())
}

fn check(content: impl AsRef<[u8]>) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("c.toml"), content).unwrap();
    keybound(directory.path(), &["check", "--config", "c.toml"])
}

#[test]
fn the_example_has_no_mistake() {
    let (code, told) = check(EXAMPLE);
    assert_eq!((code, told.as_str()), (Some(0), "c.toml: no mistakes\n"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    let check = |words: &str| {
        let told = refused_file(directory.path());
        assert!(
            told.starts_with("c.toml cannot be read: ") && told.contains(words),
            "{told}"
        );
    };
    check("No such file");
    fs::create_dir(&path).unwrap();
    check("Is a directory");
    fs::remove_dir(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    check("No such file");
    fs::remove_file(&path).unwrap();
    symlink("c.toml", &path).unwrap();
    check("symbolic links");
    fs::remove_file(&path).unwrap();

    fs::write(&path, EXAMPLE).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let unprivileged = [
        "--reuid=65534",
        "--clear-groups",
        env!("CARGO_BIN_EXE_keybound"),
        "check",
        "--config",
        "c.toml",
    ];
    let output = Command::new("setpriv")
        .args(unprivileged)
        .current_dir(directory.path())
        .output()
        .unwrap();
    let told = text(&output.stderr);
    // Only root can give its privileges up; where the program cannot be reached without them, there is nothing to see.
    if !told.contains("setpriv") {
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("Permission denied"), "{told}");
    }
}

#[test]
fn a_gigabyte_is_refused_without_reading_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = fs::File::create(directory.path().join("c.toml")).unwrap();
    file.set_len(1 << 30).unwrap();
    let started = Instant::now();
    let told = refused_file(directory.path());
    assert!(told.contains("longer than 1048576 bytes"), "{told}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    // Its data would not fit into so much memory.
    let script = format!(
        "ulimit -d 300000; exec {} check --config c.toml",
        env!("CARGO_BIN_EXE_keybound")
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let told = text(&output.stderr);
    assert!(told.contains("longer than 1048576 bytes"), "{told}");
}

#[test]
fn what_is_no_text_is_said_with_everything_else() {
    let latin1 = [
        b"[ca]\n# caf\xe9\nspeed = 1\n".as_slice(),
        b"[health]\nlisten = 'x'\n",
    ]
    .concat();
    let told = refused(latin1);
    for words in [
        "line 2: this is not UTF-8",
        "line 3: [ca] has no key \"speed\"",
        "line 5: \"x\" is not an IP",
    ] {
        assert!(told.contains(words), "{told}");
    }
    let utf16: Vec<u8> = EXAMPLE.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(refused(utf16).contains("line 1:"));
    assert!(refused(EXAMPLE.replace("workers = 2", "workers = \0")).contains("this is not TOML"));
    assert!(refused(EXAMPLE.replace("[ca]", "[ca]\0")).contains("this is not TOML"));
    assert!(refused("").contains("names no role"));
    assert!(refused("\n\n# nothing\n").contains("names no role"));
    assert!(refused("{\"ca\": {}}").contains("this is not TOML"));
    // A byte order mark says nothing; TOML's grammar passes over it.
    let (code, told) = check(format!("\u{feff}{EXAMPLE}"));
    assert_eq!(code, Some(0), "{told}");
    assert!(refused(format!("\u{feff}{}", EXAMPLE.replace("[ca]", "[CA]"))).contains("\"CA\""));
}

#[test]
fn a_file_that_was_cut_short_is_refused_or_means_what_it_says() {
    let mut refusals = 0;
    for length in (0..EXAMPLE.len()).step_by(50) {
        let cut = &EXAMPLE.as_bytes()[..length];
        let (code, told) = check(cut);
        if code == Some(0) {
            // Cut after a whole statement: then the roles that it names are whole.
            assert!(text(cut).contains("[ca]"), "{length}: {told}");
        } else {
            assert!(told.contains("mistake"), "{length}: {told}");
            assert_eq!(refused(cut), told);
            refusals += 1;
        }
    }
    assert!(refusals >= 20, "{refusals}");
}

/// The lines of the example with a key: number from 1, key, line without comment.
fn keys() -> Vec<(usize, &'static str)> {
    let lines = EXAMPLE.lines().enumerate();
    let keys = lines.filter_map(|(number, line)| {
        let (key, _) = line.split_once(" = ")?;
        key.bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_')
            .then_some((number, key))
    });
    keys.collect()
}

fn with_line(number: usize, line: &str) -> String {
    let lines: Vec<&str> = EXAMPLE
        .lines()
        .enumerate()
        .map(|(at, old)| if at == number { line } else { old })
        .collect();
    lines.join("\n") + "\n"
}

#[test]
fn no_key_falls_back_to_a_default_in_silence() {
    let keys = keys();
    assert!(keys.len() >= 14, "{keys:?}");
    let mut tried = 0;
    for (number, key) in keys {
        let value = EXAMPLE
            .lines()
            .nth(number)
            .unwrap()
            .split_once(" = ")
            .unwrap()
            .1;
        let upper = key.to_ascii_uppercase();
        let hyphens = key.replace('_', "-");
        let lines = [
            format!("{key}x = {value}"),
            format!("{} = {value}", &key[1..]),
            format!("{upper} = {value}"),
            if hyphens == key {
                format!("{key}_ = {value}")
            } else {
                format!("{hyphens} = {value}")
            },
            format!("{key} = 1.5"),
            format!("{key} = true"),
            format!("{key} = {{ a = 1 }}"),
            format!("{key} = [[\"a\"]]"),
            format!("{key} = [1]"),
            format!("{key} = \"\""),
            format!("{key} = [\"\"]"),
            format!("{key} = \" \""),
            format!("{key} = []"),
            format!("{key} ="),
            format!("{key} = {value}\n{key} = {value}"),
        ];
        for line in lines {
            let (code, told) = check(with_line(number, &line));
            // Some lists say by being empty that nobody is meant, which admits, believes and tells nobody, or that
            // no protocol is agreed on. One key has two values, of which both are legal.
            if matches!(
                line.as_str(),
                "without_sni = []"
                    | "identity = []"
                    | "proxy_protocol_from = []"
                    | "alpn = []"
                    | "websocket = true"
            ) {
                assert_eq!(code, Some(0), "{line}: {told}");
                continue;
            }
            assert_eq!(code, Some(1), "{line}: {told}");
            assert!(
                [1, 2]
                    .map(|after| format!("line {}", number + after))
                    .iter()
                    .any(|place| told.contains(place))
                    || told.contains(key),
                "{line}: {told}"
            );
            tried += 1;
        }
    }
    for (table, wrong) in [
        ("[ca]", "[cas]"),
        ("[enrollment]", "[enrolment]"),
        ("[health]", "[[health]]"),
        ("[gateway]", "[Gateway]"),
        ("[[gateway.route]]", "[[gateway.routes]]"),
        ("[[gateway.route]]", "[gateway.route]"),
        ("[ca]", "ca = true\n[other]"),
    ] {
        let told = refused(EXAMPLE.replace(table, wrong));
        assert!(told.contains("line "), "{wrong}: {told}");
        tried += 1;
    }
    println!("figure: single mistakes in the example configuration, each refused: {tried}");
}

#[test]
fn values_out_of_range_or_of_no_use_are_refused() {
    let line = |key: &str| {
        keys()
            .into_iter()
            .find(|(_, found)| *found == key)
            .unwrap()
            .0
    };
    let check_all = |key: &str, values: &[&str]| {
        for value in values {
            let (code, told) = check(with_line(line(key), &format!("{key} = {value}")));
            assert_eq!(code, Some(1), "{key} = {value}: {told}");
            assert!(
                told.contains(&format!("line {}", line(key) + 1)),
                "{key} = {value}: {told}"
            );
        }
    };
    let numbers = [
        "0",
        "-1",
        "1025",
        "9223372036854775807",
        "99999999999999999999",
        "0x7fffffffffffffff",
    ];
    check_all("workers", &numbers);
    check_all(
        "device_certificate_days",
        &[
            "0",
            "-1",
            "3651",
            "9223372036854775807",
            "99999999999999999999",
        ],
    );
    check_all(
        "max_staleness",
        &[
            "\"0s\"",
            "\"24\"",
            "\"-1h\"",
            "\"99999999999999999999d\"",
            "\"3651d\"",
            "\"1w\"",
            "\"1.5h\"",
            "24",
        ],
    );
    check_all(
        "upstream",
        &[
            "\"10.0.0.5:8080\"",
            "\"http://\"",
            "\"http://a:99999\"",
            "\"http://a:0\"",
            "\"http://a:-1\"",
            "\"http://a/b\"",
            "\"http://a?b\"",
            "\"http://a#b\"",
            "\"http://u:p@a\"",
            "\"http://[::1\"",
            "\"http://a b\"",
            "\"http:///a\"",
            "\"https://a\"",
            "\"ftp://a\"",
            "\"http://a\\r\\nx: y\"",
            "\"http://a\\u0000\"",
            "[\"http://a\", \"http://a\"]",
        ],
    );
    check_all(
        "listen",
        &[
            "\"0.0.0.0\"",
            "\"0.0.0.0:65536\"",
            "\":8443\"",
            "\"localhost:8443\"",
            "\"[::1:8443\"",
            "[\"127.0.0.1:1\", \"127.0.0.1:1\"]",
        ],
    );
    check_all(
        "host",
        &[
            "\"other.example.com\"",
            "\"*.example.com\"",
            "\"api.example.com:8443\"",
            "\"https://api.example.com\"",
            "\"api..example.com\"",
            "\"10.0.0.2\"",
        ],
    );
    check_all(
        "names",
        &[
            "[\"a\", \"a\"]",
            "[\"a\", \"A.\"]",
            "\"*.a\"",
            "\"a:1\"",
            "\"300.1.1.1\"",
            "\"a_b\"",
        ],
    );
    check_all(
        "trust_domain",
        &["\"A\"", "\"a/b\"", "\"spiffe://a\"", "\"a b\""],
    );
    for path in ["v1", "/a/../b", "/a?b", "/%", "/a#b"] {
        let (code, told) = check(with_line(line("path"), &format!("path = \"{path}\"")));
        assert_eq!(code, Some(1), "{path}: {told}");
        assert!(told.contains("this route is refused"), "{path}: {told}");
    }
    check_all(
        "client",
        &["\"anonymus\"", "\"optional\"", "\"Require\"", "\"none\""],
    );
    // What the route's other keys ask for needs a device.
    for client in ["request", "anonymous"] {
        let written = with_line(line("client"), &format!("client = \"{client}\""));
        assert!(refused(written).contains("groups asks for a device"));
    }
    check_all(
        "groups",
        &["[\"Blue\"]", "[\"a b\"]", "[\"a\", \"a\"]", "\"-a\""],
    );
    check_all(
        "rate",
        &[
            "\"200\"",
            "\"0/s\"",
            "\"-1/s\"",
            "\"1/d\"",
            "\"9999999/s\"",
            "\"off\"",
            "200",
        ],
    );
    check_all("websocket", &["\"false\"", "0", "[true]"]);
    check_all("burst", &["0", "-1", "1000001", "99999999999999999999"]);
    check_all(
        "max_head",
        &["\"17KiB\"", "\"8\"", "\"8KB\"", "\"-8KiB\"", "8"],
    );
    check_all(
        "max_body",
        &[
            "\"10\"",
            "\"10M\"",
            "\"1.5MiB\"",
            "\"99999999999GiB\"",
            "10",
        ],
    );
    for key in [
        "max_connections_per_device",
        "max_requests_per_device",
        "max_connections_per_address",
        "max_requests_per_address",
    ] {
        check_all(key, &["0", "-1", "1000001", "99999999999999999999"]);
    }
    check_all(
        "identity",
        &[
            "[\"device_id\"]",
            "[\"device-id\", \"device-id\"]",
            "[\"XFCC\"]",
            "[\"client-cert\", \"x-forwarded-client-cert\"]",
        ],
    );
    check_all("without_sni", &["[\"elsewhere\"]"]);
}

#[test]
fn every_mistake_of_a_file_is_in_one_report() {
    let directory = tempfile::tempdir().unwrap();
    let content = "dta = 'x'\nnames = ['api.example.com']\n[ca]\ndevice_certificate_days = 0\n[enrollment]\nlisten = '127.0.0.1:8443'\n\
         [gateway]\nlisten = ['127.0.0.1:8443']\nworkers = 0\n[[gateway.route]]\nhost = 'b'\nupstream = 'nowhere'\n\
         [[gateway.route]]\nupstream = 'http://a'\n[[gateway.route]]\nupstream = 'http://b'\n";
    fs::write(directory.path().join("c.toml"), content).unwrap();
    let told = refused_file(directory.path());
    // `up` finds the same; what it adds by itself has no mistake.
    let up = keybound(directory.path(), &["up", "--config", "c.toml"]);
    assert_eq!(up, (Some(1), told.clone()));
    assert!(told.starts_with("c.toml: 7 mistakes\n"), "{told}");
    for line in [1, 4, 6, 9, 11, 12, 15] {
        assert!(
            told.contains(&format!("\n  line {line}: ")),
            "{line} in {told}"
        );
    }
}

#[test]
fn a_port_in_use_is_named_with_its_role() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for role in ["gateway", "enrollment", "health"] {
        let directory = tempfile::tempdir().unwrap();
        let mut arguments = vec!["--data".to_owned(), "data".into(), "up".into()];
        for other in ["gateway", "enrollment", "health"] {
            let address = if other == role {
                &address
            } else {
                "127.0.0.1:0"
            };
            arguments.extend([format!("--{other}-listen"), address.into()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, told) = keybound(directory.path(), &arguments);
        assert_eq!(code, Some(1), "{told}");
        for words in [
            role,
            &address,
            "stop the other process, or choose another port",
        ] {
            assert!(told.contains(words), "{words:?} in {told}");
        }
        assert!(!directory.path().join("data/addresses.json").exists());
        assert!(!directory.path().join("data/admin.sock").exists());
    }
    // Two of one's own on one port.
    let directory = tempfile::tempdir().unwrap();
    let free = "127.0.0.1:18443";
    let (code, told) = keybound(
        directory.path(),
        &[
            "--data",
            "data",
            "up",
            "--gateway-listen",
            free,
            "--health-listen",
            free,
        ],
    );
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("every listener needs a port of its own"),
        "{told}"
    );
    assert!(!directory.path().join("data").exists());
}
