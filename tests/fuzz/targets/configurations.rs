//! Configuration files: any text is either a configuration that can be acted on, or has mistakes, each with a place
//! in the text and a sentence.
#![no_main]
#![allow(dead_code, unreachable_pub)] // A part of the program is looked at here, and not all of it.
#![allow(unexpected_cfgs, unused_imports)] // Nor are its features this crate's.

#[path = "../../../src/config/mod.rs"]
mod config;
#[path = "../../../src/duration.rs"]
mod duration;
#[path = "../../../src/files.rs"]
mod files;

use config::file::ConfigFile;
use config::{Place, Purpose, check};
use gateway::RouteTable;
use keybound_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(first_inputs), |text: &str| {
    let lines = text.split('\n').count();
    for purpose in [Purpose::Serve, Purpose::Up] {
        let (file, mistakes) = ConfigFile::parse(text);
        let (again, mistakes_again) = ConfigFile::parse(text);
        assert_eq!(mistakes, mistakes_again);
        assert_eq!(format!("{file:?}"), format!("{again:?}"));
        let any = !mistakes.is_empty();
        match check(file, purpose, Some("gate-1"), mistakes) {
            Ok(config) => {
                assert!(!any, "mistakes were lost");
                assert!(!config.names.is_empty());
                assert!(config.names.iter().all(|name| *name == name.to_lowercase()));
                let listening = [&config.enrollment, &config.health];
                assert!(listening.into_iter().flatten().all(|addresses| !addresses.is_empty()));
                let days = config.device_certificate_life.as_secs() / 86_400;
                assert!((1..=3650).contains(&days), "{days}");
                if let Some(gateway) = config.gateway {
                    assert!(!gateway.listen.is_empty());
                    assert!(purpose == Purpose::Up || !gateway.routes.is_empty());
                    assert!(gateway.workers.is_none_or(|workers| (1..=1024).contains(&workers)));
                    assert!(gateway.routes.iter().all(|route| !route.upstream.servers.is_empty()));
                    assert!(!gateway.max_staleness.is_zero());
                    RouteTable::new(gateway.routes).expect("routes that can be used");
                }
            }
            Err(mistakes) => {
                assert!(!mistakes.is_empty(), "refused without a reason");
                for mistake in mistakes {
                    let shown = mistake.to_string();
                    assert!(!mistake.sentence.is_empty() && !shown.contains('\n'), "{shown:?}");
                    match mistake.place {
                        Place::Line(line) => assert!((1..=lines).contains(&line), "{shown}"),
                        Place::Flag(_) => panic!("no flag was given: {shown}"),
                        Place::Nowhere => {}
                    }
                }
            }
        }
    }
});

fn first_inputs() -> Vec<Vec<u8>> {
    [
        include_str!("../../../config/minimal.toml"),
        include_str!("../../../config/keybound.toml"),
        "[ca]\n[gateway]\nroute = [{ upstream = 'http://b', path = '/v1', host = 'a.example', identity = ['client-cert'] }]",
        "names = ['a.example.com', '10.0.0.1']\ndata = 'x'\ntrust_domain = 'a.b'\n[ca]\ndevice_certificate_days = 0x1e\n",
        "[gateway]\nlisten = '127.0.0.1:1'\nworkers = 2\nwithout_sni = ['localhost']\nmax_staleness = '1h30m'\n[[gateway.route]]\nupstream = ['http://[::1]:8080']\nclient = 'require'\n",
        "[enrollment]\nlisten = ['0.0.0.0:0']\n[health]\nlisten = []\nmore = 1\n",
        "[ca]\n[gateway]\n[[gateway.upstream]]\nname = 'a'\nservers = ['unix:/x', 'h2c://a:1', 'https://b']\nroots = 'x.pem'\nserver_name = 'c'\nhttp2 = 'never'\nmax_connections = 9\nidle_timeout = '1h'\nhealth_check = { path = '/up?x', every = '5s', timeout = '2s', healthy_after = 1, unhealthy_after = 2, host = 'h' }\n[[gateway.route]]\nupstream = 'a'\n",
        "[ca]\n[gateway]\n[[gateway.anchor]]\nname = 'factory'\ncertificates = 'ca.pem'\ncrl = ['a.crl', 'https://a:1/b?c']\nrefresh = '5m'\ncrl_roots = 'x.pem'\nid_from = 'uri-san'\nuri_prefix = 'urn:a:'\ntable = 'ids.csv'\n",
        "[gateway]\nlisten = 5\n[[gateway.route]]\n[gateway]\n= x",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
