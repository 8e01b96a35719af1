//! How an exchange looks in the access log. Whatever a client chose is escaped, so that no line and no field is forged.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use gateway::Exchange;
use identity::DeviceName;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use time::OffsetDateTime;

use crate::config::Format;

/// Writes a line with its end.
pub(super) fn write(line: &mut Vec<u8>, format: Format, exchange: &Exchange) {
    let written = match format {
        Format::Json => json(line, exchange),
        Format::Combined => combined(line, exchange),
    };
    written.expect("memory takes every line");
    line.push(b'\n');
}

/// The fields, in their order; one that says nothing is left out. docs/observability.md has each.
#[derive(Serialize)]
struct Fields<'e> {
    time: String,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'e DeviceName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_behalf_of: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<&'static str>,
    tls: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported: Option<&'static str>,
    end: &'static str,
    received: u64,
    sent: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'e str>,
}

fn json(line: &mut Vec<u8>, exchange: &Exchange) -> io::Result<()> {
    let record = &exchange.record;
    let fields = Fields {
        time: rfc3339(exchange.began),
        address: crate::decisions::printed(record.address),
        device: record.device.as_ref(),
        on_behalf_of: record.on_behalf_of.as_deref(),
        serial: record.serial.map(|serial| serial.to_string()),
        request_id: record.request_id.as_deref(),
        trace_id: (exchange.trace).map(|trace| format!("{:032x}", trace.trace_id)),
        server_name: record.server_name.as_deref(),
        method: record.method.as_deref(),
        host: record.host.as_deref(),
        path: record.path.as_deref(),
        route: exchange.route.as_deref(),
        http: exchange.http_version,
        tls: exchange.tls_version,
        status: record.status,
        outcome: record.outcome.as_str(),
        reported: record.reported.map(|code| code.as_str()),
        end: exchange.ending.as_str(),
        received: exchange.received,
        sent: exchange.sent,
        duration_ms: milliseconds(exchange.duration),
        upstream: exchange.upstream.as_deref(),
        upstream_ms: exchange.upstream_latency.map(milliseconds),
        user_agent: exchange.user_agent.as_deref(),
        referer: exchange.referer.as_deref(),
    };
    let mut serializer = Serializer::with_formatter(line, Ascii);
    fields.serialize(&mut serializer).map_err(io::Error::other)
}

/// JSON in printable ASCII: what a terminal would obey, and line ends that only some readers know, are escaped, too.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let plain = |character: char| matches!(character, ' '..='~');
        let mut rest = fragment;
        while !rest.is_empty() {
            let end = rest.find(|character| !plain(character));
            let (printable, other) = rest.split_at(end.unwrap_or(rest.len()));
            writer.write_all(printable.as_bytes())?;
            let Some(character) = other.chars().next() else {
                break;
            };
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &other[character.len_utf8()..];
        }
        Ok(())
    }
}

/// `address - device [time] "request" status bytes "referer" "user agent" "request id"`
fn combined(line: &mut Vec<u8>, exchange: &Exchange) -> io::Result<()> {
    let record = &exchange.record;
    let address: IpAddr = record.address.ip().to_canonical();
    write!(line, "{address} - ")?;
    // A device behind a gateway in front is who asked.
    match (&record.on_behalf_of, &record.device) {
        (Some(far), _) => escaped(line, far),
        (None, Some(device)) => escaped(line, &device.to_string()),
        (None, None) => line.push(b'-'),
    }
    write!(line, " [{}] \"", apache_time(exchange.began))?;
    match (&record.method, &record.path, exchange.http_version) {
        (Some(method), Some(path), Some(version)) => {
            escaped(line, method);
            line.push(b' ');
            escaped(line, path);
            write!(line, " {version}")?;
        }
        // A stream of a TCP route.
        _ => line.push(b'-'),
    }
    let status = record.status.unwrap_or(NOBODY_WAITED);
    write!(line, "\" {status} {}", exchange.sent)?;
    let rest = [
        exchange.referer.as_deref(),
        exchange.user_agent.as_deref(),
        record.request_id.as_deref(),
    ];
    for text in rest {
        line.extend_from_slice(b" \"");
        escaped(line, text.unwrap_or("-"));
        line.push(b'"');
    }
    Ok(())
}

/// As nginx does it: quotes, backslashes and what is no printable ASCII become `\xHH`.
fn escaped(line: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\') {
            line.push(byte);
        } else {
            line.extend_from_slice(format!("\\x{byte:02X}").as_bytes());
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// `2026-11-18T11:06:40.123Z`
fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, millisecond) = at.to_hms_milli();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// `18/Nov/2026:11:06:40 +0000`
fn apache_time(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let month = &month.to_string()[..3];
    format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
}

/// What nginx says of a client that went away before there was an answer; in JSON, there is no status.
const NOBODY_WAITED: u16 = 499;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use gateway::{Ending, Outcome, Record, Trace};
    use identity::Timestamp;

    use super::*;

    fn exchange(path: &str, user_agent: &str) -> Exchange {
        let record = Record {
            at: Timestamp(0),
            request_id: Some("0af7651916cd43dd8448eb211c80319c".into()),
            address: "[::ffff:10.0.0.1]:5".parse().expect("an address"),
            device: "thermostat-7".parse().ok(),
            serial: None,
            on_behalf_of: None,
            reported: None,
            unregistered: None,
            server_name: Some("api.test".into()),
            host: Some("api.test".into()),
            method: Some("GET".into()),
            path: Some(path.into()),
            outcome: Outcome::Forwarded,
            status: Some(200),
            duration: Duration::ZERO,
        };
        Exchange {
            record: Arc::new(record),
            began: UNIX_EPOCH + Duration::from_millis(1_795_000_000_123),
            duration: Duration::from_micros(1_234),
            http_version: Some("HTTP/2.0"),
            tls_version: "TLSv1.3",
            user_agent: Some(user_agent.into()),
            referer: None,
            route: Some("/".into()),
            upstream: Some("http://10.0.0.5:80".into()),
            upstream_latency: Some(Duration::from_millis(1)),
            received: 5,
            sent: 2,
            ending: Ending::Complete,
            trace: Some(Trace {
                trace_id: 0xabc,
                span_id: None,
                parent: None,
            }),
        }
    }

    fn line(format: Format, exchange: &Exchange) -> String {
        let mut line = Vec::new();
        write(&mut line, format, exchange);
        String::from_utf8(line).expect("ASCII")
    }

    #[test]
    fn each_format() {
        let told = exchange("/a", "curl/8");
        assert_eq!(
            line(Format::Json, &told),
            "{\"time\":\"2026-11-18T11:06:40.123Z\",\"address\":\"10.0.0.1:5\",\"device\":\"thermostat-7\",\
             \"request_id\":\"0af7651916cd43dd8448eb211c80319c\",\"trace_id\":\"00000000000000000000000000000abc\",\"server_name\":\"api.test\",\"method\":\"GET\",\"host\":\"api.test\",\
             \"path\":\"/a\",\"route\":\"/\",\"http\":\"HTTP/2.0\",\"tls\":\"TLSv1.3\",\"status\":200,\"outcome\":\"forwarded\",\"end\":\"complete\",\
             \"received\":5,\"sent\":2,\"duration_ms\":1.234,\"upstream\":\"http://10.0.0.5:80\",\"upstream_ms\":1.0,\"user_agent\":\"curl/8\"}\n"
        );
        assert_eq!(
            line(Format::Combined, &told),
            "10.0.0.1 - thermostat-7 [18/Nov/2026:11:06:40 +0000] \"GET /a HTTP/2.0\" 200 2 \"-\" \"curl/8\" \
             \"0af7651916cd43dd8448eb211c80319c\"\n"
        );
        let mut stream = exchange("/a", "");
        stream.http_version = None;
        assert!(line(Format::Combined, &stream).contains("] \"-\" 200 2 "));
    }

    #[test]
    fn nothing_is_forged() {
        let hostile = [
            "\r\n10.0.0.9 - admin [x] \"GET / HTTP/1.1\" 200 1 \"-\" \"-\" \"-\"",
            "\",\"device\":\"admin\",\"x\":\"",
            "\\\"",
            "\\",
            "\u{0}\u{1b}[2J\u{7f}\u{85}\u{9b}31m\u{2028}\u{fffd}\u{1f600}\t",
        ];
        for text in hostile {
            let told = exchange(text, text);
            let json = line(Format::Json, &told);
            let combined = line(Format::Combined, &told);
            for line in [&json, &combined] {
                let (text, end) = line.split_at(line.len() - 1);
                assert!(
                    text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                    "{line}"
                );
                assert_eq!(end, "\n");
            }
            let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!(
                (&read["path"], &read["user_agent"]),
                (&text.into(), &text.into())
            );
            assert_eq!(read["device"], "thermostat-7");
            assert_eq!(read.as_object().expect("an object").len(), 21, "{json}");
            // Four quoted fields: eight quotes, none of them within.
            assert_eq!(combined.matches('"').count(), 8, "{combined}");
            assert!(!combined.replace("\\x", "").contains('\\'), "{combined}");
        }
    }
}
