//! One connection full of odd bytes, and what must be true of it, whatever the bytes were.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::authority::Identity;
use crate::client::{config, handshake};
use crate::echo::{Echo, Event, assert_identified};
use crate::identity_names::{Name, judge};
use crate::rig::{Rig, snapshot};
use crate::strict::{Message, Reading, read};

/// A gateway before an upstream that reads strictly, and a device.
pub(crate) struct Lane {
    pub(crate) rig: Rig,
    pub(crate) echo: Echo,
    pub(crate) device: Identity,
}

impl Lane {
    pub(crate) async fn start() -> Self {
        Self::before(Echo::start().await, "http").await
    }

    /// The same with an upstream over HTTP/2.
    pub(crate) async fn start_http2() -> Self {
        Self::before(Echo::start_http2().await, "h2c").await
    }

    async fn before(echo: Echo, scheme: &str) -> Self {
        let mut rig = Rig::start().await;
        let address = format!("{scheme}://{}", echo.address);
        rig.gateway.publish(snapshot(&[&address]));
        let device = rig.device(DEVICE, 1).await;
        Self { rig, echo, device }
    }

    /// Sends `odd` and one ordinary request after it, in the pieces that end at `cuts`; panics unless the
    /// outcome is one that it may have.
    pub(crate) async fn check(
        &self,
        odd: &[u8],
        after_another: bool,
        cuts: &[usize],
    ) -> Vec<Reply> {
        let before: &[u8] = if after_another { PROBE } else { b"" };
        let stream = [before, odd, PROBE_AND_CLOSE].concat();
        let model = Model::of(&stream);
        let context = format!(
            "{:?} cut at {cuts:?}, after another: {after_another}; by the strict reader {:?}",
            String::from_utf8_lossy(&odd[..odd.len().min(2_000)]),
            model.end
        );
        let bytes = self
            .exchange(&stream, cuts, model.end == End::Incomplete, &context)
            .await;
        let replies = replies(&bytes, &model.requests, &context);
        self.judge(&model, &replies, &context);
        replies
    }

    /// Sends a stream and reads until the gateway closes.
    async fn exchange(&self, stream: &[u8], cuts: &[usize], waits: bool, context: &str) -> Vec<u8> {
        let config = config(&self.rig, Some(&self.device), "http/1.1");
        let tls = handshake(&self.rig, config, "api.test")
            .await
            .expect("a handshake");
        let (mut from, mut to) = tokio::io::split(tls);
        let writing = async {
            let mut start = 0;
            for cut in cuts.iter().copied().chain([stream.len()]) {
                let cut = cut.clamp(start, stream.len());
                // The gateway may have heard enough before.
                let _ = to.write_all(&stream[start..cut]).await;
                let _ = to.flush().await;
                start = cut;
                tokio::task::yield_now().await;
            }
            if waits {
                tokio::time::sleep(PATIENCE).await;
                let _ = to.shutdown().await;
            }
        };
        let mut bytes = Vec::new();
        let both = async { tokio::join!(writing, from.read_to_end(&mut bytes)) };
        let ended = tokio::time::timeout(Duration::from_secs(10), both).await;
        assert!(ended.is_ok(), "no end after 10 s of {context}");
        bytes
    }

    /// What must be true, whatever was sent: the upstream got what the strict reader reads, each request
    /// whole and identified, or it was refused.
    fn judge(&self, model: &Model, replies: &[Reply], context: &str) {
        let mut arrived = Vec::new();
        for event in self.echo.take() {
            match event {
                Event::Request(message) => {
                    assert_identified(&message, DEVICE, &self.device, context);
                    arrived.push(message);
                }
                Event::Malformed(why, bytes) => {
                    let bytes = String::from_utf8_lossy(&bytes).into_owned();
                    panic!("{why}: {bytes:?} reached the upstream from {context}");
                }
                Event::Partial => {}
            }
        }
        let mut arrived = arrived.into_iter();
        let mut closed = false;
        for (at, reply) in replies.iter().enumerate() {
            assert!(
                !closed,
                "an answer after the last one to {context}: {reply:?}"
            );
            closed = reply.head.contains("connection: close\r\n");
            assert!(reply.status < 500, "{reply:?} to {context}");
            let request = model.requests.get(at);
            if let Some(mark) = reply.mark() {
                let request =
                    request.unwrap_or_else(|| panic!("{reply:?} to nothing in {context}"));
                let upstream = arrived
                    .next()
                    .unwrap_or_else(|| panic!("{reply:?} out of nowhere to {context}"));
                let named = !upstream.values("x-device-id").is_empty();
                let device = if named { DEVICE } else { "" };
                let expected = format!("{} {} {device}", upstream.method, upstream.target);
                assert_eq!(mark, expected.trim_end(), "{context}");
                assert_same(request, &upstream, context);
            } else {
                reply.assert_refusal(request.is_some_and(|r| r.method == "HEAD"), context);
                if request.is_none() {
                    assert!(
                        closed,
                        "{reply:?} leaves the connection open after {context}"
                    );
                    assert!(matches!(model.end, End::Malformed(_) | End::Incomplete));
                }
            }
        }
        if model.end != End::Incomplete {
            let left: Vec<_> = arrived.collect();
            assert!(
                left.is_empty(),
                "the upstream got {left:?} without an answer to {context}"
            );
            let expected =
                model.requests.len() + usize::from(matches!(model.end, End::Malformed(_)));
            let enough = replies.len() == expected || closed;
            // HTTP/1.0 without keep-alive needs no words to be the last.
            let old = model.requests.get(replies.len().wrapping_sub(1));
            let enough = enough || old.is_some_and(|request| request.version == 0);
            assert!(
                enough,
                "{} answers of {expected} to {context}: {replies:?}",
                replies.len()
            );
        }
    }

    pub(crate) fn assert_sound(&self) {
        assert_eq!(self.rig.metric("panics_total"), "0");
    }
}

/// Asserts that the upstream got the very request.
fn assert_same(sent: &Message, got: &Message, context: &str) {
    let target = match sent.target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
            let slash = if path.starts_with('/') { "" } else { "/" };
            format!("{slash}{path}")
        }
        Some(_) | None => sent.target.clone(),
    };
    assert_eq!(
        (&got.method, &got.target),
        (&sent.method, &target),
        "{context}"
    );
    assert_eq!(got.version, 1, "{context}");
    assert_eq!(got.body, sent.body, "{context}");
    const OURS: &[&str] = &[
        "host",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "connection",
        "upgrade",
        "cookie",
    ];
    for (name, value) in &got.fields {
        let known = OURS.contains(&name.as_str())
            || judge(name) == Name::Identity
            || sent.values(name).contains(&value.as_slice());
        assert!(known, "{name} was not sent: {got:?} of {context}");
    }
    for (name, value) in &got.trailers {
        let known = sent
            .trailers
            .iter()
            .any(|(sent, as_sent)| sent.eq_ignore_ascii_case(name) && as_sent == value);
        assert!(known, "trailer {name} was not sent: {got:?} of {context}");
    }
}

/// What the strict reader makes of a stream.
struct Model {
    requests: Vec<Message>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At the end of a request.
    Complete,
    /// Within one.
    Incomplete,
    /// Before something that is none.
    Malformed(&'static str),
    /// After a request for an upgrade, which is the last one.
    Upgrade,
}

impl Model {
    fn of(stream: &[u8]) -> Self {
        let mut requests = Vec::new();
        let mut rest = stream;
        let end = loop {
            if rest.is_empty() {
                break End::Complete;
            }
            match read(rest) {
                Reading::Request(message, used) => {
                    let upgrade = message.asks_for_websocket() && message.version == 1;
                    requests.push(*message);
                    rest = &rest[used..];
                    if upgrade {
                        break End::Upgrade;
                    }
                }
                Reading::Incomplete => break End::Incomplete,
                Reading::Malformed(why) => break End::Malformed(why),
            }
        };
        Self { requests, end }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// The head, in lower case.
    pub(crate) head: String,
    written: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// What the upstream says it answered.
    pub(crate) fn mark(&self) -> Option<&str> {
        let at = self.head.find("\r\nx-mark: ")? + "\r\nx-mark: ".len();
        self.written[at..].split("\r\n").next()
    }

    /// The code of a refusal.
    pub(crate) fn code(&self) -> String {
        let problem: identity::Problem = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: no problem in {self:?}"));
        assert_eq!(problem.status, self.status);
        problem.code
    }

    fn assert_refusal(&self, is_head: bool, context: &str) {
        assert!((400..500).contains(&self.status), "{self:?} to {context}");
        assert!(
            self.head.contains("proxy-status: keybound; "),
            "{self:?} to {context}"
        );
        if !is_head {
            let code = self.code();
            assert!(
                self.head.contains(&format!("details=\"{code}\"")),
                "{self:?}"
            );
        }
    }
}

/// Reads all answers; the requests say which of them have no body.
pub(crate) fn replies(mut bytes: &[u8], requests: &[Message], context: &str) -> Vec<Reply> {
    let mut replies: Vec<Reply> = Vec::new();
    while !bytes.is_empty() {
        let is_head = requests
            .get(replies.len())
            .is_some_and(|request| request.method == "HEAD");
        let (reply, used) = reply(bytes, is_head)
            .unwrap_or_else(|| panic!("{:?} to {context}", String::from_utf8_lossy(bytes)));
        bytes = &bytes[used..];
        if reply.status >= 200 {
            replies.push(reply);
        }
    }
    replies
}

/// The first answer, and how many bytes it has; `None` if it is not whole.
pub(crate) fn reply(bytes: &[u8], is_head: bool) -> Option<(Reply, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let written = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let head = written.to_ascii_lowercase();
    let status = head.get(9..12)?.parse().ok()?;
    let mut used = end;
    let mut body = Vec::new();
    let bodiless = is_head || status < 200 || matches!(status, 204 | 304);
    if bodiless {
    } else if let Some(rest) = head.split("\r\ncontent-length: ").nth(1) {
        let length: usize = rest.split("\r\n").next()?.parse().ok()?;
        body = bytes.get(used..used + length)?.to_vec();
        used += length;
    } else if head.contains("\r\ntransfer-encoding: chunked\r\n") {
        loop {
            let rest = &bytes[used..];
            let line = rest.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
            body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
            used += line + 2 + size + 2;
            if size == 0 {
                break;
            }
        }
        bytes.get(..used)?;
    }
    let reply = Reply {
        status,
        head,
        written,
        body,
    };
    Some((reply, used))
}

pub(crate) const DEVICE: &str = "thermostat-7";
/// How long a device that has sent half a request waits before it gives up.
const PATIENCE: Duration = Duration::from_millis(60);
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: api.test\r\n\r\n";
const PROBE_AND_CLOSE: &[u8] =
    b"GET /probe-and-close HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";
