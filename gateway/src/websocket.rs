//! How a device asks for a WebSocket, the only tunnel there is: over HTTP/1.1 by an upgrade (RFC 6455, section 4), over
//! HTTP/2 by an extended CONNECT (RFC 8441, section 4). Between device and upstream it is an upgrade, whichever it was.

use aws_lc_rs::rand;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use crate::pure::request_head::{HeadFault, is_websocket};
use crate::pure::websocket::Challenge;
use crate::upstream::UpstreamFault;

/// How a WebSocket is asked for.
pub(crate) enum Opening {
    /// Over HTTP/1.1: key and answer are between the device and whoever answers.
    Upgrade,
    /// Over HTTP/2, where there are none.
    Connect {
        /// The device's end of what becomes of the stream.
        device: OnUpgrade,
        /// The gateway's own, for the upstream.
        challenge: Challenge,
        /// The device's, if it sent a key all the same. Proxies do that for clients of theirs that wait for the answer.
        asked: Option<Challenge>,
    },
}

impl Opening {
    /// Takes it from a request, which goes on as a GET; `None` for a request that asks for something else.
    pub(crate) fn take<B>(request: &mut Request<B>) -> Result<Option<Self>, HeadFault> {
        match request.version() {
            Version::HTTP_11 => {
                let fields = request.headers().iter();
                let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
                let asked = is_websocket(request.method().as_str(), fields);
                Ok(asked.then_some(Self::Upgrade))
            }
            Version::HTTP_2 => {
                let Some(protocol) = request.extensions_mut().remove::<Protocol>() else {
                    return Ok(None);
                };
                if protocol.as_str() != WEBSOCKET {
                    return Err(HeadFault::Protocol);
                }
                *request.method_mut() = Method::GET;
                let mut random = [0; 16];
                rand::fill(&mut random)
                    .expect("the random source of aws-lc does not fail after its start");
                Ok(Some(Self::Connect {
                    device: hyper::upgrade::on(&mut *request),
                    challenge: Challenge::new(random),
                    asked: Challenge::read(request.headers()),
                }))
            }
            _ => Ok(None),
        }
    }

    /// Asks an upstream, once the headers are clean.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        switch(headers);
        if let Self::Connect { challenge, .. } = self {
            headers.insert(SEC_WEBSOCKET_KEY, challenge.key().clone());
        }
    }

    /// Judges an answer that an upstream gave, and makes of its head, once it is clean, the one for the device. Error:
    /// it is none that the device may take for a WebSocket.
    pub(crate) fn accepted(&self, mut head: Response<()>) -> Result<Response<()>, UpstreamFault> {
        match self {
            Self::Upgrade => switch(head.headers_mut()),
            Self::Connect {
                challenge, asked, ..
            } => {
                if !challenge.is_met(head.headers()) {
                    return Err(UpstreamFault::NotSwitched);
                }
                *head.status_mut() = StatusCode::OK;
                let headers = head.headers_mut();
                headers.remove(SEC_WEBSOCKET_ACCEPT);
                if let Some(asked) = asked {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, asked.answer().clone());
                }
                // A tunnel has no length (RFC 9110, section 9.3.6).
                headers.remove(CONTENT_LENGTH);
            }
        }
        Ok(head)
    }

    /// Refuses an answer that opens nothing, and that the device would take for one that does.
    pub(crate) fn declined(&self, status: StatusCode) -> Result<(), UpstreamFault> {
        match self {
            Self::Connect { .. } if status.is_success() => Err(UpstreamFault::NotSwitched),
            Self::Connect { .. } | Self::Upgrade => Ok(()),
        }
    }

    /// The device's end, if its connection has others beside it.
    pub(crate) fn device(self) -> Option<OnUpgrade> {
        match self {
            Self::Upgrade => None,
            Self::Connect { device, .. } => Some(device),
        }
    }
}

fn switch(headers: &mut HeaderMap) {
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

pub(crate) const WEBSOCKET: &str = "websocket";
