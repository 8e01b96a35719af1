//! Where the configuration comes from: a file, and flags that go before it. It is read at the start and at each reload.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use identity::Fingerprint;

use crate::config::changes::FixedPlaces;
use crate::config::file::{ConfigFile, GatewayTable, ListenTable, RouteTable};
use crate::config::file_policy::PolicyKeys;
use crate::config::{self, Config, Located, Mistake, Place, Purpose};
use crate::files;

/// A file, flags, or both.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: Option<PathBuf>,
    pub(crate) flags: Flags,
    pub(crate) purpose: Purpose,
}

/// What flags say, to be written over what the file says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) data: Option<String>,
    pub(crate) upstream: Option<String>,
    pub(crate) names: Vec<String>,
    pub(crate) trust_domain: Option<String>,
    pub(crate) gateway_listen: Option<SocketAddr>,
    pub(crate) enrollment_listen: Option<SocketAddr>,
    pub(crate) health_listen: Option<SocketAddr>,
}

/// A configuration without mistakes, and what of it only its source knows.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// SHA-256 of the file's content, or of nothing.
    pub(crate) hash: Fingerprint,
    pub(crate) places: FixedPlaces,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{} cannot be read: {error}.", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "--upstream {upstream} and the routes of {name} contradict each other; leave one of them out."
    )]
    Contradiction { upstream: String, name: String },
    #[error("{}", report(.name, .mistakes))]
    Mistakes {
        name: String,
        mistakes: Vec<Mistake>,
    },
}

impl Source {
    /// Reads and judges everything anew.
    pub(crate) fn load(&self) -> Result<Loaded, Fault> {
        let name = self.name();
        let (mut file, mistakes, hash) = match &self.file {
            Some(path) => read(path)?,
            None => (ConfigFile::default(), Vec::new(), Fingerprint::of(&[])),
        };
        let has_routes = |gateway: &GatewayTable| !gateway.routes.is_empty();
        if let Some(upstream) = &self.flags.upstream
            && file.gateway.as_ref().is_some_and(has_routes)
        {
            let upstream = upstream.clone();
            return Err(Fault::Contradiction { upstream, name });
        }
        self.flags.write_into(&mut file);
        let places = file.fixed_places();
        let config = config::check(file, self.purpose, host_name().as_deref(), mistakes)
            .map_err(|mistakes| Fault::Mistakes { name, mistakes })?;
        Ok(Loaded {
            config,
            hash,
            places,
        })
    }

    /// What mistakes are reported under.
    pub(crate) fn name(&self) -> String {
        match &self.file {
            Some(path) => path.display().to_string(),
            None => "keybound up".to_owned(),
        }
    }
}

/// The file as written, with what cannot be read of it, and the SHA-256 of its content.
fn read(path: &Path) -> Result<(ConfigFile, Vec<Mistake>, Fingerprint), Fault> {
    let source = files::read_at_most(path, LONGEST_FILE).map_err(|error| Fault::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let hash = Fingerprint::of(&source);
    let valid = match std::str::from_utf8(&source) {
        Ok(text) => {
            let (file, mistakes) = ConfigFile::parse(text);
            return Ok((file, mistakes, hash));
        }
        Err(error) => error.valid_up_to(),
    };
    // The rest of it is read all the same, so that every mistake is in one report.
    let (file, mut mistakes) = ConfigFile::parse(&String::from_utf8_lossy(&source));
    let lines_before = source[..valid].iter().filter(|byte| **byte == b'\n');
    mistakes.push(Mistake {
        place: Place::Line(lines_before.count() + 1),
        sentence: "this is not UTF-8; save the file in that encoding".to_owned(),
    });
    Ok((file, mistakes, hash))
}

/// Every mistake under the file's name.
pub(crate) fn report(name: &str, mistakes: &[impl std::fmt::Display]) -> String {
    let number = match mistakes.len() {
        1 => "1 mistake".to_owned(),
        number => format!("{number} mistakes"),
    };
    let mut text = format!("{name}: {number}");
    for mistake in mistakes {
        text.push_str(&format!("\n  {mistake}"));
    }
    text
}

impl Flags {
    fn write_into(&self, file: &mut ConfigFile) {
        if let Some(data) = &self.data {
            file.data = Some(flag("--data", data.clone()));
        }
        if let Some(trust_domain) = &self.trust_domain {
            file.trust_domain = Some(flag("--trust-domain", trust_domain.clone()));
        }
        if !self.names.is_empty() {
            let names = self.names.iter().map(|name| flag("--name", name.clone()));
            file.names = Some(names.collect());
        }
        let listen =
            |name: &'static str, address: SocketAddr| vec![flag(name, address.to_string())];
        if self.upstream.is_some() || self.gateway_listen.is_some() {
            let gateway = file
                .gateway
                .get_or_insert_with(|| GatewayTable::new(Place::Nowhere));
            if let Some(address) = self.gateway_listen {
                gateway.listen = Some(listen("--gateway-listen", address));
            }
            if let Some(upstream) = &self.upstream {
                gateway.routes.push(RouteTable {
                    place: Place::Flag("--upstream"),
                    host: None,
                    path: None,
                    upstream: Some(vec![flag("--upstream", upstream.clone())]),
                    policy: PolicyKeys::default(),
                    identity: None,
                });
            }
        }
        let listener = |name: &'static str, address| ListenTable {
            place: Place::Flag(name),
            listen: Some(listen(name, address)),
        };
        if let Some(address) = self.enrollment_listen {
            file.enrollment = Some(listener("--enrollment-listen", address));
        }
        if let Some(address) = self.health_listen {
            file.health = Some(listener("--health-listen", address));
        }
    }
}

fn flag<T>(name: &'static str, value: T) -> Located<T> {
    Located {
        place: Place::Flag(name),
        value,
    }
}

/// This machine's name, if it is text.
fn host_name() -> Option<String> {
    rustix::system::uname()
        .nodename()
        .to_str()
        .ok()
        .map(str::to_owned)
}

/// Thousands of routes fit.
const LONGEST_FILE: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_before_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("c.toml");
        let text = "names = ['a']\n[gateway]\nlisten = 'nonsense'\n[health]";
        std::fs::write(&path, text).expect("written");
        let source = Source {
            file: Some(path),
            flags: Flags {
                upstream: Some("http://b:1".into()),
                names: vec!["c".into()],
                gateway_listen: Some(([127, 0, 0, 1], 0).into()),
                health_listen: Some(([127, 0, 0, 1], 0).into()),
                ..Flags::default()
            },
            purpose: Purpose::Up,
        };
        let loaded = source.load().unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(loaded.config.names, ["c"]);
        assert_eq!(loaded.hash, Fingerprint::of(text.as_bytes()));
        let gateway = loaded.config.gateway.expect("up runs it");
        assert_eq!(gateway.listen, [SocketAddr::from(([127, 0, 0, 1], 0))]);
        assert_eq!(gateway.routes.len(), 1);
    }
}
