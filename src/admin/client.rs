//! The commands' side: one request at a time to the running server, over its Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use identity::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::commands::Failure;

/// A way to the server of a data directory.
pub(crate) struct Client {
    data: PathBuf,
}

impl Client {
    /// The server of this data directory, whether it runs or not.
    pub(crate) fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
        }
    }

    /// Asks for something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.exchange(Method::GET, path, Vec::new()).await
    }

    /// Has something done.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(message)
            .map_err(|error| Failure::refused(format!("The request has no JSON form: {error}.")))?;
        self.exchange(Method::POST, path, body).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.send(method, path, body));
        let response = answer.await.map_err(|_| {
            Failure::refused(format!(
                "The server on {} did not answer within {} s; its log says more.",
                self.data.display(),
                ANSWER_WITHIN.as_secs()
            ))
        })??;
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                Failure::refused(format!(
                    "The server's answer is not understood ({error}). Are the command and the server of the same version?"
                ))
            });
        }
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Failure::refused(problem.detail),
            Err(_) => Failure::refused(format!("The server answered with status {status}.")),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Bytes>, Failure> {
        let stream = UnixStream::connect(self.data.join(SOCKET))
            .await
            .map_err(|error| self.unreachable(&error))?;
        let broken = |error: &dyn std::fmt::Display| {
            Failure::refused(format!(
                "The connection to the server on {} broke off: {error}. Its log says more.",
                self.data.display()
            ))
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // It ends with the stream; whatever went wrong reaches the request's own result.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "keybound")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::refused(format!("{path:?} cannot be asked for: {error}.")))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER)
            .collect()
            .await
            .map_err(|error| broken(&error))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let data = self.data.display();
        let up = "Start it with `keybound up`, or name its directory with --data.";
        let kind = error.kind();
        Failure::refused(if kind == io::ErrorKind::NotFound {
            format!("No server is running on {data} (no {SOCKET}). {up}")
        } else if kind == io::ErrorKind::ConnectionRefused {
            format!("No server is running on {data} (nobody listens on its {SOCKET}). {up}")
        } else if kind == io::ErrorKind::PermissionDenied {
            format!(
                "The server on {data} is not for you: only root and the user that runs it may use its {SOCKET}."
            )
        } else {
            format!("The server on {data} cannot be reached: {error}. {up}")
        })
    }
}

/// The socket's name in the data directory.
pub(crate) const SOCKET: &str = "admin.sock";

/// Longer than the server waits for receipts or for the slowest disk.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// 256 certificates with room to spare, or a page of devices.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;
