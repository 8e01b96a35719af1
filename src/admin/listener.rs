//! The admin socket and who may connect to it.
//!
//! The socket is the authentication: it is its owner's alone, and the user id of whoever connects is checked again.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use ca::Actor;
use tokio::net::{UnixListener, UnixStream};

/// Who is connected: the user id that the kernel vouches for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operator {
    uid: u32,
}

impl Operator {
    pub(super) fn actor(self) -> Actor {
        Actor::Operator(format!("uid {}", self.uid))
    }
}

impl Connected<IncomingStream<'_, AdminListener>> for Operator {
    fn connect_info(stream: IncomingStream<'_, AdminListener>) -> Self {
        *stream.remote_addr()
    }
}

/// The socket, which lets in only root and the user that runs the server.
pub(crate) struct AdminListener {
    socket: UnixListener,
    own_uid: u32,
}

impl AdminListener {
    /// Listens on `path`. A socket that is there already was left by a process that is gone: its caller holds the lock of
    /// the data directory.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            socket,
            own_uid: rustix::process::geteuid().as_raw(),
        })
    }
}

impl Listener for AdminListener {
    type Io = UnixStream;
    type Addr = Operator;

    async fn accept(&mut self) -> (UnixStream, Operator) {
        loop {
            let accepted = self.socket.accept().await;
            let peer = accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream)));
            match peer {
                Ok((uid, stream)) if uid == 0 || uid == self.own_uid => {
                    return (stream, Operator { uid });
                }
                Ok((uid, _)) => tracing::warn!(uid, "a user may not use the admin socket"),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin socket cannot be accepted");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Operator> {
        Ok(Operator { uid: self.own_uid })
    }
}

const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
