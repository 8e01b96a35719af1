//! Two installations in a chain: the one in front is a device of the one behind, and signs for whom it asks.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, text};

fn start(directory: &Path, name: &str, configuration: &str) -> Server {
    let file = directory.join(name);
    std::fs::write(&file, configuration).unwrap();
    Server::start(
        Setup::default()
            .argument("--config")
            .argument(file.to_str().unwrap()),
    )
}

fn fetch(url: &str) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--fail", "--max-time", "10", url])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    text(&output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_mutual_tls_with_an_assertion_for_each_device() {
    let service = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();

    // Behind: it knows the gateway in front as the device edge-1. What it signs is known once that one runs.
    let plain = format!(
        "[[gateway.route]]\nupstream = \"http://{}\"\n",
        service.address
    );
    let inner = start(place, "inner.toml", &plain);
    let edge = inner.device("edge-1");

    // In front.
    let outer = start(
        place,
        "outer.toml",
        &format!(
            "trust_domain = \"edge.example\"\n[[gateway.upstream]]\nname = \"inner\"\nservers = [\"https://localhost:{}\"]\n\
             roots = {:?}\ncertificate = {:?}\nkey = {:?}\n[[gateway.route]]\nupstream = \"inner\"\nidentity = [\"assertion\"]\n",
            inner.gateway().port(),
            inner.root_file(),
            edge.certificate_file(),
            edge.key_file(),
        ),
    );
    let keys = place.join("edge-keys.json");
    let key_set = format!("http://{}/.well-known/jwks.json", outer.health());
    std::fs::write(&keys, fetch(&key_set)).unwrap();
    let device = outer.device("thermostat-7");
    // The host is that of the request, whose port is another one behind.
    let ask = || {
        let answer = device.curl(&outer, &["-H", "X-Device-Id: admin", &outer.url("/v1/x")]);
        let status = text(&answer.stdout);
        (status, service.received())
    };
    let (_, received) = ask();
    assert!(
        received.contains("\r\nx-device-id: edge-1\r\n"),
        "{received}"
    );

    std::fs::write(
        place.join("inner.toml"),
        format!(
            "[[gateway.trusted_gateway]]\nname = \"edge\"\ndevice = \"edge-1\"\nissuer = \"spiffe://edge.example/gateway/gateway-1\"\n\
             audience = \"https://*/\"\nkey_set = {keys:?}\n[[gateway.route]]\nupstream = \"http://{}\"\nvia = [\"edge\"]\n\
             identity = [\"device-id\", \"assertion\"]\n",
            service.address
        ),
    )
    .unwrap();
    inner.run(&["reload"]);
    service.forget();
    let (answer, received) = ask();
    assert_eq!(answer, "ok\n");
    let header = |name: &str| {
        let mut found = received.lines().filter_map(|line| line.strip_prefix(name));
        let value = found.next().unwrap_or_else(|| panic!("{received}"));
        assert_eq!(found.next(), None);
        value.to_owned()
    };
    assert_eq!(header("x-device-id: "), "edge:thermostat-7");
    let via = "spiffe://edge.example/gateway/gateway-1";
    assert_eq!(header("x-device-via: "), via);
    let claims = read_by_pyjwt(&inner, &header("x-device-assertion: "));
    assert_eq!(claims["sub"], "spiffe://edge.example/device/thermostat-7");
    assert_eq!(claims["device_id"], "edge:thermostat-7");
    assert_eq!(claims["act"], serde_json::json!({ "sub": via }));
    let shown = outer.json(&["device", "show", "thermostat-7", "--json"]);
    assert_eq!(claims["serial"], shown["certificates"][0]["serial"]);
    for who in ["edge:thermostat-7", "edge-1"] {
        let explained = inner.run(&["explain", who]);
        assert!(
            explained.contains("edge-1 for edge:thermostat-7"),
            "{explained}"
        );
    }

    // What either of them revokes reaches the service no more.
    service.forget();
    outer.run(&["device", "revoke", "thermostat-7"]);
    let (answer, received) = ask();
    assert!(answer.contains("\"revoked\""), "{answer}");
    assert_eq!(received, "");
    let device = outer.device("thermostat-8");
    inner.run(&["device", "revoke", "edge-1"]);
    let answer = device.curl(&outer, &[&outer.url("/v1/x")]);
    assert!(
        text(&answer.stdout).contains("revoked"),
        "{}",
        text(&answer.stdout)
    );
    assert_eq!(service.received(), "");
}

fn read_by_pyjwt(server: &Server, assertion: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = "import json, sys, jwt\n\
        keys = jwt.PyJWKClient(sys.argv[1])\n\
        key = keys.get_signing_key_from_jwt(sys.argv[2])\n\
        print(json.dumps(jwt.decode(sys.argv[2], key, algorithms=['ES256'], audience='https://*/')))";
    let output = Command::new(root.join("target/peers/bin/python"))
        .args(["-c", script])
        .arg(format!("http://{}/.well-known/jwks.json", server.health()))
        .arg(assertion)
        .output()
        .expect("installed by tests/run (tests/peers/install)");
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
