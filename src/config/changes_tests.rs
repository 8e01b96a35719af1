//! What a reload is found to change, and what it cannot, in the words of docs/operations.md.

use std::collections::BTreeSet;

use super::super::{Purpose, check};
use super::*;

fn parse(source: &str) -> (Config, FixedPlaces) {
    let (file, mistakes) = ConfigFile::parse(source);
    let places = file.fixed_places();
    let config = check(file, Purpose::Serve, None, mistakes).expect("no mistakes");
    (config, places)
}

fn between(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
    let (old, _) = parse(old);
    let (new, places) = parse(new);
    let domain = TrustDomain::parse("keybound.local").expect("legal");
    let changes = compare(&old, &new, &places, &domain);
    let beyond = changes.beyond_reload.iter().map(ToString::to_string);
    (changes.sentences, beyond.collect())
}

const FIRST: &str = "names = ['a.example']\n[ca]\n[health]\n[gateway]\nworkers = 2\n[[gateway.route]]\nupstream = 'http://b'\n";

#[test]
fn what_a_reload_changes() {
    let nothing: (Vec<String>, Vec<String>) = Default::default();
    assert_eq!(between(FIRST, FIRST), nothing);
    assert_eq!(between(FIRST, &format!("# more words\n{FIRST}")), nothing);
    let (sentences, beyond) = between(
        FIRST,
        "names = ['a.example', 'b']\ntrust_domain = 'keybound.local'\n[ca]\n[health]\n[gateway]\nworkers = 2\nmax_staleness = '1h'\n\
         [[gateway.route]]\nhost = 'a.example'\nupstream = 'http://b'\n[[gateway.route]]\nupstream = 'http://c'\n",
    );
    assert_eq!(beyond, [""; 0]);
    assert_eq!(
        sentences,
        [
            "names: a.example, b; the server's own certificate is made anew",
            "without_sni: b",
            "max_staleness: 3600s",
            "route a.example / added",
            "route any host / changed",
        ]
    );
    let (sentences, _) = between(
        "[ca]\n[gateway]\nroute = [{ upstream = 'http://b' }]",
        "[ca]\n[gateway]\nroute = [{ upstream = 'http://b', websocket = false }]",
    );
    assert_eq!(sentences, ["route any host / changed"]);
    let (sentences, _) = between(
        "[ca]\n[gateway]\nroute = [{ upstream = 'http://b', path = '/a' }, { upstream = 'http://b' }]",
        "[ca]\n[gateway]\nroute = [{ upstream = 'http://b', path = '/a' }]",
    );
    assert_eq!(sentences, ["route any host / removed"]);
}

#[test]
fn what_needs_a_restart() {
    let (_, beyond) = between(
        FIRST,
        "data = 'elsewhere'\ntrust_domain = 'other'\nnames = ['a.example']\n[ca]\ndevice_certificate_days = 3\n[enrollment]\n[health]\n\
         listen = '127.0.0.1:1'\n[gateway]\nlisten = '127.0.0.1:2'\nworkers = 3\n[[gateway.route]]\nupstream = 'http://b'\n",
    );
    let lines: Vec<_> = beyond
        .iter()
        .map(|mistake| mistake.split(" is not what").next().unwrap_or_default())
        .collect();
    assert_eq!(
        lines,
        [
            "line 1: data",
            "line 2: trust_domain",
            "line 5: device_certificate_days in [ca]",
            "line 6: [enrollment]",
            "line 8: [health]",
            "line 10: listen in [gateway]",
            "line 11: workers in [gateway]",
        ]
    );
    let (_, beyond) = between(FIRST, "[ca]\n[health]\n");
    assert!(beyond[0].starts_with("[gateway] is not what"), "{beyond:?}");
}

/// The words in backquotes in the columns of the reload table in docs/operations.md, without brackets and `gateway.`.
fn documented() -> [BTreeSet<String>; 2] {
    let page = include_str!("../../docs/operations.md");
    let table = page.split("\n| Reloaded | Needs a restart |\n").nth(1);
    let rows = table.expect("the table").lines().skip(1);
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    [1, 2].map(|column| {
        let cells = rows.iter().filter_map(|row| row.split('|').nth(column));
        let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let words = words.map(|word| word.trim_matches(['[', ']']).trim_start_matches("gateway."));
        words.map(str::to_owned).collect()
    })
}

/// Every key at the top, in `[ca]` and in `[gateway]`, as whoever mistypes one is told.
fn keys() -> BTreeSet<String> {
    let (_, mistakes) = ConfigFile::parse("no = 1\n[ca]\nno = 1\n[gateway]\nno = 1\n");
    let known = mistakes.iter().filter_map(|mistake| {
        let (_, keys) = mistake.sentence.split_once("its keys are: ")?;
        Some(keys.split(", ").map(str::to_owned))
    });
    let known: Vec<_> = known.collect();
    assert_eq!(known.len(), 3, "{mistakes:?}");
    known.into_iter().flatten().collect()
}

/// What docs/operations.md says of each key is what comes of it.
#[test]
fn the_reload_table_is_whole_and_true() {
    let [reloaded, fixed] = documented();
    assert!(reloaded.is_disjoint(&fixed), "{reloaded:?} {fixed:?}");
    let both: BTreeSet<_> = reloaded.union(&fixed).cloned().collect();
    assert_eq!(both, keys());
    // A file that differs in one key alone; those that need files are tested elsewhere.
    let changed = |key: &str| -> Option<String> {
        let gateway = |line: &str| FIRST.replace("[gateway]\n", &format!("[gateway]\n{line}\n"));
        Some(match key {
            "data" => format!("data = 'elsewhere'\n{FIRST}"),
            "trust_domain" => format!("trust_domain = 'other'\n{FIRST}"),
            "names" => FIRST.replace("['a.example']", "['a.example', 'b']"),
            "device_certificate_days" => {
                FIRST.replace("[ca]\n", "[ca]\ndevice_certificate_days = 3\n")
            }
            "telemetry" => format!("{FIRST}[telemetry]\ntrace = 'restart'\n"),
            "enrollment" => format!("{FIRST}[enrollment]\n"),
            "health" => FIRST.replace("[health]\n", ""),
            "gateway" => "names = ['a.example']\n[ca]\n[health]\n".to_owned(),
            "listen" => gateway("listen = '127.0.0.1:2'"),
            "workers" => FIRST.replace("workers = 2", "workers = 3"),
            "proxy_protocol_from" => gateway("proxy_protocol_from = ['10.0.0.1']"),
            "without_sni" => gateway("without_sni = ['a.example']"),
            "max_staleness" => gateway("max_staleness = '1h'"),
            "rate" => gateway("rate = '3/s'"),
            "burst" => gateway("burst = 3"),
            "max_connections_per_device"
            | "max_requests_per_device"
            | "max_connections_per_address"
            | "max_requests_per_address" => gateway(&format!("{key} = 3")),
            "route" => FIRST.replace("http://b", "http://c"),
            "upstream" => {
                FIRST.replace("upstream = 'http://b'", "upstream = 'b'")
                    + "[[gateway.upstream]]\nname = 'b'\nservers = ['http://b']\n"
            }
            "tcp" => {
                FIRST.replace("['a.example']", "['a.example', 'b']")
                    + "[[gateway.tcp]]\nhost = 'b'\nupstream = 'tcp://b:1'\n"
            }
            "access_log" => format!("{FIRST}[gateway.access_log]\nfile = 'stdout'\n"),
            "ca" | "certificate" | "anchor" | "trusted_gateway" => return None,
            other => panic!("{other} is not tried"),
        })
    };
    for key in &both {
        let Some(new) = changed(key) else {
            continue;
        };
        let (sentences, beyond) = between(FIRST, &new);
        let was_fixed = !beyond.is_empty();
        assert_eq!(was_fixed, fixed.contains(key), "{key}: {beyond:?}");
        assert!(was_fixed || !sentences.is_empty(), "{key} is not told");
    }
}

#[test]
fn an_anchor_whose_crl_roots_are_others_has_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        let names = &mut params.distinguished_name;
        names.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        let key = rcgen::KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a CA");
        let path = folder.path().join(name);
        std::fs::write(&path, made.pem()).expect("written");
        path.display().to_string()
    };
    let (factory, first, second) = (ca("factory"), ca("first"), ca("second"));
    let with = |roots: &str| {
        format!(
            "{FIRST}[[gateway.anchor]]\nname = 'factory'\ncertificates = '{factory}'\ncrl = 'https://crl.example/a'\n\
             crl_roots = '{roots}'\nid_from = 'cn'\n"
        )
    };
    let nothing: (Vec<String>, Vec<String>) = Default::default();
    assert_eq!(between(&with(&first), &with(&first)), nothing);
    let (sentences, _) = between(&with(&first), &with(&second));
    assert_eq!(sentences, ["anchor factory changed"]);
}
