//! The check of `[[gateway.anchor]]`, which includes the files: an anchor that may not be one, or a list that does not
//! speak for it, is a mistake like any other. What URLs lead to is found out at the start and at a reload.

use std::path::Path;
use std::time::Duration;

use gateway::{ForeignAnchors, Http2, UpstreamTls};
use identity::foreign::Table;
use identity::{CaCertificate, IdRule, Name};

use super::check::Notes;
use super::check_hop::TrustedGateways;
use super::file_anchor::AnchorTable;
use super::{AnchorConfig, Crl, CrlPlace, CrlSource, CrlUrl, Located, Place, pem_files};
use crate::{duration, files};

impl Notes {
    /// Reads every anchor. What stands before the ids of its devices stands before those of no gateway in front.
    pub(super) fn anchors(
        &mut self,
        tables: Vec<AnchorTable>,
        gateways: &TrustedGateways,
    ) -> Vec<AnchorConfig> {
        self.shared_urls(&tables);
        let mut places = Vec::with_capacity(tables.len());
        let mut anchors = Vec::with_capacity(tables.len());
        for table in tables {
            let place = table.place;
            if let Some(name) = &table.name
                && gateways.has(&name.value)
            {
                let sentence = format!(
                    "a [[gateway.trusted_gateway]] has the name {:?}, too, so that the devices of both would be called alike",
                    name.value
                );
                self.note(name.place, sentence);
            }
            if let Some(anchor) = self.anchor(table) {
                places.push(place);
                anchors.push(anchor);
            }
        }
        let known: Vec<_> = anchors
            .iter()
            .map(AnchorConfig::without_unknown_lists)
            .collect();
        for (position, fault) in ForeignAnchors::new(&known).err().unwrap_or_default() {
            let place = places.get(position).copied().unwrap_or(Place::Nowhere);
            self.note(place, format!("this anchor is refused: {fault}"));
        }
        anchors
    }

    /// Notes every URL that an earlier anchor has, too. A CA belongs to one anchor and a list to its CA, so it leads to no
    /// list for both; and what is kept of it for the next start is one file, which each would take from the other.
    fn shared_urls(&mut self, tables: &[AnchorTable]) {
        let mut earlier: Vec<CrlUrl> = Vec::new();
        for table in tables {
            let mut own = Vec::new();
            for one in table.crl.iter().flatten() {
                // What is wrong with it otherwise is noted with its anchor.
                if let Ok(CrlPlace::Url(url)) = CrlPlace::parse(&one.value) {
                    if earlier.contains(&url) {
                        let sentence = format!(
                            "crl: another anchor has {url}, too; a list belongs to the one anchor that has its CA"
                        );
                        self.note(one.place, sentence);
                    }
                    own.push(url);
                }
            }
            earlier.append(&mut own);
        }
    }

    /// `None` after a mistake, and then every mistake of the table was noted.
    fn anchor(&mut self, table: AnchorTable) -> Option<AnchorConfig> {
        let example = |key: &str, value: &str| {
            format!("[[gateway.anchor]] has no {key}; write for example {key} = {value:?}")
        };
        let name = match &table.name {
            Some(name) => self.take(name.place, anchor_name(&name.value)),
            None => {
                self.note(table.place, example("name", "factory"));
                None
            }
        };
        let authorities = match &table.certificates {
            Some(path) => self.authorities(path),
            None => {
                self.note(table.place, example("certificates", "factory-ca.pem"));
                None
            }
        };
        let id_from = self.id_from(&table);
        let refresh = match &table.refresh {
            None => Some(DEFAULT_REFRESH),
            Some(text) => self.take(text.place, refresh(&text.value)),
        };
        let crl = self.crl(&table, authorities.as_deref(), refresh);
        Some(AnchorConfig {
            name: name?,
            authorities: authorities?,
            id_from: id_from?,
            crl: crl?,
        })
    }

    fn authorities(&mut self, path: &Located<String>) -> Option<Vec<CaCertificate>> {
        let read = pem_files::certificates(Path::new(&path.value))
            .map_err(|error| format!("certificates: {error}"));
        let certificates = self.take(path.place, read)?;
        let mut all = Some(Vec::with_capacity(certificates.len()));
        for (position, der) in certificates.iter().enumerate() {
            let judged = CaCertificate::read(der).and_then(|ca| {
                ca.check_time(ca::now())?;
                Ok(ca)
            });
            let judged = judged.map_err(|fault| {
                format!(
                    "certificates: {}: certificate {} cannot be an anchor: {fault}",
                    path.value,
                    position + 1
                )
            });
            match (self.take(path.place, judged), &mut all) {
                (Some(ca), Some(all)) => all.push(ca),
                (Some(_), None) => {}
                (None, _) => all = None,
            }
        }
        all
    }

    fn id_from(&mut self, table: &AnchorTable) -> Option<IdRule> {
        let Some(written) = &table.id_from else {
            self.note(
                table.place,
                "[[gateway.anchor]] has no id_from; write \"cn\", \"uri-san\", \"dns-san\" or \"table\", which is where its devices' ids stand",
            );
            return None;
        };
        let (by_uri, by_table) = (written.value == "uri-san", written.value == "table");
        for (key, value, belongs) in [
            ("uri_prefix", &table.uri_prefix, by_uri),
            ("table", &table.table, by_table),
        ] {
            match value {
                Some(value) if !belongs => self.note(
                    value.place,
                    format!(
                        "{key} does not go with id_from = {:?}; leave it out",
                        written.value
                    ),
                ),
                None if belongs => self.note(
                    written.place,
                    format!("id_from = {:?} needs {key}", written.value),
                ),
                Some(_) | None => {}
            }
        }
        match written.value.as_str() {
            "cn" => Some(IdRule::CommonName),
            "dns-san" => Some(IdRule::DnsSan),
            "uri-san" => {
                let prefix = table.uri_prefix.as_ref()?;
                let judged = self.take(prefix.place, uri_prefix(&prefix.value));
                judged.map(|prefix| IdRule::UriSan { prefix })
            }
            "table" => {
                let path = table.table.as_ref()?;
                let read = read_table(Path::new(&path.value));
                self.take(path.place, read).map(IdRule::Table)
            }
            other => {
                self.note(
                    written.place,
                    format!("id_from = {other:?} is not known; write \"cn\", \"uri-san\", \"dns-san\" or \"table\""),
                );
                None
            }
        }
    }

    /// Outer `None` after a mistake; inner `None` where withdrawal is not checked.
    fn crl(
        &mut self,
        table: &AnchorTable,
        authorities: Option<&[CaCertificate]>,
        refresh: Option<Duration>,
    ) -> Option<Option<Crl>> {
        let written = table.crl.as_deref().unwrap_or_default();
        let [first, ..] = written else {
            self.note(
                table.place,
                "[[gateway.anchor]] has no crl; name the file or URL of its list of revoked certificates, or write crl = \"none\" if there is no way to withdraw one",
            );
            return None;
        };
        let of_urls = [("crl_roots", &table.crl_roots), ("refresh", &table.refresh)];
        if written.iter().any(|one| one.value == NONE) {
            let mut alone = true;
            for (key, value) in of_urls {
                if let Some(value) = value {
                    self.note(
                        value.place,
                        format!("{key} does not go with crl = \"none\""),
                    );
                    alone = false;
                }
            }
            if written.len() > 1 {
                self.note(first.place, "crl is \"none\" and something else; choose");
                alone = false;
            }
            return alone.then_some(None);
        }
        let mut sources: Option<Vec<CrlSource>> = Some(Vec::with_capacity(written.len()));
        let mut places: Vec<CrlPlace> = Vec::with_capacity(written.len());
        for one in written {
            let place = self.take(one.place, CrlPlace::parse(&one.value));
            if let Some(place) = &place {
                if places.contains(place) {
                    self.note(one.place, format!("crl has {place} twice"));
                    sources = None;
                }
                places.push(place.clone());
            }
            let source = place.and_then(|place| {
                let read = CrlSource::read(place, authorities?);
                let read = read.map_err(|fault| format!("crl: {}: {}", one.value, fault.fault));
                self.take(one.place, read)
            });
            match (source, &mut sources) {
                (Some(source), Some(sources)) => sources.push(source),
                (Some(_), None) => {}
                (None, _) => sources = None,
            }
        }
        let has_url = places.iter().any(|place| matches!(place, CrlPlace::Url(_)));
        if let (false, Some(value)) = (has_url, &table.refresh) {
            self.note(
                value.place,
                "refresh is for URLs, and crl has none; files are looked at by themselves",
            );
            sources = None;
        }
        let tls = self.crl_tls(table, &places);
        Some(Some(Crl {
            sources: sources?,
            refresh: refresh?,
            tls: tls?,
        }))
    }

    fn crl_tls(&mut self, table: &AnchorTable, places: &[CrlPlace]) -> Option<Option<UpstreamTls>> {
        let needed = places.iter().any(CrlPlace::is_tls);
        match (&table.crl_roots, needed) {
            (None, false) => Some(None),
            (Some(roots), false) => {
                self.note(
                    roots.place,
                    "crl_roots is for https:// URLs, and crl has none; leave it out",
                );
                None
            }
            (None, true) => {
                self.note(
                    table.place,
                    "crl has an https:// URL, so crl_roots must name a PEM file with the CA certificates that vouch for its server; those of the system are never used",
                );
                None
            }
            (Some(roots), true) => {
                let read = pem_files::certificates(Path::new(&roots.value))
                    .and_then(|certificates| {
                        UpstreamTls::new(&certificates, None, None, Http2::Never)
                            .map_err(|fault| format!("{}: {fault}", roots.value))
                    })
                    .map_err(|error| format!("crl_roots: {error}"));
                self.take(roots.place, read).map(Some)
            }
        }
    }
}

/// Letters, digits and hyphens in lower case, a letter first: what goes before a colon in a URI, too.
fn anchor_name(text: &str) -> Result<Name, String> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins = text.starts_with(|first: char| first.is_ascii_lowercase());
    let name = Name::parse(text).ok();
    name.filter(|_| begins && text.bytes().all(legal)).ok_or_else(|| {
        format!(
            "the anchor's name {text:?} is refused; write 1-64 of a-z, 0-9 and -, beginning with a letter"
        )
    })
}

/// Something that a URI may begin with (RFC 3986, section 3.1).
fn uri_prefix(text: &str) -> Result<String, String> {
    let scheme = text.split(':').next().unwrap_or_default();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let has_scheme = scheme.len() < text.len()
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(legal);
    if has_scheme && text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "uri_prefix = {text:?} is no beginning of a URI; write for example \"urn:factory:device:\""
        ))
    }
}

fn refresh(text: &str) -> Result<Duration, String> {
    let length = duration::parse(text).map_err(|error| format!("refresh = {text:?}: {error}"))?;
    if (SHORTEST..=LONGEST).contains(&length) {
        Ok(length)
    } else {
        Err("refresh must lie between 1s and 24h".to_owned())
    }
}

fn read_table(path: &Path) -> Result<Table, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("table: {}: {error}", path.display());
    // A pipe would be waited for.
    let metadata = std::fs::metadata(path).map_err(|error| cannot(&error))?;
    if !metadata.is_file() {
        return Err(cannot(&"it is not a file"));
    }
    let content = files::read_at_most(path, LONGEST_TABLE).map_err(|error| cannot(&error))?;
    let text = String::from_utf8(content).map_err(|_| cannot(&"it is not UTF-8"))?;
    Table::parse(&text).map_err(|fault| cannot(&fault))
}

const NONE: &str = "none";
const DEFAULT_REFRESH: Duration = Duration::from_secs(5 * 60);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Room for as many lines as a table may have.
const LONGEST_TABLE: usize = 768 << 20;
