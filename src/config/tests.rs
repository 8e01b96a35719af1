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
            upstreams: vec!["http://b".parse().expect("legal")],
            identity: vec![gateway::IdentityHeader::DeviceId],
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
client = "anonymous"
upstream = []
[[gateway.route]]
path = "/v1"
upstream = "https://10.0.0.1"
identity = ["device-id", "XFCC"]
"#;
    let expected = [
        "line 2: the top level has no key \"dta\"; its keys are: data, trust_domain, names, gateway, ca, enrollment, health",
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
        "line 19: client = \"anonymous\" comes in a later version; write \"require\" or leave it out",
        "line 21: this route has the same host and path as the route of line 17; list all its upstreams in one route",
        "line 23: the upstream \"https://10.0.0.1\" asks for TLS, which comes in a later version; use http://",
        "line 24: the identity form \"XFCC\" is not known; write \"device-id\", \"client-cert\", \"client-cert-chain\", \"xfcc\", \"nginx\", \"traefik\", \"aws-alb\", \"cloudflare\" or \"assertion\"",
    ];
    assert_eq!(judge(source).expect_err("many mistakes"), expected);
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
