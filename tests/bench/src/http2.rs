//! HTTP/2 with hyper.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::dial::{Stream, Target};
use crate::http1::{Expected, TOLD};

/// A connection that requests are sent over, many at a time.
#[derive(Clone, Debug)]
pub(crate) struct Http2(SendRequest<Empty<Bytes>>);

impl Http2 {
    pub(crate) async fn new(stream: Stream) -> anyhow::Result<Self> {
        ensure!(
            stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            "HTTP/2 was not agreed on"
        );
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends when its last sender is dropped.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends a GET request, and reads and checks the whole answer.
    pub(crate) async fn get(
        &mut self,
        target: &Target,
        path: &str,
        expected: Expected<'_>,
    ) -> anyhow::Result<()> {
        self.0.ready().await?;
        let request = http::Request::get(format!("https://{}{path}", target.authority));
        let answer = self.0.send_request(request.body(Empty::new())?).await?;
        ensure!(answer.status() == 200, "answered with {}", answer.status());
        if let Some(device) = expected.device {
            let told = answer.headers().get(TOLD).context("nobody was told of")?;
            ensure!(
                told.to_str()?.contains(device),
                "the upstream was told {told:?} of {device}"
            );
        }
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                length += data.len() as u64;
            }
        }
        ensure!(length == expected.length, "a body of {length} bytes");
        Ok(())
    }
}
