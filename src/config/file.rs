//! What was written, in the file or as flags: texts and numbers with their places, not yet judged.

use toml::de::DeTable;

use super::file_anchor::AnchorTable;
use super::file_policy::{LimitKeys, PolicyKeys, TrustedGatewayTable};
use super::file_telemetry::{AccessLogTable, TelemetryTable};
pub(crate) use super::file_upstream::UpstreamTable;
use super::reader::{Notes, Section};
use super::{Located, Mistake, Place};

/// A configuration as written.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    pub(crate) data: Option<Located<String>>,
    pub(crate) trust_domain: Option<Located<String>>,
    pub(crate) names: Option<Vec<Located<String>>>,
    pub(crate) gateway: Option<GatewayTable>,
    pub(crate) ca: Option<CaTable>,
    pub(crate) enrollment: Option<ListenTable>,
    pub(crate) health: Option<ListenTable>,
    pub(crate) telemetry: Option<TelemetryTable>,
}

/// `[gateway]`
#[derive(Debug)]
pub(crate) struct GatewayTable {
    pub(crate) place: Place,
    pub(crate) listen: Option<Vec<Located<String>>>,
    pub(crate) workers: Option<Located<i64>>,
    pub(crate) without_sni: Option<Vec<Located<String>>>,
    pub(crate) max_staleness: Option<Located<String>>,
    pub(crate) proxy_protocol_from: Option<Vec<Located<String>>>,
    pub(crate) upstreams: Vec<UpstreamTable>,
    pub(crate) certificates: Vec<CertificateTable>,
    pub(crate) trusted_gateways: Vec<TrustedGatewayTable>,
    pub(crate) anchors: Vec<AnchorTable>,
    pub(crate) limits: LimitKeys,
    pub(crate) routes: Vec<RouteTable>,
    pub(crate) tcp_routes: Vec<TcpTable>,
    pub(crate) access_log: Option<AccessLogTable>,
}

/// `[[gateway.certificate]]`
#[derive(Debug)]
pub(crate) struct CertificateTable {
    pub(crate) place: Place,
    pub(crate) certificate: Option<Located<String>>,
    pub(crate) key: Option<Located<String>>,
}

/// `[[gateway.route]]`
#[derive(Debug)]
pub(crate) struct RouteTable {
    pub(crate) place: Place,
    pub(crate) host: Option<Located<String>>,
    pub(crate) path: Option<Located<String>>,
    pub(crate) upstream: Option<Vec<Located<String>>>,
    pub(crate) identity: Option<Vec<Located<String>>>,
    pub(crate) policy: PolicyKeys,
}

/// `[[gateway.tcp]]`
#[derive(Debug)]
pub(crate) struct TcpTable {
    pub(crate) place: Place,
    pub(crate) host: Option<Located<String>>,
    pub(crate) upstream: Option<Vec<Located<String>>>,
    pub(crate) proxy_protocol: Option<Located<String>>,
    pub(crate) alpn: Option<Vec<Located<String>>>,
}

/// `[ca]`
#[derive(Debug, Default)]
pub(crate) struct CaTable {
    pub(crate) device_certificate_days: Option<Located<i64>>,
}

/// `[enrollment]`, `[health]`
#[derive(Debug)]
pub(crate) struct ListenTable {
    pub(crate) place: Place,
    pub(crate) listen: Option<Vec<Located<String>>>,
}

impl GatewayTable {
    /// An empty table.
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            listen: None,
            workers: None,
            without_sni: None,
            max_staleness: None,
            proxy_protocol_from: None,
            upstreams: Vec::new(),
            certificates: Vec::new(),
            trusted_gateways: Vec::new(),
            anchors: Vec::new(),
            limits: LimitKeys::default(),
            routes: Vec::new(),
            tcp_routes: Vec::new(),
            access_log: None,
        }
    }
}

impl ConfigFile {
    /// Reads TOML. What can be read is returned beside the mistakes, so that it can be judged as well.
    pub(crate) fn parse(source: &str) -> (Self, Vec<Mistake>) {
        let mut notes = Notes::new(source);
        let (document, errors) = DeTable::parse_recoverable(source);
        for error in &errors {
            let place = error
                .span()
                .map_or(Place::Nowhere, |span| notes.place(span.start));
            let message = error.message().replace('\n', ", ");
            notes.note(place, format!("this is not TOML: {message}"));
        }
        let mut top = Section::new("the top level", Place::Line(1), document.get_ref());
        let file = Self {
            data: top.string("data", &mut notes),
            trust_domain: top.string("trust_domain", &mut notes),
            names: top.strings("names", &mut notes),
            gateway: top
                .section("gateway", "[gateway]", &mut notes)
                .map(|section| gateway(section, &mut notes)),
            ca: top.section("ca", "[ca]", &mut notes).map(|mut section| {
                let days = section.integer("device_certificate_days", &mut notes);
                section.finish(&mut notes);
                CaTable {
                    device_certificate_days: days,
                }
            }),
            enrollment: top
                .section("enrollment", "[enrollment]", &mut notes)
                .map(|section| listener(section, &mut notes)),
            health: top
                .section("health", "[health]", &mut notes)
                .map(|section| listener(section, &mut notes)),
            telemetry: top
                .section("telemetry", "[telemetry]", &mut notes)
                .map(|section| TelemetryTable::read(section, &mut notes)),
        };
        top.finish(&mut notes);
        (file, notes.mistakes)
    }
}

fn gateway(mut section: Section<'_>, notes: &mut Notes<'_>) -> GatewayTable {
    let table = GatewayTable {
        place: section.place,
        listen: section.strings("listen", notes),
        workers: section.integer("workers", notes),
        without_sni: section.strings("without_sni", notes),
        max_staleness: section.string("max_staleness", notes),
        proxy_protocol_from: section.strings("proxy_protocol_from", notes),
        upstreams: section
            .sections("upstream", "[[gateway.upstream]]", notes)
            .into_iter()
            .map(|section| UpstreamTable::read(section, notes))
            .collect(),
        certificates: section
            .sections("certificate", "[[gateway.certificate]]", notes)
            .into_iter()
            .map(|section| certificate(section, notes))
            .collect(),
        trusted_gateways: section
            .sections("trusted_gateway", "[[gateway.trusted_gateway]]", notes)
            .into_iter()
            .map(|section| TrustedGatewayTable::read(section, notes))
            .collect(),
        anchors: section
            .sections("anchor", "[[gateway.anchor]]", notes)
            .into_iter()
            .map(|section| AnchorTable::read(section, notes))
            .collect(),
        limits: LimitKeys::read(&mut section, notes),
        routes: section
            .sections("route", "[[gateway.route]]", notes)
            .into_iter()
            .map(|section| route(section, notes))
            .collect(),
        tcp_routes: section
            .sections("tcp", "[[gateway.tcp]]", notes)
            .into_iter()
            .map(|section| tcp(section, notes))
            .collect(),
        access_log: section
            .section("access_log", "[gateway.access_log]", notes)
            .map(|section| AccessLogTable::read(section, notes)),
    };
    section.finish(notes);
    table
}

fn route(mut section: Section<'_>, notes: &mut Notes<'_>) -> RouteTable {
    let table = RouteTable {
        place: section.place,
        host: section.string("host", notes),
        path: section.string("path", notes),
        upstream: section.strings("upstream", notes),
        identity: section.strings("identity", notes),
        policy: PolicyKeys::read(&mut section, notes),
    };
    section.finish(notes);
    table
}

fn tcp(mut section: Section<'_>, notes: &mut Notes<'_>) -> TcpTable {
    let table = TcpTable {
        place: section.place,
        host: section.string("host", notes),
        upstream: section.strings("upstream", notes),
        proxy_protocol: section.string("proxy_protocol", notes),
        alpn: section.strings("alpn", notes),
    };
    section.finish(notes);
    table
}

fn certificate(mut section: Section<'_>, notes: &mut Notes<'_>) -> CertificateTable {
    let table = CertificateTable {
        place: section.place,
        certificate: section.string("certificate", notes),
        key: section.string("key", notes),
    };
    section.finish(notes);
    table
}

fn listener(mut section: Section<'_>, notes: &mut Notes<'_>) -> ListenTable {
    let table = ListenTable {
        place: section.place,
        listen: section.strings("listen", notes),
    };
    section.finish(notes);
    table
}
