//! What a configuration file may say: a test per key and its mistakes, in the order of the file.

use gateway::{Sample, TraceMode};

use super::file::ConfigFile;
use super::*;

fn judge(source: &str) -> Result<Config, Vec<String>> {
    let (file, mistakes) = ConfigFile::parse(source);
    check(file, Purpose::Serve, Some("Gate-1"), mistakes)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

#[test]
fn the_examples_have_no_mistake() {
    for source in [
        include_str!("../../config/minimal.toml"),
        include_str!("../../config/keybound.toml"),
    ] {
        let config = judge(source).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        assert!(
            config
                .gateway
                .is_some_and(|gateway| !gateway.routes.is_empty())
        );
    }
}

#[test]
fn defaults() {
    let config = judge("[ca]\n[gateway]\nroute = [{ upstream = 'http://b' }]").expect("legal");
    assert_eq!(config.names, ["localhost", "gate-1", "127.0.0.1", "::1"]);
    assert_eq!(config.data, PathBuf::from("./keybound-data"));
    assert_eq!(config.device_certificate_life.as_secs(), 90 * 86_400);
    assert_eq!(config.enrollment, None);
    let gateway = config.gateway.expect("its table is there");
    assert_eq!(
        gateway.without_sni,
        ["localhost", "gate-1", "127.0.0.1", "::1"]
    );
    assert_eq!(
        gateway.routes,
        [Route {
            host: None,
            path: "/".into(),
            upstream: gateway::Upstream::of(vec!["http://b".parse().expect("legal")]),
            identity: vec![gateway::IdentityHeader::DeviceId],
            policy: gateway::RoutePolicy {
                rate: gateway.rate,
                ..gateway::RoutePolicy::default()
            },
        }]
    );
}

#[test]
fn up_runs_every_role_whatever_is_written() {
    let (file, mistakes) = ConfigFile::parse("names = ['a.example.com', '10.0.0.1']");
    let config = check(file, Purpose::Up, None, mistakes).expect("legal");
    assert!(config.enrollment.is_some() && config.health.is_some());
    let gateway = config.gateway.expect("up runs it");
    assert!(gateway.routes.is_empty());
    assert_eq!(gateway.without_sni, ["10.0.0.1"]);
}

#[test]
fn every_mistake_is_reported_at_once_in_order() {
    let source = r#"
dta = "x"
names = ["api.example.com", "*.example.com"]
trust_domain = "Example"
[ca]
device_certificate_days = 0
[enrollment]
listen = "0.0.0.0:8443"
[gateway]
listen = ["0.0.0.0:8443", "localhost:1"]
workers = "two"
max_staleness = "1"
without_sni = ["other"]
[[gateway.route]]
host = "elsewhere.example.com"
upstream = "http://10.0.0.1:80"
[[gateway.route]]
path = "/v1"
client = "anybody"
upstream = []
[[gateway.route]]
path = "/v1"
upstream = "https://10.0.0.1"
identity = ["device-id", "XFCC"]
"#;
    let expected = [
        "line 2: the top level has no key \"dta\"; its keys are: data, trust_domain, names, gateway, ca, enrollment, health, telemetry",
        "line 3: \"*.example.com\" is a wildcard, which is not supported; write each name",
        "line 4: the trust domain \"Example\" is refused: the trust domain is not 1-255 characters of a-z 0-9 . _ -",
        "line 6: device_certificate_days must lie between 1 and 3650",
        "line 8: 0.0.0.0:8443 is taken already, by 0.0.0.0:8443; every listener needs a port of its own",
        "line 10: \"localhost:1\" is not an IP address and a port; write for example 0.0.0.0:8443 or [::]:8443",
        "line 11: workers in [gateway] must be a whole number",
        "line 12: max_staleness = \"1\": write a number and a unit, such as 90s, 15m, 24h or 7d",
        "line 13: without_sni other is not a name of the server certificate; add it to names, which are: api.example.com",
        "line 15: the route's host elsewhere.example.com is not a name of the server certificate; add it to names, which are: api.example.com",
        "line 17: the route has no upstream; write for example upstream = \"http://10.0.0.5:8080\"",
        "line 19: client = \"anybody\" is not known; write \"require\", \"request\", \"anonymous\" or \"report-only\", or leave it out, which is \"require\"",
        "line 21: this route has the same host and path as the route of line 17; list all its upstreams in one route",
        "line 23: the upstream \"https://10.0.0.1\" speaks TLS, so it needs roots: write a [[gateway.upstream]] with name, servers and roots, and its name here",
        "line 24: the identity form \"XFCC\" is not known; write \"device-id\", \"client-cert\", \"client-cert-chain\", \"xfcc\", \"nginx\", \"traefik\", \"aws-alb\", \"cloudflare\" or \"assertion\"",
    ];
    assert_eq!(judge(source).expect_err("many mistakes"), expected);
}

#[test]
fn mistakes_of_policy() {
    let source = r#"
[ca]
[gateway]
rate = "fast"
max_connections_per_device = 0
[[gateway.route]]
path = "/a"
upstream = "http://10.0.0.1:80"
groups = []
[[gateway.route]]
path = "/b"
upstream = "http://10.0.0.1:80"
groups = ["blue", "Blue", "blue"]
max_head = "17KiB"
max_body = "10"
[[gateway.route]]
path = "/c"
upstream = "http://10.0.0.1:80"
client = "request"
groups = ["blue"]
burst = 5
[[gateway.route]]
path = "/d"
upstream = "http://10.0.0.1:80"
client = "anonymous"
identity = ["device-id"]
rate = "unlimited"
burst = 5
[[gateway.route]]
path = "/e"
upstream = "http://10.0.0.1:80"
rate = "5/s"
burst = 1000001
"#;
    let expected = [
        "line 4: rate = \"fast\": write how many requests in a second, minute or hour, such as \"50/s\", \"30/m\" or \"100/h\", of which there may be a million, or \"unlimited\"",
        "line 5: max_connections_per_device must lie between 1 and 1000000",
        "line 6: the route's groups are an empty list, which admits nobody; name a group, or leave groups out to admit every device",
        "line 13: the group \"Blue\" is refused: it is not 1-64 characters of a-z 0-9 . _ - that start with a letter or a digit",
        "line 13: the group \"blue\" is written twice",
        "line 14: max_head may be 16384 bytes at most",
        "line 15: max_body = \"10\": write a number and a unit, such as \"512B\", \"16KiB\" or \"10MiB\"",
        "line 20: groups asks for a device, and client lets requests pass without one; write client = \"require\", or leave groups out",
        "line 21: burst needs the route's own rate; write for example rate = \"50/s\"",
        "line 26: a route with client = \"anonymous\" tells the upstream no identity; leave identity out",
        "line 28: burst says nothing beside rate = \"unlimited\"",
        "line 33: burst must lie between 1 and 1000000",
    ];
    assert_eq!(judge(source).expect_err("many mistakes"), expected);
}

#[test]
fn policies() {
    let source = r#"
[ca]
[gateway]
rate = "10/s"
max_requests_per_address = 7
[[gateway.route]]
path = "/a"
upstream = "http://10.0.0.1:80"
groups = ["blue", "green"]
max_head = "8KiB"
max_body = "1MiB"
[[gateway.route]]
path = "/b"
upstream = "http://10.0.0.1:80"
client = "anonymous"
rate = "30/m"
burst = 3
[[gateway.route]]
path = "/c"
upstream = "http://10.0.0.1:80"
client = "request"
rate = "unlimited"
websocket = false
"#;
    let gateway = judge(source)
        .expect("legal")
        .gateway
        .expect("its table is there");
    assert_eq!(gateway.limits.requests_per_address, 7);
    assert_eq!(gateway.limits.connections_per_device, 128);
    let policies: Vec<_> = gateway.routes.iter().map(|route| &route.policy).collect();
    let text = |policy: &gateway::RoutePolicy| {
        let rate = policy.rate.map(|limit| (limit.rate.burst(), limit.scope));
        let groups = policy.groups.as_ref().map(Vec::len);
        (
            policy.client,
            groups,
            policy.max_head,
            policy.max_body,
            rate,
            policy.refuses_websockets,
        )
    };
    use gateway::{ClientMode, RateScope};
    let scope = |burst, scope| Some((burst, scope));
    let expected = [
        (
            ClientMode::Require,
            Some(2),
            Some(8192),
            Some(1 << 20),
            scope(50, RateScope::Gateway),
            false,
        ),
        (
            ClientMode::Anonymous,
            None,
            None,
            None,
            scope(3, RateScope::Route),
            false,
        ),
        (ClientMode::Request, None, None, None, None, true),
    ];
    assert_eq!(policies.into_iter().map(text).collect::<Vec<_>>(), expected);
}

#[test]
fn roles() {
    let check = |source: &str, expected: &str| {
        assert_eq!(judge(source).expect_err("a mistake"), [expected]);
    };
    check(
        "",
        "the file names no role; add the tables [ca], [gateway], [enrollment] or [health]",
    );
    check(
        "[gateway]\nroute = [{ upstream = 'http://b' }]",
        "line 1: [gateway] needs the CA in the same process in this version; add a [ca] table, which may be empty",
    );
    check(
        "[ca]\n[gateway]",
        "line 2: [gateway] has no route, so every request would be refused; add [[gateway.route]] with an upstream",
    );
}

#[test]
fn what_is_no_toml_is_said_so() {
    let mistakes = judge("[ca]\nnames = [").expect_err("a mistake");
    assert!(
        mistakes
            .iter()
            .any(|m| m.starts_with("line 2: this is not TOML: ")),
        "{mistakes:?}"
    );
}

/// What lies in a folder of certificates that a test may name.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().expect("a folder"));
        for name in ["a", "b"] {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("made");
            files.write(&format!("{name}.pem"), &made.cert.pem());
            files.write(&format!("{name}.key"), &made.signing_key.serialize_pem());
        }
        files.write("empty.pem", "");
        files.write("text.pem", "hello\n");
        let broken = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
        files.write("broken.pem", broken);
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        files.write("garbage.pem", garbage);
        files
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.0.path().join(name), content).expect("written");
    }

    /// A configuration whose upstream has these lines; `@` is the folder.
    fn judge(&self, lines: &str) -> Result<Config, Vec<String>> {
        let folder = self.0.path().display().to_string();
        let lines = lines.replace('@', &folder);
        let source = format!(
            "[ca]\n[gateway]\nroute = [{{ upstream = 'u' }}]\n[[gateway.upstream]]\nname = 'u'\n{lines}"
        );
        judge(&source).map_err(|mistakes| {
            let shorter = mistakes.iter();
            shorter.map(|one| one.replace(&folder, "@")).collect()
        })
    }
}

#[test]
fn the_examples_lines_for_tls_have_no_mistake() {
    let files = Files::new();
    let source = include_str!("../../config/keybound.toml");
    let mut lines: Vec<String> = Vec::new();
    for line in source.lines() {
        match line.strip_prefix("#tls ") {
            None => lines.push(line.to_owned()),
            Some(line) => {
                lines.retain(|other| {
                    other != r#"servers = ["http://10.0.0.8:8080", "unix:/run/orders.sock"]"#
                });
                let folder = files.0.path().display();
                lines.push(
                    line.replace("orders-ca.pem", &format!("{folder}/a.pem"))
                        .replace("gateway.pem", &format!("{folder}/b.pem"))
                        .replace("gateway.key", &format!("{folder}/b.key")),
                );
            }
        }
    }
    let config = judge(&lines.join("\n")).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let routes = config.gateway.expect("its table is there").routes;
    let orders = routes.iter().find(|route| route.path == "/orders/");
    assert!(orders.is_some_and(|route| route.upstream.tls.is_some()));
}

#[test]
fn upstreams_have_what_was_written_or_the_defaults() {
    let files = Files::new();
    let config = files
        .judge("servers = ['http://b', 'unix:/s', 'h2c://c']")
        .expect("legal");
    let gateway = config.gateway.expect("its table is there");
    let upstream = &gateway.routes[0].upstream;
    assert_eq!(
        upstream.timeouts,
        Some(gateway::UpstreamTimeouts::default())
    );
    assert_eq!(
        (upstream.max_connections, &upstream.health_check),
        (1024, &None)
    );
    let config = files
        .judge(
            "servers = ['https://b']\nroots = '@/a.pem'\nidle_timeout = '1h'\nmax_connections = 7\n\
             health_check = { path = '/up', unhealthy_after = 1 }",
        )
        .expect("legal");
    let gateway = config.gateway.expect("its table is there");
    let upstream = &gateway.routes[0].upstream;
    assert!(upstream.tls.is_some() && upstream.max_connections == 7);
    assert_eq!(
        upstream.timeouts.map(|times| times.idle),
        Some(Duration::from_secs(3_600))
    );
    let check = upstream.health_check.as_ref().expect("a check");
    assert_eq!(
        (
            check.path.as_str(),
            check.unhealthy_after,
            check.healthy_after
        ),
        ("/up", 1, 2)
    );
}

#[test]
fn every_mistake_of_an_upstream() {
    let files = Files::new();
    let check = |lines: &str, expected: &[&str]| {
        assert_eq!(
            files.judge(lines).err().unwrap_or_default(),
            expected,
            "{lines}"
        );
    };
    let tls = "servers = ['https://b']\nroots = '@/a.pem'\n";
    check(tls, &[]);
    check(
        &format!("{tls}certificate = '@/b.pem'\nkey = '@/b.key'"),
        &[],
    );
    check(
        "",
        &[
            "line 4: the upstream has no servers; write for example servers = [\"https://10.0.0.5:8443\"]",
        ],
    );
    check(
        "servers = ['http://b', 'ftp://c', 'http://b']",
        &[
            "line 6: the upstream \"ftp://c\" is refused: it must start with http://, https://, h2c:// or unix:/; write for example http://10.0.0.5:8080",
            "line 6: the upstream \"http://b\" is written twice",
        ],
    );
    check(
        "servers = ['https://b']",
        &[
            "line 4: a server speaks TLS, so roots must name a PEM file with the CA certificates that vouch for it; those of the system are never used",
        ],
    );
    check(
        "servers = ['http://b']\nroots = '@/a.pem'\nhttp2 = 'auto'",
        &[
            "line 7: roots is for TLS, and no server of the upstream speaks it; write https:// or leave roots out",
            "line 8: http2 is for TLS, and no server of the upstream speaks it; write https:// or leave http2 out",
        ],
    );
    for (file, sentence) in [
        (
            "none.pem",
            "cannot be read: No such file or directory (os error 2)",
        ),
        ("", "is not a file"),
        (
            "empty.pem",
            "has no certificate in it; it must be a PEM file with BEGIN CERTIFICATE lines",
        ),
        (
            "text.pem",
            "has no certificate in it; it must be a PEM file with BEGIN CERTIFICATE lines",
        ),
        ("broken.pem", "is damaged: it is not PEM (RFC 7468)"),
        (
            "a.key",
            "has a private key in it; it must have certificates only",
        ),
    ] {
        for key in ["roots", "certificate"] {
            let lines = match key {
                "roots" => format!("servers = ['https://b']\nroots = '@/{file}'"),
                _ => format!(
                    "servers = ['https://b']\nroots = '@/a.pem'\ncertificate = '@/{file}'\nkey = '@/b.key'"
                ),
            };
            let found = files.judge(&lines).expect_err("a mistake");
            let line = if key == "roots" { 7 } else { 8 };
            assert_eq!(found, [format!("line {line}: {key}: @/{file} {sentence}")]);
        }
    }
    let found = files.judge("servers = ['https://b']\nroots = '@/garbage.pem'");
    let found = found.expect_err("a mistake");
    assert!(
        found[0].starts_with("line 7: roots: root certificate 1 cannot be used: "),
        "{found:?}"
    );
    for (file, sentence) in [
        (
            "a.key",
            "line 9: key is not the key of the certificate; name the two that belong together",
        ),
        (
            "b.pem",
            "line 9: key: @/b.pem has a certificate in it; it must have one private key only",
        ),
        (
            "empty.pem",
            "line 9: key: @/empty.pem has no private key in it that can be read; it must be a PEM file, and not encrypted",
        ),
    ] {
        check(
            &format!("{tls}certificate = '@/b.pem'\nkey = '@/{file}'"),
            &[sentence],
        );
    }
    check(
        &format!("{tls}certificate = '@/b.pem'"),
        &["line 8: certificate needs its key; name the PEM file in key"],
    );
    check(
        &format!("{tls}key = '@/b.key'"),
        &["line 8: key needs its certificate; name the PEM file in certificate"],
    );
    check(
        &format!(
            "{tls}http2 = 'yes'\nserver_name = 'a b'\nidle_timeout = '0s'\nmax_connections = 0\nx = 1\nhealth_check = {{ every = '1s', timeout = '2s', unhealthy_after = 0 }}"
        ),
        &[
            "line 8: http2 = \"yes\" is not known; write \"auto\", \"never\" or \"always\"",
            "line 9: \"a b\" is neither a host name nor an IP address; write it without scheme, port and path",
            "line 10: idle_timeout must lie between 1s and 24h",
            "line 11: max_connections must lie between 1 and 65535",
            "line 12: [[gateway.upstream]] has no key \"x\"; its keys are: name, servers, roots, certificate, key, server_name, http2, connect_timeout, first_byte_timeout, idle_timeout, max_connections, health_check",
            "line 13: a check's timeout must not be longer than every",
            "line 13: health_check has no path; write for example path = \"/healthz\"",
            "line 13: unhealthy_after must lie between 1 and 100",
        ],
    );
}

#[test]
fn routes_find_their_upstreams_by_name() {
    let check = |source: &str, expected: &[&str]| {
        let source = format!("[ca]\n[gateway]\n{source}");
        assert_eq!(
            judge(&source).err().unwrap_or_default(),
            expected,
            "{source}"
        );
    };
    check(
        "route = [{ upstream = ['u'] }]\nupstream = [{ name = 'u', servers = 'unix:/s' }]",
        &[],
    );
    check(
        "route = [{ upstream = 'u' }]",
        &[
            "line 3: the upstream \"u\" is neither a URL, such as http://10.0.0.5:8080, nor the name of a [[gateway.upstream]]",
        ],
    );
    check(
        "route = [{ upstream = 'u' }]\nupstream = [{ name = 'v', servers = 'unix:/s' }, { name = 'v', servers = 'unix:/t' }, { servers = 'unix:/t' }, { name = 'a:b', servers = 'unix:/t' }]",
        &[
            "line 3: no [[gateway.upstream]] has the name \"u\"; there are: v, a:b",
            "line 4: another [[gateway.upstream]] has the same name",
            "line 4: the name \"a:b\" is refused; write 1-64 letters, digits, dots, underscores or hyphens",
            "line 4: the upstream has no name; write for example name = \"backend\"",
        ],
    );
    check(
        "route = [{ upstream = ['u', 'http://b'] }]\nupstream = [{ name = 'u', servers = 'unix:/s' }]",
        &[
            "line 3: the upstream \"u\" is refused: it must start with http://, https://, h2c:// or unix:/; write for example http://10.0.0.5:8080",
        ],
    );
}

#[test]
fn the_access_log_is_somewhere_in_some_format() {
    let judge_lines = |lines: &str| {
        judge(&format!(
            "[ca]\n[gateway]\nroute = [{{ upstream = 'http://b' }}]\n[gateway.access_log]\n{lines}"
        ))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().display();
    let told = |lines: &str| {
        let config = judge_lines(lines).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        let settings = config.gateway.and_then(|gateway| gateway.access_log);
        settings.expect("an access log").to_string()
    };
    assert_eq!(told("file = 'stdout'"), "stdout, json");
    let line = format!("file = '{folder}/a.log'\nformat = 'combined'");
    assert_eq!(told(&line), format!("{folder}/a.log, combined"));
    let refused = |lines: &str, expected: &[&str]| {
        let mistakes = judge_lines(lines).expect_err(lines);
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
        for (mistake, words) in mistakes.iter().zip(expected) {
            assert!(mistake.contains(words), "{words} in {mistake}");
        }
    };
    refused(
        "format = 'xml'\nlines = 5",
        &[
            "line 4: [gateway.access_log] needs file",
            "line 5: the format \"xml\" is none",
            "line 6: [gateway.access_log] has no key \"lines\"",
        ],
    );
    refused("file = ''", &["line 5: "]);
    refused(&format!("file = '{folder}'"), &["it is not a regular file"]);
    refused(&format!("file = '{folder}/'"), &["name a file"]);
    refused("file = '/dev/full'", &["it is not a regular file"]);
    refused("file = '/nowhere/a.log'", &["its directory is not there"]);
    refused("file = \"a\\nb\"", &["control characters"]);
    let missing = "[ca]\n[gateway]\naccess_log = 'stdout'\nroute = [{ upstream = 'http://b' }]";
    let mistakes = judge(missing).expect_err("no table");
    assert_eq!(
        mistakes,
        ["line 3: access_log in [gateway] must be a table"]
    );
}

#[test]
fn telemetry_is_a_mode_and_a_collector() {
    let judge_lines = |lines: &str| {
        judge(&format!(
            "[ca]\n[gateway]\nroute = [{{ upstream = 'http://b' }}]\n[telemetry]\n{lines}"
        ))
    };
    let told = |lines: &str| {
        let config = judge_lines(lines).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        let export = config.telemetry.export;
        let export = export.map(|(to, sample)| (format!("{}{}", to.authority, to.path), sample));
        (config.telemetry.trace, export)
    };
    let share = |share: f64| Sample::new(share).expect("a share");
    assert_eq!(told(""), (TraceMode::Pass, None));
    assert_eq!(told("trace = 'off'"), (TraceMode::Off, None));
    let to = |text: &str, sample| Some((text.to_owned(), share(sample)));
    assert_eq!(
        told("trace = 'restart'\notlp = 'http://Collector:4318/'\nsample = '2.5%'"),
        (TraceMode::Restart, to("collector:4318/v1/traces", 0.025))
    );
    let line = "otlp = 'http://[::1]:4318/otlp/v1/traces'";
    assert_eq!(told(line).1, to("[::1]:4318/otlp/v1/traces", 1.0));
    let refused = |lines: &str, words: &str| {
        let mistakes = judge_lines(lines).expect_err(lines);
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        assert!(mistakes[0].contains(words), "{words} in {mistakes:#?}");
    };
    refused("trace = 'on'", "line 5: trace = \"on\"");
    refused("sample = '5%'", "line 5: sample is of the spans");
    refused("trace = 'off'\notlp = 'http://a:1'", "line 6: with trace");
    refused("otlp = 'https://a:4318'", "must start with http://");
    refused("otlp = 'http://a'", "say its port");
    refused("otlp = 'http://[::1]'", "say its port");
    refused("otlp = 'http://u@a:1'", "otlp = ");
    refused("otlp = 'http://a:0'", "otlp = ");
    refused("otlp = 'http://a:1/x y'", "its path must be plain");
    refused("otlp = 'http://a:1/x?y'", "its path must be plain");
    refused("spans = 5", "has no key");
    for sample in ["5", "-5%", "101%", "nan%", "1e1%", "%", "five %"] {
        refused(
            &format!("otlp = 'http://a:1'\nsample = '{sample}'"),
            "write a share",
        );
    }
}
