//! Words to whoever started the process and asked for them (`sd_notify(3)`), and the sockets that it handed over.
//! Without a service manager nothing is said.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;
use tokio_util::sync::CancellationToken;

/// The process serves.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The process is loading its configuration; [`ready`] has to follow, however that ends.
pub(crate) fn reloading() {
    // A service manager that is told of a reload wants to know when (`Type=notify-reload`).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read"),
    }
}

/// The process ends once what is under way has finished.
pub(crate) fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("ending; connections may finish"),
    ]);
}

/// Tells that the process lives, twice in the time in which the service manager wants to hear it.
pub(crate) async fn keep_alive(shutdown: CancellationToken) {
    let Some(within) = sd_notify::watchdog_enabled().filter(|within| !within.is_zero()) else {
        shutdown.cancelled().await;
        return;
    };
    let pause = (within / 2).max(SHORTEST_PAUSE);
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// Listening sockets that were handed over (`sd_listen_fds(3)`) and have no listener yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<Socket>);

#[derive(Debug)]
struct Socket {
    /// `FileDescriptorName=`; empty if there is none.
    name: String,
    address: SocketAddr,
    listener: TcpListener,
}

/// Why sockets that were handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InheritedFault {
    #[error("socket {number} of those that were handed over cannot be used: {error}")]
    Unusable {
        /// Counted from 1.
        number: usize,
        error: std::io::Error,
    },
    #[error("socket {number} of those that were handed over does not listen for TCP connections")]
    NotListening {
        /// Counted from 1.
        number: usize,
    },
    #[error(
        "the socket for {address} was handed over, and nothing is to listen there; name it gateway, enrollment or health with \
         FileDescriptorName=, or set listen to its address"
    )]
    Unclaimed { address: SocketAddr },
}

impl Inherited {
    /// Takes what the environment says was handed over. To be called once, before there are other threads.
    pub(crate) fn take() -> Result<Self, InheritedFault> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut descriptors = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(descriptors.len().min(16));
        for place in 0..descriptors.len() {
            let number = place + 1;
            let unusable = |error| InheritedFault::Unusable { number, error };
            let taken = descriptors.take_tcp_listener(place).map_err(unusable)?;
            let listener = taken.ok_or(InheritedFault::NotListening { number })?;
            if !SockRef::from(&listener).is_listener().map_err(unusable)? {
                return Err(InheritedFault::NotListening { number });
            }
            listener.set_nonblocking(true).map_err(unusable)?;
            sockets.push(Socket {
                name: names.next().unwrap_or_default().to_owned(),
                address: listener.local_addr().map_err(unusable)?,
                listener,
            });
        }
        Ok(Self(sockets))
    }

    /// The sockets of a role, and the addresses that it has to bind itself. Sockets with the role's name are all that it
    /// listens on; else those are the role's whose address it wants.
    pub(crate) fn claim(
        &mut self,
        role: &str,
        addresses: &[SocketAddr],
    ) -> (Vec<TcpListener>, Vec<SocketAddr>) {
        let mut to_bind = addresses.to_vec();
        let is_named = |socket: &Socket| socket.name == role;
        let named = self.0.iter().any(is_named);
        let (own, others) = std::mem::take(&mut self.0).into_iter().partition(|socket| {
            if named {
                return is_named(socket);
            }
            let wanted = to_bind
                .iter()
                .position(|address| *address == socket.address);
            wanted.map(|place| to_bind.remove(place)).is_some()
        });
        self.0 = others;
        let own: Vec<Socket> = own;
        if named {
            to_bind.clear();
        }
        for socket in &own {
            tracing::info!(role, address = %socket.address, "a socket was handed over");
        }
        (
            own.into_iter().map(|socket| socket.listener).collect(),
            to_bind,
        )
    }

    /// Fails if a socket is left that nobody claimed: whoever connected there would wait for ever.
    pub(crate) fn finish(self) -> Result<(), InheritedFault> {
        match self.0.first() {
            None => Ok(()),
            Some(socket) => Err(InheritedFault::Unclaimed {
                address: socket.address,
            }),
        }
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(name: &str) -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Socket {
            name: name.to_owned(),
            address: listener.local_addr().expect("bound"),
            listener,
        }
    }

    #[test]
    fn by_name_and_by_address() {
        let sockets = [socket("gateway"), socket("gateway"), socket(""), socket("")];
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|place| sockets[place].address);
        let mut inherited = Inherited(sockets.into());
        let elsewhere: SocketAddr = ([127, 0, 0, 1], 1).into();
        let mut check = |role, addresses: &[SocketAddr], own: &[SocketAddr], to_bind: &[_]| {
            let (listeners, rest) = inherited.claim(role, addresses);
            let listeners: Vec<_> = listeners
                .iter()
                .map(|listener| listener.local_addr().expect("bound"))
                .collect();
            assert_eq!((&listeners[..], &rest[..]), (own, to_bind), "{role}");
        };
        check("gateway", &[elsewhere], &[first, second], &[]);
        check("enrollment", &[elsewhere, third], &[third], &[elsewhere]);
        check("health", &[elsewhere], &[], &[elsewhere]);
        let unclaimed = inherited.finish().expect_err("one is left");
        assert!(
            unclaimed.to_string().contains(&fourth.to_string()),
            "{unclaimed}"
        );
        assert!(Inherited::default().finish().is_ok());
    }
}
